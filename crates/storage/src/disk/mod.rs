//! The file-system operations that the log, the state, the snapshots and the marker use, behind a
//! trait: the same code runs on the machine's disk (`real`) and on a simulated one that injects
//! lost writes, torn writes and errors.
//!
//! The trait promises what POSIX promises and no more: content is durable once
//! [`DiskFile::sync_data`] returned, a name once [`Disk::sync_dir`] of its directory returned.

#[allow(clippy::disallowed_methods, reason = "the machine's disk")]
mod real;
#[cfg(any(test, feature = "simulation"))]
mod sim;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::ffi::OsString;
use std::fs::TryLockError;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub use real::RealDisk;
#[cfg(any(test, feature = "simulation"))]
pub use sim::{DiskStats, SimDisk};

/// Returns the disk of this machine.
pub fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk::default())
}

/// A reservation of disk space: while it lives, [`Disk::free_bytes`] of the same disk reports `bytes` less.
pub struct SetApart<'a> {
    disk: &'a dyn Disk,
    bytes: u64,
}

impl<'a> SetApart<'a> {
    pub fn new(disk: &'a dyn Disk, bytes: u64) -> Self {
        disk.set_apart(bytes);
        Self { disk, bytes }
    }
}

impl Drop for SetApart<'_> {
    fn drop(&mut self) {
        self.disk.give_back(self.bytes);
    }
}

/// Returns the free bytes on the volume of `path` if they are fewer than `needed_bytes`. `None` also if the
/// free space is unknown: the write then finds out.
pub fn short_of(disk: &dyn Disk, path: &Path, needed_bytes: u64) -> Option<u64> {
    disk.free_bytes(path).ok().filter(|free_bytes| *free_bytes < needed_bytes)
}

/// The type of the file-system object that a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    pub kind: Kind,
}

/// A held file lock, released on drop; the operating system releases it when the process ends.
pub struct DiskLock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl DiskLock {
    fn new(held: impl Any + Send + Sync) -> Self {
        Self(Box::new(held))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// The single writer's lock. Creates the file if nothing has the path.
    Exclusive,
    /// A reader's lock: readers exclude the writer, not one another. Changes nothing on the disk.
    Shared,
}

pub trait Disk: Send + Sync {
    /// Creates a file or truncates an existing one to zero; opened to read and write.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file to read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file to read and write.
    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file, replacing a file with the name `to`. Not durable before the directory is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file the additional name `to` (hard link), or copies it, durably apart from the name, on a file system
    /// without links. Neither name may be written to any more. Not durable before the directory of `to` is synced.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Not durable before the directory is synced.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and its content.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and its missing parents. Not durable; see [`Disk::make_dir`].
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Lists the entries of a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Returns the type of `path`; `None` if nothing has the path or it cannot be read.
    fn kind(&self, path: &Path) -> Option<Kind>;

    /// Returns the wall-clock time of the last change of a file's content.
    fn modified(&self, path: &Path) -> io::Result<SystemTime>;

    /// Makes the names in `dir` durable (fsync of the directory).
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file or a directory against other processes. Does not wait: fails with `WouldBlock` if another
    /// process holds the lock.
    fn try_lock(&self, path: &Path, mode: LockMode) -> Result<DiskLock, TryLockError>;

    /// Returns the bytes by which files under `path` can still grow, minus those that were set apart.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Returns the size of the volume of `path`, bytes.
    fn volume_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Reserves `bytes`: from now on [`Disk::free_bytes`] reports as many less. See [`SetApart`].
    fn set_apart(&self, bytes: u64);

    /// Releases `bytes` that [`Disk::set_apart`] reserved.
    fn give_back(&self, bytes: u64);

    /// Returns an id of the machine's boot: another one after a power cut. 0 if the machine reports none.
    fn boot_id(&self) -> u64;

    /// Reads the whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let mut content = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let read = read_full(file.as_ref(), &mut content, 0)?;
        content.truncate(read);
        Ok(content)
    }

    /// Creates a directory and its missing parents; durable when it returns.
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let found = path.ancestors().find(|dir| dir.as_os_str().is_empty() || self.is_dir(dir));
        let found = found.unwrap_or(path);
        self.create_dir_all(path)?;
        for dir in path.ancestors().skip(1) {
            // The first directory that already existed is synced too: a process may have created it and
            // died before its sync. Its parent may be foreign (above a mount, read-only, unreadable), where
            // a failed sync is ignored.
            match self.sync_dir(dir) {
                Err(error) if found == path && is_foreign(&error) => {}
                result => result?,
            }
            if found.starts_with(dir) {
                break;
            }
        }
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.kind(path) == Some(Kind::Dir)
    }

    fn exists(&self, path: &Path) -> bool {
        self.kind(path).is_some()
    }
}

/// An open file. Positions are explicit, so that one handle serves several threads.
pub trait DiskFile: Send + Sync {
    /// Returns the number of bytes read; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Truncates the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable (fdatasync). After an error it is unknown which part of the
    /// content is durable, and a second call may succeed without writing it (docs/design/node.md, pitfall 4).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content and all metadata of the file durable (fsync), but not its name.
    fn sync_all(&self) -> io::Result<()>;

    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

fn is_foreign(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Reads into `buffer` until it is full or the file ends; returns the number of bytes read.
pub fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A file that is read or written sequentially, for `BufReader` and `BufWriter`.
pub struct Stream {
    file: Box<dyn DiskFile>,
    position: u64,
}

impl Stream {
    pub fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, position: 0 }
    }

    pub fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
