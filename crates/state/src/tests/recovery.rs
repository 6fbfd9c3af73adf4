//! Recovery after crashes and damage.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::model::Model;
use super::*;
use crate::engines::{Backend, EngineError, InPlaceEngine, PairIter, RawWrite, StateEngine};
use helios_storage::disk::{self, RealDisk};

fn state_dir(temp: &TempDir) -> PathBuf {
    temp.path().join("state")
}

fn open(dir: &Path) -> Result<Store, StateError> {
    Store::open(dir, EngineKind::Sled)
}

/// Returns the entry at `position` of a fixed series that sets, overwrites, expires, deletes and flushes.
pub fn entry(position: u64) -> Command {
    let key = format!("key-{}", position * 7 % 40);
    let op = match position % 10 {
        0..=3 => put(&key, &"v".repeat(position as usize % 90)),
        4 | 5 => set_until(&key, "t", 50 + position % 100),
        6 => delete(&[&key]),
        7 => expire(&key, 120 + position, 0),
        8 if position % 150 == 98 => flush_all(),
        8 => purge(3),
        _ => multi_set(&[("a", &key), ("b", &key)], false),
    };
    command(position / 2, op)
}

fn feed(machine: &mut Machine, count: u64) {
    for _ in 0..count {
        machine.apply_command(entry(machine.log.len() as u64));
    }
}

pub fn assert_is_prefix(store: &Store, log: &[Command]) {
    let found = pairs(store).into_iter().map(|(key, value)| (key, value.data, value.expire_at_ms));
    let applied = store.applied().index as usize;
    assert_eq!(found.collect::<Vec<_>>(), Model::of(&log[..applied]).pairs(), "at {applied}");
}

/// Returns the number of directories that were set aside.
fn set_aside(temp: &TempDir) -> usize {
    let names = fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("state.broken-")).count()
}

#[test]
fn a_crash_between_any_two_calls_leaves_the_last_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let mut machine = Machine::on_disk(&state_dir(&temp));
    let mut checkpointed = vec![0];
    let mut copies = Vec::new();
    for round in 0..24_u64 {
        feed(&mut machine, round % 7 + 3);
        if round % 3 != 0 {
            checkpointed.push(machine.store.checkpoint().unwrap().index);
        }
        let copy = temp.path().join(format!("copy-{round}"));
        copy_dir(&state_dir(&temp), &copy);
        copies.push((copy, *checkpointed.last().unwrap()));
    }
    let expected = machine.snapshot(temp.path().join("expected"));
    for (copy, index) in copies {
        let store = open(&copy).unwrap();
        assert_eq!((store.applied().index, store.rebuilds()), (index, 0));
        assert_is_prefix(&store, &machine.log);
        replay(&store, &machine.log);
        let recovered = Machine { store, log: Vec::new() };
        assert!(recovered.snapshot(temp.path().join("recovered")) == expected, "after {index}");
    }
}

/// Creates a closed state after several checkpoints; returns its log.
fn closed_state(temp: &TempDir) -> Vec<Command> {
    closed_state_of(EngineKind::Sled, temp)
}

