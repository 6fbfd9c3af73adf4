//! The writer of segments. An entry is archived when the store has acknowledged the segment that has it.

use bytes::Bytes;

use super::{Entry, Position, SegmentBuilder, read_segment};
use crate::layout::Object;
use crate::{Archive, ArchiveError, Catalog, Result};

const MAX_BYTES: usize = 16 << 20;

pub struct SegmentWriter {
    archive: Archive,
    builder: SegmentBuilder,
    /// Index up to which the store has the log.
    archived: u64,
    stored_bytes: u64,
}

impl SegmentWriter {
    /// A writer of the entries from `position` on.
    pub fn new(archive: &Archive, position: Position) -> Self {
        Self::with_limit(archive, position, MAX_BYTES)
    }

    /// The same, with segments of about `max_bytes` of content.
    pub fn with_limit(archive: &Archive, position: Position, max_bytes: usize) -> Self {
        let builder = SegmentBuilder::new(position, max_bytes);
        Self {
            archive: archive.clone(),
            builder,
            archived: position.next_index.saturating_sub(1),
            stored_bytes: 0,
        }
    }

    /// The position at which an archiver resumes: after the last segment, or after the newest base if that is beyond it. `None` if
    /// the history has neither: a base comes first.
    pub async fn resume_position(archive: &Archive, catalog: &Catalog) -> Result<Option<Position>> {
        let last = catalog.segments.keys().max_by_key(|id| id.last);
        let base = catalog.usable_bases().next_back();
        match (last, base) {
            (Some(last), base) if base.is_none_or(|base| base.index <= last.last) => {
                Ok(Some(read_segment(archive, *last).await?.end))
            }
            (_, Some(base)) => Ok(Some(Position::after_base(&archive.manifest(base).await?))),
            (_, None) => Ok(None),
        }
    }

    /// Index of the next entry that [`SegmentWriter::push`] takes.
    pub fn next_index(&self) -> u64 {
        self.builder.next_index()
    }

    /// Index up to which the store has the log: what may be acknowledged to the members.
    pub fn archived(&self) -> u64 {
        self.archived
    }

    /// Bytes in the store of all segments that this writer wrote.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Whether there are entries that the store does not have.
    pub fn has_unarchived(&self) -> bool {
        !self.builder.is_empty()
    }

    /// Adds an entry, after the full segment before it was written. If that fails, the entry was not added, and the call can be
    /// repeated.
    pub async fn push(&mut self, entry: &Entry) -> Result<()> {
        if entry.index != self.next_index() {
            return Err(ArchiveError::Invalid(format!(
                "entry {} was given to the archive, {} is the next",
                entry.index,
                self.next_index()
            )));
        }
        if self.builder.is_full_for(entry) {
            self.flush().await?;
        }
        self.builder.push(entry)
    }

    /// Writes the entries that the store does not have. It can be repeated when it failed or its future was dropped.
    ///
    /// # Errors
    /// `Forked` if the store has the segment with other content.
    pub async fn flush(&mut self) -> Result<()> {
        let Some((header, content)) = self.builder.segment() else { return Ok(()) };
        let content = Bytes::copy_from_slice(content);
        let stored = self.archive.create(Object::Segment(header.id), header.encode(), content).await?;
        self.stored_bytes += stored.len() as u64;
        self.archived = header.id.last;
        self.builder.start_next();
        Ok(())
    }
}
