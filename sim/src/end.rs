//! The end of every run: all faults stop, and within a bounded time the members have to agree and serve. Then their
//! states are compared, and the history of the clients is checked.

use std::collections::BTreeMap;

use helios_history::{Op, Verdict, check};
use helios_raft::simulation::membership;

use crate::clients::query;
use crate::plan::{MILLIS, Micros};
use crate::workload::{expiry_of, read_of};
use crate::world::World;
use crate::{Report, Violation};

/// Simulated time after the last fault in which the members have to agree.
const PATIENCE: Micros = 30_000 * MILLIS;
/// Time between two checks whether they do.
const CHECK_INTERVAL: Micros = 50 * MILLIS;

impl World {
    pub fn end(&mut self) -> Result<(), Violation> {
        self.heal();
        let deadline = self.now + PATIENCE;
        self.wait(deadline, "agree again", Self::agree)?;
        self.read_all(deadline)?;
        self.wait(deadline, "agree after the last reads", Self::agree)?;
        self.compare_states()?;
        self.archive()?;
        self.restore()?;
        for id in &self.clients.refused {
            self.reference.check_refused(id)?;
        }
        match check(&self.clients.history) {
            Verdict::Illegal(violation) => return Err(Violation(format!("not linearizable: {violation}"))),
            // The history was too complex for the checker; the other checks count.
            Verdict::Unknown { .. } => self.report.unjudged = 1,
            Verdict::Legal => {}
        }
        Ok(())
    }

    fn wait(&mut self, deadline: Micros, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        while !is_so(self) {
            if self.now >= deadline {
                return Err(Violation(format!("healed members did not {what}: {}", self.describe())));
            }
            self.run_until(self.now + CHECK_INTERVAL)?;
        }
        Ok(())
    }

    /// Whether there is a leader, every member is a voter and has applied the whole log, which is committed, and no
    /// client waits.
    fn agree(&self) -> bool {
        let Some((_, status)) = self.leader() else { return false };
        let known = &status.membership;
        let is_whole = known.voters.len() >= self.plan.members;
        let is_settled = known.learners.is_empty() && !membership::is_joint(known);
        let caught_up = known.members.iter().all(|member| {
            let machine = self.machines.iter().find(|machine| machine.name == member.name);
            machine.and_then(|machine| machine.process.as_ref()).is_some_and(|process| {
                process.applied_index() == status.commit_index && status.commit_index == status.last_index
            })
        });
        is_whole && is_settled && caught_up && self.clients_are_done()
    }

    /// Reads every key once more through the leader: no acknowledged write may be missing.
    fn read_all(&mut self, deadline: Micros) -> Result<(), Violation> {
        for key in 0..self.plan.keys {
            let key = format!("k{key}");
            loop {
                let answered = self.report.answered;
                if let Some((leader, _)) = self.leader() {
                    self.ask_for(0, leader, &key, Op::Get);
                    self.plan_turn(0);
                }
                self.wait(deadline, "answer a read", Self::clients_are_done)?;
                if self.report.answered > answered {
                    break;
                }
                self.run_until(self.now + CHECK_INTERVAL)?;
            }
        }
        Ok(())
    }

    /// Compares each key of each member with the reference, and members of the same applied index with one another:
    /// number of keys, content and membership.
    fn compare_states(&self) -> Result<(), Violation> {
        let reference = &self.reference;
        let mut counted = BTreeMap::new();
        for machine in &self.machines {
            let Some(process) = &machine.process else { continue };
            let index = process.applied_index();
            for key in reference.keys() {
                for call in [read_of(key), expiry_of(key)] {
                    let Some(answer) = query(&process.store, &call) else { continue };
                    let verdict = reference.check_read(&call, index, &answer);
                    verdict.map_err(|violation| Violation(format!("{}: {violation}", machine.name)))?;
                }
            }
            let pairs = match process.store.scan_all() {
                Ok(pairs) => pairs,
                // A flipped bit that nothing has read before, or a power cut that the process has not noticed yet.
                Err(_) if machine.has_rotten_state() || machine.disk.is_cut() => continue,
                Err(error) => return Err(Violation(format!("{}: {error}", machine.name))),
            };
            let own = (process.store.key_count(), pairs, process.store.membership());
            let others = counted.entry(index).or_insert_with(|| own.clone());
            if *others != own {
                return Err(Violation(format!(
                    "two members differ at index {index}: {others:?} and {own:?}"
                )));
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let now = self.instant();
        let mut lines = Vec::new();
        for machine in &self.machines {
            let state = match &machine.process {
                None => format!("down, member {:?}, broken {:?}", machine.marker.member, machine.broken),
                Some(process) => {
                    let status = process.core.status(now);
                    format!(
                        "member {:?} {:?} of term {}, leader {}, log to {}, commit {}, applied {}, held {:?}, voters {:?}, outgoing {:?}, learners {:?}",
                        machine.marker.member,
                        status.role,
                        status.term,
                        status.leader_id,
                        status.last_index,
                        status.commit_index,
                        process.applied_index(),
                        status.unappliable.as_ref().map(|held| (held.index, held.crc)),
                        status.membership.voters,
                        status.membership.voters_outgoing,
                        status.membership.learners
                    )
                }
            };
            lines.push(format!("{}: {state}", machine.name));
        }
        lines.join("; ")
    }
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.violation.is_none()
    }
}
