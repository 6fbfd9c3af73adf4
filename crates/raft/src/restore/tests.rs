//! Restores on a simulated disk, compared with a store that applied the whole log; with a power cut before each operation.

use std::path::Path;

use helios_proto::v1::command::Op;
use helios_proto::v1::{BaseHeader, Call, Command, PurgeExpired, RequestId, RestoreHeader, Set, SkipEntry};
use prometheus_client::registry::Registry;
use prost::Message as _;

use super::*;
use crate::change::Change;
use crate::recovery::recover;
use helios_state::{EngineKind, StoreOptions, commands};
use helios_storage::disk::SimDisk;
use helios_storage::lifecycle::{Belonging, DataDir};

const DIR: &str = "/data/restore";
const STATE: &str = "/data/state";
const SNAPSHOTS: &str = "/data/snapshots";
const WAL: &str = "/wal";
const WAL_OPTIONS: WalOptions = WalOptions { segment_bytes: 64 << 10, spare_segments: 1 };
/// So small that entries are applied, checkpointed and purged from the log while more arrive.
const SIZES: Sizes = Sizes { chunk: 500, lookahead: 4_000, overlay: 2_000 };
const BASE: u64 = 60;
const LAST: u64 = 120;
/// An entry that is skipped, and the one that skips it.
const SKIPPED: u64 = 80;
const SKIP: u64 = 95;
/// Index at which the state is compared with that of a member.
const COMPARED: u64 = 105;

/// An archived log, with the state that a restore of it has to have.
struct Backup {
    header: RestoreHeader,
    base: Vec<u8>,
    entries: Vec<ArchivedEntry>,
    base_digest: u64,
    /// Number of keys and digest of the state at [`COMPARED`].
    compared: (u64, u64),
    /// Digest of the restored state.
    digest: u64,
}

fn write(index: u64) -> Op {
    let key = format!("key {}", index % 17);
    match index % 7 {
        0 => {
            Op::Call(commands::call("hset", [key.into(), "field".into(), index.to_string().into()].to_vec()))
        }
        1 => Op::Call(commands::call(
            "rpush",
            [format!("list {key}").into(), index.to_string().into()].to_vec(),
        )),
        2 => Op::PurgeExpired(PurgeExpired { limit: 100 }),
        3 => Op::Set(Set {
            key: key.into(),
            value: "v".into(),
            expire_at_ms: Some(index + 20),
            ..Set::default()
        }),
        4 => Op::Call(Call { ..commands::call("zadd", ["board".into(), "1".into(), key.into()].to_vec()) }),
        _ => Op::Set(Set { key: key.into(), value: vec![index as u8; 200].into(), ..Set::default() }),
    }
}

fn command(index: u64, op: Op) -> Vec<u8> {
    let request_id = RequestId { client_id: "client".into(), sequence: index, retry: false };
    let command = Command {
        now_ms: index,
        request_id: Some(request_id),
        budget: 1,
        op: Some(op),
        ..Default::default()
    };
    command.encode_to_vec()
}

fn entry(index: u64) -> Entry {
    let term = 3 + index / 50;
    let data = match index {
        70 => Vec::new(),
        75 => return Entry { index, term, ..Change::Remove(2).fenced(5).to_entry() },
        SKIP => {
            let crc = crc32c::crc32c(&entry(SKIPPED).data);
            command(index, Op::SkipEntry(SkipEntry { index: SKIPPED, crc }))
        }
        _ => command(index, write(index)),
    };
    Entry { index, term, data, ..Entry::default() }
}

fn archived(entry: &Entry) -> ArchivedEntry {
    let payload = prost_raft::Message::encode_to_vec(entry).into();
    ArchivedEntry { index: entry.index, term: entry.term, now_ms: 0, payload }
}

fn applier(disk: &Arc<dyn Disk>, store: &Store, suspects: Suspects) -> Applier {
    Applier {
        store: store.clone(),
        snapshots: Arc::new(Snapshots::open(Arc::clone(disk), Path::new("/unused"), true).unwrap()),
        done: crossbeam_channel::unbounded().0,
        applied: watch::Sender::new(0),
        metrics: Metrics::new(&mut Registry::default()),
        suspects,
        held: Vec::new(),
    }
}

fn own() -> Member {
    Member { name: "a".into(), disk_id: "new disk".into(), ..Member::default() }
}

