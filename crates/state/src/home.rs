//! The store's directory.
//!
//! An engine is stored in a numbered generation; `CURRENT` names the current one. An operation that
//! replaces all keys (a restore, FLUSHALL) fills the next generation and then renames a new `CURRENT`
//! into place, so that a crash leaves the old state or the new one, never a part. The journal `REDO`
//! makes a checkpoint within a generation atomic.

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::StateError;
use super::engines::EngineKind;
use helios_storage::disk::{self, Disk, DiskLock, Kind, LockMode, RealDisk, Stream};

const CURRENT: &str = "CURRENT";
const LOCK: &str = "LOCK";
const REDO: &str = "REDO";
const OPENING: &str = "OPENING";
const DAMAGE: &str = "DAMAGE";

/// Unfinished attempts to open a state after which it is rebuilt.
const MAX_OPEN_ATTEMPTS: usize = 3;
/// Number of directories set aside that are kept for an operator to inspect.
const MAX_SET_ASIDE: usize = 2;

pub(super) struct Home {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Excludes a second process that opens the same state.
    _lock: DiskLock,
}

impl Home {
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StateError> {
        disk.make_dir(dir).map_err(|e| StateError::io("create", dir, e))?;
        let path = dir.join(LOCK);
        match disk.try_lock(&path, LockMode::Exclusive) {
            Ok(lock) => Ok(Self { disk, dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(StateError::io("lock", &path, e)),
        }
    }

    /// Opens an existing state to read: excludes its writer, and changes nothing.
    pub fn open_to_read(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(LOCK);
        match disk.try_lock(&path, LockMode::Shared) {
            Ok(lock) => Ok(Self { disk, dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(StateError::io("lock", &path, e)),
        }
    }

    /// Returns the engine of the state in `dir`; `None` if it has no checkpoint or cannot be read.
    pub fn engine(disk: &dyn Disk, dir: &Path) -> Option<EngineKind> {
        let number = current_in(disk, dir).ok()??;
        Some(EngineKind::of(disk, &generation_in(dir, number)))
    }

    /// Copies `generation`, the journal and `CURRENT` to `to` on the disk of this machine.
    pub fn copy_current(&self, generation: u64, to: &Path) -> Result<(), StateError> {
        for path in [self.generation(generation), self.journal(), self.dir.join(CURRENT)] {
            copy(self.disk.as_ref(), &path, &to.join(path.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fails if the volume has less than `needed_bytes` of free space.
    pub fn check_room(&self, doing: &'static str, needed_bytes: u64) -> Result<(), StateError> {
        match disk::short_of(self.disk.as_ref(), &self.dir, needed_bytes) {
            Some(free_bytes) => {
                Err(StateError::NoRoom { doing, dir: self.dir.clone(), free_bytes, needed_bytes })
            }
            None => Ok(()),
        }
    }

    /// Returns the free space of the volume in bytes; the greatest number if it cannot be determined.
    pub fn free_bytes(&self) -> u64 {
        self.disk.free_bytes(&self.dir).unwrap_or(u64::MAX)
    }

    /// Returns the number of the current generation; `None` before the first checkpoint.
    pub fn current(&self) -> Result<Option<u64>, StateError> {
        current_in(self.disk.as_ref(), &self.dir)
    }

    pub fn generation(&self, number: u64) -> PathBuf {
        generation_in(&self.dir, number)
    }

    /// Durably makes `number` the current generation.
    pub fn commit(&self, number: u64) -> Result<(), StateError> {
        let path = self.dir.join(CURRENT);
        let temporary = self.dir.join("CURRENT.tmp");
        let write = || {
            let file = self.disk.create(&temporary)?;
            file.write_all_at(format!("{number}\n").as_bytes(), 0)?;
            file.sync_all()?;
            self.disk.rename(&temporary, &path)?;
            // Also makes the name of the generation's directory durable.
            self.disk.sync_dir(&self.dir)
        };
        write().map_err(|e| StateError::io("write", &path, e))
    }

    /// Durably removes `CURRENT`: no generation is current.
    pub fn uncommit(&self) -> Result<(), StateError> {
        self.remove_if_there(CURRENT)?;
        self.sync()
    }

    /// Removes every generation but `keep`: incomplete restores, and replaced generations.
    pub fn remove_generations_but(&self, keep: Option<u64>) -> Result<(), StateError> {
        let keep = keep.map(|number| self.generation(number));
        for entry in self.disk.list(&self.dir).map_err(|e| StateError::io("list", &self.dir, e))? {
            let path = self.dir.join(entry.name);
            if entry.kind == Kind::Dir && Some(&path) != keep.as_ref() {
                self.disk.remove_dir_all(&path).map_err(|e| StateError::io("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// Returns the path of the journal, which holds the writes of a checkpoint until they are in the engine.
    pub fn journal(&self) -> PathBuf {
        self.dir.join(REDO)
    }

    /// Makes the names in the directory durable.
    pub fn sync(&self) -> Result<(), StateError> {
        self.disk.sync_dir(&self.dir).map_err(|e| StateError::io("sync", &self.dir, e))
    }

    pub fn remove_journal(&self) -> Result<(), StateError> {
        self.remove_if_there(REDO)
    }

    /// Counts an attempt to open the state. Fails after [`MAX_OPEN_ATTEMPTS`] that did not reach
    /// [`Home::end_open`]: the process died in the engine, which no guard inside the process can catch.
    pub fn begin_open(&self) -> Result<(), StateError> {
        let path = self.dir.join(OPENING);
        let attempts = self.disk.open(&path).and_then(|file| file.len()).unwrap_or(0) as usize;
        if attempts >= MAX_OPEN_ATTEMPTS {
            return Err(StateError::Damaged(format!("the process died in {attempts} attempts to open it")));
        }
        // One byte for each attempt. A full disk must not prevent the open.
        let counted =
            self.disk.create(&path).and_then(|file| file.write_all_at(&vec![b'.'; attempts + 1], 0));
        if let Err(error) = counted {
            tracing::warn!(path = %path.display(), %error, "cannot count the attempts to open the state");
        }
        Ok(())
    }

    /// Resets the count of attempts, durably: otherwise power cuts after successful opens would add up.
    pub fn end_open(&self) -> Result<(), StateError> {
        if self.disk.exists(&self.dir.join(OPENING)) {
            self.remove_if_there(OPENING)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Fails if an earlier process found damage after its open.
    pub fn check_damage(&self) -> Result<(), StateError> {
        let path = self.dir.join(DAMAGE);
        match self.disk.read(&path) {
            Ok(reason) => Err(StateError::Damaged(String::from_utf8_lossy(&reason).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StateError::io("read", &path, error)),
        }
    }

    /// Moves the whole directory to `<dir>.broken-<unix secs>` and opens an empty one.
    pub fn set_aside(self) -> Result<Self, StateError> {
        self.move_aside(&self.dir)?;
        Self::open(self.disk, &self.dir)
    }

    /// Moves one generation to `<dir>.broken-<unix secs>`.
    pub fn set_generation_aside(&self, number: u64) -> Result<(), StateError> {
        let path = self.generation(number);
        if self.disk.is_dir(&path) { self.move_aside(&path) } else { Ok(()) }
    }

    /// Renames `from` to the first free `<dir>.broken-<unix secs>`, and removes the oldest such directories.
    #[allow(clippy::disallowed_methods, reason = "for the name of the directory only, not part of the state")]
    fn move_aside(&self, from: &Path) -> Result<(), StateError> {
        let mut secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let aside = loop {
            let aside = PathBuf::from(format!("{}.broken-{secs}", self.dir.display()));
            if !self.disk.exists(&aside) {
                break aside;
            }
            secs += 1;
        };
        self.disk.rename(from, &aside).map_err(|e| StateError::io("set aside", from, e))?;
        tracing::warn!(to = %aside.display(), "set the state aside");
        let parent = self.dir.parent().unwrap_or(Path::new(""));
        self.disk.sync_dir(parent).map_err(|e| StateError::io("sync", parent, e))?;
        self.remove_set_aside(MAX_SET_ASIDE);
        Ok(())
    }

    /// Removes the directories that were set aside, apart from the newest `kept`.
    pub fn remove_set_aside(&self, kept: usize) {
        let parent = self.dir.parent().unwrap_or(Path::new(""));
        let prefix = format!("{}.broken-", self.dir.file_name().unwrap_or_default().display());
        let Ok(entries) = self.disk.list(parent) else { return };
        let names = entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned());
        let mut aside: Vec<String> = names.filter(|name| name.starts_with(&prefix)).collect();
        aside.sort();
        let excess = aside.len().saturating_sub(kept);
        for name in &aside[..excess] {
            let path = parent.join(name);
            if let Err(error) = self.disk.remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old state that was set aside");
            }
        }
    }

    fn remove_if_there(&self, name: &str) -> Result<(), StateError> {
        let path = self.dir.join(name);
        match self.disk.remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", &path, e)),
            _ => Ok(()),
        }
    }
}

fn current_in(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>, StateError> {
    let path = dir.join(CURRENT);
    let text = match disk.read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StateError::io("read", &path, e)),
    };
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
    let number = number.ok_or_else(|| StateError::Damaged(format!("{} holds no number", path.display())))?;
    if !disk.is_dir(&generation_in(dir, number)) {
        return Err(StateError::Damaged(format!("generation {number} is missing")));
    }
    Ok(Some(number))
}

fn generation_in(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}"))
}

/// Notes damage that was found in the state in `dir`: the next open sets it aside. The engine reads a damaged block only
/// when it is needed, so that an open alone would not find it.
pub(super) fn note_damage(disk: &dyn Disk, dir: &Path, reason: &str) {
    let write = || {
        let file = disk.create(&dir.join(DAMAGE))?;
        file.write_all_at(reason.as_bytes(), 0)?;
        file.sync_all()?;
        disk.sync_dir(dir)
    };
    if let Err(error) = write() {
        tracing::error!(dir = %dir.display(), %error, "cannot note the damage of the state");
    }
}

/// Copies a file or directory, if it exists, to a path that does not exist yet.
fn copy(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StateError> {
    let write = |e| StateError::io("copy to", to, e);
    match disk.kind(from) {
        None => Ok(()),
        Some(Kind::Dir) => {
            RealDisk::default().create_dir_all(to).map_err(write)?;
            for entry in disk.list(from).map_err(|e| StateError::io("list", from, e))? {
                copy(disk, &from.join(&entry.name), &to.join(&entry.name))?;
            }
            Ok(())
        }
        Some(Kind::File) => {
            let source = disk.open(from).map_err(|e| StateError::io("open", from, e))?;
            let target = RealDisk::default().create(to).map_err(write)?;
            io::copy(&mut Stream::new(source), &mut Stream::new(target)).map(drop).map_err(write)
        }
    }
}
