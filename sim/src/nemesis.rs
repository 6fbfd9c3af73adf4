//! The nemesis injects the faults of the plan, and no more than Raft promises to survive: disks may lose data on a
//! minority of the voters only.

use std::collections::BTreeSet;
use std::time::Duration;

use helios_proto::Error;
use helios_proto::v1::Membership;
use helios_raft::simulation::{Input, membership};
use helios_raft::{LastEntry, Verdict};
use rand::Rng;
use tokio::sync::oneshot;

use crate::Violation;
use crate::events::{Event, Slot};
use crate::machine::{Machine, Process};
use crate::plan::{Fault, MILLIS};
use crate::world::World;

#[derive(Default)]
pub struct Nemesis {
    /// Machines whose disk lost data that was durable.
    impaired: BTreeSet<Slot>,
}

/// A survivor that is being made the only member (force-new-cluster).
pub struct Forcing {
    survivor: Slot,
    token: u64,
    answer: Option<oneshot::Receiver<Result<Verdict, Error>>>,
}

impl Nemesis {
    pub fn is_impaired(&self, slot: Slot) -> bool {
        self.impaired.contains(&slot)
    }

    pub fn forgive(&mut self, slot: Slot) {
        self.impaired.remove(&slot);
    }
}

impl World {
    /// Kills the process. Its writes stay in the page cache, and peers notice the end of its connections.
    pub fn kill(&mut self, slot: Slot) {
        self.break_links(slot);
        self.stop_process(slot);
        self.machines[slot].disk.kill();
    }

    /// Cuts the power: the disk keeps all that was synced and a random part of the rest. Peers do not notice.
    pub fn power_cut(&mut self, slot: Slot) {
        self.stop_process(slot);
        self.machines[slot].disk.crash();
    }

    /// Ends the process and plans its next start, as a supervisor would.
    pub fn stop_process(&mut self, slot: Slot) {
        self.fingerprint.note((self.now, slot, "down"));
        self.machines[slot].process = None;
        self.machines[slot].paused_until = 0;
        let at = self.now + self.random.random_range(1_000..200_000);
        self.events.plan(at, Event::Start(slot));
        self.poll_clients(slot);
    }

    /// Stops a process whose worker failed; a violation unless an injected fault of the disk explains the error.
    pub fn disk_failed(&mut self, slot: Slot, what: &str) -> Result<(), Violation> {
        let machine = &mut self.machines[slot];
        if machine.disk.is_cut() {
            self.power_cut(slot);
        } else if machine.sync_failed() || machine.has_rotten_state() || self.nemesis.is_impaired(slot) {
            // At times the whole machine goes down with its disk.
            if self.random.random_ratio(1, 2) { self.kill(slot) } else { self.power_cut(slot) }
        } else {
            return Err(Violation(format!("{}: {what}", machine.name)));
        }
        Ok(())
    }

    pub fn nemesis(&mut self) -> Result<(), Violation> {
        if self.now >= self.plan.horizon {
            return Ok(());
        }
        self.archive()?;
        let fault = self.plan.faults[self.random.random_range(0..self.plan.faults.len())];
        let slot = self.random.random_range(0..self.plan.machines);
        if self.inject(fault, slot)? {
            if self.is_traced {
                println!("{:>9} {fault:?} at {}", self.now, self.machines[slot].name);
            }
            *self.report.faults.entry(fault).or_default() += 1;
            self.fingerprint.note((self.now, slot, fault));
        }
        let at = self.now + self.random.random_range(self.plan.fault_gap.clone());
        self.events.plan(at, Event::Nemesis);
        Ok(())
    }

