//! The snapshot file: the whole state at one log index, the same bytes on every member. Engines that are modified in
//! place write it, and `runs` for members that cannot read a set yet ([`super::snapshot_set`]).
//!
//! ```text
//! magic "HELIOSSN" | version u32 | record length u32 | record | record's CRC32C u32
//! key length u32 | value length u32 | key | encoded value      once per key, in key order
//! key length u32 | value length u32 | raw key | record         requests and collections, in order
//! CRC32C u32 of every byte before it
//! ```
//! All integers are big-endian. The record counts the keys; the expiry index is not written, the reader
//! derives it. Version 1 had no request records, version 2 no collections; a state without collections is
//! still written as version 2, for members that are not upgraded yet.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::Membership;

use super::meta::Record;
use super::{Applied, StateError, value};
use crate::faults;
use helios_storage::disk::{Disk, Stream};

const MAGIC: &[u8; 8] = b"HELIOSSN";
const VERSION: u32 = 3;
const VERSION_WITHOUT_COLLECTIONS: u32 = 2;
const OLDEST_VERSION: u32 = 1;
const PREFIX_BYTES: usize = 8 + 4 + 4;
const CRC_BYTES: usize = 4;
const MAX_RECORD_BYTES: usize = 16 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// The metadata of a snapshot: a file, or a set of files ([`super::snapshot_set`]).
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotMeta {
    pub index: u64,
    pub term: u64,
    pub membership: Membership,
    pub size_bytes: u64,
    /// CRC32C of the whole file, or of the head of a set, without the last four bytes, which hold it.
    pub crc32c: u32,
    /// Version of the format.
    pub version: u32,
}

impl SnapshotMeta {
    /// Newest format version that this build reads.
    pub const NEWEST_VERSION: u32 = Self::SET_VERSION;

    /// Reads and checks the header only.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Self, StateError> {
        if disk.is_dir(path) {
            return Self::read_set(disk, path);
        }
        let reader = Reader::open(disk, path)?;
        let mut crc = [0; CRC_BYTES];
        let at = reader.size_bytes - CRC_BYTES as u64;
        let read = reader.file.get_ref().file().read_at(&mut crc, at);
        match read.map_err(|e| StateError::io("read", path, e))? {
            CRC_BYTES => Ok(reader.describe(u32::from_be_bytes(crc))),
            _ => Err(reader.bad("it is truncated")),
        }
    }

    /// Reads and checks the whole snapshot.
    pub fn verify(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, StateError> {
        if disk.is_dir(path) {
            return Self::verify_set(disk, path);
        }
        let mut reader = Reader::open(disk.as_ref(), path)?;
        while reader.next_pair()?.is_some() {}
        while reader.next_record()?.is_some() {}
        reader.finish()
    }
}

/// A writer of a snapshot file under a temporary name, which is renamed to `path` once it is complete and
/// durable.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<Stream>,
    crc: u32,
}

impl Writer {
    pub fn create(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, StateError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = disk.create(&temporary).map_err(|e| StateError::io("create", &temporary, e))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, Stream::new(file));
        Ok(Self { disk, path: path.to_owned(), temporary, file, crc: 0 })
    }

    pub fn header(&mut self, record: &Record, has_collections: bool) -> Result<(), StateError> {
        let record = record.encode();
        let mut prefix = Vec::with_capacity(PREFIX_BYTES);
        prefix.put_slice(MAGIC);
        prefix.put_u32(if has_collections { VERSION } else { VERSION_WITHOUT_COLLECTIONS });
        prefix.put_u32(record.len() as u32);
        self.put(&prefix)?;
        self.put(&record)?;
        self.put(&crc32c::crc32c(&record).to_be_bytes())
    }

    pub fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.put(&(key.len() as u32).to_be_bytes())?;
        self.put(&(value.len() as u32).to_be_bytes())?;
        self.put(key)?;
        self.put(value)
    }

    /// Completes the file; durable under its final name when it returns.
    pub fn finish(&mut self) -> Result<(), StateError> {
        let crc = self.crc.to_be_bytes();
        self.put(&crc)?;
        let flushed = self.file.flush();
        let synced = flushed.and_then(|()| faults::sync_snapshot(|| self.file.get_ref().file().sync_all()));
        synced.map_err(|e| StateError::io("write", &self.temporary, e))?;
        let rename = self.disk.rename(&self.temporary, &self.path);
        rename.map_err(|e| StateError::io("rename", &self.temporary, e))?;
        let parent = self.path.parent().unwrap_or(Path::new(""));
        self.disk.sync_dir(parent).map_err(|e| StateError::io("sync", parent, e))
    }

    /// Removes the temporary file.
    pub fn abandon(self) {
        // Discards the buffer instead of flushing it: the disk may be full.
        drop(self.file.into_parts());
        if let Err(error) = self.disk.remove_file(&self.temporary) {
            tracing::warn!(path = %self.temporary.display(), %error, "cannot remove an incomplete snapshot");
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.file.write_all(bytes).map_err(|e| StateError::io("write", &self.temporary, e))
    }
}