/// Backup of a cluster whose members have `engine`.
fn backup(engine: EngineKind, version_is_set: bool) -> Backup {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(9));
    let options = StoreOptions { engine, seed: 4, ..StoreOptions::default() };
    let store = Store::open_with(Arc::clone(&disk), Path::new("/old"), options).unwrap();
    let member = |id| Member { id, disk_id: format!("old disk {id}"), boot_epoch: 40, ..Member::default() };
    let old = membership::initial("old", (1..=3).map(member).collect());
    store.apply_membership(1, 1, old);
    let mut applier = applier(&disk, &store, Suspects::default());
    let mut apply = |entries: std::ops::RangeInclusive<u64>| {
        let entries = entries.map(|index| (entry(index), None)).collect();
        applier.apply(ApplyJob::Entries { entries, bytes: 0 }).unwrap();
    };
    apply(2..=BASE);
    store.checkpoint().unwrap();
    let base_digest = store.state_digest().unwrap();
    let snapshots = Snapshots::open(disk, Path::new("/snapshots"), true).unwrap();
    let meta = snapshots.write(&store, version_is_set).unwrap();
    let mut base = vec![0; meta.size_bytes as usize];
    let (mut outgoing, mut at) = (snapshots.outgoing(&snapshots.find(BASE).unwrap()).unwrap(), 0);
    while at < base.len() {
        at += outgoing.read(&mut base[at..]).unwrap();
    }
    let header = BaseHeader {
        cluster_id: "old".into(),
        index: meta.index,
        term: meta.term,
        version: meta.version,
        size_bytes: meta.size_bytes,
        crc32c: meta.crc32c,
        ..BaseHeader::default()
    };
    let header = RestoreHeader {
        cluster_id: "new".into(),
        base: Some(header),
        last_index: LAST,
        compare_index: COMPARED,
        fencing_token: 6,
        ..RestoreHeader::default()
    };
    apply(BASE + 1..=COMPARED);
    store.checkpoint().unwrap();
    let compared = (store.key_count(), store.state_digest().unwrap());
    apply(COMPARED + 1..=LAST);
    assert_eq!(store.applied().index, LAST);
    let plan = Plan::of(&header).unwrap();
    let Applied { index, term } = store.applied();
    let first = Applied { index: index + 1, term: term + 1 };
    store.begin_cluster(first, membership_of(&plan, own(), first.index)).unwrap();
    store.checkpoint().unwrap();
    let digest = store.state_digest().unwrap();
    let entries = (BASE + 1..=LAST).map(|index| archived(&entry(index))).collect();
    Backup { header, base, entries, base_digest, compared, digest }
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A process of the node.
struct Process {
    data_dir: DataDir,
    disk: Arc<dyn Disk>,
    store: Store,
    snapshots: Arc<Snapshots>,
    log: Log,
}

/// Opens the disk as `Node::open` does.
fn open(disk: &SimDisk, engine: EngineKind) -> Outcome<Process> {
    let seed = disk.stats().operations;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let data_dir = DataDir::open(Arc::clone(&disk), Path::new("/data"), "a", None, Default::default())?;
    if data_dir.marker().member.is_none() {
        discard(&disk, Path::new(DIR), Path::new(WAL), [Path::new(STATE), Path::new(SNAPSHOTS)])?;
    }
    let log = Wal::open(Arc::clone(&disk), Path::new(WAL), WAL_OPTIONS)?;
    let options = StoreOptions { engine, seed, ..StoreOptions::default() };
    let store = Store::open_with(Arc::clone(&disk), Path::new(STATE), options)?;
    let is_runs = engine == EngineKind::Runs;
    let snapshots = Arc::new(Snapshots::open(Arc::clone(&disk), Path::new(SNAPSHOTS), is_runs)?);
    Ok(Process { data_dir, disk, store, snapshots, log })
}

fn begin(process: Process, backup: &Backup) -> (DataDir, Restore) {
    begin_with(process, backup, false)
}

