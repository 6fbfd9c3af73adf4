//! A power cut before every operation of a workload of checkpoints, a snapshot and a restore, on a disk that
//! keeps the synced data and a random part of the rest.

use std::path::Path;
use std::sync::Arc;

use super::recovery::{assert_is_prefix, entry};
use super::*;
use helios_storage::disk::{Disk, SimDisk};

const SEEDS: u64 = 8;
const DIR: &str = "/data/state";
/// Path of a snapshot that another member sent.
const RECEIVED: &str = "/received.snap";
const RECEIVED_INDEX: u64 = 85;

fn open_on(disk: &SimDisk) -> Result<Store, StateError> {
    open_with(disk, EngineKind::Simulated)
}

fn open_with(disk: &SimDisk, engine: EngineKind) -> Result<Store, StateError> {
    let seed = disk.stats().operations;
    Store::open_with(Arc::new(disk.clone()), Path::new(DIR), options(engine, seed))
}

fn log() -> Vec<Command> {
    (0..125).map(entry).collect()
}

/// The form of a snapshot that another member sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    File,
    Set,
}

/// Creates a disk with only the received snapshot, the same in every run.
fn prepared(seed: u64, form: Form, log: &[Command]) -> SimDisk {
    let disk = SimDisk::new(seed);
    let options = match form {
        Form::File => StoreOptions { engine: EngineKind::Memory, ..StoreOptions::default() },
        Form::Set => options(EngineKind::Runs, 0),
    };
    let source_dir = Path::new("/source");
    let source = Store::open_with(shared(&disk), source_dir, options).unwrap();
    replay(&source, &log[..RECEIVED_INDEX as usize]);
    source.checkpoint().unwrap();
    match form {
        Form::File => drop(source.write_snapshot(Path::new(RECEIVED)).unwrap()),
        Form::Set => {
            source.link_snapshot(Path::new(RECEIVED), true).unwrap().unwrap();
            drop(source);
            disk.remove_dir_all(source_dir).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
        }
    }
    disk
}

/// The applied indexes that a restart may recover: that of the last completed call, and that of the
/// interrupted call.
struct Allowed {
    promised: u64,
    under_way: u64,
}

impl Allowed {
    /// The run completed: the power cut can only interrupt the removal of unused files.
    fn all(log: &[Command]) -> Self {
        Self { promised: log.len() as u64, under_way: log.len() as u64 }
    }
}

