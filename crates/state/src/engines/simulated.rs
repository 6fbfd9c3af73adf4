//! An engine on a simulated disk: an ordered map in memory and a file of checksummed records. As with
//! sled, a power cut may keep a part of the writes since the last sync; here that part is a prefix.
//!
//! ```text
//! key length u32 | value length u32, all ones for a removal | key | value | CRC32C u32
//! ```
//! Integers are big-endian. Each CRC continues the previous one, so that a record is valid only at the
//! position where it was written. A key length of 0 marks the end.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes};

use super::{EngineError, InPlaceEngine, MemoryEngine, PairIter, RawWrite, StateEngine};
use helios_storage::disk::{Disk, DiskFile};

const REMOVAL: u32 = u32::MAX;

pub struct SimulatedEngine {
    pairs: MemoryEngine,
    file: Box<dyn DiskFile>,
    end: Mutex<End>,
}

/// The offset of the next record, and the checksum that it continues.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    offset: u64,
    crc: u32,
}

impl SimulatedEngine {
    /// Name of its file in the engine's directory.
    pub const FILE: &str = "pairs";

    /// Opens the engine in the directory `path`, or creates one.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, EngineError> {
        let pairs = MemoryEngine::default();
        let file_path = path.join(Self::FILE);
        if !disk.exists(&file_path) {
            disk.create_dir_all(path)?;
            let file = disk.create(&file_path)?;
            disk.sync_dir(path)?;
            return Ok(Self { pairs, file, end: Mutex::default() });
        }
        let mut content = Bytes::from(disk.read(&file_path)?);
        let length = content.len();
        let mut end = End::default();
        while let Some((write, crc)) = take(&mut content, end.crc) {
            pairs.write(&[write])?;
            end = End { offset: (length - content.len()) as u64, crc };
        }
        let file = disk.open_to_write(&file_path)?;
        // Erased, so that no remnant is read as a continuation of the next records.
        file.write_all_at(&vec![0; content.len()], end.offset)?;
        file.sync_data()?;
        Ok(Self { pairs, file, end: Mutex::new(end) })
    }
}

/// Decodes the next record and removes it from the front of `content`; leaves `content` unchanged if the
/// record is incomplete.
fn take(content: &mut Bytes, crc: u32) -> Option<(RawWrite, u32)> {
    let mut rest = content.clone();
    let (key_len, value_len) = (rest.try_get_u32().ok()? as usize, rest.try_get_u32().ok()?);
    let is_removal = value_len == REMOVAL;
    let value_len = if is_removal { 0 } else { value_len as usize };
    if key_len == 0 || rest.len() < key_len.checked_add(value_len)? {
        return None;
    }
    let (key, value) = (rest.split_to(key_len), rest.split_to(value_len));
    let crc = crc32c::crc32c_append(crc, &content[..content.len() - rest.len()]);
    if rest.try_get_u32().ok()? != crc {
        return None;
    }
    *content = rest;
    Some(((key, (!is_removal).then_some(value)), crc))
}

impl StateEngine for SimulatedEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.pairs.get(key)
    }

    fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        self.pairs.range(start, end)
    }

    fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        self.pairs.range_back(start, end)
    }

    fn size_bytes(&self) -> u64 {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).offset
    }
}

impl InPlaceEngine for SimulatedEngine {
    fn write(&self, writes: &[RawWrite]) -> Result<(), EngineError> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = Vec::new();
        let mut crc = end.crc;
        for (key, value) in writes {
            if key.is_empty() {
                return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
            }
            let start = records.len();
            records.put_u32(key.len() as u32);
            records.put_u32(value.as_ref().map_or(REMOVAL, |value| value.len() as u32));
            records.put_slice(key);
            records.put_slice(value.as_deref().unwrap_or_default());
            crc = crc32c::crc32c_append(crc, &records[start..]);
            records.put_u32(crc);
        }
        self.file.write_all_at(&records, end.offset)?;
        *end = End { offset: end.offset + records.len() as u64, crc };
        self.pairs.write(writes)
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(self.file.sync_data()?)
    }
}