fn closed_state_of(engine: EngineKind, temp: &TempDir) -> Vec<Command> {
    let store = Store::open(&state_dir(temp), engine).unwrap();
    let mut machine = Machine { store, log: Vec::new() };
    for _ in 0..4 {
        feed(&mut machine, 45);
        machine.store.checkpoint().unwrap();
    }
    machine.log
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A splitmix64 generator: the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Damages copies of a closed state; each must open, unchanged or blank. Returns the number of blank ones.
fn survive(engine: EngineKind, rounds: usize, mut damage: impl FnMut(&mut Random, &mut Vec<u8>)) -> usize {
    let temp = tempfile::tempdir().unwrap();
    let log = closed_state_of(engine, &temp);
    let mut random = Random(7);
    let mut rebuilt = 0;
    for round in 0..rounds {
        let copy_temp = tempfile::tempdir().unwrap();
        let copy = state_dir(&copy_temp);
        copy_dir(&state_dir(&temp), &copy);
        let files = files(&copy);
        let file = &files[random.below(files.len())];
        let mut content = fs::read(file).unwrap();
        damage(&mut random, &mut content);
        fs::write(file, content).unwrap();

        let store = Store::open(&copy, engine).unwrap();
        let (index, rebuilds) = (store.applied().index, store.rebuilds());
        assert!((index == 0) == (rebuilds == 1), "round {round}, {}: index {index}", file.display());
        assert_eq!(set_aside(&copy_temp), rebuilds as usize);
        assert_is_prefix(&store, &log);
        replay(&store, &log);
        assert_is_prefix(&store, &log);
        store.checkpoint().unwrap();
        rebuilt += rebuilds as usize;
    }
    rebuilt
}

#[test]
fn a_flipped_bit_rebuilds_the_state_and_never_panics() {
    for engine in [EngineKind::Sled, EngineKind::Redb] {
        let rebuilt = survive(engine, 60, |random, content| {
            // The data is at the start of the file, which consists mostly of zeros.
            let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            content[random.below(used)] ^= 1 << random.below(8);
        });
        assert!(rebuilt > 10, "{engine:?}: {rebuilt} rebuilt");
    }
}

#[test]
fn a_truncated_file_rebuilds_the_state_and_never_panics() {
    for engine in [EngineKind::Sled, EngineKind::Redb, EngineKind::Runs] {
        let rebuilt = survive(engine, 25, |random, content| content.truncate(random.below(content.len())));
        assert!(rebuilt > 5, "{engine:?}: {rebuilt} rebuilt");
    }
}

#[test]
fn a_store_whose_content_differs_from_its_record_is_rebuilt() {
    let temp = tempfile::tempdir().unwrap();
    closed_state(&temp);
    let generation: u64 =
        fs::read_to_string(state_dir(&temp).join("CURRENT")).unwrap().trim().parse().unwrap();
    let db = sled::open(state_dir(&temp).join(format!("{generation:08}"))).unwrap();
    let old = db.get(b"da").unwrap().unwrap();
    db.insert(b"da", [old.as_ref(), b"x"].concat()).unwrap();
    db.flush().unwrap();
    drop(db);
    let store = open(&state_dir(&temp)).unwrap();
    assert_eq!((store.applied().index, store.rebuilds(), set_aside(&temp)), (0, 1, 1));
}

#[test]
fn state_is_rebuilt_after_three_crashes_during_open() {
    let temp = tempfile::tempdir().unwrap();
    closed_state(&temp);
    fs::write(state_dir(&temp).join("OPENING"), "..").unwrap();
    assert_eq!(open(&state_dir(&temp)).unwrap().rebuilds(), 0);
    fs::write(state_dir(&temp).join("OPENING"), "...").unwrap();
    assert_eq!(open(&state_dir(&temp)).unwrap().rebuilds(), 1);
    assert_eq!(open(&state_dir(&temp)).unwrap().rebuilds(), 0);
}

#[test]
fn a_state_of_another_engine_is_converted() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = closed_state(&temp);
    for engine in [EngineKind::Runs, EngineKind::Redb, EngineKind::Runs, EngineKind::Sled] {
        let store = Store::open(&state_dir(&temp), engine).unwrap();
        assert_eq!((store.applied().index as usize, store.rebuilds()), (log.len(), 0), "{engine:?}");
        assert_is_prefix(&store, &log);
        log.push(entry(log.len() as u64));
        replay(&store, &log);
        store.checkpoint().unwrap();
        drop(store);
        let store = Store::open(&state_dir(&temp), engine).unwrap();
        assert_eq!((store.applied().index as usize, store.rebuilds()), (log.len(), 0), "{engine:?}");
        assert_is_prefix(&store, &log);
    }
}

/// The open reads no block, so the damage is found by the read that needs it.
#[test]
fn a_damaged_run_stops_the_store_and_is_set_aside_at_the_next_start() {
    let temp = tempfile::tempdir().unwrap();
    closed_state_of(EngineKind::Runs, &temp);
    let run =
        files(&state_dir(&temp)).into_iter().find(|path| path.extension().is_some_and(|ext| ext == "run"));
    let run = run.unwrap();
    let mut content = fs::read(&run).unwrap();
    content[40] ^= 1;
    fs::write(&run, content).unwrap();
    let store = Store::open(&state_dir(&temp), EngineKind::Runs).unwrap();
    assert_eq!(store.rebuilds(), 0);
    let error = store.scan_all().unwrap_err().to_string();
    assert!(error.contains(&*run.file_name().unwrap().to_string_lossy()), "{error}");
    assert!(matches!(store.get(b"a", 0), Err(StateError::Stopped(_))));
    drop(store);
    let store = Store::open(&state_dir(&temp), EngineKind::Runs).unwrap();
    assert_eq!((store.applied().index, store.rebuilds(), set_aside(&temp)), (0, 1, 1));
}

