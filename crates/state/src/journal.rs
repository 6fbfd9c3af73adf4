//! The redo journal: the writes of the running checkpoint, durable before the first of them goes to the
//! engine. If the process dies during the writes, the next open repeats them all.
//!
//! sled could make a batch atomic, but it blocks every read and write of the process until the batch is
//! complete: over a second for 100 000 keys, longer than an election timeout.
//!
//! ```text
//! magic "HELIOSRD" | generation u64
//! key length u32 | value length u32, all ones for a removal | key | value     once per write
//! CRC32C u32 of every byte before it
//! ```

use std::io::{self, BufWriter, Write};
use std::path::Path;

use bytes::{Buf, BufMut, Bytes};

use super::StateError;
use super::engines::RawWrite;
use helios_storage::disk::{Disk, Stream};

const MAGIC: &[u8; 8] = b"HELIOSRD";
const HEAD_BYTES: usize = 8 + 8;
const CRC_BYTES: usize = 4;
const REMOVAL: u32 = u32::MAX;

/// Writes the journal file; its content is durable when it returns, its name after a sync of the directory.
pub(super) fn write(
    disk: &dyn Disk,
    path: &Path,
    generation: u64,
    writes: &[RawWrite],
) -> Result<(), StateError> {
    write_file(disk, path, generation, writes).map_err(|e| StateError::io("write", path, e))
}

fn write_file(disk: &dyn Disk, path: &Path, generation: u64, writes: &[RawWrite]) -> io::Result<()> {
    let mut file = BufWriter::new(Stream::new(disk.create(path)?));
    let mut crc = 0;
    let mut put = |bytes: &[u8]| {
        crc = crc32c::crc32c_append(crc, bytes);
        file.write_all(bytes)
    };
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.put_slice(MAGIC);
    head.put_u64(generation);
    put(&head)?;
    for (key, value) in writes {
        put(&(key.len() as u32).to_be_bytes())?;
        put(&value.as_ref().map_or(REMOVAL, |value| value.len() as u32).to_be_bytes())?;
        put(key)?;
        put(value.as_deref().unwrap_or_default())?;
    }
    file.write_all(&crc.to_be_bytes())?;
    file.flush()?;
    file.get_ref().file().sync_all()
}

/// Reads the writes recorded for `generation`. `None` if the file is missing, incomplete or of another
/// generation: then the engine was not modified yet.
pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    generation: u64,
) -> Result<Option<Vec<RawWrite>>, StateError> {
    match disk.read(path) {
        Ok(content) => Ok(parse(content.into(), generation)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StateError::io("read", path, e)),
    }
}

fn parse(mut content: Bytes, generation: u64) -> Option<Vec<RawWrite>> {
    let body_bytes = content.len().checked_sub(CRC_BYTES)?;
    let mut crc = content.split_off(body_bytes);
    if content.len() < HEAD_BYTES || crc.get_u32() != crc32c::crc32c(&content) {
        return None;
    }
    if content.split_to(MAGIC.len()) != MAGIC.as_slice() || content.get_u64() != generation {
        return None;
    }
    let mut writes = Vec::new();
    while content.has_remaining() {
        let key_len = content.try_get_u32().ok()? as usize;
        let value_len = content.try_get_u32().ok()?;
        let key = take(&mut content, key_len)?;
        let value = match value_len {
            REMOVAL => None,
            len => Some(take(&mut content, len as usize)?),
        };
        writes.push((key, value));
    }
    Some(writes)
}

fn take(content: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= content.len()).then(|| content.split_to(len))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use helios_storage::disk::RealDisk;

    #[test]
    fn journal_is_read_only_if_complete_and_of_the_generation() {
        let disk = RealDisk::default();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("REDO");
        assert_eq!(read(&disk, &path, 3).unwrap(), None);
        let raw = Bytes::from_static;
        let writes = vec![(raw(b"da"), Some(raw(b"1"))), (raw(b"db"), None), (raw(b"dc"), Some(raw(b"")))];
        write(&disk, &path, 3, &writes).unwrap();
        assert_eq!(read(&disk, &path, 3).unwrap(), Some(writes));
        assert_eq!(read(&disk, &path, 4).unwrap(), None);
        let content = fs::read(&path).unwrap();
        for position in 0..content.len() {
            let mut damaged = content.clone();
            damaged[position] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert_eq!(read(&disk, &path, 3).unwrap(), None, "byte {position}");
            fs::write(&path, &content[..position]).unwrap();
            assert_eq!(read(&disk, &path, 3).unwrap(), None, "{position} bytes");
        }
    }
}
