//! A disk in memory that promises what a POSIX disk promises and no more. Deterministic: one seed
//! decides everything that chance decides.
//!
//! A written sector (512 bytes) or a grown length lasts from the next sync of the file on, a name
//! from the next sync of its directory on. At a power cut each sector that was not synced is kept,
//! lost or, the last one, torn; of the operations on names that were not synced a prefix is kept.

mod content;
mod handles;
mod names;

use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use self::content::Content;
use self::handles::{SimFile, SimLock};
use self::names::{Id, Tree};
use super::{DirEntry, Disk, DiskFile, DiskLock, Kind, LockMode};

/// Names without a node that may gather before they are looked for.
const GARBAGE: usize = 256;

/// splitmix64.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `bound` is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// What was done to a disk since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskStats {
    /// Every operation that changes something, those below included.
    pub operations: u64,
    /// Of files and directories.
    pub syncs: u64,
    pub failed_syncs: u64,
    pub writes: u64,
    pub written_bytes: u64,
}

/// A cheap handle; clones are the same disk. See [`SimDisk::copy`] for another one.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    tree: Tree,
    random: Random,
    stats: DiskStats,
    /// Grows when the process dies: what was opened before is of no use after.
    epoch: u64,
    /// Open handles by file.
    open: BTreeMap<Id, usize>,
    locks: BTreeMap<Id, Held>,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    hides_free: bool,
    set_apart: u64,
    /// Operations until the power is cut.
    power_left: Option<u64>,
    fail_next_sync: bool,
    sync_lies: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Exclusive,
    Shared(usize),
}

impl SimDisk {
    /// An empty disk. `seed` decides what its power cuts leave.
    pub fn new(seed: u64) -> Self {
        Self::of(State {
            tree: Tree::new(),
            random: Random(seed),
            stats: DiskStats::default(),
            epoch: 0,
            open: BTreeMap::new(),
            locks: BTreeMap::new(),
            capacity: None,
            hides_free: false,
            set_apart: 0,
            power_left: None,
            fail_next_sync: false,
            sync_lies: false,
        })
    }

    fn of(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// The process and the power are gone: see the head of this file for what stays.
    pub fn crash(&self) {
        let mut state = self.state();
        let unsynced = state.tree.unsynced() as u64;
        let kept = match state.random.below(3) {
            0 => 0,
            1 => unsynced,
            _ => state.random.below(unsynced + 1),
        };
        state.tree.crash(kept as usize);
        let State { tree, random, .. } = &mut *state;
        tree.files_mut().for_each(|content| content.crash(random));
        state.end_process();
    }

    /// The process is gone, the machine is not: what was written stays.
    pub fn kill(&self) {
        self.state().end_process();
    }

    /// Cuts the power before the next operation but `operations`: it and all after it fail, until
    /// [`SimDisk::crash`] or [`SimDisk::kill`].
    pub fn cut_power_after(&self, operations: u64) {
        self.state().power_left = Some(operations);
    }

    /// Whether the power is cut and the process does not know yet.
    pub fn is_cut(&self) -> bool {
        self.state().power_left == Some(0)
    }

    /// Lets one byte rot that is durable in a file `is_candidate` chooses; answers which. `None` if
    /// there is no such file.
    pub fn flip_synced_bit(&self, is_candidate: impl Fn(&Path) -> bool) -> Option<(PathBuf, u64)> {
        let mut state = self.state();
        let used = |tree: &Tree, id| tree.file(id).map_or(0, Content::durable_used);
        let mut files = state.tree.walk();
        files.retain(|(path, id)| is_candidate(path) && used(&state.tree, *id) > 0);
        let chosen = if files.is_empty() { None } else { Some(state.random.below(files.len() as u64)) };
        let (path, id) = files.swap_remove(chosen? as usize);
        let used = used(&state.tree, id) as u64;
        let (byte, bit) = (state.random.below(used), state.random.below(8));
        state.tree.file_mut(id).ok()?.flip(byte as usize, bit as u32);
        Some((path, byte))
    }

    /// Lets files grow by so many bytes, beyond which a write fails as on a full disk.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        let mut state = self.state();
        state.capacity = free.map(|free| state.used() + free);
    }

    /// A volume that cannot be asked how much is free: only a write tells.
    pub fn hide_free_bytes(&self) {
        self.state().hides_free = true;
    }

    /// The next sync of a file fails and loses what it should have written, for good.
    pub fn fail_next_sync(&self) {
        self.state().fail_next_sync = true;
    }

    /// Whether that failure is still to come.
    pub fn fails_next_sync(&self) -> bool {
        self.state().fail_next_sync
    }

    /// Syncs return at once and do nothing: a disk that lies.
    pub fn sync_lies(&self, lies: bool) {
        self.state().sync_lies = lies;
    }

    /// Another disk, with what this one would hold if all that was not synced were lost.
    pub fn durable(&self) -> Self {
        let copy = self.copy();
        {
            let mut state = copy.state();
            state.tree.crash(0);
            state.tree.files_mut().for_each(Content::lose_unsynced);
            state.end_process();
        }
        copy
    }