#[test]
fn only_the_latest_directories_set_aside_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    for _ in 0..4 {
        fs::create_dir_all(state_dir(&temp)).unwrap();
        fs::write(state_dir(&temp).join("CURRENT"), "nonsense").unwrap();
        assert_eq!(open(&state_dir(&temp)).unwrap().rebuilds(), 1);
    }
    assert_eq!(set_aside(&temp), 2);
}

#[test]
fn state_in_use_is_refused_unchanged() {
    let temp = tempfile::tempdir().unwrap();
    let mut machine = Machine::on_disk(&state_dir(&temp));
    feed(&mut machine, 9);
    assert!(matches!(open(&state_dir(&temp)), Err(StateError::InUse(_))));
    machine.store.checkpoint().unwrap();
    assert_eq!(set_aside(&temp), 0);
}

#[test]
fn crash_during_checkpoint_writes_is_redone_from_the_journal() {
    let temp = tempfile::tempdir().unwrap();
    let mut machine = Machine::on_disk(&state_dir(&temp));
    feed(&mut machine, 45);
    machine.store.checkpoint().unwrap();
    feed(&mut machine, 50);
    // The same two checkpoints on a copy, to find the writes of the second one.
    let twin = temp.path().join("twin");
    copy_dir(&state_dir(&temp), &twin);
    let twin = open(&twin).unwrap();
    replay(&twin, &machine.log);
    let before = raw_pairs(&twin);
    twin.checkpoint().unwrap();
    let after = raw_pairs(&twin);
    let removed = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
    let written = after.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
    let writes: Vec<_> = removed.chain(written).collect();

    for done in [0, 1, writes.len() / 3, writes.len() / 2, writes.len() - 1] {
        let copy = temp.path().join(format!("copy-{done}"));
        copy_dir(&state_dir(&temp), &copy);
        crate::journal::write(&RealDisk::default(), &copy.join("REDO"), 1, &writes).unwrap();
        let db = sled::open(copy.join("00000001")).unwrap();
        for (key, value) in &writes[..done] {
            match value {
                Some(value) => db.insert(key, value.as_ref()).unwrap(),
                None => db.remove(key).unwrap(),
            };
        }
        drop(db);
        let store = open(&copy).unwrap();
        assert_eq!((store.applied().index as usize, store.rebuilds()), (machine.log.len(), 0), "{done} done");
        assert_is_prefix(&store, &machine.log);
        assert!(!copy.join("REDO").exists());
    }
}

fn raw_pairs(store: &Store) -> std::collections::BTreeMap<Bytes, Bytes> {
    store.inner.state().engine.range(b"", None).map(Result::unwrap).collect()
}

struct BrokenEngine;

impl StateEngine for BrokenEngine {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Err(EngineError::Corrupt("page 7".to_owned()))
    }
    fn range<'a>(&'a self, _: &[u8], _: Option<&[u8]>) -> PairIter<'a> {
        Box::new(std::iter::once(Err(EngineError::Corrupt("page 7".to_owned()))))
    }
    fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        self.range(start, end)
    }
    fn size_bytes(&self) -> u64 {
        0
    }
}

impl InPlaceEngine for BrokenEngine {
    fn write(&self, _: &[RawWrite]) -> Result<(), EngineError> {
        Ok(())
    }
    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[test]
fn an_engine_that_fails_stops_the_store_at_the_entry_before() {
    let mut machine = Machine::in_memory();
    feed(&mut machine, 3);
    machine.store.inner.edit(|state| state.engine = std::sync::Arc::new(BrokenEngine));
    assert!(machine.store.failure().is_none());
    let answer = machine.apply(9, put("not-in-the-overlay", "1"));
    assert!(code(&answer).unwrap().is_fatal());
    assert!(machine.store.failure().is_some());
    machine.store.apply_empty(4, 1);
    assert_eq!(machine.store.applied().index, 3);
    assert!(matches!(machine.store.get(b"a", 0), Err(StateError::Stopped(_))));
    assert!(matches!(machine.store.checkpoint(), Err(StateError::Stopped(_))));
}

#[test]
fn failed_checkpoint_is_the_last_and_reads_and_writes_continue() {
    let mut machine = Machine::in_memory();
    feed(&mut machine, 3);
    let broken = Backend::in_place(BrokenEngine);
    let engine = std::mem::replace(&mut machine.store.inner.image().backend, broken);
    assert!(matches!(machine.store.checkpoint(), Err(StateError::Engine { .. })));
    machine.store.inner.image().backend = engine;
    assert!(matches!(machine.store.checkpoint(), Err(StateError::Stopped(_))));
    feed(&mut machine, 20);
    assert_is_prefix(&machine.store, &machine.log);
}

#[test]
fn incomplete_generation_is_removed_on_open() {
    let temp = tempfile::tempdir().unwrap();
    let log = closed_state(&temp);
    let current: u64 = fs::read_to_string(state_dir(&temp).join("CURRENT")).unwrap().trim().parse().unwrap();
    let half = state_dir(&temp).join(format!("{:08}", current + 1));
    let db = sled::open(&half).unwrap();
    db.insert(b"dk", b"half").unwrap();
    db.flush().unwrap();
    drop(db);
    let store = open(&state_dir(&temp)).unwrap();
    assert_eq!((store.applied().index as usize, store.rebuilds()), (log.len(), 0));
    assert_is_prefix(&store, &log);
    assert!(!half.exists());
}

#[test]
fn a_restore_replaces_everything_and_survives_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("snapshot");
    let mut source = Machine::in_memory();
    feed(&mut source, 100);
    let content = source.snapshot(file.clone());

