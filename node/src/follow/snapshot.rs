//! A snapshot of a group: its parts are read once for all streams that begin at about the same time, as the pods of a
//! Deployment do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::state::Cursor;

/// Limit of the parts that are kept for all groups, bytes.
pub const KEPT_BYTES: usize = 64 << 20;
const KIB: usize = 1 << 10;
/// Time in which streams may begin with a snapshot: they also get all changes since its begin.
const SHARED_FOR: Duration = Duration::from_secs(2);

/// A part that was read at `index`.
pub struct Part {
    pub records: Bytes,
    pub index: u64,
    /// Where the next part begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// A part that is kept, with its share of [`KEPT_BYTES`].
struct Kept {
    part: Arc<Part>,
    _share: OwnedSemaphorePermit,
}

pub struct Snapshot {
    /// A stream that sends the parts gets all changes after this position, too. No part was read at a lower index.
    pub start: u64,
    began: Instant,
    kept: Mutex<Vec<Kept>>,
}

impl Snapshot {
    pub fn new(start: u64, began: Instant) -> Self {
        Self { start, began, kept: Mutex::default() }
    }

    /// Whether a stream may begin with it at `now`.
    pub fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) <= SHARED_FOR
    }

    /// Returns part `number`, which `read` reads if no stream has; other streams wait for it. A part that has no room in `room` is
    /// not kept, nor are those after it, which each stream reads then.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn part<E>(
        &self,
        number: usize,
        room: &Arc<Semaphore>,
        read: impl Future<Output = Result<Part, E>>,
    ) -> Result<Arc<Part>, E> {
        let mut kept = self.kept.lock().await;
        if let Some(Kept { part, .. }) = kept.get(number) {
            return Ok(Arc::clone(part));
        }
        if kept.len() < number {
            drop(kept);
            return read.await.map(Arc::new);
        }
        let part = Arc::new(read.await?);
        let kib = u32::try_from(part.records.len().div_ceil(KIB)).unwrap_or(u32::MAX);
        if let Ok(share) = Arc::clone(room).try_acquire_many_owned(kib) {
            kept.push(Kept { part: Arc::clone(&part), _share: share });
        }
        Ok(part)
    }
}

/// Returns the room for the parts of all groups, in KiB.
pub fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(KEPT_BYTES / KIB))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    async fn part(
        snapshot: &Snapshot,
        number: usize,
        room: &Arc<Semaphore>,
        index: u64,
        bytes: usize,
    ) -> u64 {
        let read = async { Ok::<_, Infallible>(Part { records: vec![0; bytes].into(), index, next: None }) };
        snapshot.part(number, room, read).await.unwrap().index
    }

    #[tokio::test]
    async fn parts_are_read_once_while_there_is_room_and_freed_with_the_snapshot() {
        let room = Arc::new(Semaphore::new(3));
        let snapshot = Snapshot::new(7, Instant::now());
        assert_eq!(part(&snapshot, 0, &room, 10, 2 * KIB).await, 10);
        assert_eq!(part(&snapshot, 0, &room, 11, 2 * KIB).await, 10, "another stream");
        assert_eq!(part(&snapshot, 1, &room, 12, 2 * KIB).await, 12);
        assert_eq!(part(&snapshot, 1, &room, 13, 2 * KIB).await, 13, "there was no room for it");
        // Not kept at the place of another.
        assert_eq!(part(&snapshot, 2, &room, 14, 1).await, 14);
        assert_eq!(part(&snapshot, 1, &room, 15, 1).await, 15);
        assert_eq!((part(&snapshot, 1, &room, 16, 1).await, room.available_permits()), (15, 0));
        drop(snapshot);
        assert_eq!(room.available_permits(), 3);
    }
}
