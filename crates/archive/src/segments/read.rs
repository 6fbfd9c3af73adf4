//! The reader of segments: it hands out the entries of a chain when each byte, the order and the hashes are checked.

use super::{Entry, Header, Position, format};
use crate::crypto::{HEAD_BYTES, Hash, attributes};
use crate::layout::{BaseId, Object, SegmentId};
use crate::{Archive, ArchiveError, Result};

/// A segment whose bytes are those that were written, and the position after it.
#[derive(Debug)]
pub struct Verified {
    pub header: Header,
    pub entries: Vec<Entry>,
    pub end: Position,
}

/// The last entry that is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The entry with this index.
    Index(u64),
    /// The entry before the first one with which the log's clock is later than this, in milliseconds since the Unix epoch.
    Time(u64),
}

/// Reads the header of a segment only. It is not authenticated: what is planned by it is checked when the segment is read.
pub async fn read_header(archive: &Archive, id: SegmentId) -> Result<Header> {
    let name = archive.name(Object::Segment(id));
    let head = archive.store().get_head(&name, HEAD_BYTES).await?;
    let header = Header::decode(&name, attributes(&name, &head)?)?;
    check_id(&name, header, id)
}

/// Reads a segment and checks all that can be checked without the others.
pub async fn read_segment(archive: &Archive, id: SegmentId) -> Result<Verified> {
    let object = Object::Segment(id);
    let name = archive.name(object);
    let stored = archive.stored(object).await?;
    let opened = archive.open(object, &stored).await?;
    let (header, entries, end) = format::decode(&name, opened.attributes, opened.content)?;
    check_id(&name, header, id)?;
    Ok(Verified { header, entries, end })
}

fn check_id(name: &str, header: Header, id: SegmentId) -> Result<Header> {
    if header.id == id {
        return Ok(header);
    }
    Err(ArchiveError::damaged(name, format!("its content is segment {}", header.id)))
}

/// Checks that a segment continues the log that ends at `before`; `name` is its own.
pub fn check_link(name: &str, before: &Position, header: &Header) -> Result<()> {
    let damaged = |reason: &str| Err(ArchiveError::damaged(name, reason));
    if header.id.first != before.next_index {
        return Err(ArchiveError::damaged(
            name,
            format!(
                "it begins at {}, the segment before it ends at {}",
                header.id.first,
                before.next_index - 1
            ),
        ));
    }
    if header.previous != before.previous {
        return damaged("the log before it is not the one that was there when it was written");
    }
    if header.first_term < before.term || header.clock_before != before.now_ms {
        return damaged("its term or clock is not that of the log before it");
    }
    Ok(())
}

/// A reader of the entries after a base.
pub struct SegmentReader {
    archive: Archive,
    base: BaseId,
    segments: std::vec::IntoIter<SegmentId>,
    before: Option<Position>,
    stop: Stop,
    has_ended: bool,
}

impl SegmentReader {
    /// A reader of the entries after `base` in `segments`, a chain without gaps, up to `stop`.
    pub fn new(archive: &Archive, base: BaseId, segments: Vec<SegmentId>, stop: Stop) -> Self {
        let segments = segments.into_iter();
        Self { archive: archive.clone(), base, segments, before: None, stop, has_ended: false }
    }

    /// The entries of the next segment; `None` after the last entry that is restored.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>> {
        if self.has_ended {
            return Ok(None);
        }
        let Some(id) = self.segments.next() else {
            self.has_ended = true;
            return Ok(None);
        };
        let name = self.archive.name(Object::Segment(id));
        let Verified { header, mut entries, end } = read_segment(&self.archive, id).await?;
        match &self.before {
            Some(before) => check_link(&name, before, &header)?,
            None => check_begin(&name, self.base, &header, &entries)?,
        }
        self.before = Some(end);
        let mut clock = header.clock_before;
        let after = entries.iter().position(|entry| {
            clock = clock.max(entry.now_ms);
            match self.stop {
                Stop::Index(index) => entry.index > index,
                Stop::Time(time) => clock > time,
            }
        });
        if let Some(after) = after {
            entries.truncate(after);
            self.has_ended = true;
        }
        entries.retain(|entry| entry.index > self.base.index);
        Ok(Some(entries))
    }

    /// Hash of the log up to the end of the last segment that was read.
    pub fn hash(&self) -> Option<Hash> {
        self.before.map(|before| before.previous)
    }
}

/// Checks that the first segment of a chain has the entry after the base, and that its log is the one of the base.
fn check_begin(name: &str, base: BaseId, header: &Header, entries: &[Entry]) -> Result<()> {
    let next = base.index.saturating_add(1);
    if !(header.id.first..=header.id.last).contains(&next) {
        return Err(ArchiveError::damaged(name, format!("it does not have the entry {next} after the base")));
    }
    let at_base = entries.iter().find(|entry| entry.index == base.index);
    let is_same_log = match at_base {
        Some(entry) => entry.term == base.term,
        None => header.first_term >= base.term,
    };
    if !is_same_log {
        return Err(ArchiveError::damaged(name, format!("its log is another one than that of base {base}")));
    }
    Ok(())
}
