//! The end of the log on its way into the store. It holds at most one segment and one chunk of a member.

use std::collections::VecDeque;

use helios_archive::segments::{Entry, Position, SegmentWriter};
use helios_archive::{Archive, ArchiveError, SegmentId};
use helios_proto::v1::ArchivedEntry;

/// Half of what the archive allows: the process holds a segment about three times while it is sealed.
const SEGMENT_BYTES: usize = 8 << 20;

pub struct Tail {
    writer: SegmentWriter,
    /// Received entries that the writer does not have yet, because the store does not take the segment before them.
    pending: VecDeque<Entry>,
    /// Term of the last entry.
    term: u64,
    /// The log's clock after the last entry of the writer.
    clock: u64,
    /// Since when the oldest entry of the writer waits.
    waiting_since: Option<u64>,
}

/// A segment that was written, and the log's clock after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub id: SegmentId,
    pub stored_bytes: u64,
    pub clock: u64,
}

impl Tail {
    pub fn new(archive: &Archive, position: Position) -> Self {
        let writer = SegmentWriter::with_limit(archive, position, SEGMENT_BYTES);
        let Position { term, now_ms: clock, .. } = position;
        Self { writer, pending: VecDeque::new(), term, clock, waiting_since: None }
    }

    /// Index of the next entry that a member has to send.
    pub fn next_index(&self) -> u64 {
        self.writer.next_index() + self.pending.len() as u64
    }

    /// Index up to which the store has the log.
    pub fn archived(&self) -> u64 {
        self.writer.archived()
    }

    /// Since when the oldest entry waits that the store does not have.
    pub fn waiting_since(&self) -> Option<u64> {
        self.waiting_since.filter(|_| self.writer.has_unarchived())
    }

    /// Whether entries wait for room.
    pub fn is_full(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the entries of a chunk; those that are known already are left out.
    ///
    /// # Errors
    /// If they do not continue the log.
    pub fn receive(&mut self, entries: Vec<ArchivedEntry>) -> Result<(), String> {
        for ArchivedEntry { index, term, now_ms, payload } in entries {
            let next = self.next_index();
            if index < next {
                continue;
            }
            if index > next {
                return Err(format!("the member sent entry {index}, and {next} is the next"));
            }
            if term < self.term {
                return Err(format!("entry {index} has term {term}, the one before it {}", self.term));
            }
            self.term = term;
            self.pending.push_back(Entry { index, term, now_ms, payload });
        }
        Ok(())
    }

    /// Gives the received entries to the writer; full segments are written and added to `written`. After an error it can be
    /// called again.
    pub async fn feed(&mut self, now: u64, written: &mut Vec<Written>) -> Result<(), ArchiveError> {
        while let Some(entry) = self.pending.front() {
            let before = (self.writer.archived(), self.writer.stored_bytes());
            let pushed = self.writer.push(entry).await;
            self.note_written(before, written);
            pushed?;
            self.clock = self.clock.max(entry_clock(self.pending.pop_front()));
            self.waiting_since = self.waiting_since.or(Some(now));
        }
        Ok(())
    }

    /// Writes everything that was received. After an error it can be called again.
    pub async fn flush(&mut self, now: u64, written: &mut Vec<Written>) -> Result<(), ArchiveError> {
        self.feed(now, written).await?;
        let before = (self.writer.archived(), self.writer.stored_bytes());
        let flushed = self.writer.flush().await;
        self.note_written(before, written);
        flushed
    }

    fn note_written(&mut self, (archived, stored): (u64, u64), written: &mut Vec<Written>) {
        let last = self.writer.archived();
        if last > archived {
            let id = SegmentId { first: archived + 1, last };
            let stored_bytes = self.writer.stored_bytes() - stored;
            written.push(Written { id, stored_bytes, clock: self.clock });
            self.waiting_since = None;
        }
    }
}

fn entry_clock(entry: Option<Entry>) -> u64 {
    entry.map(|entry| entry.now_ms).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use helios_archive::segments::read_segment;
    use helios_archive::{History, Keyring, Store};

    use super::*;

    fn tail(dir: &tempfile::TempDir) -> (Archive, Tail) {
        let store = Store::open(&format!("file://{}", dir.path().display())).unwrap();
        let archive = Archive::new(store, History::new("a", 1).unwrap(), Keyring::unencrypted());
        let position = Position { next_index: 11, term: 2, now_ms: 1000, previous: [0; 32] };
        (archive.clone(), Tail::new(&archive, position))
    }

    fn entry(index: u64, term: u64, now_ms: u64, bytes: usize) -> ArchivedEntry {
        ArchivedEntry { index, term, now_ms, payload: vec![1; bytes].into() }
    }

    #[tokio::test]
    async fn segments_are_reported_with_the_clock_after_their_last_entry() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, mut tail) = tail(&dir);
        let half = SEGMENT_BYTES / 2;
        let entries = vec![
            entry(11, 2, 3000, half),
            entry(12, 2, 2000, 10),
            entry(13, 3, 5000, half),
            entry(14, 3, 0, 10),
        ];
        tail.receive(entries).unwrap();
        let mut written = Vec::new();
        tail.feed(70, &mut written).await.unwrap();
        assert_eq!((tail.archived(), tail.next_index(), tail.waiting_since()), (12, 15, Some(70)));
        tail.flush(80, &mut written).await.unwrap();
        let ids: Vec<_> = written.iter().map(|one| (one.id.first, one.id.last, one.clock)).collect();
        assert_eq!(ids, [(11, 12, 3000), (13, 14, 5000)]);
        assert!(written.iter().all(|one| one.stored_bytes > 0) && tail.waiting_since().is_none());
        for one in written {
            assert_eq!(read_segment(&archive, one.id).await.unwrap().header.clock_after, one.clock);
        }
    }

    #[tokio::test]
    async fn entries_that_do_not_continue_the_log_are_refused_and_known_ones_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut tail) = tail(&dir);
        tail.receive(vec![entry(9, 1, 0, 1), entry(11, 2, 0, 1), entry(11, 2, 0, 1), entry(12, 2, 0, 1)])
            .unwrap();
        assert_eq!(tail.next_index(), 13);
        assert!(tail.receive(vec![entry(14, 2, 0, 1)]).unwrap_err().contains("13 is the next"));
        assert!(tail.receive(vec![entry(13, 1, 0, 1)]).unwrap_err().contains("term 1"));
    }

    #[tokio::test]
    async fn failed_store_leaves_the_entries_and_the_next_attempt_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, mut tail) = tail(&dir);
        tail.receive((11..=14).map(|index| entry(index, 2, index, SEGMENT_BYTES / 2)).collect()).unwrap();
        // A file where the folder of the history belongs.
        std::fs::write(dir.path().join("a"), "").unwrap();
        let mut written = Vec::new();
        for _ in 0..2 {
            assert!(tail.flush(5, &mut written).await.is_err());
            assert!(tail.is_full() && written.is_empty() && tail.next_index() == 15);
        }
        std::fs::remove_file(dir.path().join("a")).unwrap();
        tail.flush(6, &mut written).await.unwrap();
        assert_eq!(tail.archived(), 14);
        assert_eq!(archive.catalog().await.unwrap().chain_from(11).len(), 4);
    }
}