fn begin_with(process: Process, backup: &Backup, threads: bool) -> (DataDir, Restore) {
    let Process { data_dir, disk, store, snapshots, log } = process;
    let parts = Parts {
        disk,
        dir: DIR.into(),
        wal_dir: WAL.into(),
        wal_options: WAL_OPTIONS,
        links_sets: store.engine() == EngineKind::Runs,
        store,
        snapshots,
        machine: None,
        metrics: Metrics::new(&mut Registry::default()),
        sizes: SIZES,
        threads,
    };
    (data_dir, Restore::new(parts, Plan::of(&backup.header).unwrap(), log))
}

fn part(data: &[u8]) -> RestoreData {
    RestoreData { data: data.to_vec().into(), crc32c: crc32c::crc32c(data) }
}

/// Ends a failed restore, and the process.
fn abandon(mut restore: Restore) {
    drop(restore.abandon().unwrap());
}

fn send(restore: &mut Restore, backup: &Backup) -> Result<(), Error> {
    let held_bytes = restore.held_bytes()? as usize;
    restore.load_base()?;
    for data in backup.base[held_bytes..].chunks(1_000) {
        restore.take_data(&part(data))?;
    }
    for entries in backup.entries.chunks(7) {
        restore.take_entries(entries.to_vec())?;
    }
    Ok(())
}

/// Executes a whole restore, as the node does.
fn restore(disk: &SimDisk, engine: EngineKind, backup: &Backup) -> Outcome<Restored> {
    restore_with(disk, engine, backup, false)
}

fn restore_with(disk: &SimDisk, engine: EngineKind, backup: &Backup, threads: bool) -> Outcome<Restored> {
    let (mut data_dir, mut restore) = begin_with(open(disk, engine)?, backup, threads);
    send(&mut restore, backup)?;
    let ((mut wal, recovered), restored) = restore.finish(own())?;
    drop(recover(&mut wal, recovered, &restore.parts.store, &restore.parts.snapshots)?);
    data_dir.join(Belonging { cluster_id: "new".into(), member_id: MEMBER_ID, ..Belonging::default() })?;
    clean(restore.parts.disk.as_ref(), Path::new(DIR))?;
    Ok(restored)
}

/// Starts the node; returns whether it is a member. Checks that it is blank, or has the whole restored state.
fn start(disk: &SimDisk, engine: EngineKind, backup: &Backup) -> bool {
    let Process { data_dir, disk, store, snapshots, log: (mut wal, recovered) } = open(disk, engine).unwrap();
    if data_dir.marker().member.is_none() {
        assert_eq!((store.applied(), store.key_count()), (Applied::default(), 0));
        assert_eq!(recovered, Recovered::default());
        assert!(snapshots.newest().is_none());
        assert_eq!(restored(disk.as_ref(), Path::new(DIR), "new"), None);
        return false;
    }
    clean(disk.as_ref(), Path::new(DIR)).unwrap();
    recover(&mut wal, recovered, &store, &snapshots).unwrap();
    assert_restored(&store, backup);
    assert_eq!(snapshots.newest().unwrap().1.index, LAST + 1);
    assert_eq!(restored(disk.as_ref(), Path::new(DIR), "new").unwrap().index, LAST);
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 1);
    true
}

fn assert_restored(store: &Store, backup: &Backup) {
    assert_eq!(store.applied(), Applied { index: LAST + 1, term: 3 + LAST / 50 + 1 });
    assert_eq!(store.state_digest().unwrap(), backup.digest);
    assert_eq!(store.clock_ms(), LAST);
    let membership = store.membership();
    assert_eq!((&membership.cluster_id[..], &membership.voters[..]), ("new", &[MEMBER_ID][..]));
    assert_eq!((membership.next_id, membership.fencing_token), (MEMBER_ID + 1, 6));
    assert_eq!((membership.members.len(), &membership.members[0].disk_id[..]), (1, "new disk"));
}

/// Engine of the node, engine of the backup, and whether its base is a set.
const KINDS: [(EngineKind, EngineKind, bool); 4] = [
    (EngineKind::Runs, EngineKind::Runs, true),
    (EngineKind::Runs, EngineKind::Simulated, false),
    (EngineKind::Simulated, EngineKind::Simulated, false),
    (EngineKind::Simulated, EngineKind::Runs, true),
];

