//! The keeper, which has the operator's part in the simulation: it registers starts, removes members whose disk is
//! lost, adds blank machines as learners, and promotes learners that caught up.

use std::collections::BTreeMap;
use std::sync::Arc;

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, Member, Membership, PurgeExpired, RegisterMember};
use helios_raft::simulation::{ChangeRequest, Expected, FORMAT, Input, membership};
use rand::Rng;
use tokio::sync::oneshot;

use crate::clients::proposal;
use crate::events::{Event, Slot};
use crate::plan::{Fault, MILLIS};
use crate::world::World;

/// Entries by which a learner may lag behind the leader and still be promoted.
const MAX_LAG: u64 = 50;

impl World {
    /// Record of a machine as member `id`.
    pub fn record(&self, slot: Slot, id: u64) -> Member {
        let machine = &self.machines[slot];
        Member {
            id,
            name: machine.name.clone(),
            peer_addr: machine.name.clone(),
            disk_id: machine.marker.disk_id.clone(),
            ..Member::default()
        }
    }

    /// Reconciles once, and plans the next time.
    pub fn keeper(&mut self) {
        let at = self.now + self.random.random_range(5 * MILLIS..40 * MILLIS);
        self.events.plan(at, Event::Keeper);
        if self.force() {
            return;
        }
        self.replace_disks();
        self.stop_removed_members();
        let Some((leader, status)) = self.leader() else { return };
        if self.is_poisoned() {
            return self.skip_poison(leader, &status);
        }
        let known = status.membership;
        self.register(leader, &known);
        self.purge(leader);
        if let Some(request) = self.repair(&known) {
            self.change(leader, request);
        }
        self.forgive_removed_members(&known);
    }

    /// Replaces the disks that cannot serve, and those of removed members, which may join again as new ones.
    fn replace_disks(&mut self) {
        for slot in 0..self.plan.machines {
            let machine = &mut self.machines[slot];
            if machine.broken.is_some() || machine.marker.removed {
                if let Some(member) = machine.marker.member {
                    self.invariants.on_disk_lost(member);
                }
                machine.wipe();
            }
        }
    }

    /// Stops removed members once a majority of the remaining voters has applied their removal, as `retirement::notice`
    /// does.
    fn stop_removed_members(&mut self) {
        let held: BTreeMap<u64, Arc<Membership>> = (self.machines.iter())
            .filter_map(|machine| {
                Some((machine.marker.member?, machine.process.as_ref()?.store.membership()))
            })
            .collect();
        let Some(newest) = held.values().max_by_key(|membership| membership.index) else { return };
        let holds = |voter| held.get(&voter).is_some_and(|known| known.index >= newest.index);
        if !membership::have_majority(newest, holds) {
            return;
        }
        for slot in 0..self.plan.machines {
            let machine = &mut self.machines[slot];
            let id = machine.marker.member.filter(|_| machine.process.is_some());
            if id.is_some_and(|id| membership::was_removed(newest, id)) {
                machine.marker.removed = true;
                self.stop_process(slot);
            }
        }
    }

    /// Proposes the boot epoch of each running member that is not registered yet, as `chores::register` does.
    fn register(&mut self, leader: Slot, known: &Membership) {
        let mut proposals = Vec::new();
        for machine in &self.machines {
            let Some(id) = machine.marker.member.filter(|_| machine.process.is_some()) else { continue };
            let Some(record) = membership::member(known, id) else { continue };
            let marker = &machine.marker;
            if record.disk_id != marker.disk_id || record.boot_epoch >= marker.boot_epoch {
                continue;
            }
            let op = Op::RegisterMember(RegisterMember {
                id,
                disk_id: marker.disk_id.clone(),
                boot_epoch: marker.boot_epoch,
                client_addr: String::new(),
                format: FORMAT,
            });
            let (waiter, _) = oneshot::channel();
            let command = Command { now_ms: 1, op: Some(op), ..Command::default() };
            proposals.push(proposal(&command, waiter));
        }
        if !proposals.is_empty() {
            self.input(leader, Input::Propose(proposals));
        }
    }

