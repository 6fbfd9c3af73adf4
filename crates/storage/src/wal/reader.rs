//! Reads entries back from the segments while the writer appends. Only durable frames are read, and each is verified:
//! damage is an error, never another entry.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::catalog::{Catalog, Region};
use super::format::{Frame, Op, Position};
use super::{LogEntry, WalError};
use crate::disk::{self, Disk};
use crate::faults;

/// The catalog of a log, which the writer changes and readers look up.
pub type SharedCatalog = Arc<Mutex<Catalog>>;

pub fn lock(catalog: &SharedCatalog) -> MutexGuard<'_, Catalog> {
    catalog.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reader of the log, for a thread beside the writer's.
#[derive(Clone)]
pub struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    catalog: SharedCatalog,
}

impl Reader {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, catalog: SharedCatalog) -> Self {
        Self { disk, dir, catalog }
    }

    /// Reads entries from `low` on, up to but not including `high`, and at most `max_bytes` of payload, but at least
    /// one entry. Fewer if the log ends or is damaged behind them. `None` if the log no longer has entry `low`.
    ///
    /// # Errors
    /// The frames that hold entry `low` cannot be read, or are damaged.
    pub fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Option<Vec<LogEntry>>, WalError> {
        let mut found = Run::new(low, high);
        while found.next() < high && found.bytes < max_bytes {
            let Some(region) = lock(&self.catalog).find(found.next()) else { break };
            let next = match self.region(region, found.next(), high) {
                Ok(next) => next,
                // The writer has recycled the segment: it forgets a segment before it changes its file.
                Err(_) if !lock(&self.catalog).has_segment(region.at.generation) => break,
                Err(_) if !found.entries.is_empty() => break,
                Err(error) => return Err(error),
            };
            next.into_iter().for_each(|entry| found.put(entry));
        }
        if found.entries.is_empty() && low < high {
            return Ok(None);
        }
        Ok(Some(found.limited(max_bytes)))
    }

    /// Reads all entries after `after` up to `last`.
    ///
    /// # Errors
    /// One of them is missing or damaged.
    pub fn read_all(&self, after: u64, last: u64) -> Result<Vec<LogEntry>, WalError> {
        let mut entries = Vec::new();
        let mut next = after + 1;
        while next <= last {
            let Some(more) = self.read(next, last + 1, u64::MAX)? else {
                let what = format!("entry {next} is missing");
                return Err(WalError::Corrupt { segment: 0, offset: 0, what });
            };
            next += more.len() as u64;
            entries.extend(more);
        }
        Ok(entries)
    }

    /// Reads the entries of one region from `low` on, at least one.
    fn region(&self, region: Region, low: u64, high: u64) -> Result<Vec<LogEntry>, WalError> {
        let Region { at, end, limit } = region;
        let path = self.dir.join(super::segment_file_name(at.generation));
        let corrupt = |offset, what| WalError::Corrupt { segment: at.generation, offset, what };
        let file = self.disk.open(&path).map_err(WalError::io("open", &path))?;
        let mut image = vec![0; (end - at.offset) as usize];
        let read =
            disk::read_full(file.as_ref(), &mut image, at.offset).map_err(WalError::io("read", &path))?;
        image.truncate(read);
        let image = Bytes::from(image);
        let mut found = Run::new(low, high.min(limit));
        let mut next = at;
        let mut sequence = None;
        while next.offset < end {
            let frame = Frame::decode_at(&image[(next.offset - at.offset) as usize..], next)
                .filter(|frame| sequence.is_none_or(|sequence| frame.header.sequence == sequence))
                .ok_or_else(|| corrupt(next.offset, "a frame that was durable is damaged".to_owned()))?;
            found.frame(&image, &frame).map_err(|what| corrupt(next.offset, what))?;
            sequence = Some(frame.header.sequence + 1);
            next = Position { offset: frame.end, ..next };
        }
        if found.entries.is_empty() {
            return Err(corrupt(at.offset, format!("entry {low} is not in the frames up to byte {end}")));
        }
        Ok(found.entries)
    }
}

/// Consecutive entries from `low` on, below `high`.
struct Run {
    low: u64,
    high: u64,
    entries: Vec<LogEntry>,
    bytes: u64,
}

impl Run {
    fn new(low: u64, high: u64) -> Self {
        Self { low, high, entries: Vec::new(), bytes: 0 }
    }

    fn next(&self) -> u64 {
        self.low + self.entries.len() as u64
    }

    fn frame(&mut self, image: &Bytes, frame: &Frame<'_>) -> Result<(), String> {
        let mut rest = frame.payload;
        while !rest.is_empty() {
            match Op::decode(&mut rest).ok_or("an operation is malformed")? {
                Op::Entry { index, term, payload } if index < self.high => {
                    if faults::replaces(index < self.next()) {
                        self.entries.truncate(index.saturating_sub(self.low) as usize);
                    }
                    if index == self.next() {
                        self.put(LogEntry { index, term, payload: image.slice_ref(payload) });
                    }
                }
                Op::Reset(_) => self.entries.clear(),
                Op::Entry { .. } | Op::HardState(_) | Op::Base(_) | Op::Start(_) => {}
            }
        }
        Ok(())
    }

    fn put(&mut self, entry: LogEntry) {
        self.bytes += entry.payload.len() as u64;
        self.entries.push(entry);
    }

    /// The first entries with at most `max_bytes` of payload, at least one.
    fn limited(mut self, max_bytes: u64) -> Vec<LogEntry> {
        let mut bytes = 0;
        let fits = |entry: &&LogEntry| {
            bytes += entry.payload.len() as u64;
            bytes <= max_bytes
        };
        let count = self.entries.iter().take_while(fits).count().max(1);
        self.entries.truncate(count);
        self.entries
    }
}
