//! The streams that follow the same prefixes: each change is encoded once, into a bounded ring that all of them read. Pure.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use helios_proto::v1::{Record, Records};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::snapshot::Snapshot;
use crate::state::{Effects, Selection};

/// Limit of the encoded changes that a stream may be behind, bytes.
pub const RING_BYTES: usize = 8 << 20;
/// Limit of the rings of all groups, bytes.
pub const ALL_RINGS_BYTES: usize = 64 << 20;
/// Estimated overhead of a frame, bytes.
const FRAME_BYTES: usize = 128;

/// Encoded changes of consecutive entries.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// The entries after `from`, up to `through`.
    pub from: u64,
    pub through: u64,
    /// An encoded [`Records`].
    pub records: Bytes,
}

impl Frame {
    pub fn of(from: u64, effects: Effects) -> Self {
        let Effects { through, is_last: _, is_cleared, records } = effects;
        let records = records.into_iter().map(|(key, value)| Record { key, value }).collect();
        let records = Records { is_cleared, records };
        Self { from, through, records: records.encode_to_vec().into() }
    }

    fn cost(&self) -> usize {
        FRAME_BYTES + self.records.len()
    }
}

/// The stream is further behind than the ring reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

pub struct Group {
    pub selection: Selection,
    ring: Mutex<Ring>,
    /// Index up to which there are no changes beyond the frames.
    through: watch::Sender<u64>,
    /// The snapshot that began last, while a stream sends it.
    snapshot: Mutex<Weak<Snapshot>>,
}

#[derive(Default)]
struct Ring {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// Index up to which frames were dropped.
    floor: u64,
}

impl Group {
    /// Creates the group of the streams that begin at `index` or later.
    pub fn new(selection: Selection, index: u64) -> Self {
        let ring = Ring { floor: index, ..Ring::default() };
        let through = watch::Sender::new(index);
        Self { selection, ring: Mutex::new(ring), through, snapshot: Mutex::default() }
    }

    pub fn through(&self) -> u64 {
        *self.through.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.through.subscribe()
    }

    /// Adds the next effects, and drops the oldest frames above `limit_bytes`. The newest is kept whatever its size.
    pub fn push(&self, effects: Effects, limit_bytes: usize) {
        let through = effects.through;
        if !effects.is_empty() {
            self.ring().push(Frame::of(self.through(), effects), limit_bytes);
        }
        // Streams are not woken by entries that do not exist.
        self.through.send_if_modified(|at| std::mem::replace(at, through) != through);
    }

    /// Continues at `index` without the frames before: all streams are behind.
    pub fn restart(&self, index: u64) {
        *self.ring() = Ring { floor: index, ..Ring::default() };
        self.through.send_replace(index);
    }

    /// Returns the next frame after `position` and the position after it; without a frame, the position up to which there
    /// is none.
    ///
    /// # Errors
    /// The ring begins later.
    pub fn next(&self, position: u64) -> Result<(Option<Arc<Frame>>, u64), Behind> {
        // Read before the ring: a frame is added before the index is.
        let through = self.through();
        let ring = self.ring();
        if position < ring.floor {
            return Err(Behind);
        }
        let next = ring.frames.partition_point(|frame| frame.through <= position);
        Ok(match ring.frames.get(next) {
            Some(frame) => (Some(Arc::clone(frame)), frame.through),
            None => (None, through.max(position)),
        })
    }

    /// Returns the snapshot to begin with: one that another stream sends, if it is recent and the ring has all changes
    /// since, or a new one.
    pub fn snapshot(&self, now: Instant) -> Arc<Snapshot> {
        let mut last = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |snapshot: &Arc<Snapshot>| snapshot.is_recent(now) && self.next(snapshot.start).is_ok();
        if let Some(shared) = last.upgrade().filter(usable) {
            return shared;
        }
        let new = Arc::new(Snapshot::new(self.through(), now));
        *last = Arc::downgrade(&new);
        new
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, frame: Frame, limit_bytes: usize) {
        self.bytes += frame.cost();
        self.frames.push_back(Arc::new(frame));
        while self.bytes > limit_bytes && self.frames.len() > 1 {
            let Some(oldest) = self.frames.pop_front() else { return };
            self.bytes -= oldest.cost();
            self.floor = oldest.through;
        }
    }
}

