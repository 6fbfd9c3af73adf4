//! Bytes of a segment: a header, which is the attributes of the object and can be read without the entries, and the entries.
//!
//! ```text
//! header:  version u16 | first u64 | last u64 | first term u64 | last term u64 | clock before u64 | clock after u64 | hash 32
//! content: index u64 | term u64 | now_ms u64 | length u32 | payload      once per entry
//! ```
//! All integers are big-endian. The hash is that of the log before the segment: the hash after an entry is the SHA-256 of the hash
//! before it and its bytes in the content. It does not depend on where segments begin, so that two archivers of one log write equal
//! segments where they cut alike, and each continues the segments of the other. In version 1 it was the SHA-256 of header and
//! content of the segment before.

use bytes::{Buf, BufMut, Bytes};

use super::{Entry, Position};
use crate::crypto::{Hash, sha256};
use crate::layout::SegmentId;
use crate::{ArchiveError, Result};

const VERSION: u16 = 2;
/// The last version in which a segment has the hash of the segment before it.
const HASH_OF_SEGMENT: u16 = 1;
const HEADER_BYTES: usize = 2 + 6 * 8 + 32;
const ENTRY_BYTES: usize = 3 * 8 + 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub id: SegmentId,
    pub first_term: u64,
    pub last_term: u64,
    /// The log's clock before the first entry, and after the last one.
    pub clock_before: u64,
    pub clock_after: u64,
    /// Hash of the log before; zeros if there was none.
    pub previous: Hash,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.put_u16(VERSION);
        let numbers = [
            self.id.first,
            self.id.last,
            self.first_term,
            self.last_term,
            self.clock_before,
            self.clock_after,
        ];
        numbers.into_iter().for_each(|number| bytes.put_u64(number));
        bytes.put_slice(&self.previous);
        bytes
    }

    pub(super) fn decode(name: &str, mut bytes: Bytes) -> Result<Self> {
        if bytes.len() < 2 {
            return Err(ArchiveError::damaged(name, "it has no header of a segment"));
        }
        let version = bytes.get_u16();
        if version > VERSION {
            let (found, newest) = (version.into(), VERSION.into());
            return Err(ArchiveError::NewerFormat { object: name.to_owned(), found, newest });
        }
        if version == 0 || bytes.len() != HEADER_BYTES - 2 {
            return Err(ArchiveError::damaged(name, "its header of a segment has another length"));
        }
        let mut number = || bytes.get_u64();
        let id = SegmentId { first: number(), last: number() };
        let (first_term, last_term) = (number(), number());
        let (clock_before, clock_after) = (number(), number());
        let mut previous = Hash::default();
        bytes.copy_to_slice(&mut previous);
        if id.first > id.last || first_term > last_term || clock_before > clock_after {
            return Err(ArchiveError::damaged(name, "its header is not in order"));
        }
        Ok(Self { id, first_term, last_term, clock_before, clock_after, previous })
    }
}

/// The entries of the next segment.
#[derive(Debug)]
pub struct SegmentBuilder {
    /// Where the segment begins.
    start: Position,
    first_term: u64,
    /// Where it ends.
    end: Position,
    content: Vec<u8>,
    max_bytes: usize,
}

