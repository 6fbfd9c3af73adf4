//! Processing of a Ready: which effects are executed at once, which wait for the disk, and why.

use std::collections::VecDeque;
use std::time::Instant;

use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType, Snapshot};

use super::{ApplyJob, Core, Effect, LogJob};
use crate::faults;
use helios_storage::wal::Base;

/// Limit of Readies that wait for the disk.
const MAX_IN_FLIGHT: usize = 128;

#[derive(Default)]
pub(super) struct Pipeline {
    in_flight: VecDeque<InFlight>,
    /// Hard state with only a newer commit index, which needs no fsync; it is written with the next job.
    lazy_hard_state: Option<HardState>,
    /// Number of the Ready whose term or vote is not durable yet.
    undurable_term: Option<u64>,
    /// Index of the last installed snapshot to which the log was reset, while the state is not restored from it yet.
    restoring: Option<u64>,
}

/// A Ready whose messages wait for the disk.
struct InFlight {
    number: u64,
    /// False for a Ready with nothing to write: it is done as soon as all earlier ones are.
    waits_for_disk: bool,
    messages: Vec<Message>,
    restore: Option<u64>,
    committed: Vec<Entry>,
}

impl Pipeline {
    /// Whether every Ready is durable.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn is_restoring(&self) -> bool {
        self.restoring.is_some()
    }

    /// Records that the state was restored from the snapshot at `index`. The log may have been reset to a later one.
    pub fn end_restore(&mut self, index: u64) {
        self.restoring.take_if(|restoring| *restoring <= index);
    }

    /// Takes the oldest Ready if it is done: it is durable (up to number `persisted`), or does not wait for the disk.
    fn take_done(&mut self, persisted: Option<u64>) -> Option<InFlight> {
        let is_done = |front: &mut InFlight| {
            !front.waits_for_disk || persisted.is_some_and(|number| front.number <= number)
        };
        self.in_flight.pop_front_if(is_done)
    }
}

impl Core {
    pub(super) fn take_readies(&mut self, now: Instant) {
        while self.pipeline.in_flight.len() < MAX_IN_FLIGHT && self.raft.has_ready() {
            self.take_ready(now);
        }
    }

    fn take_ready(&mut self, now: Instant) {
        let mut ready = self.raft.ready();
        let number = ready.number();
        if ready.hs().is_some_and(|new| self.raft.log_mut().changes_term_or_vote(new)) {
            self.pipeline.undurable_term = Some(number);
        }
        // A leader's appends may be sent before its own fsync: it counts itself only when its
        // entries are durable (Raft thesis, 10.2.1). Its term has to be durable, which the votes of others imply. A
        // single voter elects itself at once: after a power cut it could lead the same term again with other entries.
        let mut messages = ready.take_messages();
        for message in messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgSnapshot) {
            self.raft.log_mut().snapshot_leaves(message.to, message.get_snapshot().clone());
        }
        if self.pipeline.undurable_term.is_none() && !messages.is_empty() {
            self.effects.push(Effect::Send(std::mem::take(&mut messages)));
        }
        let reset = self.take_installed_snapshot(ready.snapshot());
        let entries = ready.take_entries();
        if !entries.is_empty() {
            self.raft.log_mut().append(&entries);
        }
        if let Some(hard_state) = ready.hs() {
            self.raft.log_mut().set_hard_state(hard_state.clone());
            self.pipeline.lazy_hard_state = Some(hard_state.clone());
        }
        self.confirm_rounds(ready.take_read_states());
        let mut committed = ready.take_committed_entries();
        // A member that uses a membership must find it again after a crash: one that forgot that a change is
        // committed would count another majority than the other members, one of which may have lost its disk.
        // So the commit index is durable before the change is applied.
        let is_change = |entry: &Entry| entry.get_entry_type() != EntryType::EntryNormal;
        let changes_members = committed.iter().any(is_change);
        let in_flight = &mut self.pipeline.in_flight;
        let is_held = changes_members || in_flight.iter().any(|earlier| !earlier.committed.is_empty());

        // Votes, append responses and all other messages of a follower are sent only once the data that they
        // acknowledge is durable; a Ready with nothing to write keeps its place in the order.
        let is_hard_state_only = entries.is_empty() && reset.is_none();
        let waits_for_disk = changes_members || faults::must_sync(ready.must_sync(), is_hard_state_only);
        messages.extend(ready.take_persisted_messages());
        self.effects.extend(faults::sent_before_sync(&mut messages));
        self.effects.extend(faults::restored_before_reset(reset));
        in_flight.push_back(InFlight {
            number,
            waits_for_disk,
            messages,
            restore: reset.map(|base| base.index),
            committed: if is_held { std::mem::take(&mut committed) } else { Vec::new() },
        });
        self.take_committed(committed);
        if waits_for_disk {
            let hard_state = self.pipeline.lazy_hard_state.take();
            self.leadership.write_began(now);
            faults::change_before_commit(&mut self.raft, &entries);
            self.effects.push(Effect::Log(LogJob::Append { number, reset, entries, hard_state }));
        }
        self.raft.advance_append(ready);
        faults::count_leader_early(&mut self.raft, number);
        self.release(None);
    }

    /// Resets the log to an installed snapshot and returns its base. The state is restored once the reset is durable:
    /// a crash in between leaves an old state below the base of the log, which recovery repairs from the snapshot.
    fn take_installed_snapshot(&mut self, snapshot: &Snapshot) -> Option<Base> {
        if snapshot.is_empty() {
            return None;
        }
        let metadata = snapshot.get_metadata();
        let base = Base { index: metadata.index, term: metadata.term };
        self.pipeline.restoring = Some(base.index);
        self.proposals.skip_to(base.index);
        self.applying.drop_owed(base.index);
        self.raft.log_mut().reset(base, metadata.get_conf_state().clone());
        self.raft.log_mut().set_snapshot(snapshot.clone());
        self.snapshots.record_installed(base.index);
        Some(base)
    }

    /// Handles the report that every log job up to `number` is durable.
    pub(super) fn persisted(&mut self, number: u64, now: Instant) {
        self.release(Some(number));
        let is_busy = self.pipeline.in_flight.iter().any(|job| job.waits_for_disk);
        self.leadership.write_ended(is_busy, now);
    }

    /// Executes the effects of all Readies that are done: those up to number `persisted`, and later ones that do not
    /// wait for the disk.
    fn release(&mut self, persisted: Option<u64>) {
        let mut through = None;
        while let Some(front) = self.pipeline.take_done(persisted) {
            through = Some(front.number);
            if !front.messages.is_empty() {
                self.effects.push(Effect::Send(front.messages));
            }
            self.take_committed(front.committed);
            if let Some(index) = front.restore {
                self.applying.skip_to(index);
                self.effects.push(Effect::Apply(ApplyJob::Restore { index }));
            }
        }
        if let Some(number) = through {
            self.pipeline.undurable_term.take_if(|undurable| *undurable <= number);
            self.raft.persisted(number);
        }
    }
}