    /// Another disk with the same content, synced and not.
    pub fn copy(&self) -> Self {
        let mut state = self.state().clone();
        state.open.clear();
        state.locks.clear();
        Self::of(state)
    }

    /// Removes everything, as a new disk in the old one's place would.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.tree = Tree::new();
        state.end_process();
    }

    pub fn stats(&self) -> DiskStats {
        self.state().stats
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of a test's thread leaves the disk as a crash of the process would.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for an operation that changes something.
    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.check_power()?;
        state.power_left = state.power_left.map(|left| left - 1);
        state.stats.operations += 1;
        Ok(state)
    }

    /// The state, for an operation that only looks.
    fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        state.check_power()?;
        Ok(state)
    }

    fn handle(&self, mut state: MutexGuard<'_, State>, id: Id) -> Box<dyn DiskFile> {
        *state.open.entry(id).or_default() += 1;
        let epoch = state.epoch;
        Box::new(SimFile { disk: self.clone(), id, epoch })
    }
}

impl State {
    fn end_process(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        self.open.clear();
        self.power_left = None;
        self.set_apart = 0;
        self.tree.collect([].into_iter());
    }

    fn check_power(&self) -> io::Result<()> {
        if self.power_left == Some(0) { Err(io::Error::other("the power is cut")) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        let files = self.tree.walk();
        files.iter().filter_map(|(_, id)| self.tree.file(*id).ok()).map(|file| file.seen.len() as u64).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// As much of `bytes` as there is room for.
    fn write(&mut self, id: Id, bytes: &[u8], offset: u64) -> io::Result<()> {
        let length = self.tree.file(id)?.seen.len() as u64;
        let grows = (offset + bytes.len() as u64).saturating_sub(length);
        let missing = if grows > 0 { grows.saturating_sub(self.free()) } else { 0 };
        let written = bytes.len().saturating_sub(missing as usize);
        self.tree.file_mut(id)?.write(&bytes[..written], offset as usize);
        self.stats.writes += 1;
        self.stats.written_bytes += written as u64;
        if missing > 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&mut self, id: Id, len: u64) -> io::Result<()> {
        let grows = len.saturating_sub(self.tree.file(id)?.seen.len() as u64);
        if grows > 0 && grows > self.free() {
            return Err(ErrorKind::StorageFull.into());
        }
        self.tree.file_mut(id)?.set_len(len as usize);
        Ok(())
    }

    fn sync(&mut self, id: Id) -> io::Result<()> {
        self.stats.syncs += 1;
        if std::mem::take(&mut self.fail_next_sync) {
            self.stats.failed_syncs += 1;
            self.tree.file_mut(id)?.drop_unsynced();
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        if !self.sync_lies {
            self.tree.file_mut(id)?.sync();
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.operate()?;
        let id = state.tree.create(path)?;
        Ok(self.handle(state, id))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.look()?;
        let id = state.tree.find(path)?;
        state.tree.file(id)?;
        Ok(self.handle(state, id))
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate()?.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.operate()?.tree.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.operate()?.tree.remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.operate()?.tree.create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.look()?.tree.list(dir)
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        let state = self.look().ok()?;
        state.tree.kind(state.tree.find(path).ok()?)
    }

    /// Nothing in a simulation knows the wall clock.
    fn modified(&self, _path: &Path) -> io::Result<SystemTime> {
        Err(ErrorKind::Unsupported.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        state.stats.syncs += 1;
        if state.sync_lies {
            return Ok(());
        }
        state.tree.sync_dir(dir)?;
        let State { tree, open, .. } = &mut *state;
        if tree.node_count() > open.len() + GARBAGE {
            tree.collect(open.keys().copied());
        }
        Ok(())
    }

    fn try_lock(&self, path: &Path, mode: LockMode) -> Result<DiskLock, TryLockError> {
        let missing = self.look().map_err(TryLockError::Error)?.tree.find(path).is_err();
        if missing && mode == LockMode::Exclusive {
            drop(self.create(path).map_err(TryLockError::Error)?);
        }
        let mut state = self.look().map_err(TryLockError::Error)?;
        let id = state.tree.find(path).map_err(TryLockError::Error)?;
        let held = match (state.locks.get(&id), mode) {
            (None, LockMode::Exclusive) => Held::Exclusive,
            (None, LockMode::Shared) => Held::Shared(1),
            (Some(Held::Shared(readers)), LockMode::Shared) => Held::Shared(readers + 1),
            (Some(_), _) => return Err(TryLockError::WouldBlock),
        };
        state.locks.insert(id, held);
        Ok(DiskLock::new(SimLock { disk: self.clone(), id, epoch: state.epoch }))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.look()?;
        if state.hides_free {
            Err(ErrorKind::Unsupported.into())
        } else {
            Ok(state.free().saturating_sub(state.set_apart))
        }
    }

    fn set_apart(&self, bytes: u64) {
        self.state().set_apart += bytes;
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.state();
        // A power cut in between has forgotten it.
        state.set_apart = state.set_apart.saturating_sub(bytes);
    }
}