/// A sequential reader of a snapshot. Its results are valid only once [`Reader::finish`] succeeded.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<Stream>,
    version: u32,
    record: Record,
    size_bytes: u64,
    /// Bytes between the read position and the final checksum.
    left_bytes: u64,
    left_keys: u64,
    last_key: Option<Bytes>,
    crc: u32,
}

impl Reader {
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, StateError> {
        let io = |e| StateError::io("read", path, e);
        let file = disk.open(path).map_err(|e| StateError::io("open", path, e))?;
        let size_bytes = file.len().map_err(io)?;
        let mut reader = Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(BUFFER_BYTES, Stream::new(file)),
            version: 0,
            record: Record::default(),
            size_bytes,
            left_bytes: size_bytes.saturating_sub(CRC_BYTES as u64),
            left_keys: 0,
            last_key: None,
            crc: 0,
        };
        reader.record = reader.header()?;
        reader.left_keys = reader.record.meta.key_count;
        Ok(reader)
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Reads the next user key and its encoded value; `None` after the last.
    pub fn next_pair(&mut self) -> Result<Option<(Bytes, Bytes)>, StateError> {
        if self.left_keys == 0 {
            return Ok(None);
        }
        let (key, value) = self.record_pair()?;
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(self.bad("its keys are out of order"));
        }
        self.last_key = Some(key.clone());
        self.left_keys -= 1;
        Ok(Some((key, value)))
    }

    /// Reads the next raw key and its record, after the last pair; `None` after the last record.
    pub fn next_record(&mut self) -> Result<Option<(Bytes, Bytes)>, StateError> {
        if self.left_bytes == 0 {
            return Ok(None);
        }
        let (key, record) = self.record_pair()?;
        if !value::is_record_key(&key) {
            return Err(self.bad("a record is of an unknown kind"));
        }
        Ok(Some((key, record)))
    }

    fn record_pair(&mut self) -> Result<(Bytes, Bytes), StateError> {
        let mut lengths = self.take(8)?;
        let (key_len, value_len) = (lengths.get_u32(), lengths.get_u32());
        Ok((self.take(key_len as usize)?, self.take(value_len as usize)?))
    }

    /// Checks the final checksum. All pairs and records must have been read.
    pub fn finish(mut self) -> Result<SnapshotMeta, StateError> {
        if self.left_keys > 0 || self.left_bytes > 0 {
            return Err(self.bad("its number of keys differs from its header"));
        }
        let mut crc = [0; CRC_BYTES];
        self.file.read_exact(&mut crc).map_err(|e| StateError::io("read", &self.path, e))?;
        if faults::is_snapshot_damaged(self.crc != u32::from_be_bytes(crc)) {
            return Err(self.bad("its checksum is wrong"));
        }
        Ok(self.describe(self.crc))
    }

    pub fn bad(&self, reason: &str) -> StateError {
        let at = self.size_bytes.saturating_sub(CRC_BYTES as u64).saturating_sub(self.left_bytes);
        StateError::bad_snapshot(&self.path, format!("{reason} (read up to byte {at})"))
    }

    fn header(&mut self) -> Result<Record, StateError> {
        let mut prefix = self.take(PREFIX_BYTES)?;
        if prefix.split_to(MAGIC.len()) != MAGIC.as_slice() {
            return Err(self.bad("it is not a HeliosDB snapshot"));
        }
        let version = prefix.get_u32();
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(self.bad(&format!(
                "its version is {version}, this release reads {OLDEST_VERSION} to {VERSION}"
            )));
        }
        self.version = version;
        let len = prefix.get_u32() as usize;
        if len > MAX_RECORD_BYTES {
            return Err(self.bad("its header is too long"));
        }
        let record = self.take(len)?;
        if self.take(CRC_BYTES)?.get_u32() != crc32c::crc32c(&record) {
            return Err(self.bad("its header has a wrong checksum"));
        }
        Record::decode(&record).map_err(|reason| self.bad(reason))
    }

    fn take(&mut self, len: usize) -> Result<Bytes, StateError> {
        let Some(left_bytes) = self.left_bytes.checked_sub(len as u64) else {
            return Err(self.bad("it is truncated"));
        };
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.bad("it is truncated"),
            _ => StateError::io("read", &self.path, e),
        })?;
        self.left_bytes = left_bytes;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes.into())
    }

    fn describe(&self, crc32c: u32) -> SnapshotMeta {
        let Applied { index, term } = self.record.meta.applied;
        let membership = self.record.meta.membership.as_ref().clone();
        let Self { version, size_bytes, .. } = *self;
        SnapshotMeta { index, term, membership, size_bytes, crc32c, version }
    }
}
