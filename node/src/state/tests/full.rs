//! A full disk: a checkpoint waits for room and loses nothing, reads and entries go on.

use std::path::Path;
use std::sync::Arc;

use super::recovery::{assert_is_prefix, entry};
use super::*;
use crate::disk::{Disk, SimDisk};
use crate::state::StoreOptions;

const ROOM: u64 = 64 << 20;

fn open_on(disk: &SimDisk) -> Store {
    let options = StoreOptions { engine: EngineKind::Simulated, ..StoreOptions::default() };
    Store::open_with(Arc::new(disk.clone()), Path::new("/state"), options).unwrap()
}

fn begin() -> (SimDisk, Store, Vec<Command>) {
    let disk = SimDisk::new(1);
    let store = open_on(&disk);
    let log: Vec<Command> = (0..120).map(entry).collect();
    replay(&store, &log[..30]);
    store.checkpoint().unwrap();
    replay(&store, &log[..60]);
    (disk, store, log)
}

#[test]
fn a_checkpoint_waits_for_room_and_nothing_stops_meanwhile() {
    let (disk, store, log) = begin();
    disk.set_free_bytes(Some(1 << 20));
    let refused = store.checkpoint().unwrap_err();
    assert!(matches!(refused, StateError::NoRoom { .. }) && refused.is_disk_full(), "{refused}");
    replay(&store, &log[..90]);
    assert_is_prefix(&store, &log);
    disk.set_free_bytes(Some(ROOM));
    assert_eq!(store.checkpoint().unwrap().index, 90);
    disk.crash();
    let store = open_on(&disk);
    assert_eq!((store.applied().index, store.rebuilds()), (90, 0));
    assert_is_prefix(&store, &log);
}

/// A disk whose free space cannot be asked for, or that another program fills at this moment.
struct Blind(SimDisk);

impl Disk for Blind {
    fn free_bytes(&self, _: &Path) -> std::io::Result<u64> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn crate::disk::DiskFile>> {
        self.0.create(path)
    }
    fn open(&self, path: &Path) -> std::io::Result<Box<dyn crate::disk::DiskFile>> {
        self.0.open(path)
    }
    fn open_to_write(&self, path: &Path) -> std::io::Result<Box<dyn crate::disk::DiskFile>> {
        self.0.open_to_write(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove_dir_all(path)
    }
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<crate::disk::DirEntry>> {
        self.0.list(dir)
    }
    fn kind(&self, path: &Path) -> Option<crate::disk::Kind> {
        self.0.kind(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn try_lock(
        &self,
        path: &Path,
        mode: crate::disk::LockMode,
    ) -> Result<crate::disk::DiskLock, std::fs::TryLockError> {
        self.0.try_lock(path, mode)
    }
}

#[test]
fn a_journal_that_finds_no_room_is_removed_and_written_again_later() {
    let disk = SimDisk::new(1);
    let options = StoreOptions { engine: EngineKind::Simulated, ..StoreOptions::default() };
    let store = Store::open_with(Arc::new(Blind(disk.clone())), Path::new("/state"), options).unwrap();
    let log: Vec<Command> = (0..120).map(entry).collect();
    replay(&store, &log[..30]);
    store.checkpoint().unwrap();
    replay(&store, &log[..60]);
    disk.set_free_bytes(Some(100));
    assert!(store.checkpoint().unwrap_err().is_disk_full());
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 100, "half a journal is left behind");
    replay(&store, &log[..90]);
    assert!(store.checkpoint().unwrap_err().is_disk_full());
    assert_is_prefix(&store, &log);
    let crashed = disk.copy();
    crashed.crash();
    let reopened = open_on(&crashed);
    assert_eq!((reopened.applied().index, reopened.rebuilds()), (30, 0));

    disk.set_free_bytes(None);
    assert_eq!(store.checkpoint().unwrap().index, 60, "what was frozen first comes first");
    assert_eq!(store.checkpoint().unwrap().index, 90);
    assert_is_prefix(&store, &log);
    disk.crash();
    let reopened = open_on(&disk);
    assert_eq!((reopened.applied().index, reopened.rebuilds()), (90, 0));
    assert_is_prefix(&reopened, &log);
}

#[test]
fn a_snapshot_that_finds_no_room_leaves_nothing_behind() {
    let (disk, store, _) = begin();
    disk.set_free_bytes(Some(200));
    let refused = store.write_snapshot(Path::new("/a.snap")).unwrap_err();
    assert!(refused.is_disk_full(), "{refused}");
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 200);
    disk.set_free_bytes(None);
    assert_eq!(store.write_snapshot(Path::new("/a.snap")).unwrap().index, 30);
}