/// Returns the limit of one ring if there are `groups`.
pub fn ring_limit(groups: usize) -> usize {
    (ALL_RINGS_BYTES / groups.max(1)).min(RING_BYTES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn effects(through: u64, bytes: usize) -> Effects {
        let records = [(Bytes::from_static(b"dk"), Some(Bytes::from(vec![b'x'; bytes])))];
        let records = if bytes == 0 { Vec::new() } else { records.to_vec() };
        Effects { through, records: records.into_iter().collect(), ..Effects::default() }
    }

    /// Returns the spans of the frames after `position`, and the position at the end.
    fn read(group: &Group, mut position: u64) -> Result<(Vec<(u64, u64)>, u64), Behind> {
        let mut spans = Vec::new();
        loop {
            let (frame, next) = group.next(position)?;
            position = next;
            match frame {
                Some(frame) => spans.push((frame.from, frame.through)),
                None => return Ok((spans, position)),
            }
        }
    }

    #[test]
    fn streams_read_the_same_frames_and_entries_without_changes_only_advance() {
        let group = Group::new(Selection::default(), 10);
        assert_eq!(read(&group, 10), Ok((vec![], 10)));
        group.push(effects(12, 1), RING_BYTES);
        group.push(effects(15, 0), RING_BYTES);
        group.push(effects(16, 1), RING_BYTES);
        assert_eq!(read(&group, 10), Ok((vec![(10, 12), (15, 16)], 16)));
        assert_eq!(read(&group, 11), Ok((vec![(10, 12), (15, 16)], 16)), "changes may be repeated");
        assert_eq!(read(&group, 12), Ok((vec![(15, 16)], 16)));
        assert_eq!(read(&group, 20), Ok((vec![], 20)), "a position of another member that is ahead");
        assert_eq!(read(&group, 9), Err(Behind));
        let (one, other) = (group.next(10).unwrap().0.unwrap(), group.next(10).unwrap().0.unwrap());
        assert_eq!(one.records.as_ptr(), other.records.as_ptr());
    }

    #[test]
    fn stream_that_is_further_behind_than_the_ring_is_cut() {
        let group = Group::new(Selection::default(), 0);
        for index in 1..=20 {
            group.push(effects(index, 1 << 20), RING_BYTES);
        }
        assert_eq!(read(&group, 12), Err(Behind));
        assert_eq!(read(&group, 13).unwrap().1, 20);
        // The newest frame is kept whatever its size.
        group.push(effects(21, 9 << 20), RING_BYTES);
        assert_eq!(read(&group, 20).unwrap().0, [(20, 21)]);
        group.restart(30);
        assert_eq!(read(&group, 21), Err(Behind));
        assert_eq!(read(&group, 30), Ok((vec![], 30)));
    }

    #[test]
    fn snapshot_is_shared_while_it_is_recent_and_the_ring_has_the_changes_since() {
        let group = Group::new(Selection::default(), 5);
        let now = Instant::now();
        let first = group.snapshot(now);
        group.push(effects(6, 1), RING_BYTES);
        let second = group.snapshot(now + Duration::from_secs(2));
        assert!(Arc::ptr_eq(&first, &second), "began at {} and {}", first.start, second.start);
        let later = group.snapshot(now + Duration::from_secs(3));
        assert_eq!((first.start, later.start), (5, 6));
        group.restart(9);
        let after = group.snapshot(now + Duration::from_secs(3));
        assert_eq!(after.start, 9);
        drop(after);
        group.push(effects(10, 1), RING_BYTES);
        assert_eq!(group.snapshot(now).start, 10, "no stream sends it any more");
    }

    #[test]
    fn rings_of_many_groups_share_their_limit() {
        assert_eq!([0, 1, 8].map(ring_limit), [RING_BYTES; 3]);
        assert_eq!(ring_limit(400), ALL_RINGS_BYTES / 400);
    }
}
