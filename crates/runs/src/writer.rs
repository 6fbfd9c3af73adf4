//! The writer of a run.

use std::io;
use std::path::Path;

use bytes::{BufMut, Bytes};

use crate::block::Builder;
use crate::error::{Error, Result};
use crate::format::{FORMAT, Id, crc_at, put_bytes, put_varint};
use crate::run::{HEADER_BYTES, MAGIC, PART_SLOTS, Place, RAW, TAIL_BYTES, TAIL_MAGIC, TRAILER_BYTES};
use crate::{Slot, faults, filter};
use helios_storage::disk::{Disk, DiskFile};

const BUFFER_BYTES: usize = 256 << 10;
/// Bytes after which the file is synced while it is written: one sync of the whole file would delay the log's syncs.
const SYNC_EVERY_BYTES: u64 = 8 << 20;

pub struct RunWriter<'a> {
    disk: &'a dyn Disk,
    path: &'a Path,
    file: Box<dyn DiskFile>,
    id: Id,
    block_bytes: usize,
    buffer: Vec<u8>,
    /// Bytes of the file before `buffer`.
    written: u64,
    synced: u64,
    block: Builder,
    /// Index of the part that is being written, and the offset in it of each entry.
    index: Vec<u8>,
    positions: Vec<u32>,
    /// Hashes of the keys of this part.
    hashes: Vec<u64>,
    /// Encoded parts of the footer.
    parts: Vec<u8>,
    first_key: Option<Bytes>,
    last_key: Vec<u8>,
    slots: u64,
    tombstones: u64,
}

/// A complete, durable run, apart from its name in the directory.
pub struct Written {
    pub id: Id,
    pub len: u64,
    /// Checksum of the footer.
    pub crc: u32,
}

impl<'a> RunWriter<'a> {
    pub fn create(disk: &'a dyn Disk, path: &'a Path, id: Id, block_bytes: usize) -> Result<Self> {
        let file = disk.create(path).map_err(Error::io("create", path))?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + block_bytes);
        buffer.put_slice(MAGIC);
        buffer.put_u32(FORMAT);
        buffer.put_u64(id);
        let crc = crc_at(id, 0, &buffer);
        buffer.put_u32(crc);
        debug_assert_eq!(buffer.len() as u64, HEADER_BYTES);
        Ok(Self {
            disk,
            path,
            file,
            id,
            block_bytes,
            buffer,
            written: 0,
            synced: 0,
            block: Builder::default(),
            index: Vec::new(),
            positions: Vec::new(),
            hashes: Vec::new(),
            parts: Vec::new(),
            first_key: None,
            last_key: Vec::new(),
            slots: 0,
            tombstones: 0,
        })
    }

    /// Appends a slot; `key` is greater than all before.
    pub fn add(&mut self, key: &Bytes, slot: &Slot) -> Result<()> {
        debug_assert!(
            self.first_key.is_none() || self.last_key.as_slice() < key.as_ref(),
            "keys out of order"
        );
        let slot_bytes = key.len() + slot.as_ref().map_or(0, Bytes::len) + 16;
        if !self.block.is_empty() && self.block.bytes() + slot_bytes > self.block_bytes {
            self.end_block()?;
            if self.hashes.len() >= PART_SLOTS {
                self.end_part()?;
            }
        }
        self.block.add(key, slot);
        self.slots += 1;
        self.hashes.push(filter::hash(key));
        self.tombstones += u64::from(slot.is_none());
        if self.first_key.is_none() {
            self.first_key = Some(key.clone());
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(())
    }

    /// Returns the bytes of the file so far.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Completes the file; its content is durable when this returns, its name after a sync of the directory. `None` if
    /// there is no slot. The file is removed then, and after an error.
    pub fn finish(mut self) -> Result<Option<Written>> {
        let written = if self.first_key.is_some() { self.complete().map(Some) } else { Ok(None) };
        if !matches!(written, Ok(Some(_))) {
            self.abandon();
        }
        written
    }

    fn complete(&mut self) -> Result<Written> {
        if !self.block.is_empty() {
            self.end_block()?;
            self.end_part()?;
        }
        let mut footer = Vec::new();
        footer.put_u64(self.slots);
        footer.put_u64(self.tombstones);
        put_bytes(&mut footer, self.first_key.as_deref().unwrap_or_default());
        footer.put_slice(&self.parts);
        let at = self.bytes();
        let crc = crc_at(self.id, at, &footer);
        let footer_bytes = footer.len() as u32;
        self.buffer.put_slice(&footer);
        self.buffer.put_u32(footer_bytes);
        self.buffer.put_u32(crc);
        self.buffer.put_slice(TAIL_MAGIC);
        debug_assert_eq!(self.bytes(), at + u64::from(footer_bytes) + TAIL_BYTES);
        self.flush()?;
        self.sync(|file| faults::sync_run(|| file.sync_all()))?;
        Ok(Written { id: self.id, len: self.written, crc })
    }

    /// Removes the incomplete file.
    pub fn abandon(self) {
        if let Err(error) = self.disk.remove_file(self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an incomplete run; the next start does");
        }
    }

    fn end_block(&mut self) -> Result<()> {
        self.positions.push(self.index.len() as u32);
        put_bytes(&mut self.index, self.block.last_key());
        let block = self.block.finish();
        let place = self.put_block(&block)?;
        put_varint(&mut self.index, place.offset);
        put_varint(&mut self.index, u64::from(place.len));
        Ok(())
    }

    /// Writes filter and index of the blocks since the last part.
    fn end_part(&mut self) -> Result<()> {
        let filter = filter::build(&self.hashes);
        let filter = self.put_block(&filter)?;
        let mut index = std::mem::take(&mut self.index);
        for position in &self.positions {
            index.put_u32(*position);
        }
        index.put_u32(self.positions.len() as u32);
        let index = self.put_block(&index)?;
        put_bytes(&mut self.parts, &self.last_key);
        for place in [filter, index] {
            put_varint(&mut self.parts, place.offset);
            put_varint(&mut self.parts, u64::from(place.len));
        }
        self.positions.clear();
        self.hashes.clear();
        Ok(())
    }

    /// Appends a block and its trailer; returns its place.
    fn put_block(&mut self, block: &[u8]) -> Result<Place> {
        let offset = self.bytes();
        let len = u32::try_from(block.len()).map_err(|_| self.failed(io::ErrorKind::FileTooLarge.into()))?;
        self.buffer.put_slice(block);
        self.buffer.put_u8(RAW);
        let start = self.buffer.len() - block.len() - 1;
        let crc = crc_at(self.id, offset, &self.buffer[start..]);
        self.buffer.put_u32(crc);
        debug_assert_eq!(self.bytes(), offset + block.len() as u64 + TRAILER_BYTES);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
            if self.written - self.synced >= SYNC_EVERY_BYTES {
                self.sync(|file| file.sync_data())?;
            }
        }
        Ok(Place { offset, len })
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_all_at(&self.buffer, self.written);
        written.map_err(|error| self.failed(error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self, sync: impl FnOnce(&dyn DiskFile) -> io::Result<()>) -> Result<()> {
        sync(self.file.as_ref()).map_err(Error::io("sync", self.path))?;
        self.synced = self.written;
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io("write", self.path)(error)
    }
}