    /// Injects `fault` at a machine. Returns false if it is not possible there now.
    fn inject(&mut self, fault: Fault, slot: Slot) -> Result<bool, Violation> {
        let is_up = self.machines[slot].process.is_some();
        match fault {
            Fault::Kill if is_up => self.kill(slot),
            Fault::PowerCut if is_up => self.power_cut(slot),
            // A cut that the process has not noticed yet stays one.
            Fault::PowerCutInWrite if is_up && !self.machines[slot].disk.is_cut() => {
                let operations = self.random.random_range(1..30);
                self.machines[slot].disk.cut_power_after(operations);
            }
            Fault::Pause if is_up => {
                self.machines[slot].paused_until = self.now + self.random.random_range(10..600) * MILLIS;
            }
            Fault::SlowDisk if is_up => {
                self.machines[slot].slow_until = self.now + self.random.random_range(10..600) * MILLIS;
            }
            Fault::SyncFails => return Ok(self.machines[slot].fail_next_sync()),
            Fault::Cut => self.cut(slot),
            Fault::Transfer => return Ok(self.transfer()),
            Fault::Snapshot if is_up => return Ok(self.input(slot, Input::BuildSnapshot)),
            Fault::Membership => return Ok(self.change_membership()),
            Fault::Wipe if self.may_forget(slot) => {
                self.lose_disk(slot);
                self.machines[slot].wipe();
            }
            Fault::BitRot => return Ok(self.rot(slot)),
            Fault::OldCopy => return self.old_copy(slot),
            Fault::ForceNew => return Ok(self.lose_majority()),
            Fault::Poison => return Ok(self.poison()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn cut(&mut self, mut slot: Slot) {
        if !self.cuts.is_empty() && self.random.random_ratio(1, 2) {
            self.cuts.clear();
            return;
        }
        let (outward, inward) = match self.random.random_range(0..3) {
            0 => (true, true),
            1 => (true, false),
            _ => (false, true),
        };
        // Entries of a leader that sends but receives nothing are committed by the next leader; the first one has to
        // learn of that by a snapshot.
        if let Some((leader, _)) = self.leader().filter(|_| self.random.random_ratio(1, 2)) {
            slot = leader;
        }
        // As with a firewall that starts to reject packets: connections end.
        if self.random.random_ratio(1, 2) {
            self.break_links(slot);
        }
        let partial = self.random.random_ratio(1, 3);
        for other in (0..self.plan.machines).filter(|other| *other != slot) {
            if partial && self.random.random_ratio(1, 2) {
                continue;
            }
            if outward {
                self.cuts.insert((slot, other));
            }
            if inward {
                self.cuts.insert((other, slot));
            }
        }
    }

    fn transfer(&mut self) -> bool {
        let Some((slot, _)) = self.leader() else { return false };
        let (waiter, _) = oneshot::channel();
        let timeout = Duration::from_millis(200);
        self.input(slot, Input::Transfer { target: None, timeout, fencing_token: 0, waiter })
    }

    /// Whether the disk of `slot` may lose data: the cluster must have a quorum without it, and all other members must
    /// have applied every earlier replacement of a member.
    fn may_forget(&self, slot: Slot) -> bool {
        let Some((leader, status)) = self.leader() else { return false };
        let known = &status.membership;
        let name = &self.machines[slot].name;
        let is_changing =
            self.machines[leader].process.as_ref().is_some_and(|process| process.core.is_changing());
        if is_changing || leader == slot || !known.members.iter().any(|member| member.name == *name) {
            return false;
        }
        // A membership change is in effect on a member once it has applied it; until then the earlier voters decide.
        let is_behind = |machine: &Machine| {
            machine.process.as_ref().is_none_or(|process| process.store.membership().index < known.index)
        };
        let members = self.machines.iter().filter(|machine| machine.marker.member.is_some());
        if members.filter(|machine| machine.slot != slot).any(is_behind) {
            return false;
        }
        self.lost_with(slot, known) <= (known.voters.len() - 1) / 2
    }

    /// Returns the number of members of `known` whose disk is lost, or whose state rots, together with `slot`. A learner may
    /// become a voter at any moment.
    fn lost_with(&self, slot: Slot, known: &Membership) -> usize {
        let is_lost = |id: &&u64| {
            let record = membership::member(known, **id);
            let place = record.and_then(|record| self.machines.iter().find(|m| m.name == record.name));
            place.is_none_or(|machine| {
                machine.slot == slot
                    || self.nemesis.is_impaired(machine.slot)
                    || machine.has_rotten_state()
                    || machine.marker.member != Some(**id)
            })
        };
        known.voters.iter().chain(&known.learners).filter(is_lost).count()
    }

    fn lose_disk(&mut self, slot: Slot) {
        if let Some(member) = self.machines[slot].marker.member {
            self.invariants.on_disk_lost(member);
        }
        self.stop_process(slot);
        self.nemesis.impaired.insert(slot);
    }

    /// Flips a bit of the log, the state or a snapshot; returns whether it did. A damaged log may be unreadable, but
    /// never shorter; a member has to survive the loss of its state, or of its snapshots.
    fn rot(&mut self, slot: Slot) -> bool {
        let now = self.instant();
        match self.random.random_range(0..3) {
            0 if self.may_forget(slot) => {
                self.kill(slot);
                self.nemesis.impaired.insert(slot);
                self.machines[slot].rot_log()
            }
            // The engine `runs` is the only copy of what the log does not have any more: another member has to have one.
            1 if self.plan.runs && self.has_peers(slot) => {
                self.kill(slot);
                self.machines[slot].rot_state()
            }
            1 if !self.plan.runs => self.machines[slot].rot_state(),
            2 => self.machines[slot].rot_snapshot(now),
            _ => false,
        }
    }

    /// Whether the state of `slot` may be lost: a majority has all it had, and another member has a state. The log stays, so
    /// that the member forgets nothing that it acknowledged; but until the damage is found, it purges more of its log.
    fn has_peers(&self, slot: Slot) -> bool {
        let mut others = self.machines.iter().filter(|machine| machine.slot != slot);
        let are_intact = !self.machines.iter().any(Machine::has_rotten_state);
        let Some(process) = &self.machines[slot].process else { return false };
        let (base, known) = (process.wal.base(), process.store.membership());
        let voters = known.voters.len();
        let has_state = |machine: &Machine| {
            let last =
                machine.process.as_ref().map_or(0, |process| process.core.status(self.instant()).last_index);
            last >= base.index && !self.nemesis.is_impaired(machine.slot)
        };
        let is_minority = voters > 1 && self.lost_with(slot, &known) <= (voters - 1) / 2;
        are_intact && is_minority && self.forcing.is_none() && others.any(has_state)
    }

    /// Makes a copy of a disk, or replaces the disk by its copy; returns whether it did. Peers recognize a copy by
    /// its boot epoch once the member has registered a later start than the copy's next one; before that nothing can.
    fn old_copy(&mut self, slot: Slot) -> Result<bool, Violation> {
        let Some((copy, marker)) = &self.machines[slot].backup else {
            let machine = &mut self.machines[slot];
            let is_member = machine.process.is_some() && !machine.has_rotten_state();
            if is_member {
                machine.backup = Some((machine.disk.copy(), machine.marker.clone()));
            }
            return Ok(is_member);
        };
        let (copy, marker) = (copy.clone(), marker.clone());
        let is_known = |process: &Process| {
            let known = process.store.membership();
            let record = marker.member.and_then(|id| membership::member(&known, id).cloned());
            record.is_some_and(|record| record.boot_epoch > marker.boot_epoch + 1)
        };
        let all_know = (self.machines.iter().filter(|machine| machine.slot != slot))
            .filter(|machine| machine.marker.member.is_some() && !machine.marker.removed)
            .all(|machine| machine.process.as_ref().is_some_and(is_known));
        // A restart may lose that knowledge until the log is applied again. The copy must not be needed for that: every
        // other voter has the whole log.
        let whole = self.leader().is_some_and(|(_, status)| {
            let last = (status.last_index, status.term);
            let voters = &status.membership.voters;
            voters
                .iter()
                .all(|voter| Some(*voter) == marker.member || self.invariants.holds(*voter, last.0, last.1))
        });
        if !all_know || !whole || marker.member != self.machines[slot].marker.member || !self.may_forget(slot)
        {
            return Ok(false);
        }
        self.lose_disk(slot);
        let machine = &mut self.machines[slot];
        machine.go_back(copy, marker);
        Ok(true)
    }

    /// Loses all members but one with their disks; returns whether it did. The survivor has all that is committed, so
    /// that nothing may be missing afterwards.
    ///
    /// Not while a poison entry is held back: the entries that make the survivor the only member follow it in the log.
    fn lose_majority(&mut self) -> bool {
        if self.is_poisoned() || self.machines.iter().any(Machine::has_rotten_state) {
            return false;
        }
        let Some((_, status)) = self.leader().filter(|_| self.forcing.is_none()) else { return false };
        let Some((index, term)) = self.invariants.last_committed() else { return false };
        let known = &status.membership;
        let may_survive = |machine: &&Machine| {
            let Some((id, process)) = machine.marker.member.zip(machine.process.as_ref()) else {
                return false;
            };
            let status = process.core.status(self.instant());
            known.voters.contains(&id)
                && status.membership.voters.contains(&id)
                && !self.nemesis.is_impaired(machine.slot)
                && self.invariants.holds_now(id, index, term)
        };
        let able: Vec<_> = self.machines.iter().filter(may_survive).map(|machine| machine.slot).collect();
        if able.is_empty() || known.voters.len() < 2 {
            return false;
        }
        let survivor = able[self.random.random_range(0..able.len())];
        for slot in (0..self.plan.machines).filter(|slot| *slot != survivor) {
            if self.machines[slot].marker.member.is_some() {
                self.lose_disk(slot);
                self.machines[slot].wipe();
            }
        }
        // An earlier copy would belong to a cluster that no longer exists.
        self.machines[survivor].backup = None;
        self.forcing = Some(Forcing { survivor, token: 0, answer: None });
        true
    }

    /// Requests force-new-cluster of the survivor until it is possible, and restarts it as the only member. Returns
    /// true while that lasts: the keeper must change nothing else.
    pub fn force(&mut self) -> bool {
        let (now, lease) = (self.instant(), if self.forcing.is_some() { self.lease() } else { 0 });
        let Some(forcing) = &mut self.forcing else { return false };
        let machine = &mut self.machines[forcing.survivor];
        let Some(process) = &machine.process else { return true };
        let survivor = forcing.survivor;
        if machine.marker.force_new.is_some() {
            return true;
        }
        let answer = forcing.answer.as_mut().and_then(|answer| answer.try_recv().ok());
        if self.is_traced
            && let Some(answer) = &answer
        {
            println!("{:>9} force-new-cluster: {answer:?}", self.now);
        }
        if let Some(Ok(Verdict::Possible(_))) = answer {
            machine.marker.force_new = Some(forcing.token);
            self.kill(survivor);
            return true;
        }
        let status = process.core.status(now);
        let (waiter, answer) = oneshot::channel();
        let expected = LastEntry {
            term: process.core.term_of(status.last_index).unwrap_or(0),
            index: status.last_index,
        };
        forcing.answer = Some(answer);
        forcing.token = lease;
        let fencing_token = lease;
        self.input(survivor, Input::ForceNew { expected, fencing_token, waiter });
        true
    }

    /// Ends every fault and starts every process that is down.
    pub fn heal(&mut self) {
        self.cuts.clear();
        (self.plan.loss, self.plan.duplication) = (0, 0);
        for slot in 0..self.plan.machines {
            let machine = &mut self.machines[slot];
            machine.paused_until = machine.paused_until.min(self.now);
            machine.slow_until = 0;
            self.events.plan(self.now, Event::Start(slot));
        }
    }
}