impl SegmentBuilder {
    /// A builder of segments of about `max_bytes` of content. A larger entry has a segment alone.
    pub fn new(start: Position, max_bytes: usize) -> Self {
        Self { start, first_term: start.term, end: start, content: Vec::new(), max_bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Whether the segment has to be sealed before the entry is added.
    pub fn is_full_for(&self, entry: &Entry) -> bool {
        !self.is_empty() && self.content.len() + ENTRY_BYTES + entry.payload.len() > self.max_bytes
    }

    /// Index after the last entry.
    pub fn next_index(&self) -> u64 {
        self.end.next_index
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// If it does not continue the entry before it.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        check_order(&self.end, entry).map_err(ArchiveError::Invalid)?;
        let length = u32::try_from(entry.payload.len())
            .map_err(|_| ArchiveError::Invalid(format!("entry {} has 4 GiB or more", entry.index)))?;
        if self.is_empty() {
            self.first_term = entry.term;
        }
        let begin = self.content.len();
        self.content.put_u64(entry.index);
        self.content.put_u64(entry.term);
        self.content.put_u64(entry.now_ms);
        self.content.put_u32(length);
        self.content.put_slice(&entry.payload);
        advance(&mut self.end, entry);
        self.end.previous = sha256(&[&self.end.previous, &self.content[begin..]]);
        Ok(())
    }

    /// The header and content of the segment; `None` without entries.
    pub fn segment(&self) -> Option<(Header, &[u8])> {
        let last = self.end.next_index.saturating_sub(1);
        let header = Header {
            id: SegmentId { first: self.start.next_index, last },
            first_term: self.first_term,
            last_term: self.end.term,
            clock_before: self.start.now_ms,
            clock_after: self.end.now_ms,
            previous: self.start.previous,
        };
        (!self.is_empty()).then_some((header, &self.content))
    }

    /// Begins the segment after this one, which the store has.
    pub fn start_next(&mut self) {
        self.start = self.end;
        self.content.clear();
    }
}

/// Why an entry does not continue the log.
fn check_order(before: &Position, entry: &Entry) -> Result<(), String> {
    if entry.index != before.next_index {
        return Err(format!("entry {} follows entry {}", entry.index, before.next_index.wrapping_sub(1)));
    }
    if entry.term < before.term {
        return Err(format!(
            "entry {} has term {}, the one before it {}",
            entry.index, entry.term, before.term
        ));
    }
    Ok(())
}

fn advance(position: &mut Position, entry: &Entry) {
    position.next_index = entry.index.saturating_add(1);
    position.term = entry.term;
    position.now_ms = position.now_ms.max(entry.now_ms);
}

/// The entries of a segment, and the position after them, once they are checked against its header.
pub(super) fn decode(
    name: &str,
    attributes: Bytes,
    content: Bytes,
) -> Result<(Header, Vec<Entry>, Position)> {
    let header = Header::decode(name, attributes.clone())?;
    let has_hash_of_segment = attributes.clone().get_u16() <= HASH_OF_SEGMENT;
    let mut position = Position {
        next_index: header.id.first,
        term: header.first_term,
        now_ms: header.clock_before,
        previous: header.previous,
    };
    let mut entries = Vec::new();
    let mut rest = content.clone();
    while !rest.is_empty() {
        let from = rest.clone();
        let entry =
            next_entry(&mut rest).ok_or_else(|| ArchiveError::damaged(name, "an entry is truncated"))?;
        check_order(&position, &entry).map_err(|reason| ArchiveError::damaged(name, reason))?;
        if entries.is_empty() && entry.term != header.first_term {
            return Err(ArchiveError::damaged(name, "its first entry has another term than its header"));
        }
        advance(&mut position, &entry);
        if !has_hash_of_segment {
            position.previous = sha256(&[&position.previous, &from[..from.len() - rest.len()]]);
        }
        entries.push(entry);
    }
    let end = (position.next_index, position.term, position.now_ms);
    if entries.is_empty() || end != (header.id.last.saturating_add(1), header.last_term, header.clock_after) {
        return Err(ArchiveError::damaged(name, "its entries end otherwise than its header says"));
    }
    if has_hash_of_segment {
        position.previous = sha256(&[&attributes, &content]);
    }
    Ok((header, entries, position))
}

fn next_entry(rest: &mut Bytes) -> Option<Entry> {
    let (index, term) = (rest.try_get_u64().ok()?, rest.try_get_u64().ok()?);
    let now_ms = rest.try_get_u64().ok()?;
    let length = rest.try_get_u32().ok()? as usize;
    let payload = (rest.len() >= length).then(|| rest.split_to(length))?;
    Some(Entry { index, term, now_ms, payload })
}
