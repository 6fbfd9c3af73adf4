//! The poison entry, which ends every process that applies it: how it gets into the log, how processes end at it, and
//! how the keeper has it skipped, as an admin does with `heliosctl log skip`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use helios_proto::Error;
use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, Reply, Set, SkipEntry};
use helios_raft::RaftStatus;
use helios_raft::simulation::{ApplyJob, Done, FORMAT, Input, POISON, ProcessEnds, membership};
use rand::Rng;
use tokio::sync::oneshot;

use crate::clients::{Ended, proposal};
use crate::events::{Run, Slot};
use crate::machine::Process;
use crate::world::World;

pub struct Poison {
    /// Process of the leader that it was proposed to, and its term.
    run: Run,
    term: u64,
    answer: oneshot::Receiver<Result<Reply, Error>>,
}

impl World {
    /// Proposes a poison entry ([`Fault::Poison`](crate::Fault::Poison)) and returns whether it did. Not while the
    /// membership changes: the raft crate lets no member campaign that has a committed change of the membership to
    /// apply, and behind a poison entry that could be all members.
    pub fn poison(&mut self) -> bool {
        let Some((leader, status)) = self.leader() else { return false };
        let known = &status.membership;
        let may_change = !known.learners.is_empty() || membership::is_joint(known);
        // A proposal waits for the end of a transfer, and may then enter the log in a later term.
        let is_transferring = status.transfer_target.is_some();
        let process = self.machines[leader].process.as_ref();
        let is_busy = process.is_none_or(|process| process.core.is_changing() || !process.inbox.is_empty());
        let run = process.map_or(0, |process| process.run);
        // The members report in their registration which log format they can read. Before all have registered, this
        // leader too, the next one would reject the skip.
        let can_skip = known.members.iter().all(|member| member.format >= FORMAT);
        if self.is_poisoned()
            || self.forcing.is_some()
            || may_change
            || is_transferring
            || is_busy
            || !can_skip
        {
            return false;
        }
        let (waiter, answer) = oneshot::channel();
        let set = Set { key: POISON.into(), value: "deadly".into(), ..Set::default() };
        let command = Command { now_ms: 1, op: Some(Op::Set(set)), ..Command::default() };
        self.poison = Some(Poison { run, term: status.term, answer });
        self.input(leader, Input::Propose(vec![proposal(&command, waiter)]))
    }

    /// Whether a poison entry is committed and not skipped, or may still be committed.
    pub fn is_poisoned(&mut self) -> bool {
        if self.reference.is_poisoned() {
            return true;
        }
        let later_leader = self
            .leader()
            .and_then(|(slot, status)| Some((self.machines[slot].process.as_ref()?.run, status.term)));
        let Some(Poison { run, term, answer }) = &mut self.poison else { return false };
        let is_refused =
            matches!(answer.try_recv(), Ok(Err(error)) if matches!(Ended::of_error(&error), Ended::Failed));
        // No entry of an earlier term follows one of a later term.
        let last = self.invariants.last_committed().map_or(0, |(_, last)| last);
        // A single voter may lead in the same term again, if a failed sync lost the term with all its entries.
        let is_led_again = later_leader.is_some_and(|(later, term)| later > *run && term == last);
        let is_over = last > *term || is_led_again && last == *term;
        if is_refused || is_over {
            self.poison = None;
        }
        self.poison.is_some()
    }

    /// Proposes to skip the entry that a majority holds back and no member has applied. At times the checksum is wrong,
    /// and the skip must be rejected.
    pub fn skip_poison(&mut self, leader: Slot, status: &RaftStatus) {
        let Some(held) = &status.unappliable else { return };
        let now = self.instant();
        let holds = |id| {
            let machine = self.machines.iter().find(|machine| machine.marker.member == Some(id));
            let process = machine.and_then(|machine| machine.process.as_ref());
            process.is_some_and(|process| process.core.status(now).unappliable.as_ref() == Some(held))
        };
        let has_applied = |process: &Process| process.applied_index() >= held.index;
        let is_applied = self.machines.iter().filter_map(|machine| machine.process.as_ref()).any(has_applied);
        if is_applied || !membership::have_majority(&status.membership, holds) {
            return;
        }
        let crc = held.crc ^ u32::from(self.random.random_ratio(1, 4));
        let op = Op::SkipEntry(SkipEntry { index: held.index, crc });
        let (waiter, _) = oneshot::channel();
        let command = Command { now_ms: 1, op: Some(op), ..Command::default() };
        self.input(leader, Input::Propose(vec![proposal(&command, waiter)]));
    }
}

/// Runs a job of the apply thread. Returns `None` if the process ended at a poison entry.
pub fn apply_or_end(process: &mut Process, job: ApplyJob) -> Option<Result<Vec<Done>, String>> {
    match catch_unwind(AssertUnwindSafe(|| process.applier.apply(job))) {
        Ok(outcome) => Some(outcome),
        Err(panic) if panic.is::<ProcessEnds>() => None,
        Err(panic) => resume_unwind(panic),
    }
}
