//! The disk as the log, the state, the snapshots and the marker see it: a few file-system
//! operations behind a trait, so that the same code runs on the machine's disk (`real`) and on
//! one that loses, tears and refuses what a disk may lose, tear and refuse.
//!
//! What POSIX promises and no more: content lasts once [`DiskFile::sync_data`] returned, a name
//! once [`Disk::sync_dir`] of its directory did.

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

/// The disk of this machine.
pub fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk::default())
}

/// Room that is spoken for: while it lives, whoever asks the same disk for free bytes is told of so many less.
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

/// What is free on the volume of `path`, if that is less than `needed_bytes`. Where it cannot be asked, the
/// write will tell.
pub fn short_of(disk: &dyn Disk, path: &Path, needed_bytes: u64) -> Option<u64> {
    disk.free_bytes(path).ok().filter(|free_bytes| *free_bytes < needed_bytes)
}

/// What a path names.
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

/// Keeps others off while it lives; the operating system ends it with the process.
pub struct DiskLock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl DiskLock {
    fn new(held: impl Any + Send + Sync) -> Self {
        Self(Box::new(held))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// For the one writer. Makes the file if nothing has the path.
    Exclusive,
    /// Readers keep the writer out, not one another. Changes nothing on the disk.
    Shared,
}

pub trait Disk: Send + Sync {
    /// Makes an empty file or empties the one that is there; to read and write.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// An existing file, to read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// An existing file, to read and write.
    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Replaces a file that has the name `to`. Not durable before the directory is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Not durable before the directory is synced.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// A directory and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// A directory and those above it, where they are missing.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// In no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// `None` if nothing has the path, or it cannot be asked.
    fn kind(&self, path: &Path) -> Option<Kind>;

    /// When the content of a file last changed, by the wall clock.
    fn modified(&self, path: &Path) -> io::Result<SystemTime>;

    /// Makes the names in `dir` survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file or a directory against other processes, or says at once that one has it.
    fn try_lock(&self, path: &Path, mode: LockMode) -> Result<DiskLock, TryLockError>;

    /// Bytes that files under `path` may still grow by.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// From here on [`Disk::free_bytes`] answers so many less. See [`SetApart`].
    fn set_apart(&self, bytes: u64);

    /// Undoes as much of [`Disk::set_apart`].
    fn give_back(&self, bytes: u64);

    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let mut content = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let read = read_full(file.as_ref(), &mut content, 0)?;
        content.truncate(read);
        Ok(content)
    }

    /// [`Disk::create_dir_all`]; durable when it returns.
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let found = path.ancestors().find(|dir| dir.as_os_str().is_empty() || self.is_dir(dir));
        let found = found.unwrap_or(path);
        self.create_dir_all(path)?;
        for dir in path.ancestors().skip(1) {
            // One that was there may have been made by a process that died before its sync, or lie in
            // a directory that is not ours: above a mount, read-only, not to be read.
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
    /// Answers how many bytes were read; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// After an error any part of it may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file off or makes it longer by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns once content and length survive a power cut. After an error nobody knows what of
    /// the content does, and a second call does not tell (docs/design/node.md, pitfall 4).
    fn sync_data(&self) -> io::Result<()>;

    /// [`DiskFile::sync_data`], and what else the file system keeps of the file; not its name.
    fn sync_all(&self) -> io::Result<()>;

    /// Bytes.
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

fn is_foreign(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Fills `buffer` as far as the file goes; answers how far that is.
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

/// A file read or written from front to back, for `BufReader` and `BufWriter`.
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
