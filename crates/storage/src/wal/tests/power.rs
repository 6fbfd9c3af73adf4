//! A power cut before every operation of a workload, on a disk that keeps the synced data and a random part
//! of the rest. The three promises in the module documentation of `wal` hold each time.

use super::*;
use crate::disk::{Disk, SimDisk};

const DIR: &str = "/data/wal";
const SEEDS: u64 = 6;

/// Creates a disk with the data directory, which a node creates before its log.
fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.make_dir(Path::new("/data")).unwrap();
    disk
}

fn open_on(disk: &SimDisk) -> Result<(Wal, Content), WalError> {
    open_in(Arc::new(disk.clone()), Path::new(DIR), SMALL)
}

/// One call of the thread that owns the log.
enum Step {
    Append(Batch),
    Purge(Base),
    Spare,
    /// The process ends and the next one opens the log.
    Reopen,
}

/// Returns a workload: appends with overlaps and hard states, rolls into new and recycled segments, purges, a
/// reset.
fn workload() -> Vec<Step> {
    let append_with = |entries, state| Step::Append(Batch { hard_state: Some(state), ..append(entries) });
    vec![
        append_with(entries(1..=3, 1), hard_state(1, 1, 1)),
        Step::Append(append(large(4..=9, 1))),
        Step::Spare,
        append_with(entries(7..=8, 2), hard_state(2, 0, 6)),
        Step::Append(append(large(9..=24, 2))),
        Step::Reopen,
        append_with(Vec::new(), hard_state(3, 2, 20)),
        Step::Purge(Base { index: 18, term: 2 }),
        Step::Append(append(large(25..=40, 3))),
        append_with(entries(30..=33, 4), hard_state(4, 3, 29)),
        Step::Append(Batch { reset: Some(Base { index: 60, term: 4 }), ..append(entries(61..=62, 4)) }),
        Step::Spare,
        Step::Append(append(large(63..=80, 5))),
        append_with(entries(62..=63, 6), hard_state(6, 1, 61)),
    ]
}

/// Returns the content that a log must recover after it executed `step` completely.
fn expected_after(mut model: Content, step: &Step) -> Content {
    let raise = |model: &mut Content, commit: u64| {
        model.hard_state = model.hard_state.map(|state| HardState { commit, ..state });
    };
    match step {
        Step::Append(Batch { reset, entries, hard_state }) => {
            if let Some(base) = reset {
                (model.base, model.entries) = (*base, Vec::new());
                raise(&mut model, base.index);
            }
            if let Some(first) = entries.first() {
                model.entries.retain(|entry| entry.index < first.index);
                model.entries.extend_from_slice(entries);
            }
            model.hard_state = hard_state.or(model.hard_state);
        }
        Step::Purge(base) => {
            model.entries.retain(|entry| entry.index > base.index);
            model.base = *base;
            let commit = model.hard_state.map_or(0, |state| state.commit.max(base.index));
            raise(&mut model, commit);
        }
        Step::Spare | Step::Reopen => {}
    }
    model
}

/// Runs `steps` until the power cut. Returns the content of the acknowledged steps, and the interrupted step.
fn run(disk: &SimDisk, steps: &[Step]) -> (Content, Option<usize>) {
    let mut model = Content::default();
    let Ok((mut wal, _)) = open_on(disk) else { return (model, Some(0)) };
    for (nth, step) in steps.iter().enumerate() {
        let done = match step {
            Step::Append(batch) => wal.append(std::slice::from_ref(batch)),
            Step::Purge(base) => wal.purge(*base),
            Step::Spare => wal.prepare_spare().map(drop),
            Step::Reopen => {
                drop(wal);
                match open_on(disk) {
                    Ok((next, _)) => {
                        wal = next;
                        Ok(())
                    }
                    Err(_) => return (model, Some(nth)),
                }
            }
        };
        if done.is_err() {
            return (model, Some(nth));
        }
        model = expected_after(model, step);
    }
    (model, None)
}

/// Whether `found` is the state before `step`, the state after it, or one in between: a reset, then a prefix
/// of the entries, then the hard state (a `Batch` is executed in the order of its fields).
fn is_between(found: &Content, before: &Content, step: Option<&Step>) -> bool {
    let Some(step) = step else { return found == before };
    let Step::Append(Batch { reset, entries, .. }) = step else {
        return found == before || *found == expected_after(before.clone(), step);
    };
    let part = |count: usize| {
        let batch = Batch { reset: *reset, entries: entries[..count].to_vec(), hard_state: None };
        expected_after(before.clone(), &Step::Append(batch))
    };
    found == before
        || *found == expected_after(before.clone(), step)
        || (0..=entries.len()).any(|n| *found == part(n))
}

