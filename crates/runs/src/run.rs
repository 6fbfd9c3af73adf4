//! A run: an immutable sorted file.
//!
//! ```text
//! magic "HELIOSRN" | format u32 | id u64 | CRC32C u32
//! data blocks, in key order                                once per part
//! filter
//! index: last key of the block | offset | length (varints)     once per data block
//!        offset u32 of each entry | number u32
//! slots u64 | tombstones u64 | first key | parts               the footer
//! last key | offset and length of filter and of index (varints)     once per part
//! length of the footer u32 | CRC32C u32 | magic "RUNSTAIL"
//! ```
//! Each data block, filter and index is followed by its kind u8 and a CRC32C u32. A part has about 8 000 slots, so that
//! what a read needs is small whatever the size of the file; the footer stays in memory.
//!
//! Integers are big-endian, keys are preceded by their length. Checksums are seeded with the id and the offset of what
//! they cover ([`crate::format::crc_at`]). The kind of a block is 0: as it is. Others are for compression.

mod index;
mod iter;

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};

use crate::block::{Cursor, Encoded};
use crate::cache::{BlockCache, CacheStats};
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::format::{FORMAT, Id, crc_at, take_bytes, take_u64, take_varint};
use crate::{Slot, faults, filter};
use helios_storage::disk::{Disk, DiskFile, read_full};

use self::index::Index;
pub use self::iter::{BackIter, RunIter};

pub const MAGIC: &[u8; 8] = b"HELIOSRN";
pub const TAIL_MAGIC: &[u8; 8] = b"RUNSTAIL";
pub const HEADER_BYTES: u64 = 8 + 4 + 8 + 4;
pub const TAIL_BYTES: u64 = 4 + 4 + 8;
/// Kind and checksum after each block.
pub const TRAILER_BYTES: u64 = 1 + 4;
/// Kind of a block that is stored as it is.
pub const RAW: u8 = 0;
const MAX_FOOTER_BYTES: u32 = 64 << 20;
/// Limit of a block, with its trailer, that a lookup reads into the buffer of its thread, bytes.
const SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Number of slots at which a part ends.
pub const PART_SLOTS: usize = 8_192;

/// Identity of a run: two runs with the same id, length and checksum have the same content, on any member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunId {
    pub id: Id,
    /// Length of the file in bytes.
    pub len: u64,
    /// Checksum of the footer.
    pub crc: u32,
}

impl RunId {
    /// Returns the name of the run's file.
    pub fn file_name(&self) -> String {
        format!("{:016x}.run", self.id)
    }
}

/// Position of a block in its file, without the trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    pub len: u32,
}

impl Place {
    /// Returns the length of the block with its trailer.
    fn stored_bytes(self) -> u64 {
        u64::from(self.len) + TRAILER_BYTES
    }
}

pub struct Run {
    pub id: RunId,
    pub first_key: Bytes,
    pub last_key: Bytes,
    /// Number of slots, tombstones among them.
    pub slots: u64,
    pub tombstones: u64,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    cache: Arc<BlockCache>,
    parts: Vec<Part>,
    /// Fence of the last keys of the parts.
    fence: Fence,
    /// Whether the file is removed when the last reference is dropped.
    is_obsolete: AtomicBool,
}

/// The blocks up to a key, with their filter and index.
struct Part {
    last_key: Bytes,
    filter: Resident<Bytes>,
    index: Resident<Index>,
}

/// A filter or an index. Its content stays here from its first read on, as long as the cache has room for such blocks:
/// nearly every read needs them, and a lookup in the cache costs more than what is read of them.
struct Resident<T> {
    place: Place,
    content: OnceLock<T>,
}

impl<T> Resident<T> {
    fn at(place: Place) -> Self {
        Self { place, content: OnceLock::new() }
    }

    /// Returns the bytes that count against the cache.
    fn pinned_bytes(&self) -> u64 {
        self.content.get().map_or(0, |_| self.place.stored_bytes())
    }
}

/// Whether blocks that are read enter the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    Fill,
    Bypass,
}

