//! The store's directory.
//!
//! An engine lives in a numbered generation; `CURRENT` names the one that counts. What replaces
//! all keys at once (a restore, FLUSHALL) fills the next generation and then renames a new
//! `CURRENT` into place, so that a crash leaves the old state or the new one, never half. A
//! checkpoint within a generation is made whole by the journal `REDO`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::StateError;

const CURRENT: &str = "CURRENT";
const LOCK: &str = "LOCK";
const REDO: &str = "REDO";
const OPENING: &str = "OPENING";

/// Opens of one state that never finished before it is given up.
const MAX_OPEN_ATTEMPTS: usize = 3;
/// Directories set aside that are kept for a person to look at.
const MAX_SET_ASIDE: usize = 2;

pub(super) struct Home {
    dir: PathBuf,
    /// Held while this lives, so that no second process opens the same state.
    _lock: File,
}

impl Home {
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(|e| StateError::io("create", dir, e))?;
        let path = dir.join(LOCK);
        let lock = File::create(&path).map_err(|e| StateError::io("create", &path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(StateError::io("lock", &path, e)),
        }
    }

    /// Number of the generation that counts; `None` before the first checkpoint.
    pub fn current(&self) -> Result<Option<u64>, StateError> {
        let path = self.dir.join(CURRENT);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StateError::io("read", &path, e)),
        };
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
        let number =
            number.ok_or_else(|| StateError::Damaged(format!("{} holds no number", path.display())))?;
        if !self.generation(number).is_dir() {
            return Err(StateError::Damaged(format!("generation {number} is missing")));
        }
        Ok(Some(number))
    }

    pub fn generation(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08}"))
    }

    /// Makes `number` the generation that counts, power cut or not.
    pub fn commit(&self, number: u64) -> Result<(), StateError> {
        let path = self.dir.join(CURRENT);
        let temporary = self.dir.join("CURRENT.tmp");
        let write = || {
            fs::write(&temporary, format!("{number}\n"))?;
            File::open(&temporary)?.sync_all()?;
            fs::rename(&temporary, &path)?;
            // Names the generation's directory as well.
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| StateError::io("write", &path, e))
    }

    /// No generation counts any more.
    pub fn uncommit(&self) -> Result<(), StateError> {
        remove_if_there(&self.dir.join(CURRENT))?;
        self.sync()
    }

    /// Removes every generation but `keep`: halves of a restore, and what was replaced.
    pub fn remove_generations_but(&self, keep: Option<u64>) -> Result<(), StateError> {
        let keep = keep.map(|number| self.generation(number));
        let entries = fs::read_dir(&self.dir).map_err(|e| StateError::io("list", &self.dir, e))?;
        for entry in entries {
            let path = entry.map_err(|e| StateError::io("list", &self.dir, e))?.path();
            if path.is_dir() && Some(&path) != keep.as_ref() {
                fs::remove_dir_all(&path).map_err(|e| StateError::io("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// Where the writes of a checkpoint are kept until the engine holds them.
    pub fn journal(&self) -> PathBuf {
        self.dir.join(REDO)
    }

    /// Makes the names in the directory survive a power cut.
    pub fn sync(&self) -> Result<(), StateError> {
        sync_dir(&self.dir)
    }

    pub fn remove_journal(&self) -> Result<(), StateError> {
        remove_if_there(&self.journal())
    }

    /// Counts an open; an error once too many never came to [`Home::end_open`]: the process died
    /// in the engine, in a way that no guard inside the process can catch.
    pub fn begin_open(&self) -> Result<(), StateError> {
        let path = self.dir.join(OPENING);
        let attempts = fs::metadata(&path).map_or(0, |metadata| metadata.len() as usize);
        if attempts >= MAX_OPEN_ATTEMPTS {
            return Err(StateError::Damaged(format!("the process died in {attempts} attempts to open it")));
        }
        // One byte for each attempt. A disk too full for it must not keep the state closed.
        if let Err(error) = fs::write(&path, vec![b'.'; attempts + 1]) {
            tracing::warn!(path = %path.display(), %error, "cannot count the attempts to open the state");
        }
        Ok(())
    }

    pub fn end_open(&self) -> Result<(), StateError> {
        remove_if_there(&self.dir.join(OPENING))
    }

    /// Moves the whole directory to `<dir>.broken-<unix secs>` and begins with an empty one.
    pub fn set_aside(self) -> Result<Self, StateError> {
        let Self { dir, _lock } = self;
        move_aside(&dir, &dir)?;
        Self::open(&dir)
    }

    /// Moves one generation to `<dir>.broken-<unix secs>`.
    pub fn set_generation_aside(&self, number: u64) -> Result<(), StateError> {
        let path = self.generation(number);
        if path.is_dir() { move_aside(&path, &self.dir) } else { Ok(()) }
    }
}

fn remove_if_there(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Renames `from` to the first free `<dir>.broken-<unix secs>`, and forgets the oldest of those.
fn move_aside(from: &Path, dir: &Path) -> Result<(), StateError> {
    let mut secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let aside = loop {
        let aside = PathBuf::from(format!("{}.broken-{secs}", dir.display()));
        if !aside.exists() {
            break aside;
        }
        secs += 1;
    };
    fs::rename(from, &aside).map_err(|e| StateError::io("set aside", from, e))?;
    tracing::warn!(to = %aside.display(), "set the state aside");
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync_dir(parent)?;
    forget_oldest(parent, dir);
    Ok(())
}

fn forget_oldest(parent: &Path, dir: &Path) {
    let prefix = format!("{}.broken-", dir.file_name().unwrap_or_default().display());
    let Ok(entries) = fs::read_dir(parent) else { return };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut aside: Vec<String> = names.filter(|name| name.starts_with(&prefix)).collect();
    aside.sort();
    let excess = aside.len().saturating_sub(MAX_SET_ASIDE);
    for name in &aside[..excess] {
        let path = parent.join(name);
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a state set aside long ago");
        }
    }
}

/// Makes the names in `dir` survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StateError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| StateError::io("sync", dir, e))
}
