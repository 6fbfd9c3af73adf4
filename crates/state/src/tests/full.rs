//! The state on a full disk: a checkpoint fails without a loss and is retried; reads and entries continue.

use std::path::Path;
use std::sync::Arc;

use super::recovery::{assert_is_prefix, entry};
use super::*;
use crate::StoreOptions;
use helios_storage::disk::{Disk, SimDisk};

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
fn checkpoint_is_retried_after_a_full_disk_and_nothing_else_stops() {
    let (disk, store, log) = begin();
    disk.set_free_bytes(Some(1 << 20));
    let refused = store.checkpoint().unwrap_err();
    assert!(matches!(refused, StateError::NoRoom { .. }) && refused.is_disk_full(), "{refused}");
    replay(&store, &log[..90]);
    assert_is_prefix(&store, &log);
    disk.set_free_bytes(Some(ROOM));
    assert_eq!(store.checkpoint().unwrap().index, 60, "the overlay that was frozen before the space check");
    assert_eq!(store.checkpoint().unwrap().index, 90);
    disk.crash();
    let store = open_on(&disk);
    assert_eq!((store.applied().index, store.rebuilds()), (90, 0));
    assert_is_prefix(&store, &log);
}

#[test]
fn journal_on_a_full_disk_is_removed_and_rewritten_later() {
    // The space check passes, and the write fails: as if another program used the space in between.
    let (disk, store, log) = begin();
    disk.hide_free_bytes();
    disk.set_free_bytes(Some(100));
    assert!(store.checkpoint().unwrap_err().is_disk_full());
    assert!(!disk.exists(Path::new("/state/REDO")), "an incomplete journal is left behind");
    replay(&store, &log[..90]);
    assert!(store.checkpoint().unwrap_err().is_disk_full());
    assert_is_prefix(&store, &log);
    let crashed = disk.copy();
    crashed.crash();
    let reopened = open_on(&crashed);
    assert_eq!((reopened.applied().index, reopened.rebuilds()), (30, 0));

    disk.set_free_bytes(None);
    assert_eq!(store.checkpoint().unwrap().index, 60, "the overlay that was frozen first");
    assert_eq!(store.checkpoint().unwrap().index, 90);
    assert_is_prefix(&store, &log);
    disk.crash();
    let reopened = open_on(&disk);
    assert_eq!((reopened.applied().index, reopened.rebuilds()), (90, 0));
    assert_is_prefix(&reopened, &log);
}

#[test]
fn snapshot_on_a_full_disk_leaves_no_file() {
    let (disk, store, _) = begin();
    disk.set_free_bytes(Some(200));
    let refused = store.write_snapshot(Path::new("/a.snap")).unwrap_err();
    assert!(refused.is_disk_full(), "{refused}");
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 200);
    disk.set_free_bytes(None);
    assert_eq!(store.write_snapshot(Path::new("/a.snap")).unwrap().index, 30);
}