impl Run {
    /// Opens the run `id` in `dir` and reads its footer.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, id: RunId, cache: Arc<BlockCache>) -> Result<Self> {
        let path = dir.join(id.file_name());
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
        let bad = |reason: String| Error::corrupt(&path, reason);
        let len = file.len().map_err(Error::io("read", &path))?;
        if len != id.len {
            return Err(bad(format!("it has {len} bytes, the manifest says {}", id.len)));
        }
        let header = read(file.as_ref(), &path, 0..HEADER_BYTES)?;
        check_header(&path, id.id, &header)?;
        let tail_at = len.checked_sub(TAIL_BYTES).ok_or_else(|| bad("it is truncated".to_owned()))?;
        let mut tail = read(file.as_ref(), &path, tail_at..len)?;
        let (footer_bytes, crc) = (tail.get_u32(), tail.get_u32());
        if tail != TAIL_MAGIC.as_slice() || footer_bytes > MAX_FOOTER_BYTES || crc != id.crc {
            return Err(bad("its tail is not that of the run in the manifest".to_owned()));
        }
        let footer_at = tail_at
            .checked_sub(u64::from(footer_bytes))
            .ok_or_else(|| bad("its footer is too long".to_owned()))?;
        let footer = read(file.as_ref(), &path, footer_at..tail_at)?;
        if crc_at(id.id, footer_at, &footer) != crc {
            return Err(bad("its footer has a wrong checksum".to_owned()));
        }
        let Footer { slots, tombstones, first_key, parts } =
            Footer::decode(&footer).ok_or_else(|| bad("its footer cannot be decoded".to_owned()))?;
        let last_key = parts.last().map(|part| part.last_key.clone()).unwrap_or_default();
        let fence = Fence::new(&first_key, parts.iter().map(|part| part.last_key.as_ref()));
        Ok(Self {
            id,
            first_key,
            last_key,
            slots,
            tombstones,
            disk,
            path,
            file,
            cache,
            parts,
            fence,
            is_obsolete: AtomicBool::new(false),
        })
    }

    /// Removes the file once no view holds the run.
    pub fn set_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Relaxed);
    }

    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the slot of `key`, whose filter hash is `hash`; `None` if the run does not have the key.
    pub fn get(&self, key: &[u8], hash: u64) -> Result<Option<Slot>> {
        let Some(part) = self.part_of(key) else { return Ok(None) };
        if !filter::may_contain(&self.filter(part)?, hash) {
            return Ok(None);
        }
        let index = self.index(part, Caching::Fill)?;
        let Some(number) = index.find_within(key).map_err(|_| self.malformed())? else { return Ok(None) };
        let place = index.place(number).map_err(|_| self.malformed())?;
        self.find(place, key)
    }

    /// Returns the slot of `key` in a data block. A block that is read once takes no memory: most lookups of keys that are
    /// overwritten are the only ones of their block for a long time.
    fn find(&self, place: Place, key: &[u8]) -> Result<Option<Slot>> {
        let len = place.stored_bytes() as usize;
        if len > SCRATCH_BYTES {
            return self.search(self.block(place, Caching::Fill)?, key);
        }
        if let Some(block) = self.cached(place, Caching::Fill) {
            return self.search(block, key);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < len {
                scratch.resize(len, 0);
            }
            let stored = &mut scratch[..len];
            read_into(self.file.as_ref(), &self.path, stored, place.offset)?;
            let block = self.checked(place, stored)?;
            if self.cache.admits(self.id.id, place.offset) {
                self.cache.insert(self.id.id, place.offset, Bytes::copy_from_slice(block));
            }
            self.search(block, key)
        })
    }

    fn search(&self, block: impl Encoded, key: &[u8]) -> Result<Option<Slot>> {
        Cursor::seek(block, key).and_then(|cursor| cursor.find(key)).map_err(|_| self.malformed())
    }

    /// Whether the run may have a slot of `key`, whose filter hash is `hash`. Reads a filter, but no data block.
    pub fn may_contain(&self, key: &[u8], hash: u64) -> Result<bool> {
        let Some(part) = self.part_of(key) else { return Ok(false) };
        Ok(filter::may_contain(&self.filter(part)?, hash))
    }

    fn part_of(&self, key: &[u8]) -> Option<&Part> {
        if key < self.first_key.as_ref() || key > self.last_key.as_ref() {
            return None;
        }
        self.parts.get(self.fence.below(key, |number| &self.parts[number].last_key))
    }

    fn filter<'a>(&self, part: &'a Part) -> Result<Cow<'a, Bytes>> {
        self.resident(&part.filter, Caching::Fill, Ok, Ok)
    }

    fn index<'a>(&self, part: &'a Part, caching: Caching) -> Result<Cow<'a, Index>> {
        let decode = |block| Index::new(block).map_err(|_| self.malformed());
        let keep = |index: Index| index.with_fence(&self.first_key).map_err(|_| self.malformed());
        self.resident(&part.index, caching, decode, keep)
    }

    /// Reads a block with `decode`, and keeps what `keep` makes of it if the cache has room.
    fn resident<'a, T: Clone>(
        &self,
        block: &'a Resident<T>,
        caching: Caching,
        decode: impl FnOnce(Bytes) -> Result<T>,
        keep: impl FnOnce(T) -> Result<T>,
    ) -> Result<Cow<'a, T>> {
        if let Some(content) = block.content.get() {
            return Ok(Cow::Borrowed(content));
        }
        let place = block.place;
        if caching == Caching::Bypass || !self.cache.pin(place.stored_bytes()) {
            return decode(self.block(place, caching)?).map(Cow::Owned);
        }
        let content = self.read_block(place).and_then(decode).and_then(keep);
        match content.map(|content| block.content.set(content)) {
            Ok(Ok(())) => {}
            // Another reader was faster.
            Ok(Err(_)) => self.cache.unpin(place.stored_bytes()),
            Err(error) => {
                self.cache.unpin(place.stored_bytes());
                return Err(error);
            }
        }
        block.content.get().map(Cow::Borrowed).ok_or_else(|| self.malformed())
    }

    /// Reads a block, from the cache or from the file, with its checksum verified.
    pub fn block(&self, place: Place, caching: Caching) -> Result<Bytes> {
        if let Some(block) = self.cached(place, caching) {
            return Ok(block);
        }
        let block = self.read_block(place)?;
        if caching == Caching::Fill {
            self.cache.insert(self.id.id, place.offset, block.clone());
        }
        Ok(block)
    }

    fn cached(&self, place: Place, caching: Caching) -> Option<Bytes> {
        let cached = self.cache.get(self.id.id, place.offset);
        // Merges would hide how the cache serves reads.
        if caching == Caching::Fill {
            self.cache.count(cached.is_some());
        }
        cached
    }

    fn read_block(&self, place: Place) -> Result<Bytes> {
        let end = place.offset + place.stored_bytes();
        let mut stored = read(self.file.as_ref(), &self.path, place.offset..end)?;
        let len = self.checked(place, &stored)?.len();
        stored.truncate(len);
        Ok(stored)
    }

    /// Returns the block in `stored`, which has its trailer, after a check of both.
    fn checked<'a>(&self, place: Place, stored: &'a [u8]) -> Result<&'a [u8]> {
        let (covered, mut crc) = stored.split_at(place.len as usize + 1);
        let (block, kind) = (&covered[..place.len as usize], covered[place.len as usize]);
        if faults::is_block_damaged(crc_at(self.id.id, place.offset, covered) != crc.get_u32()) {
            return Err(Error::corrupt(
                &self.path,
                format!("the block at byte {} has a wrong checksum", place.offset),
            ));
        }
        if kind != RAW {
            return Err(Error::Newer { path: self.path.clone(), found: FORMAT + 1, known: FORMAT });
        }
        Ok(block)
    }

    /// Reads the run past the cache and checks every block, the order of the keys, their counts and the filter. `pace`
    /// is called with the bytes of each block that was read, and may wait; if it breaks, the check ends early.
    pub fn verify(&self, mut pace: impl FnMut(u64) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let (mut slots, mut tombstones, mut last_key) = (0, 0, None::<Bytes>);
        for part in &self.parts {
            let (filter_at, index_at) = (part.filter.place, part.index.place);
            let filter = self.read_block(filter_at)?;
            let index = Index::new(self.read_block(index_at)?).map_err(|_| self.malformed())?;
            if pace(filter_at.stored_bytes() + index_at.stored_bytes()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            for number in 0..index.len() {
                let place = index.place(number).map_err(|_| self.malformed())?;
                let mut cursor = Cursor::new(self.read_block(place)?).map_err(|_| self.malformed())?;
                if pace(place.stored_bytes()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                while let Some((key, slot)) = cursor.next().map_err(|_| self.malformed())? {
                    let is_in_order = last_key.as_ref().map_or(key == self.first_key, |last| last < key);
                    if !is_in_order || !filter::may_contain(&filter, filter::hash(key)) {
                        return Err(self.malformed());
                    }
                    slots += 1;
                    tombstones += u64::from(slot.is_none());
                    last_key = Some(Bytes::copy_from_slice(key));
                }
            }
            if last_key.as_ref() != Some(&part.last_key) {
                return Err(self.malformed());
            }
        }
        let is_whole = slots == self.slots && tombstones == self.tombstones;
        if is_whole { Ok(ControlFlow::Continue(())) } else { Err(self.malformed()) }
    }

    fn malformed(&self) -> Error {
        Error::corrupt(
            &self.path,
            "its content does not fit its footer or index, although the checksums are right",
        )
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let parts = self.parts.iter();
        self.cache.unpin(parts.map(|part| part.filter.pinned_bytes() + part.index.pinned_bytes()).sum());
        // The directory may be gone with a replaced generation.
        if self.is_obsolete.load(Ordering::Relaxed)
            && let Err(error) = self.disk.remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a merged run; the next start does");
        }
    }
}

