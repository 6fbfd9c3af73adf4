//! Committed entries between the log and the state machine: they are handed out to the apply thread in order, while the
//! overlay has room.

use raft::eraftpb::Entry;
use raft::{GetEntriesContext, Storage};

use super::super::types::{Applied, charge_of};
use super::super::unappliable::{Unappliable, skip_in};
use super::{ApplyJob, Core, Effect, MAX_APPLYING_BYTES};

/// Limit of the committed entries that are read back from the log at once, bytes.
const BATCH_BYTES: u64 = 4 << 20;

pub(super) struct Applying {
    /// Index of the last entry that the state machine has applied.
    applied: u64,
    /// Index of the last entry that was handed out to the apply thread.
    handed_out: u64,
    /// Index of the last committed entry. Those after `handed_out` wait in the log for room.
    committed: u64,
    /// Index of the last committed `SkipEntry`.
    last_skip: u64,
    /// Charge of the entries that are handed out and not applied.
    bytes: u64,
    /// Bytes of the state that are in no checkpoint.
    overlay_bytes: u64,
    /// The entry that the apply thread holds, with all after it.
    held: Option<Unappliable>,
    skipped_entries: u64,
    last_skipped: u64,
}

impl Applying {
    pub fn new(applied: u64) -> Self {
        Self {
            applied,
            handed_out: applied,
            committed: applied,
            last_skip: 0,
            bytes: 0,
            overlay_bytes: 0,
            held: None,
            skipped_entries: 0,
            last_skipped: 0,
        }
    }

    pub fn index(&self) -> u64 {
        self.applied
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn overlay_bytes(&self) -> u64 {
        self.overlay_bytes
    }

    pub fn set_overlay_bytes(&mut self, bytes: u64) {
        self.overlay_bytes = bytes;
    }

    pub fn held(&self) -> Option<&Unappliable> {
        self.held.as_ref()
    }

    pub fn hold(&mut self, entry: Unappliable) {
        self.held = Some(entry);
    }

    pub fn skipped_entries(&self) -> u64 {
        self.skipped_entries
    }

    pub fn last_skipped(&self) -> u64 {
        self.last_skipped
    }

    /// Records a batch that the apply thread has applied.
    pub fn record(&mut self, done: &Applied) {
        self.bytes -= done.bytes;
        self.overlay_bytes = done.overlay_bytes;
        self.applied = done.index;
        if self.held.as_ref().is_some_and(|held| held.index <= done.index) {
            self.held = None;
        }
        if let Some(last) = done.skipped.last() {
            self.last_skipped = *last;
            self.skipped_entries += done.skipped.len() as u64;
        }
    }

    /// Records that the state was restored from the snapshot at `index`. `bytes` is the charge of the held entries that
    /// were dropped.
    pub fn record_restore(&mut self, index: u64, bytes: u64) {
        self.overlay_bytes = 0;
        self.bytes -= bytes;
        self.held = None;
        self.applied = index;
    }

    /// Whether an entry is held and a committed `SkipEntry` is not handed out yet: both are applied in one batch,
    /// with all entries between them.
    fn is_skip_owed(&self) -> bool {
        self.held.is_some() && self.handed_out < self.last_skip
    }

    fn is_owed(&self) -> bool {
        self.handed_out < self.committed
    }

    /// Drops the entries that wait in the log: the log was reset to a snapshot that covers them.
    pub fn drop_owed(&mut self, snapshot_index: u64) {
        if self.is_owed() {
            self.skip_to(snapshot_index);
        }
    }

    /// Continues after the snapshot at `index`, from which the state is restored.
    pub fn skip_to(&mut self, index: u64) {
        self.handed_out = index.max(self.handed_out);
        self.committed = self.committed.max(self.handed_out);
    }

    #[cfg(test)]
    pub fn pretend(&mut self, applied: u64, bytes: u64, overlay_bytes: u64) {
        (self.applied, self.bytes, self.overlay_bytes) = (applied, bytes, overlay_bytes);
    }
}

impl Core {
    /// Hands out newly committed entries if there is room; otherwise they wait in the log.
    pub(super) fn take_committed(&mut self, mut committed: Vec<Entry>) {
        let applying = &mut self.applying;
        // An installed snapshot already covers entries up to there.
        committed.retain(|entry| entry.index > applying.committed);
        let Some(last) = committed.last().map(|entry| entry.index) else { return };
        if let Some(skip) = committed.iter().rfind(|entry| skip_in(&entry.data).is_some()) {
            applying.last_skip = skip.index;
        }
        let is_next = !applying.is_owed();
        applying.committed = last;
        if is_next && (self.pipeline.is_restoring() || self.has_room_to_apply()) {
            self.hand_out(committed);
        }
    }

    /// Hands out the entries that were committed while there was no room to apply them.
    pub(super) fn hand_out_owed(&mut self) {
        while self.applying.is_owed() && !self.pipeline.is_restoring() && self.has_room_to_apply() {
            let (low, high) = (self.applying.handed_out + 1, self.applying.committed + 1);
            let entries = self.raft.log().entries(low, high, BATCH_BYTES, GetEntriesContext::empty(false));
            match entries {
                Ok(entries) => self.hand_out(entries),
                Err(error) => {
                    let reason = format!("log entries {low} to {high} cannot be read back: {error}");
                    return self.effects.push(Effect::Lost(reason));
                }
            }
        }
    }

    fn has_room_to_apply(&self) -> bool {
        self.applying.is_skip_owed()
            || self.applying.bytes <= 2 * MAX_APPLYING_BYTES && !self.held_overlay().is_over_all()
    }

    fn hand_out(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last() else { return };
        self.applying.handed_out = last.index;
        let leader = self.leader().cloned();
        let bytes = entries.iter().map(charge_of).sum();
        self.applying.bytes += bytes;
        let entries = entries
            .into_iter()
            .map(|entry| {
                let waiter = self.proposals.take_committed(&entry, leader.as_ref());
                (entry, waiter)
            })
            .collect();
        self.effects.push(Effect::Apply(ApplyJob::Entries { entries, bytes }));
    }
}