    /// The change that the membership needs first; at times several in one request.
    fn repair(&mut self, known: &Membership) -> Option<ChangeRequest> {
        let at_once = self.random.random_ratio(1, 2);
        for member in &known.members {
            let machine = self.machines.iter().find(|machine| machine.name == member.name)?;
            // A machine with another disk is not that member any more.
            if machine.marker.disk_id != member.disk_id {
                let learners = known.learners.iter().copied().filter(|id| *id != member.id && at_once);
                return Some(several(learners.collect(), vec![member.id]));
            }
        }
        if at_once && known.learners.len() > 1 {
            return Some(several(known.learners.clone(), Vec::new()));
        }
        if let Some(id) = known.learners.first() {
            return Some(ChangeRequest::Promote { id: *id, max_lag: MAX_LAG });
        }
        (known.voters.len() < self.plan.members).then(|| self.join(known)).flatten()
    }

    /// Addition of a blank machine as a learner, if there is one.
    fn join(&self, known: &Membership) -> Option<ChangeRequest> {
        let is_free = |name: &str| known.members.iter().all(|member| member.name != name);
        let machine = (self.machines.iter())
            .find(|machine| machine.marker.member.is_none() && is_free(&machine.name))?;
        Some(ChangeRequest::AddLearner(self.record(machine.slot, 0)))
    }

    /// Requests a change ([`Fault::Membership`]): adds a member, removes one, or exchanges several voters at once.
    /// Returns whether it did.
    pub fn change_membership(&mut self) -> bool {
        debug_assert!(self.plan.may(Fault::Membership));
        if self.is_poisoned() {
            return false;
        }
        let Some((leader, status)) = self.leader() else { return false };
        let known = status.membership;
        let is_big = known.voters.len() >= self.plan.members;
        let request = if self.random.random_ratio(1, 3) {
            self.reshape(&known)
        } else if is_big && self.random.random_ratio(1, 2) {
            let id = known.voters[self.random.random_range(0..known.voters.len())];
            Some(ChangeRequest::Remove { id })
        } else {
            self.join(&known)
        };
        request.is_some_and(|request| self.change(leader, request))
    }

    /// Promotion of all learners and removal of as many voters as leaves enough, perhaps the leader among them.
    fn reshape(&mut self, known: &Membership) -> Option<ChangeRequest> {
        let promote = known.learners.clone();
        let spare = (known.voters.len() + promote.len()).saturating_sub(self.plan.members - 1);
        let mut remove = known.voters.clone();
        while remove.len() > spare.min(known.voters.len() - 1) {
            remove.swap_remove(self.random.random_range(0..remove.len()));
        }
        (promote.len() + remove.len() > 1).then(|| several(promote, remove))
    }

    fn change(&mut self, leader: Slot, request: ChangeRequest) -> bool {
        let (waiter, _) = oneshot::channel();
        let expected = Expected { fencing_token: self.lease(), ..Expected::default() };
        self.input(leader, Input::Change { request, expected, waiter })
    }

    /// Fencing token of the keeper that acts now. At times another keeper takes over, with a higher token, and at times
    /// the one before it still acts, with a lower one.
    pub fn lease(&mut self) -> u64 {
        self.token += u64::from(self.random.random_ratio(1, 4));
        let late = u64::from(self.random.random_ratio(1, 6));
        self.token.saturating_sub(late).max(1)
    }

    /// Proposes to purge expired keys and what deleted collections left, as `chores` does.
    fn purge(&mut self, leader: Slot) {
        let now_ms = self.clock_ms(leader);
        let store = self.machines[leader].process.as_ref().map(|process| process.store.clone());
        let is_due = store.and_then(|store| store.has_expired(now_ms).ok()).unwrap_or_default();
        if is_due && self.random.random_ratio(1, 2) {
            let limit = self.random.random_range(1..20);
            let op = Op::PurgeExpired(PurgeExpired { limit });
            let (waiter, _) = oneshot::channel();
            let command = Command { now_ms, op: Some(op), ..Command::default() };
            self.input(leader, Input::Propose(vec![proposal(&command, waiter)]));
        }
    }

    /// Ends the impairment of blank machines whose old member was removed: no member relies on their lost data any
    /// more.
    fn forgive_removed_members(&mut self, known: &Membership) {
        for machine in self.machines.iter().filter(|machine| machine.marker.member.is_none()) {
            if known.members.iter().all(|member| member.name != machine.name) {
                self.nemesis.forgive(machine.slot);
            }
        }
    }
}

fn several(promote: Vec<u64>, remove: Vec<u64>) -> ChangeRequest {
    ChangeRequest::Several { promote, remove, max_lag: MAX_LAG }
}