/// Reads exactly the bytes of `range`.
fn read(file: &dyn DiskFile, path: &Path, range: Range<u64>) -> Result<Bytes> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    read_into(file, path, &mut bytes, range.start)?;
    Ok(bytes.into())
}

/// Fills `bytes` from `offset` on.
fn read_into(file: &dyn DiskFile, path: &Path, bytes: &mut [u8], offset: u64) -> Result<()> {
    let count = read_full(file, bytes, offset).map_err(Error::io("read", path))?;
    if count < bytes.len() { Err(Error::corrupt(path, "it is truncated")) } else { Ok(()) }
}

fn check_header(path: &Path, id: Id, header: &[u8]) -> Result<()> {
    let (mut fields, mut crc) = header.split_at(HEADER_BYTES as usize - 4);
    if crc.get_u32() != crc_at(id, 0, fields) || !fields.starts_with(MAGIC) {
        return Err(Error::corrupt(path, "its header is not that of the run in the manifest"));
    }
    fields.advance(MAGIC.len());
    match fields.get_u32() {
        FORMAT => Ok(()),
        found => Err(Error::Newer { path: path.to_owned(), found, known: FORMAT }),
    }
}

struct Footer {
    slots: u64,
    tombstones: u64,
    first_key: Bytes,
    parts: Vec<Part>,
}

impl Footer {
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        let (slots, tombstones) = (take_u64(rest)?, take_u64(rest)?);
        let first_key = Bytes::copy_from_slice(take_bytes(rest)?);
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let last_key = Bytes::copy_from_slice(take_bytes(rest)?);
            let (filter, index) = (Resident::at(take_place(rest)?), Resident::at(take_place(rest)?));
            parts.push(Part { last_key, filter, index });
        }
        Some(Self { slots, tombstones, first_key, parts })
    }
}

fn take_place(bytes: &mut &[u8]) -> Option<Place> {
    let (offset, len) = (take_varint(bytes)?, take_varint(bytes)?);
    Some(Place { offset, len: u32::try_from(len).ok()? })
}
