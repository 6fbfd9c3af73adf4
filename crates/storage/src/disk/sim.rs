//! A simulated disk in memory that promises what a POSIX disk promises and no more. Deterministic:
//! one seed decides every random outcome.
//!
//! A written sector (512 bytes) and a grown length are durable after the next sync of the file, a
//! name after the next sync of its directory. A power cut keeps or loses each unsynced sector, and
//! may tear the last written one; it keeps a prefix of the unsynced operations on names.

mod content;
mod handles;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use self::content::Content;
use self::handles::{SimFile, SimLock};
use self::names::{Id, Tree};
use super::{DirEntry, Disk, DiskFile, DiskLock, Kind, LockMode};

/// Nodes beyond the open ones that trigger the removal of those without a name.
const GARBAGE: usize = 256;

/// A splitmix64 generator.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// Counts of the operations on a disk since its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskStats {
    /// All operations that change something, including those counted below.
    pub operations: u64,
    /// Syncs of files and directories.
    pub syncs: u64,
    pub failed_syncs: u64,
    pub writes: u64,
    pub written_bytes: u64,
}

/// A cheap handle of a simulated disk; clones share the disk. [`SimDisk::copy`] makes an independent one.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    tree: Tree,
    random: Random,
    stats: DiskStats,
    /// Number of the simulated process. Grows when it dies: handles and locks of an earlier epoch are
    /// invalid.
    epoch: u64,
    /// Number of open handles of each file.
    open: BTreeMap<Id, usize>,
    locks: BTreeMap<Id, Held>,
    /// Limit of the bytes of all files together; `None` for no limit.
    capacity: Option<u64>,
    hides_free: bool,
    set_apart: u64,
    /// Number of power cuts so far.
    power_cuts: u64,
    /// Operations that remain until the power cut; `None` if none is planned.
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
    /// Creates an empty disk. `seed` decides what its power cuts leave.
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
            power_cuts: 0,
            power_left: None,
            fail_next_sync: false,
            sync_lies: false,
        })
    }

    fn of(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// Simulates a power cut, which ends the process too. The module documentation says what is kept.
    pub fn crash(&self) {
        let mut state = self.state();
        state.power_cuts += 1;
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

    /// Kills the process but not the machine: everything written is kept.
    pub fn kill(&self) {
        self.state().end_process();
    }

    /// Plans a power cut after `operations` more operations: all later ones fail until
    /// [`SimDisk::crash`] or [`SimDisk::kill`].
    pub fn cut_power_after(&self, operations: u64) {
        self.state().power_left = Some(operations);
    }

    /// Whether the planned power cut has come: every operation fails, but the process still runs.
    pub fn is_cut(&self) -> bool {
        self.state().power_left == Some(0)
    }

    /// Flips one bit of a durable byte in a random file that `is_candidate` accepts; returns the file and
    /// the byte's offset. `None` if there is no such file.
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

    /// Sets the bytes by which files can grow, beyond which a write fails as on a full disk. `None` removes
    /// the limit.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        let mut state = self.state();
        state.capacity = free.map(|free| state.used() + free);
    }

    /// Makes [`Disk::free_bytes`] fail, as on a volume that does not report its free space.
    pub fn hide_free_bytes(&self) {
        self.state().hides_free = true;
    }

    /// Makes the next sync of a file fail and lose the data that it should have written.
    pub fn fail_next_sync(&self) {
        self.state().fail_next_sync = true;
    }

    /// Whether the failure planned by [`SimDisk::fail_next_sync`] is still to come.
    pub fn fails_next_sync(&self) -> bool {
        self.state().fail_next_sync
    }

    /// Makes syncs report success and do nothing, as a lying disk does.
    pub fn sync_lies(&self, lies: bool) {
        self.state().sync_lies = lies;
    }

    /// Returns an independent disk with only the synced content of this one.
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

    /// Returns an independent disk with the same synced and unsynced content.
    pub fn copy(&self) -> Self {
        let mut state = self.state().clone();
        state.open.clear();
        state.locks.clear();
        Self::of(state)
    }

    /// Returns a copy whose power cuts are decided by `seed`.
    pub fn with_random(other: &Self, seed: u64) -> Self {
        let copy = other.copy();
        copy.state().random = Random(seed);
        copy
    }

    /// Removes everything, as if the disk were replaced by a new one.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.tree = Tree::new();
        state.end_process();
    }

    pub fn stats(&self) -> DiskStats {
        self.state().stats
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a test's thread leaves the disk consistent, as a crash of the process does.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state for an operation that changes the disk, and counts the operation.
    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.check_power()?;
        state.power_left = state.power_left.map(|left| left - 1);
        state.stats.operations += 1;
        Ok(state)
    }

    /// Returns the state for a read-only operation, which is not counted.
    fn inspect(&self) -> io::Result<MutexGuard<'_, State>> {
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
        // A file with several names counts once.
        let files: BTreeSet<Id> = self.tree.walk().into_iter().map(|(_, id)| id).collect();
        files.iter().filter_map(|id| self.tree.file(*id).ok()).map(|file| file.seen.len() as u64).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Writes the part of `bytes` that fits; fails with `StorageFull` if that is not all.
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
        let state = self.inspect()?;
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

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate()?.tree.link(from, to)
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
        self.inspect()?.tree.list(dir)
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        let state = self.inspect().ok()?;
        state.tree.kind(state.tree.find(path).ok()?)
    }

    /// Fails: there is no wall clock in a simulation.
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
        let missing = self.inspect().map_err(TryLockError::Error)?.tree.find(path).is_err();
        if missing && mode == LockMode::Exclusive {
            drop(self.create(path).map_err(TryLockError::Error)?);
        }
        let mut state = self.inspect().map_err(TryLockError::Error)?;
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

    fn boot_id(&self) -> u64 {
        1 + self.state().power_cuts
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.inspect()?;
        if state.hides_free {
            Err(ErrorKind::Unsupported.into())
        } else {
            Ok(state.free().saturating_sub(state.set_apart))
        }
    }

    fn volume_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.inspect()?;
        state.capacity.ok_or_else(|| ErrorKind::Unsupported.into())
    }

    fn set_apart(&self, bytes: u64) {
        self.state().set_apart += bytes;
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.state();
        // A power cut after the reservation reset it to 0.
        state.set_apart = state.set_apart.saturating_sub(bytes);
    }
}
