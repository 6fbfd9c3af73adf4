//! Writing of a snapshot set that another member sends: the head, then each of its runs, in one stream of bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use helios_runs::{HEAD, RunId, Set};

use super::StateError;
use super::snapshot_set::bad;
use crate::faults;
use helios_storage::disk::{Disk, DiskFile};

/// A set that is being received into a directory. The files are not synced before [`SetWriter::sync`]: a sender that
/// resumes compares the checksum of what is here.
pub struct SetWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Bytes of the head while it is not complete.
    head: Vec<u8>,
    /// The runs that are not complete, in reverse order.
    left: Vec<RunId>,
    set: Option<Set>,
    open: Option<Box<dyn DiskFile>>,
    /// Position in the first of `left`.
    at: u64,
}

impl SetWriter {
    /// Begins to write into `dir`, which is created or emptied.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StateError> {
        let empty = || {
            if disk.is_dir(dir) {
                disk.remove_dir_all(dir)?;
            }
            disk.create_dir_all(dir)
        };
        empty().map_err(|error| StateError::io("create", dir, error))?;
        let (head, left) = (Vec::new(), Vec::new());
        Ok(Self { disk, dir: dir.to_owned(), head, left, set: None, open: None, at: 0 })
    }

    /// Continues after the first `from_bytes` of the stream, which include the head.
    pub fn resume(disk: Arc<dyn Disk>, dir: &Path, from_bytes: u64) -> Result<Self, StateError> {
        let set = Set::read(disk.as_ref(), dir).map_err(bad(dir))?;
        let mut left: Vec<RunId> = set.runs().collect();
        left.reverse();
        let lacks =
            || StateError::bad_snapshot(dir, format!("its first {from_bytes} bytes are not here any more"));
        let mut at = from_bytes.checked_sub(set.head().len() as u64).ok_or_else(lacks)?;
        while let Some(run) = left.last().filter(|run| run.len <= at).copied() {
            at -= run.len;
            left.pop();
        }
        let mut writer =
            Self { disk, dir: dir.to_owned(), head: Vec::new(), left, set: Some(set), open: None, at: 0 };
        if let Some(run) = writer.left.last().filter(|_| at > 0) {
            let path = writer.dir.join(run.file_name());
            let failed = |error| StateError::io("open", &path, error);
            let file = writer.disk.open_to_write(&path).map_err(failed)?;
            if file.len().map_err(failed)? < at {
                return Err(lacks());
            }
            file.set_len(at).map_err(failed)?;
            (writer.open, writer.at) = (Some(file), at);
        }
        Ok(writer)
    }

    /// Appends `data`.
    ///
    /// # Errors
    /// The head is not that of a set, or bytes follow after the last run.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), StateError> {
        if self.set.is_none() {
            data = self.take_head(data)?;
        }
        while !data.is_empty() {
            let Some(run) = self.left.last().copied() else {
                return Err(StateError::bad_snapshot(
                    &self.dir,
                    "bytes follow after its last file".to_owned(),
                ));
            };
            let path = self.dir.join(run.file_name());
            let failed = |error| StateError::io("write", &path, error);
            let file = match &self.open {
                Some(file) => file,
                None => self.open.insert(self.disk.create(&path).map_err(failed)?),
            };
            let count = usize::try_from(run.len - self.at).unwrap_or(usize::MAX).min(data.len());
            let (now, later) = data.split_at(count);
            file.write_all_at(now, self.at).map_err(failed)?;
            self.at += count as u64;
            data = later;
            if self.at == run.len {
                self.left.pop();
                (self.open, self.at) = (None, 0);
            }
        }
        Ok(())
    }

    /// Takes the bytes of the head from `data`, and writes it once it is complete. Returns the rest.
    fn take_head<'d>(&mut self, data: &'d [u8]) -> Result<&'d [u8], StateError> {
        let path = self.dir.join(HEAD);
        let bad = bad(&path);
        let (now, data) = data.split_at(Set::PREFIX_BYTES.saturating_sub(self.head.len()).min(data.len()));
        self.head.extend_from_slice(now);
        if self.head.len() < Set::PREFIX_BYTES {
            return Ok(data);
        }
        let len = Set::head_bytes(&path, &self.head).map_err(&bad)?;
        let (now, data) = data.split_at((len - self.head.len()).min(data.len()));
        self.head.extend_from_slice(now);
        if self.head.len() == len {
            let set = Set::decode(&path, std::mem::take(&mut self.head).into()).map_err(&bad)?;
            set.write_head(self.disk.as_ref(), &self.dir).map_err(&bad)?;
            self.left = set.runs().collect();
            self.left.reverse();
            self.set = Some(set);
        }
        Ok(data)
    }

    /// Makes all files durable, apart from the name of the directory.
    ///
    /// # Errors
    /// Bytes are missing at the end, or a file cannot be synced.
    pub fn sync(&self) -> Result<(), StateError> {
        let set = self.set.as_ref().filter(|_| self.left.is_empty());
        let set = set.ok_or_else(|| StateError::bad_snapshot(&self.dir, "it is truncated".to_owned()))?;
        if faults::skips_sync_of_received() {
            return Ok(());
        }
        for name in std::iter::once(HEAD.to_owned()).chain(set.runs().map(|run| run.file_name())) {
            let path = self.dir.join(name);
            let synced = self.disk.open_to_write(&path).and_then(|file| file.sync_all());
            synced.map_err(|error| StateError::io("sync", &path, error))?;
        }
        self.disk.sync_dir(&self.dir).map_err(|error| StateError::io("sync", &self.dir, error))
    }
}
