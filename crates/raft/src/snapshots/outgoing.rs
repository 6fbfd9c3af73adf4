//! The bytes of a snapshot in the order of a transfer: those of its file, or the head of a set and then each of its runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Snapshots;
use helios_state::{SNAPSHOT_HEAD, StateError, snapshot_files};
use helios_storage::disk::{Disk, DiskFile, read_full};

const BUFFER_BYTES: usize = 256 << 10;

/// Length and checksum of the first bytes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefix {
    pub bytes: u64,
    pub crc32c: u32,
}

/// A sequential reader of a snapshot's bytes.
pub struct Outgoing {
    disk: Arc<dyn Disk>,
    /// The files that are left, in reverse order, with their lengths in bytes.
    left: Vec<(PathBuf, u64)>,
    open: Option<Box<dyn DiskFile>>,
    /// Position in the next file.
    at: u64,
}

impl Outgoing {
    fn new(disk: Arc<dyn Disk>, mut files: Vec<(PathBuf, u64)>) -> Self {
        files.reverse();
        Self { disk, left: files, open: None, at: 0 }
    }

    /// Skips `bytes`.
    pub fn skip(&mut self, mut bytes: u64) {
        while let Some(rest) = self.left.last().map(|(_, len)| len - self.at).filter(|rest| *rest <= bytes) {
            bytes -= rest;
            self.next_file();
        }
        self.at += bytes;
    }

    /// Reads into `buffer` until it is full or a file ends; returns the number of bytes, 0 at the end of the snapshot or
    /// where a file is shorter than it should be.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some((path, len)) = self.left.last() else { return Ok(0) };
            let wanted = usize::try_from(len - self.at).unwrap_or(usize::MAX).min(buffer.len());
            if wanted == 0 && !buffer.is_empty() {
                self.next_file();
                continue;
            }
            let file = match &self.open {
                Some(file) => file,
                None => self.open.insert(self.disk.open(path)?),
            };
            let read = read_full(file.as_ref(), &mut buffer[..wanted], self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
    }

    fn next_file(&mut self) {
        self.left.pop();
        self.open = None;
        self.at = 0;
    }
}

impl Snapshots {
    /// Opens a snapshot for a transfer.
    pub fn outgoing(&self, path: &Path) -> Result<Outgoing, StateError> {
        let files = if self.disk.is_dir(path) {
            snapshot_files(self.disk.as_ref(), path)?
        } else {
            let len = self.disk.open(path).and_then(|file| file.len());
            let len =
                len.map_err(|source| StateError::Io { doing: "open", path: path.to_owned(), source })?;
            vec![(path.to_owned(), len)]
        };
        Ok(Outgoing::new(Arc::clone(&self.disk), files))
    }

    /// Returns the first byte of the snapshot to send to a peer that has `held`: 0 if that part is corrupt or of another
    /// snapshot.
    pub fn resume_at(&self, path: &Path, held: Prefix) -> Result<u64, StateError> {
        let own = self.prefix(path, held.bytes)?;
        Ok(if own == held { held.bytes } else { 0 })
    }

    /// Reads length and checksum of the first bytes of a snapshot, at most `limit_bytes`.
    pub(super) fn prefix(&self, path: &Path, limit_bytes: u64) -> Result<Prefix, StateError> {
        let mut prefix = Prefix::default();
        if self.disk.is_dir(path) && !self.disk.exists(&path.join(SNAPSHOT_HEAD)) {
            return Ok(prefix);
        }
        let mut outgoing = self.outgoing(path)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        while prefix.bytes < limit_bytes {
            let wanted = (limit_bytes - prefix.bytes).min(BUFFER_BYTES as u64) as usize;
            let read = match outgoing.read(&mut buffer[..wanted]) {
                Ok(0) => break,
                Ok(read) => read,
                // The next file of a set is not here yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(source) => return Err(StateError::Io { doing: "read", path: path.to_owned(), source }),
            };
            prefix.crc32c = crc32c::crc32c_append(prefix.crc32c, &buffer[..read]);
            prefix.bytes += read as u64;
        }
        Ok(prefix)
    }
}
