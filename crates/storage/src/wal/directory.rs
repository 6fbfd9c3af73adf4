//! The log's directory: its lock, its file names, and its `fsync`, without which a created or renamed
//! file may be missing after a power cut.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WalError;
use super::reader::{Reader, SharedCatalog};
use crate::disk::{Disk, DiskFile, DiskLock, LockMode};
use crate::faults;

pub const SEGMENT: &str = "wal";
const SPARE: &str = "spare";

/// The log's directory, locked against other processes as long as the log is open.
pub struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _lock: DiskLock,
}

/// Numbers of the files found, ascending. Files with other names are ignored.
#[derive(Debug, Default)]
pub struct Listing {
    pub generations: Vec<u64>,
    pub spares: Vec<u64>,
}

impl Directory {
    /// Creates the directory if it is missing and locks it for the single writer.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, WalError> {
        disk.make_dir(path).map_err(WalError::io("create", path))?;
        Self::lock(disk, path, LockMode::Exclusive)
    }

    /// Locks the directory for a reader. Readers exclude the writer, not one another.
    pub fn open_to_read(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, WalError> {
        Self::lock(disk, path, LockMode::Shared)
    }

    fn lock(disk: Arc<dyn Disk>, path: &Path, mode: LockMode) -> Result<Self, WalError> {
        match disk.try_lock(path, mode) {
            Ok(lock) => Ok(Self { disk, path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(WalError::Locked { dir: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(WalError::io("lock", path)(source)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn segment_path(&self, generation: u64) -> PathBuf {
        self.path.join(super::segment_file_name(generation))
    }

    pub fn spare_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}.{SPARE}"))
    }

    /// Path of the spare segment that is still being filled.
    pub fn draft_path(&self) -> PathBuf {
        self.path.join("spare.draft")
    }

    /// Returns a reader of the entries in `catalog`.
    pub fn reader(&self, catalog: SharedCatalog) -> Reader {
        Reader::new(Arc::clone(&self.disk), self.path.clone(), catalog)
    }

    pub fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    pub fn open_to_write(&self, path: &Path) -> Result<Box<dyn DiskFile>, WalError> {
        self.disk.open_to_write(path).map_err(WalError::io("open", path))
    }

    pub fn list(&self) -> Result<Listing, WalError> {
        let mut listing = Listing::default();
        for entry in self.disk.list(&self.path).map_err(WalError::io("list", &self.path))? {
            let name = PathBuf::from(entry.name);
            let number = name.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            match (number, name.extension().and_then(|extension| extension.to_str())) {
                (Some(number), Some(SEGMENT)) => listing.generations.push(number),
                (Some(number), Some(SPARE)) => listing.spares.push(number),
                _ => {}
            }
        }
        listing.generations.sort_unstable();
        listing.spares.sort_unstable();
        Ok(listing)
    }

    pub fn sync(&self) -> Result<(), WalError> {
        self.disk.sync_dir(&self.path).map_err(WalError::io("sync", &self.path))
    }

    /// Renames a file; durable when it returns.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), WalError> {
        self.disk.rename(from, to).map_err(WalError::io("rename", from))?;
        faults::sync_name(|| self.sync())
    }

    /// Removes all files of the log; durable when it returns.
    pub fn remove_all(&self) -> Result<(), WalError> {
        let Listing { generations, spares } = self.list()?;
        let segments = generations.into_iter().map(|generation| self.segment_path(generation));
        let spares = spares.into_iter().map(|number| self.spare_path(number));
        for path in
            segments.chain(spares).chain(Some(self.draft_path()).filter(|path| self.disk.exists(path)))
        {
            self.disk.remove_file(&path).map_err(WalError::io("remove", &path))?;
        }
        self.sync()
    }

    /// Removes a file; durable when it returns.
    pub fn remove(&self, path: &Path) -> Result<(), WalError> {
        self.disk.remove_file(path).map_err(WalError::io("remove", path))?;
        self.sync()
    }
}
