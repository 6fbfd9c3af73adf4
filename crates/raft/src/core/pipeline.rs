//! The order of a Ready: what may leave at once, what waits for the disk, and why.

use std::collections::VecDeque;
use std::time::Instant;

use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType, Snapshot};

use super::{ApplyJob, Core, Effect, LogJob};
use crate::faults;
use helios_storage::wal::Base;

/// Ready states handed to the log writer and not yet on disk.
const MAX_IN_FLIGHT: usize = 128;

#[derive(Default)]
pub(super) struct Pipeline {
    in_flight: VecDeque<InFlight>,
    /// A commit index that needs no fsync of its own; goes with the next job.
    lazy_hard_state: Option<HardState>,
    /// The log was reset by an installed snapshot, and the state is still to follow.
    is_restoring: bool,
}

/// A Ready whose messages wait for the disk.
struct InFlight {
    number: u64,
    /// False for a Ready with nothing to write: done as soon as all before it are.
    waits_for_disk: bool,
    messages: Vec<Message>,
    restore: Option<u64>,
    committed: Vec<Entry>,
}

impl Pipeline {
    /// Whether everything that the raft crate gave out is on disk.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn is_restoring(&self) -> bool {
        self.is_restoring
    }

    pub fn end_restore(&mut self) {
        self.is_restoring = false;
    }

    /// Takes the oldest Ready that is done: up to `persisted`, and what after it has no disk to wait for.
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
        // A leader's appends may leave before its own fsync: it counts itself only when its
        // entries are on its disk (Raft thesis, 10.2.1).
        let messages = ready.take_messages();
        for message in messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgSnapshot) {
            self.raft.log_mut().snapshot_leaves(message.to, message.get_snapshot().clone());
        }
        if !messages.is_empty() {
            self.effects.push(Effect::Send(messages));
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
        // A member that acts upon a membership must find it again after a crash: one that forgot that a
        // change is committed would count another majority than the rest, who may have lost a disk since.
        // So the commit index reaches the disk before the change is applied.
        let is_change = |entry: &Entry| entry.get_entry_type() != EntryType::EntryNormal;
        let changes_members = committed.iter().any(is_change);
        let in_flight = &mut self.pipeline.in_flight;
        let is_held = changes_members || in_flight.iter().any(|earlier| !earlier.committed.is_empty());

        // Votes, append responses and everything else that a follower says leave only once what they
        // promise is on disk; a Ready with nothing to write still keeps its place in the order.
        let is_hard_state_only = entries.is_empty() && reset.is_none();
        let waits_for_disk = changes_members || faults::must_sync(ready.must_sync(), is_hard_state_only);
        let mut messages = ready.take_persisted_messages();
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

    /// The log is reset now; the state follows once the reset is on disk, so that a crash between
    /// leaves the old state below the new log's base, which start-up repairs from the snapshot.
    fn take_installed_snapshot(&mut self, snapshot: &Snapshot) -> Option<Base> {
        if snapshot.is_empty() {
            return None;
        }
        let metadata = snapshot.get_metadata();
        let base = Base { index: metadata.index, term: metadata.term };
        self.pipeline.is_restoring = true;
        self.proposals.skip_to(base.index);
        self.applying.drop_owed(base.index);
        self.raft.log_mut().reset(base, metadata.get_conf_state().clone());
        self.raft.log_mut().set_snapshot(snapshot.clone());
        self.snapshots.record_installed(base.index);
        Some(base)
    }

    /// The log writer has written every job up to `number`.
    pub(super) fn persisted(&mut self, number: u64, now: Instant) {
        self.release(Some(number));
        let is_busy = self.pipeline.in_flight.iter().any(|job| job.waits_for_disk);
        self.leadership.write_ended(is_busy, now);
    }

    /// Lets go of everything up to `persisted`, and of what after it has no disk to wait for.
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
            self.raft.persisted(number);
        }
    }
}