/// Asserts that the log recovers a valid state after the crash, and that this state survives an append and a
/// second crash.
fn check(disk: &SimDisk, promised: &Content, under_way: Option<&Step>, what: &str) {
    let (mut wal, found) = open_on(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(is_between(&found, promised, under_way), "{what}: promised {promised:?}, found {found:?}");
    let next = wal.last_index() + 1;
    wal.append(&[append(entries(next..=next + 1, 9))]).unwrap();
    drop(wal);
    disk.crash();
    let (_, again) = open_on(disk).unwrap_or_else(|error| panic!("{what}, twice: {error}"));
    let expected = [found.entries, entries(next..=next + 1, 9)].concat();
    assert_eq!((again.base, again.hard_state), (found.base, found.hard_state), "{what}, twice");
    assert!(again.entries == expected, "{what}, twice");
}

fn operations(steps: &[Step]) -> u64 {
    let disk = disk(0);
    let before = disk.stats().operations;
    assert_eq!(run(&disk, steps).1, None);
    disk.stats().operations - before
}

#[test]
fn power_cut_before_any_operation_keeps_acknowledged_appends() {
    let steps = workload();
    let operations = operations(&steps);
    assert!(operations > 80, "{operations}");
    for (at, seed) in (0..=operations).flat_map(|at| (0..SEEDS).map(move |seed| (at, seed))) {
        let disk = disk(seed << 32 | at);
        disk.cut_power_after(at);
        let (promised, under_way) = run(&disk, &steps);
        disk.crash();
        let step = under_way.map(|nth| &steps[nth]);
        check(&disk, &promised, step, &format!("operation {at}, seed {seed}"));
    }
}

#[test]
fn log_recovered_after_a_kill_survives_a_later_power_cut() {
    let steps = workload();
    for at in 0..=operations(&steps) {
        let disk = disk(at);
        disk.cut_power_after(at);
        let (promised, under_way) = run(&disk, &steps);
        disk.kill();
        // The next process must sync what it reads from the page cache, or it would take it for durable.
        let Ok((mut wal, found)) = open_on(&disk) else { panic!("operation {at}") };
        assert!(is_between(&found, &promised, under_way.map(|nth| &steps[nth])), "operation {at}");
        assert_eq!(open_on(&disk.durable()).unwrap().1, found, "operation {at}: what was found did not last");
        let next = wal.last_index() + 1;
        wal.append(&[append(entries([next], 9))]).unwrap();
        let lasting = open_on(&disk.durable()).unwrap().1.entries;
        assert_eq!(lasting, [found.entries, entries([next], 9)].concat(), "operation {at}");
    }
}

/// The page cache still shows the data that the failed sync dropped; only a rewrite makes it durable.
#[test]
fn entries_dropped_by_a_failed_sync_are_rewritten_on_reopen() {
    let disk = disk(1);
    let (mut wal, _) = open_on(&disk).unwrap();
    wal.append(&[append(entries(1..=2, 1))]).unwrap();
    disk.fail_next_sync();
    assert!(matches!(wal.append(&[append(entries(3..=4, 1))]), Err(WalError::Io { action: "sync", .. })));
    assert!(matches!(wal.append(&[append(entries(3..=4, 1))]), Err(WalError::Poisoned)));
    assert_eq!(open_on(&disk.durable()).unwrap().1.entries, entries(1..=2, 1));
    drop(wal);
    let (_, found) = open_on(&disk).unwrap();
    assert_eq!(found.entries, entries(1..=4, 1));
    assert_eq!(open_on(&disk.durable()).unwrap().1.entries, entries(1..=4, 1));
}

/// Checks the tests themselves: they must detect a disk that does not sync.
#[test]
fn disk_that_does_not_sync_is_detected() {
    let disk = disk(1);
    disk.sync_lies(true);
    let (promised, _) = run(&disk, &workload());
    assert!(open_on(&disk.durable()).map(|(_, found)| found != promised).unwrap_or(true));
}

#[test]
fn log_opens_unchanged_on_a_full_disk() {
    let disk = disk(1);
    let (promised, _) = run(&disk, &workload());
    disk.set_free_bytes(Some(0));
    let (wal, found) = open_on(&disk).unwrap();
    assert_eq!(found, promised);
    assert!(disk.is_dir(wal.directory()));
}
