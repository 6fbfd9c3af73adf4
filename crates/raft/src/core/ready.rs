//! The order of a Ready: what may leave at once, what waits for the disk, and why.

use std::time::Instant;

use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};

use super::{ApplyJob, Core, Effect, LogJob};
use crate::faults;
use helios_storage::wal::Base;

/// A Ready whose messages wait for the disk.
pub(super) struct InFlight {
    number: u64,
    /// False for a Ready with nothing to write: done as soon as all before it are.
    waits_for_disk: bool,
    messages: Vec<Message>,
    restore: Option<u64>,
    committed: Vec<Entry>,
}

impl Core {
    pub(super) fn on_ready(&mut self, now: Instant) {
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
            self.lazy_hard_state = Some(hard_state.clone());
        }
        self.confirm_rounds(ready.take_read_states());
        let mut committed = ready.take_committed_entries();
        // Whoever acts upon a membership must find it again after a crash: a member that forgot that a
        // change is committed would count another majority than the rest, who may have lost a disk since.
        // So the commit index reaches the disk before the change is applied.
        let changes_members = committed.iter().any(|entry| entry.get_entry_type() != EntryType::EntryNormal);
        let is_held = changes_members || self.in_flight.iter().any(|earlier| !earlier.committed.is_empty());

        // Votes, append responses and everything else a follower says leave only once what they
        // promise is on disk; a Ready with nothing to write still keeps its place in the order.
        let is_hard_state_only = entries.is_empty() && reset.is_none();
        let waits_for_disk = changes_members || faults::must_sync(ready.must_sync(), is_hard_state_only);
        let mut messages = ready.take_persisted_messages();
        self.effects.extend(faults::sent_before_sync(&mut messages));
        self.effects.extend(faults::restored_before_reset(reset));
        self.in_flight.push_back(InFlight {
            number,
            waits_for_disk,
            messages,
            restore: reset.map(|base| base.index),
            committed: if is_held { std::mem::take(&mut committed) } else { Vec::new() },
        });
        self.take_committed(committed);
        if waits_for_disk {
            let hard_state = self.lazy_hard_state.take();
            self.leadership.write_began(now);
            faults::change_before_commit(&mut self.raft, &entries);
            self.effects.push(Effect::Log(LogJob::Append { number, reset, entries, hard_state }));
        }
        self.raft.advance_append(ready);
        faults::count_leader_early(&mut self.raft, number);
        self.release_in_flight(None);
    }

    /// The log is reset now; the state follows once the reset is on disk, so that a crash between
    /// leaves the old state below the new log's base, which start-up repairs from the snapshot.
    fn take_installed_snapshot(&mut self, snapshot: &Snapshot) -> Option<Base> {
        if snapshot.is_empty() {
            return None;
        }
        let metadata = snapshot.get_metadata();
        let base = Base { index: metadata.index, term: metadata.term };
        self.restoring = true;
        self.proposals.skipped(base.index);
        self.drop_owed(base.index);
        self.kept_bytes = 0;
        self.raft.log_mut().reset(base, metadata.get_conf_state().clone());
        self.raft.log_mut().set_snapshot(snapshot.clone());
        self.snapshot_index = base.index;
        Some(base)
    }

    pub(super) fn persisted(&mut self, number: u64, now: Instant) {
        self.release_in_flight(Some(number));
        let is_busy = self.in_flight.iter().any(|job| job.waits_for_disk);
        self.leadership.write_ended(is_busy, now);
    }

    /// Lets go of everything up to `persisted`, and of what after it has no disk to wait for.
    fn release_in_flight(&mut self, persisted: Option<u64>) {
        let mut through = None;
        while let Some(front) = self.in_flight.front() {
            if front.waits_for_disk && persisted.is_none_or(|number| front.number > number) {
                break;
            }
            let Some(front) = self.in_flight.pop_front() else { break };
            through = Some(front.number);
            if !front.messages.is_empty() {
                self.effects.push(Effect::Send(front.messages));
            }
            self.take_committed(front.committed);
            if let Some(index) = front.restore {
                self.committed_through(index);
                self.effects.push(Effect::Apply(ApplyJob::Restore { index }));
            }
        }
        if let Some(number) = through {
            self.raft.persisted(number);
        }
    }
}