fn shared(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn run(disk: &SimDisk, engine: EngineKind, log: &[Command]) -> Result<(), Allowed> {
    let mut promised = 0;
    let mut store = open_with(disk, engine).map_err(|_| Allowed { promised, under_way: 0 })?;
    let mut call = |under_way: u64, result: Result<(), StateError>| {
        result.map_err(|_| Allowed { promised, under_way })?;
        promised = under_way;
        Ok(())
    };
    for until in [1, 20, 41, 60] {
        replay(&store, &log[..until]);
        call(until as u64, store.checkpoint().map(drop))?;
        call(until as u64, merge(&store))?;
    }
    call(60, store.write_snapshot(Path::new("/own.snap")).map(drop))?;
    call(60, store.link_snapshot(Path::new("/own.set"), false).map(drop))?;
    replay(&store, &log[..70]);
    call(RECEIVED_INDEX, store.restore(Path::new(RECEIVED)).map(drop))?;
    // The only FLUSHALL of the log is between these indexes.
    for until in [90, 105] {
        replay(&store, &log[..until]);
        call(until as u64, store.checkpoint().map(drop))?;
        call(until as u64, merge(&store))?;
    }
    drop(store);
    store = open_with(disk, engine).map_err(|_| Allowed { promised: 105, under_way: 105 })?;
    replay(&store, &log[..115]);
    call(115, store.checkpoint().map(drop))?;
    call(0, store.discard("a test"))?;
    replay(&store, log);
    call(log.len() as u64, store.checkpoint().map(drop))
}

fn operations(engine: EngineKind, form: Form, log: &[Command]) -> (u64, u64) {
    let disk = prepared(0, form, log);
    let before = disk.stats().operations;
    assert!(run(&disk, engine, log).is_ok());
    (before, disk.stats().operations)
}

#[test]
fn a_power_cut_before_any_operation_leaves_the_state_before_or_after() {
    check(EngineKind::Simulated, Form::File, SEEDS);
    check(EngineKind::Simulated, Form::Set, 1);
}

#[test]
fn a_power_cut_before_any_operation_with_redb() {
    check(EngineKind::Redb, Form::File, 1);
}

#[test]
fn a_power_cut_before_any_operation_with_runs() {
    check(EngineKind::Runs, Form::File, SEEDS / 2);
    check(EngineKind::Runs, Form::Set, SEEDS);
}

/// The volume of one engine is opened with another, which converts it, and the power is cut before any operation.
#[test]
fn a_power_cut_during_a_conversion_leaves_the_state_in_one_engine() {
    let log = log();
    let engines = [EngineKind::Simulated, EngineKind::Runs, EngineKind::Simulated];
    for pair in engines.windows(2) {
        let prepare = |seed| {
            let disk = SimDisk::new(seed);
            let store = open_with(&disk, pair[0]).unwrap();
            replay(&store, &log);
            store.checkpoint().unwrap();
            disk
        };
        let disk = prepare(0);
        let before = disk.stats().operations;
        drop(open_with(&disk, pair[1]).unwrap());
        let operations = disk.stats().operations - before;
        assert!(operations > 8, "{operations}");
        for (at, seed) in (0..operations).flat_map(|at| (0..SEEDS).map(move |seed| (at, seed))) {
            let disk = prepare(seed << 32 | at);
            disk.cut_power_after(at);
            drop(open_with(&disk, pair[1]));
            disk.crash();
            // Either build may be the next to start.
            for engine in if seed % 2 == 0 { [pair[1], pair[0]] } else { [pair[0], pair[1]] } {
                let store = open_with(&disk, engine).unwrap();
                let found = (store.applied().index as usize, store.rebuilds());
                assert_eq!(found, (log.len(), 0), "{engine:?}, operation {at}, seed {seed}");
                assert_is_prefix(&store, &log);
            }
        }
    }
}

fn check(engine: EngineKind, form: Form, seeds: u64) {
    let log = log();
    let (before, after) = operations(engine, form, &log);
    assert!(after - before > 80);
    for (at, seed) in (0..after - before).flat_map(|at| (0..seeds).map(move |seed| (at, seed))) {
        let disk = prepared(seed << 32 | at, form, &log);
        disk.cut_power_after(at);
        let Allowed { promised, under_way } = run(&disk, engine, &log).err().unwrap_or(Allowed::all(&log));
        disk.crash();
        let what = format!("operation {at}, seed {seed}");
        let store = open_with(&disk, engine).unwrap_or_else(|error| panic!("{what}: {error}"));
        let applied = store.applied().index;
        assert!([promised, under_way].contains(&applied), "{what}: {applied}, not {promised} or {under_way}");
        assert_eq!(store.rebuilds(), 0, "{what}");
        assert_is_prefix(&store, &log);
        // The recovered store accepts the rest of the log and further checkpoints.
        replay(&store, &log);
        store.checkpoint().unwrap();
        drop(store);
        disk.crash();
        let store = open_with(&disk, engine).unwrap();
        assert_eq!((store.applied().index as usize, store.rebuilds()), (log.len(), 0), "{what}");
        assert_is_prefix(&store, &log);
    }
}

#[test]
fn snapshot_file_has_its_name_only_when_complete() {
    let log = log();
    let path = Path::new("/own.snap");
    let (before, after) = operations(EngineKind::Simulated, Form::File, &log);
    for at in 0..after - before {
        let disk = prepared(at, Form::File, &log);
        disk.cut_power_after(at);
        drop(run(&disk, EngineKind::Simulated, &log));
        disk.crash();
        if disk.exists(path) {
            assert_eq!(SnapshotMeta::verify(&shared(&disk), path).unwrap().index, 60, "operation {at}");
        }
    }
}

/// The engine may hold a part of a checkpoint after a crash; without the journal, the digest detects it.
#[test]
fn partial_checkpoint_without_its_journal_is_detected() {
    let log = log();
    let detected = (0..100).filter(|seed| {
        let disk = SimDisk::new(*seed);
        let store = open_on(&disk).unwrap();
        replay(&store, &log[..20]);
        store.checkpoint().unwrap();
        replay(&store, &log[..60]);
        // Five operations: create, write and sync the journal; sync the directory; write to the engine.
        disk.cut_power_after(5);
        assert!(store.checkpoint().is_err());
        disk.crash();
        drop(disk.remove_file(Path::new("/data/state/REDO")));
        let store = open_on(&disk).unwrap();
        assert_is_prefix(&store, &log);
        store.rebuilds() > 0
    });
    assert!(detected.count() > 0);
}

#[test]
fn a_flipped_bit_in_the_engine_rebuilds_the_state() {
    let log = log();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let store = open_on(&disk).unwrap();
        replay(&store, &log[..40]);
        store.checkpoint().unwrap();
        disk.kill();
        let (_, byte) = disk.flip_synced_bit(|path| path.ends_with("pairs")).unwrap();
        let store = open_on(&disk).unwrap();
        assert_eq!((store.applied().index, store.rebuilds()), (0, 1), "seed {seed}, byte {byte}");
        replay(&store, &log);
        assert_is_prefix(&store, &log);
    }
}