    let store = open(&state_dir(&temp)).unwrap();
    store.apply(1, 1, &command(1, put("stranger", "x")));
    store.checkpoint().unwrap();
    store.apply(2, 1, &command(1, put("stranger-2", "x")));
    let restored = store.restore(&file).unwrap();
    assert_eq!((restored.index, content.len()), (100, fs::metadata(&file).unwrap().len() as usize));
    assert_is_prefix(&store, &source.log);
    drop(store);
    let store = open(&state_dir(&temp)).unwrap();
    assert_eq!((store.applied().index, store.rebuilds()), (100, 0));
    assert_is_prefix(&store, &source.log);
    assert_eq!(store.overlay_bytes(), 0);
}

#[test]
fn an_older_snapshot_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("snapshot");
    let mut machine = Machine::in_memory();
    feed(&mut machine, 10);
    machine.snapshot(file.clone());
    assert_eq!(machine.store.restore(&file).unwrap().index, 10);
    feed(&mut machine, 1);
    assert!(matches!(
        machine.store.restore(&file),
        Err(StateError::StaleSnapshot { snapshot: 10, applied: 11 })
    ));
    assert_is_prefix(&machine.store, &machine.log);
}

#[test]
fn a_damaged_snapshot_is_refused_and_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("snapshot");
    let mut source = Machine::in_memory();
    feed(&mut source, 60);
    let content = source.snapshot(file.clone());
    let mut machine = Machine::in_memory();
    feed(&mut machine, 5);
    let before = machine.pairs();
    let damaged = temp.path().join("damaged");
    let refuse = |content: &[u8], what: String| {
        fs::write(&damaged, content).unwrap();
        assert!(
            matches!(SnapshotMeta::verify(&disk::real(), &damaged), Err(StateError::BadSnapshot { .. })),
            "{what}"
        );
        assert!(matches!(machine.store.restore(&damaged), Err(StateError::BadSnapshot { .. })), "{what}");
    };
    for position in 0..content.len() {
        let mut flipped = content.clone();
        flipped[position] ^= 0x10;
        refuse(&flipped, format!("byte {position} flipped"));
    }
    for len in (0..content.len()).step_by(7) {
        refuse(&content[..len], format!("{len} bytes"));
    }
    refuse(&[content.as_slice(), b"x"].concat(), "one byte more".to_owned());
    assert_eq!(machine.pairs(), before);
    assert_eq!(machine.store.applied().index, 5);
}

#[test]
fn a_discarded_state_is_set_aside_and_starts_blank() {
    let temp = tempfile::tempdir().unwrap();
    let mut machine = Machine::on_disk(&state_dir(&temp));
    feed(&mut machine, 30);
    machine.store.checkpoint().unwrap();
    machine.store.discard("applied index beyond the log").unwrap();
    assert_eq!((machine.store.applied().index, machine.store.rebuilds(), set_aside(&temp)), (0, 1, 1));
    assert_eq!(machine.pairs(), []);
    replay(&machine.store, &machine.log);
    assert_is_prefix(&machine.store, &machine.log);
    machine.store.checkpoint().unwrap();
    let log = std::mem::take(&mut machine.log);
    drop(machine);
    let store = open(&state_dir(&temp)).unwrap();
    assert_eq!((store.applied().index, store.rebuilds()), (30, 0));
    assert_is_prefix(&store, &log);
}