#[test]
fn restored_node_has_the_state_of_the_log_up_to_the_last_index() {
    for (engine, source, is_set) in KINDS {
        let backup = backup(source, is_set);
        for threads in [false, true] {
            let disk = SimDisk::new(1);
            let restored = restore_with(&disk, engine, &backup, threads).unwrap();
            assert_eq!(restored.base_digest, format!("{:016x}", backup.base_digest));
            assert_eq!((restored.index, restored.base_keys > 10), (LAST, true));
            let (keys, digest) = backup.compared;
            assert_eq!((restored.compared_keys, restored.compared_digest), (keys, format!("{digest:016x}")));
            assert!(start(&disk, engine, &backup));
        }
    }
}

#[test]
fn state_is_read_for_a_comparison_at_the_last_index_too_and_not_without_one() {
    let mut backup = backup(EngineKind::Runs, true);
    let mut compared = |at| {
        backup.header.compare_index = at;
        let restored = restore(&SimDisk::new(1), EngineKind::Runs, &backup).unwrap();
        (restored.compared_keys, restored.compared_digest, restored.keys)
    };
    let (keys, digest, all) = compared(LAST);
    assert_eq!((keys, digest.len()), (all, 16));
    assert_eq!(compared(0), (0, String::new(), all));
}

/// The order of the operations is that of the threads, so that each run cuts at other ones.
#[test]
fn power_cut_while_the_threads_of_a_restore_run_leaves_a_blank_node_or_the_restored_member() {
    for (engine, source, is_set) in [KINDS[0], KINDS[2]] {
        let backup = backup(source, is_set);
        for operations in (0..400).step_by(7) {
            let disk = SimDisk::new(operations);
            disk.cut_power_after(operations);
            let outcome = restore_with(&disk, engine, &backup, true);
            assert!(outcome.is_ok() || disk.is_cut(), "{:?}", outcome.err());
            disk.crash();
            if !start(&disk, engine, &backup) {
                restore_with(&disk, engine, &backup, true).unwrap();
                assert!(start(&disk, engine, &backup));
            }
        }
    }
}

#[test]
fn power_cut_before_any_operation_of_a_restore_leaves_a_blank_node_or_the_restored_member() {
    for (engine, source, is_set) in KINDS {
        let backup = backup(source, is_set);
        let (mut operations, mut members) = (0, 0);
        loop {
            let disk = SimDisk::new(operations);
            disk.cut_power_after(operations);
            let outcome = restore(&disk, engine, &backup);
            if outcome.is_ok() && !disk.is_cut() {
                break;
            }
            disk.crash();
            if start(&disk, engine, &backup) {
                members += 1;
            } else {
                restore(&disk, engine, &backup).unwrap();
                assert!(start(&disk, engine, &backup));
            }
            operations += 1;
        }
        assert!(operations > 60 && members > 1, "{operations} power cuts, {members} members");
    }
}

#[test]
fn power_cut_while_a_failed_restore_is_abandoned_leaves_a_blank_node() {
    for (engine, source, is_set) in [KINDS[0], KINDS[2]] {
        let backup = backup(source, is_set);
        let fail = |disk: &SimDisk| -> Outcome<()> {
            let (_, mut restore) = begin(open(disk, engine)?, &backup);
            send(&mut restore, &backup)?;
            assert!(restore.take_entries(vec![backup.entries[0].clone()]).is_err());
            restore.abandon()?;
            Ok(())
        };
        let mut operations = 0;
        loop {
            let disk = SimDisk::new(operations);
            disk.cut_power_after(operations);
            let outcome = fail(&disk);
            if outcome.is_ok() && !disk.is_cut() {
                break;
            }
            disk.crash();
            assert!(!start(&disk, engine, &backup));
            operations += 1;
        }
        assert!(operations > 60);
    }
}

