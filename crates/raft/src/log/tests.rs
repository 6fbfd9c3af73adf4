//! Tests of the log in memory.

use super::*;

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: vec![7; 10], ..Entry::default() }
}

fn log() -> Log {
    let entries = (6..=10).map(|index| entry(index, 2)).collect();
    Log::in_memory(Base { index: 5, term: 1 }, entries, HardState::default(), ConfState::default())
}

#[test]
fn bounds_and_terms() {
    let log = log();
    assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (6, 10));
    assert_eq!(log.term(5).unwrap(), 1);
    assert_eq!(log.term(10).unwrap(), 2);
    assert_eq!(log.term(4).unwrap_err(), StorageError::Compacted.into());
    assert_eq!(log.term(11).unwrap_err(), StorageError::Unavailable.into());
}

#[test]
fn an_overlap_replaces_the_suffix() {
    let mut log = log();
    log.append(&[entry(8, 3)]);
    assert_eq!(log.last(), 8);
    assert_eq!(log.term(8).unwrap(), 3);
    assert_eq!(log.bytes(), 3 * (10 + ENTRY_OVERHEAD_BYTES));
}

#[test]
#[should_panic(expected = "does not follow")]
fn an_append_that_leaves_a_gap_panics() {
    log().append(&[entry(12, 3)]);
}

#[test]
fn entries_respect_the_size_limit_but_give_at_least_one() {
    let log = log();
    let context = || GetEntriesContext::empty(false);
    assert_eq!(log.entries(6, 11, 1, context()).unwrap().len(), 1);
    assert_eq!(log.entries(6, 11, 2 * (10 + ENTRY_OVERHEAD_BYTES), context()).unwrap().len(), 2);
    assert_eq!(log.entries(6, 11, None, context()).unwrap().len(), 5);
    assert_eq!(log.entries(5, 7, None, context()).unwrap_err(), StorageError::Compacted.into());
}

#[test]
fn purge_keeps_the_term_of_the_base() {
    let mut log = log();
    log.purge(Base { index: 7, term: 2 });
    assert_eq!(log.first_index().unwrap(), 8);
    assert_eq!(log.term(7).unwrap(), 2);
    assert_eq!(log.bytes(), 3 * (10 + ENTRY_OVERHEAD_BYTES));
}

#[test]
fn a_snapshot_older_than_the_log_is_not_offered() {
    let mut log = log();
    assert!(log.snapshot(0, 2).is_err());
    assert!(log.take_snapshot_wanted());
    assert!(!log.take_snapshot_wanted());
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().mut_conf_state().voters = vec![1];
    snapshot.mut_metadata().mut_conf_state().learners = vec![2];
    snapshot.mut_metadata().index = 4;
    log.set_snapshot(snapshot.clone());
    assert!(log.snapshot(0, 2).is_err());
    assert!(log.take_snapshot_wanted());
    snapshot.mut_metadata().index = 7;
    log.set_snapshot(snapshot);
    assert_eq!(log.snapshot(0, 2).unwrap().get_metadata().index, 7);
    assert!(!log.take_snapshot_wanted());
    assert!(log.snapshot(0, 3).is_err(), "member 3 is not in it");
    assert!(log.take_snapshot_wanted());
}

#[test]
fn an_unfinished_snapshot_is_offered_before_a_newer_one_while_the_log_continues_from_it() {
    let mut log = log();
    let at = |index| {
        let conf_state = Some(ConfState { voters: vec![2, 3], ..ConfState::default() });
        Snapshot { metadata: Some(SnapshotMetadata { conf_state, index, term: 2 }), ..Snapshot::default() }
    };
    log.snapshot_leaves(2, at(6));
    log.set_snapshot(at(9));
    let offered = |log: &Log, to| log.snapshot(0, to).unwrap().get_metadata().index;
    assert_eq!((offered(&log, 2), offered(&log, 3)), (6, 9));
    assert_eq!(log.snapshot(8, 2).unwrap().get_metadata().index, 9, "older than what was asked for");
    log.purge(Base { index: 7, term: 2 });
    assert_eq!(offered(&log, 2), 9, "the log no longer continues from it");
    log.snapshot_leaves(2, at(8));
    log.set_snapshot(at(10));
    assert_eq!(offered(&log, 2), 8);
    log.snapshot_settled(2);
    assert_eq!(offered(&log, 2), 10);
}

/// A log of entries 6 to 10 of which 6 to 8 are on disk only.
fn evicted() -> Log {
    let mut log = log();
    log.evict(8, 0);
    log
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.index).collect()
}

/// A call of the raft crate that may be repeated.
fn ask(log: &Log, low: u64) -> Result<Vec<Entry>> {
    log.entries(low, 11, None, GetEntriesContext::empty(true))
}

