//! A set: the files of a view in a separate directory, as a snapshot. They are links, so that making one copies no data,
//! and merges of the engine do not touch it.
//!
//! ```text
//! magic "HELIOSST" | format u32 | length of the frame u32
//! frame, as in the manifest
//! CRC32C u32 of every byte before it
//! ```
//! This is the content of `HEAD`; integers are big-endian. The other files are the runs that the frame lists.

use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use crate::cache::BlockCache;
use crate::engine::{frame_of, open_view};
use crate::error::{Error, Result};
use crate::format::{FORMAT, take, take_u32};
use crate::manifest::Frame;
use crate::run::RunId;
use crate::view::View;
use helios_storage::disk::Disk;

/// Name of the file that describes a set; it exists in every directory of one.
pub const HEAD: &str = "HEAD";
const MAGIC: &[u8; 8] = b"HELIOSST";
const CRC_BYTES: usize = 4;
/// Limit of the length of a frame, bytes: that of several hundred thousand files.
const MAX_FRAME_BYTES: u32 = 64 << 20;

/// The description of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    frame: Frame,
    head: Bytes,
}

impl Set {
    /// Bytes of a head after which its length is known ([`Set::head_bytes`]).
    pub const PREFIX_BYTES: usize = 8 + 4 + 4;

    /// Links the files of `view` into `dir`, an empty directory, and writes the head, which has `record` in place of the
    /// record of the view. Durable when it returns, apart from the name of the directory.
    pub fn create(disk: &dyn Disk, dir: &Path, view: &View, record: Bytes) -> Result<Self> {
        let set = Self::of(Frame { record, ..frame_of(view) });
        for slice in view.slices() {
            let name = slice.run.id.file_name();
            disk.link(slice.run.path(), &dir.join(&name)).map_err(Error::io("link", slice.run.path()))?;
        }
        set.write_head(disk, dir)?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        Ok(set)
    }

    fn of(frame: Frame) -> Self {
        let content = frame.encode();
        let mut head = Vec::with_capacity(Self::PREFIX_BYTES + content.len() + CRC_BYTES);
        head.put_slice(MAGIC);
        head.put_u32(FORMAT);
        head.put_u32(content.len() as u32);
        head.put_slice(&content);
        let crc = crc32c::crc32c(&head);
        head.put_u32(crc);
        Self { frame, head: head.into() }
    }

    /// Writes the head to `dir`; the content is durable when it returns.
    pub fn write_head(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(HEAD);
        let file = disk.create(&path).map_err(Error::io("create", &path))?;
        file.write_all_at(&self.head, 0).map_err(Error::io("write", &path))?;
        file.sync_all().map_err(Error::io("sync", &path))
    }

    /// Returns the length of the head that begins with `prefix`, [`Set::PREFIX_BYTES`] bytes.
    ///
    /// # Errors
    /// It is not the head of a set, or of a newer build. `path` is for the message.
    pub fn head_bytes(path: &Path, prefix: &[u8]) -> Result<usize> {
        let rest = &mut &prefix[..];
        if take(rest, MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(Error::corrupt(path, "it is not the head of a snapshot"));
        }
        let truncated = || Error::corrupt(path, "it is truncated");
        let format = take_u32(rest).ok_or_else(truncated)?;
        if format != FORMAT {
            return Err(Error::Newer { path: path.to_owned(), found: format, known: FORMAT });
        }
        let len = take_u32(rest).ok_or_else(truncated)?;
        if len > MAX_FRAME_BYTES {
            return Err(Error::corrupt(path, "its head is too long"));
        }
        Ok(Self::PREFIX_BYTES + len as usize + CRC_BYTES)
    }

    /// Decodes a head; `path` is for the message.
    pub fn decode(path: &Path, head: Bytes) -> Result<Self> {
        let len = Self::head_bytes(path, &head)?;
        let (content, crc) = head.split_at(head.len().saturating_sub(CRC_BYTES));
        if len != head.len() || Some(crc32c::crc32c(content)) != take_u32(&mut &crc[..]) {
            return Err(Error::corrupt(path, "its head has a wrong checksum"));
        }
        let frame = Frame::decode(&content[Self::PREFIX_BYTES..]);
        let frame = frame.ok_or_else(|| Error::corrupt(path, "its head cannot be decoded"))?;
        Ok(Self { frame, head })
    }

    /// Reads the head of the set in `dir`.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        let path = dir.join(HEAD);
        let head = disk.read(&path).map_err(Error::io("read", &path))?;
        Self::decode(&path, head.into())
    }

    /// Opens the set in `dir` to read. Reads the footer of each run.
    pub fn open(&self, disk: &Arc<dyn Disk>, dir: &Path, cache_bytes: u64) -> Result<View> {
        open_view(disk, dir, &self.frame, &Arc::new(BlockCache::new(cache_bytes)))
    }

    /// Returns the record of the set.
    pub fn record(&self) -> &Bytes {
        &self.frame.record
    }

    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// Returns the checksum of the head, which depends on the identity of each run.
    pub fn crc32c(&self) -> u32 {
        self.head.last_chunk().copied().map_or(0, u32::from_be_bytes)
    }

    /// Returns the runs, each once.
    pub fn runs(&self) -> impl Iterator<Item = RunId> {
        self.frame.uppers.iter().chain(&self.frame.bottom).map(|listed| listed.run)
    }

    /// Returns the bytes of the head and of all runs.
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.runs().map(|run| run.len).sum::<u64>()
    }

    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }
}