#[test]
fn failed_restore_leaves_a_blank_node_that_can_be_restored_in_the_same_process() {
    for (engine, source, is_set) in KINDS {
        let backup = backup(source, is_set);
        let disk = SimDisk::new(1);
        let process = open(&disk, engine).unwrap();
        let (store, snapshots) = (process.store.clone(), Arc::clone(&process.snapshots));
        let (data_dir, mut restore) = begin(process, &backup);
        send(&mut restore, &backup).unwrap();
        let purged = restore.log.as_ref().unwrap().0.base().index;
        assert!((BASE + 1..LAST).contains(&purged), "entries are applied and purged while more arrive");
        let shared = Arc::clone(&restore.parts.disk);
        let missing = restore.position.clone();
        restore.position.index -= 1;
        assert!(restore.finish(own()).err().unwrap().message.contains("ends at entry"));
        assert_ne!(restore.position, missing);
        let log = restore.abandon().unwrap();
        assert_eq!((store.applied(), log.1.clone()), (Applied::default(), Recovered::default()));
        assert!(snapshots.newest().is_none());
        assert!(!shared.exists(&Path::new(DIR).join("begun")));

        let (_, mut restore) =
            begin(Process { data_dir, disk: shared, store: store.clone(), snapshots, log }, &backup);
        assert_eq!(restore.held_bytes().unwrap(), backup.base.len() as u64, "the base is sent again");
        send(&mut restore, &backup).unwrap();
        restore.finish(own()).unwrap();
        assert_restored(&store, &backup);
    }
}

#[test]
fn interrupted_transfer_of_a_base_continues_in_the_next_process() {
    for (engine, source, is_set) in KINDS {
        let backup = backup(source, is_set);
        let disk = SimDisk::new(1);
        let (_, mut restore) = begin(open(&disk, engine).unwrap(), &backup);
        assert_eq!(restore.held_bytes().unwrap(), 0);
        let half = backup.base.len() / 2;
        restore.take_data(&part(&backup.base[..half])).unwrap();
        assert_eq!(
            restore.progress().describe(),
            format!("restoring: {half} of {} bytes", backup.base.len())
        );
        abandon(restore);
        assert!(!start(&disk, engine, &backup));
        let (_, mut restore) = begin(open(&disk, engine).unwrap(), &backup);
        assert_eq!(restore.held_bytes().unwrap(), half as u64);
        drop(restore);
        super::tests::restore(&disk, engine, &backup).unwrap();
        assert!(start(&disk, engine, &backup));
    }
}

#[test]
fn damaged_base_is_refused_and_sent_again_from_its_first_byte() {
    for (engine, source, is_set) in KINDS {
        let mut backup = backup(source, is_set);
        let at = backup.base.len() / 2;
        backup.base[at] ^= 1;
        let disk = SimDisk::new(1);
        let (_, mut restore) = begin(open(&disk, engine).unwrap(), &backup);
        let error = send(&mut restore, &backup).unwrap_err();
        assert_eq!(error.code, ErrorCode::SnapshotFailed, "{error}");
        abandon(restore);
        assert!(!start(&disk, engine, &backup));
        let (_, mut restore) = begin(open(&disk, engine).unwrap(), &backup);
        assert_eq!(restore.held_bytes().unwrap(), 0);
    }
}

#[test]
fn entry_that_ended_the_process_twice_is_not_applied_and_the_error_names_it() {
    let backup = backup(EngineKind::Runs, true);
    let disk = SimDisk::new(1);
    for _ in 0..2 {
        let (_, mut restore) = begin(open(&disk, EngineKind::Runs).unwrap(), &backup);
        restore.held_bytes().unwrap();
        if restore.incoming.is_some() {
            restore.take_data(&part(&backup.base)).unwrap();
        }
        restore.load_base().unwrap();
        // The process ends while it applies this entry.
        restore.replay.as_mut().unwrap().applier.suspects.begin(BASE + 5);
    }
    let (_, mut restore) = begin(open(&disk, EngineKind::Runs).unwrap(), &backup);
    let sent = send(&mut restore, &backup).and_then(|()| restore.finish(own()).map(drop));
    let error = sent.unwrap_err();
    assert_eq!(error.code, ErrorCode::EntryUnappliable);
    assert!(error.message.contains("entry 65") && error.message.contains("an index below it"), "{error}");
    abandon(restore);
    assert!(!start(&disk, EngineKind::Runs, &backup));
}

#[test]
fn base_of_another_cluster_than_its_header_says_is_refused() {
    let mut backup = backup(EngineKind::Runs, true);
    backup.header.base.as_mut().unwrap().cluster_id = "other".into();
    let disk = SimDisk::new(1);
    let (_, mut restore) = begin(open(&disk, EngineKind::Runs).unwrap(), &backup);
    let error = send(&mut restore, &backup).unwrap_err();
    assert!(error.message.contains("is of cluster \"old\""), "{error}");
    abandon(restore);
    assert!(!start(&disk, EngineKind::Runs, &backup));
}