#[test]
fn eviction_keeps_terms_and_sizes_and_what_is_not_applied() {
    let mut log = log();
    let size = 10 + ENTRY_OVERHEAD_BYTES;
    log.evict(10, 4 * size);
    assert_eq!(log.memory_bytes(), 4 * size);
    log.evict(8, 0);
    assert_eq!((log.memory_bytes(), log.bytes()), (2 * size, 5 * size));
    assert_eq!((log.first_index().unwrap(), log.term(6).unwrap()), (6, 2));
    let cached = log.entries(9, 11, None, GetEntriesContext::empty(false)).unwrap();
    assert_eq!(indexes(&cached), [9, 10]);
    let blocking = log.entries(8, 11, None, GetEntriesContext::empty(false));
    assert_eq!(blocking.unwrap_err(), StorageError::Unavailable.into());
}

#[test]
fn entries_on_disk_are_served_once_they_are_fetched() {
    let mut log = evicted();
    assert_eq!(ask(&log, 7).unwrap_err(), StorageError::LogTemporarilyUnavailable.into());
    assert_eq!(ask(&log, 7).unwrap_err(), StorageError::LogTemporarilyUnavailable.into());
    let job = log.begin_fetch(7, 1).unwrap();
    assert_eq!((job.low, job.high), (7, 9));
    assert!(log.begin_fetch(7, 2).is_none(), "one job for each request");
    let entries = vec![entry(7, 2), entry(8, 2)];
    let (contexts, result) = log.end_fetch(job.number, Ok(Some(entries)));
    assert_eq!((contexts.len(), result), (2, Ok(())));
    assert_eq!(indexes(&ask(&log, 7).unwrap()), [7, 8]);
    assert_eq!(indexes(&ask(&log, 8).unwrap()), [8]);
    assert_eq!(ask(&log, 6).unwrap_err(), StorageError::LogTemporarilyUnavailable.into());
    assert_eq!(log.memory_bytes(), 4 * (10 + ENTRY_OVERHEAD_BYTES));
    log.keep_fetches_for(&[8]);
    assert!(log.begin_fetch(6, 1).is_none(), "no member needs entry 6");
    assert_eq!(indexes(&ask(&log, 8).unwrap()), [8]);
    log.keep_fetches_for(&[9]);
    assert!(!log.has_fetches());
}

#[test]
fn result_of_a_dropped_request_is_ignored() {
    let mut log = evicted();
    ask(&log, 7).unwrap_err();
    let job = log.begin_fetch(7, 1).unwrap();
    log.drop_fetches();
    ask(&log, 7).unwrap_err();
    assert!(log.begin_fetch(7, 1).is_none(), "the reader is still busy");
    let (contexts, result) = log.end_fetch(job.number, Ok(Some(vec![entry(7, 2)])));
    assert_eq!((contexts.len(), result), (0, Ok(())));
    assert!(ask(&log, 7).is_err());
    assert!(log.begin_fetch(7, 1).is_some());
}

#[test]
fn replaced_entries_that_were_fetched_are_dropped() {
    let mut log = evicted();
    ask(&log, 8).unwrap_err();
    let job = log.begin_fetch(8, 1).unwrap();
    log.append(&[entry(9, 3)]);
    let (contexts, _) = log.end_fetch(job.number, Ok(Some(vec![entry(8, 2)])));
    assert!(contexts.is_empty() && !log.has_fetches());
}

#[test]
fn entries_that_cannot_be_read_are_replaced_by_a_newer_snapshot() {
    let other_term = Ok(Some(vec![entry(7, 1)]));
    let other_index = Ok(Some(vec![entry(8, 2)]));
    for outcome in [Err("damaged".to_owned()), Ok(None), other_term, other_index] {
        let mut log = evicted();
        ask(&log, 7).unwrap_err();
        let job = log.begin_fetch(7, 1).unwrap();
        let (contexts, result) = log.end_fetch(job.number, outcome);
        assert!(contexts.len() == 1 && result.is_err());
        for low in [6, 7, 8] {
            assert_eq!(ask(&log, low).unwrap_err(), StorageError::Compacted.into());
        }
        assert_eq!(indexes(&ask(&log, 9).unwrap()), [9, 10]);
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().mut_conf_state().voters = vec![2];
        snapshot.mut_metadata().index = 7;
        log.set_snapshot(snapshot.clone());
        assert!(log.snapshot(0, 2).is_err(), "entry 8 cannot follow it");
        snapshot.mut_metadata().index = 8;
        log.set_snapshot(snapshot);
        assert!(log.snapshot(0, 2).is_ok());
    }
}
