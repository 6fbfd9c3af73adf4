//! Tests of starts: force-new-cluster, with a power cut after each operation of the survivor's disk; a snapshot of another member.

use std::path::Path;
use std::sync::Arc;

use helios_proto::v1::Member;

use super::*;
use helios_state::{EngineKind, StoreOptions};
use helios_storage::disk::{Disk, SimDisk};
use helios_storage::lifecycle::{Belonging, DataDir, ForceNew, Marker};
use helios_storage::wal::{LogEntry, WalOptions};

const SURVIVOR: u64 = 2;
const LAST: u64 = 20;

struct Parts {
    data_dir: DataDir,
    wal: Wal,
    recovered: Recovered,
    store: Store,
    snapshots: Snapshots,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn open(disk: &SimDisk) -> Outcome<Parts> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let data_dir = DataDir::open(Arc::clone(&disk), Path::new("/data"), "b", None, Default::default())?;
    let options = WalOptions { segment_bytes: 4096, spare_segments: 1 };
    let (wal, recovered) = Wal::open(Arc::clone(&disk), Path::new("/wal"), options)?;
    let options = StoreOptions { engine: EngineKind::Simulated, ..StoreOptions::default() };
    let store = Store::open_with(Arc::clone(&disk), Path::new("/state"), options)?;
    let snapshots = Snapshots::open(disk, Path::new("/snapshots"), true)?;
    Ok(Parts { data_dir, wal, recovered, store, snapshots })
}

fn entry(index: u64) -> LogEntry {
    let entry = Entry { index, term: 3, data: format!("write {index}").into(), ..Entry::default() };
    log_entry(&entry)
}

/// Disk of one of three voters, with uncommitted entries and a request for force-new-cluster in `node.json`.
fn marked() -> SimDisk {
    let disk = SimDisk::new(7);
    let Parts { mut data_dir, mut wal, store, snapshots, .. } = open(&disk).unwrap();
    let member = |id: u64| Member { id, name: format!("node-{id}"), ..Member::default() };
    let three = membership::initial("c", (1..=3).map(member).collect());
    bootstrap(&mut wal, &store, &snapshots, &three).unwrap();
    let hard_state = Some(wal::HardState { term: 5, vote: 1, commit: 9 });
    wal.append(&[Batch { reset: None, entries: (2..=LAST).map(entry).collect(), hard_state }]).unwrap();
    let belonging = Belonging { cluster_id: "c".into(), member_id: SURVIVOR, ..Belonging::default() };
    data_dir.join(belonging).unwrap();
    data_dir.force_new(ForceNew { fencing_token: 4 }).unwrap();
    disk
}

/// Starts a member as `Node::start_member` does, up to the start of its threads.
fn start(disk: &SimDisk) -> Outcome<(Recovery, Store, Marker)> {
    let Parts { mut data_dir, mut wal, recovered, store, snapshots } = open(disk)?;
    let mut recovery = recover(&mut wal, recovered, &store, &snapshots)?;
    if let Some(ForceNew { fencing_token }) = data_dir.marker().force_new {
        recovery.force_new(&mut wal, &store, SURVIVOR, fencing_token)?;
        data_dir.forced_new()?;
    }
    Ok((recovery, store, data_dir.marker()))
}

fn assert_alone(recovery: &Recovery, store: &Store, marker: &Marker) {
    assert_eq!(marker.force_new, None);
    assert_eq!(marker.member.as_ref().unwrap().incarnation, 1);
    let tail = || recovery.log.after(store.applied().index);
    let last = recovery.log.last();
    let (missing, alone) = force_new_cluster::plan(&store.membership(), tail(), last, SURVIVOR, 0).unwrap();
    assert!(missing.is_empty(), "others are left");
    assert_eq!((&alone.voters[..], alone.next_id, alone.fencing_token), (&[SURVIVOR][..], 4, 4));
    assert_eq!((recovery.commit, last), (last, LAST + 2));
    assert!(recovery.term > 5);
    for entry in tail().filter(|entry| entry.index <= LAST) {
        assert_eq!(entry.data, format!("write {}", entry.index).into_bytes());
    }
}

#[test]
fn the_next_start_completes_force_new_cluster_after_a_power_cut_at_any_operation() {
    let marked = marked();
    let mut operations = 0;
    loop {
        let disk = marked.copy();
        disk.cut_power_after(operations);
        let outcome = start(&disk).map(drop);
        if outcome.is_ok() && !disk.is_cut() {
            break;
        }
        disk.crash();
        let (recovery, store, marker) = start(&disk).unwrap();
        assert_alone(&recovery, &store, &marker);
        operations += 1;
    }
    assert!(operations > 10, "the power was cut {operations} times only");
}

#[test]
fn force_new_cluster_is_not_repeated_at_the_next_start() {
    let disk = marked();
    let (recovery, ..) = start(&disk).unwrap();
    let term = recovery.term;
    let (recovery, store, marker) = start(&disk).unwrap();
    assert_alone(&recovery, &store, &marker);
    assert_eq!(recovery.term, term, "it was done twice");
}

/// Starts a member whose state is behind the base of its log, with a snapshot of another member at entry 12 of `term`.
fn started_from_snapshot_of(term: u64) -> (Recovery, Store) {
    let disk = SimDisk::new(7);
    let Parts { mut wal, store, snapshots, .. } = open(&disk).unwrap();
    let member = |id: u64| Member { id, name: format!("node-{id}"), ..Member::default() };
    bootstrap(&mut wal, &store, &snapshots, &membership::initial("c", (1..=3).map(member).collect()))
        .unwrap();
    let entries = (2..=LAST).map(entry).collect();
    wal.append(&[Batch { reset: None, entries, hard_state: None }]).unwrap();
    wal.purge(Base { index: 10, term: 3 }).unwrap();
    let options = StoreOptions { engine: EngineKind::Simulated, ..StoreOptions::default() };
    let other = Store::open_with(Arc::new(disk.clone()), Path::new("/other"), options).unwrap();
    other.apply_membership(1, 1, (*store.membership()).clone());
    other.apply_empty(12, term);
    other.checkpoint().unwrap();
    assert_eq!(snapshots.write(&other, false).unwrap().index, 12);
    drop((wal, store, snapshots));
    let Parts { mut wal, recovered, store, snapshots, .. } = open(&disk).unwrap();
    let recovery = recover(&mut wal, recovered, &store, &snapshots).unwrap();
    (recovery, store)
}

#[test]
fn log_that_conflicts_with_the_snapshot_of_another_member_is_reset_to_it() {
    let (recovery, store) = started_from_snapshot_of(7);
    assert_eq!((recovery.log.base(), recovery.log.last()), (Base { index: 12, term: 7 }, 12));
    assert_eq!((store.applied().index, store.applied().term), (12, 7));
    let (recovery, store) = started_from_snapshot_of(3);
    assert_eq!((recovery.log.base(), recovery.log.last()), (Base { index: 10, term: 3 }, LAST));
    assert_eq!((store.applied().index, recovery.commit), (12, 12));
}
