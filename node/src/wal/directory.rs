//! The log's directory: its lock, its file names, and its own `fsync`, without which a created or
//! renamed file may not be there after a power cut.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::WalError;

const SEGMENT: &str = "wal";
const SPARE: &str = "spare";

/// Held, and locked against other processes, as long as the log is open.
pub struct Directory {
    path: PathBuf,
    handle: File,
}

/// Numbers of the files found, ascending. Files of other names are none of ours.
#[derive(Debug, Default)]
pub struct Listing {
    pub generations: Vec<u64>,
    pub spares: Vec<u64>,
}

impl Directory {
    /// Creates the directory if it is missing and locks it for the one writer.
    pub fn open(path: &Path) -> Result<Self, WalError> {
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(WalError::io("create", path))?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(WalError::io("sync", parent))?;
        }
        Self::lock(path, File::try_lock)
    }

    /// Readers exclude the writer, not one another.
    pub fn open_to_read(path: &Path) -> Result<Self, WalError> {
        Self::lock(path, File::try_lock_shared)
    }

    fn lock(path: &Path, lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<Self, WalError> {
        let handle = File::open(path).map_err(WalError::io("open", path))?;
        match lock(&handle) {
            Ok(()) => Ok(Self { path: path.to_owned(), handle }),
            Err(TryLockError::WouldBlock) => Err(WalError::Locked { dir: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(WalError::io("lock", path)(source)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn segment_path(&self, generation: u64) -> PathBuf {
        self.path.join(format!("{generation:020}.{SEGMENT}"))
    }

    pub fn spare_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}.{SPARE}"))
    }

    /// A spare that is still being filled.
    pub fn draft_path(&self) -> PathBuf {
        self.path.join("spare.draft")
    }

    pub fn list(&self) -> Result<Listing, WalError> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.path).map_err(WalError::io("list", &self.path))? {
            let name = PathBuf::from(entry.map_err(WalError::io("list", &self.path))?.file_name());
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
        self.handle.sync_all().map_err(WalError::io("sync", &self.path))
    }

    /// Durable when it returns.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), WalError> {
        fs::rename(from, to).map_err(WalError::io("rename", from))?;
        self.sync()
    }

    /// Durable when it returns.
    pub fn remove(&self, path: &Path) -> Result<(), WalError> {
        fs::remove_file(path).map_err(WalError::io("remove", path))?;
        self.sync()
    }
}
