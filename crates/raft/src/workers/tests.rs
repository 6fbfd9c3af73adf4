//! Tests of the apply thread with an entry that always ends the process that applies it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use helios_proto::v1::{Apply, Reply, Set, SkipEntry};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use super::*;
use helios_state::{EngineKind, LogEntry, Shared, StateMachine, StoreOptions};
use helios_storage::disk::{Disk, SimDisk};

const POISON: u64 = 2;

/// State machine that panics at one command; stands for a process that aborts.
struct Fragile;

impl StateMachine for Fragile {
    type Query = ();
    type Answer = ();

    fn apply(&mut self, entry: LogEntry<'_>) -> Result<Vec<u8>, String> {
        assert!(entry.data != b"poison", "the process ends");
        Ok(Vec::new())
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn query(&self, _: &()) {}
}

fn entry(index: u64, op: Op) -> Entry {
    let command = Command { now_ms: 1, op: Some(op), ..Command::default() };
    Entry { index, term: 1, data: command.encode_to_vec(), ..Entry::default() }
}

fn set(index: u64) -> Entry {
    entry(index, Op::Set(Set { key: format!("key-{index}").into(), value: "v".into(), ..Set::default() }))
}

fn poison() -> Entry {
    entry(POISON, Op::Apply(Apply { kind: "add".into(), data: "poison".into() }))
}

fn skip_of_poison(index: u64) -> Entry {
    entry(index, Op::SkipEntry(SkipEntry { index: POISON, crc: Unappliable::of(&poison()).crc }))
}

/// A process on `disk`, whose log held the entries up to `replay_through` when it started.
fn start(disk: &SimDisk, replay_through: u64) -> Applier {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let options = StoreOptions { engine: EngineKind::Simulated, ..StoreOptions::default() };
    let store = Store::open_with(Arc::clone(&disk), Path::new("/state"), options).unwrap();
    store.drive(Arc::new(Shared::new(Fragile))).unwrap();
    let suspects = Suspects::open(&disk, Path::new("/state"), replay_through).unwrap();
    Applier {
        applied: watch::Sender::new(store.applied().index),
        store,
        snapshots: Arc::new(Snapshots::open(disk, Path::new("/snapshots"), true).unwrap()),
        done: crossbeam_channel::unbounded().0,
        metrics: Metrics::new(&mut Registry::default()),
        suspects,
        held: Vec::new(),
    }
}

fn job(entries: &[Entry]) -> ApplyJob {
    let bytes = entries.iter().map(charge_of).sum();
    ApplyJob::Entries { entries: entries.iter().map(|entry| (entry.clone(), None)).collect(), bytes }
}

/// Index, bytes and skipped entries.
type Outcome = (u64, u64, Vec<u64>);

/// Applies `entries`. Returns the outcome, and the index of the entry that is held.
fn apply(applier: &mut Applier, entries: &[Entry]) -> (Option<Outcome>, Option<u64>) {
    let (mut applied, mut held) = (None, None);
    for done in applier.apply(job(entries)).unwrap() {
        match done {
            Done::Applied(done) => applied = Some((done.index, done.bytes, done.skipped)),
            Done::Held(entry) => held = Some(entry.index),
            _ => panic!("something else was done"),
        }
    }
    (applied, held)
}

fn charge(entries: &[Entry]) -> u64 {
    entries.iter().map(charge_of).sum()
}

/// Whether the process ends when it applies `entries`.
fn ends(disk: &SimDisk, entries: &[Entry]) -> bool {
    let mut applier = start(disk, 3);
    catch_unwind(AssertUnwindSafe(|| applier.apply(job(entries)))).is_err()
}

#[test]
fn an_entry_that_ended_the_process_twice_is_held_until_it_is_skipped() {
    let disk = SimDisk::new(1);
    let log = [set(1), poison(), set(3)];
    assert!(ends(&disk, &log) && ends(&disk, &log), "the poison does not end the process");
    for _ in 0..3 {
        let mut applier = start(&disk, 3);
        let one = (1, charge(&log[..1]), vec![]);
        assert_eq!(apply(&mut applier, &log), (Some(one), Some(POISON)));
        assert_eq!((applier.store.applied().index, *applier.applied.borrow()), (1, 1));
    }
    let mut applier = start(&disk, 3);
    apply(&mut applier, &log[..2]);
    let (waiter, mut answer) = oneshot::channel::<Result<Reply, Error>>();
    let waiting = (set(3), Some(Waiter::Write(waiter.into())));
    let later = ApplyJob::Entries { entries: vec![waiting], bytes: 0 };
    assert!(applier.apply(later).unwrap().is_empty(), "an entry is reported as held once");
    assert!(answer.try_recv().is_err(), "answered before it is applied");

    let wrong = entry(4, Op::SkipEntry(SkipEntry { index: POISON, crc: 1 }));
    assert_eq!(apply(&mut applier, std::slice::from_ref(&wrong)), (None, None));
    let skip = skip_of_poison(5);
    let all = [poison(), set(3), wrong.clone(), skip.clone()];
    let done = apply(&mut applier, std::slice::from_ref(&skip));
    assert_eq!(done, (Some((5, charge(&all), vec![POISON])), None));
    answer.try_recv().unwrap().unwrap();
    assert_eq!(applier.store.applied().index, 5);
    assert_eq!(apply(&mut applier, &[set(6)]).0.map(|done| done.0), Some(6));
}

#[test]
fn the_end_of_a_process_is_not_attributed_to_the_noted_entry_before() {
    let disk = SimDisk::new(1);
    let log = [set(1), poison()];
    for _ in 0..2 {
        // The log that the process started with ends before the poison.
        let mut applier = start(&disk, 1);
        assert!(catch_unwind(AssertUnwindSafe(|| applier.apply(job(&log)))).is_err());
    }
    assert_eq!(apply(&mut start(&disk, 1), &log), (Some((1, charge(&log[..1]), vec![])), Some(POISON)));
}

#[test]
fn a_skipped_entry_is_not_applied_after_a_restart() {
    let disk = SimDisk::new(1);
    let log = [set(1), poison(), set(3), skip_of_poison(4)];
    // A member that never tried the entry receives it together with its skip.
    assert_eq!(apply(&mut start(&disk, 4), &log), (Some((4, charge(&log), vec![POISON])), None));
    // Nothing reached the engine, and the entry and its skip arrive in separate jobs.
    let mut applier = start(&disk, 4);
    assert_eq!(applier.store.applied().index, 0);
    assert_eq!(apply(&mut applier, &log[..2]).1, Some(POISON));
    assert_eq!(apply(&mut applier, &log[2..]), (Some((4, charge(&log[1..]), vec![POISON])), None));
}

#[test]
fn a_member_that_applied_an_entry_ends_when_the_entry_is_skipped() {
    let mut applier = start(&SimDisk::new(1), 0);
    apply(&mut applier, &[set(1), set(POISON)]);
    let error = applier.apply(job(&[skip_of_poison(3)])).err().unwrap();
    assert!(error.contains("log entry 2") && error.contains("let it join again"), "{error}");
}

#[test]
fn an_undecodable_entry_is_not_counted_as_one_that_ends_the_process() {
    let disk = SimDisk::new(1);
    let unknown = Entry { index: 1, term: 1, data: vec![0xff; 8], ..Entry::default() };
    for _ in 0..3 {
        let error = start(&disk, 1).apply(job(std::slice::from_ref(&unknown))).err().unwrap();
        assert!(error.contains("cannot be decoded"), "{error}");
    }
}
