//! Tests of what the simulated disk keeps and loses. The log and the state are tested on it, so it must
//! not promise more than a real disk.

use std::collections::BTreeSet;
use std::fs::TryLockError;
use std::io::ErrorKind;

use super::*;

fn put(disk: &dyn Disk, path: &str, content: &[u8]) -> Box<dyn DiskFile> {
    let file = disk.create(Path::new(path)).unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

fn put_durably(disk: &dyn Disk, path: &str, content: &[u8]) -> Box<dyn DiskFile> {
    let file = put(disk, path, content);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
    file
}

/// Returns the results of `read` after a power cut, over 200 seeds.
fn after_crash<T: Ord>(prepare: impl Fn(&SimDisk), read: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    let outcome = |seed| {
        let disk = SimDisk::new(seed);
        prepare(&disk);
        disk.crash();
        read(&disk)
    };
    (0..200).map(outcome).collect()
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    disk.read(Path::new(path)).ok()
}

#[test]
fn synced_content_under_a_synced_name_survives_every_power_cut() {
    let found = after_crash(
        |disk| {
            disk.make_dir(Path::new("/data/wal")).unwrap();
            put_durably(disk, "/data/wal/file", b"kept");
        },
        |disk| content(disk, "/data/wal/file"),
    );
    assert_eq!(found, BTreeSet::from([Some(b"kept".to_vec())]));
}

#[test]
fn a_name_may_be_lost_until_its_own_directory_and_all_above_it_are_synced() {
    let lost = |dirs: &[&str]| {
        let found = after_crash(
            |disk| {
                disk.create_dir_all(Path::new("/data/wal")).unwrap();
                put(disk, "/data/wal/file", b"kept").sync_all().unwrap();
                dirs.iter().for_each(|dir| disk.sync_dir(Path::new(dir)).unwrap());
            },
            |disk| content(disk, "/data/wal/file"),
        );
        found.contains(&None)
    };
    assert!(lost(&[]));
    assert!(lost(&["/data/wal", "/"]));
    assert!(lost(&["/data", "/"]));
    assert!(lost(&["/data/wal", "/data"]));
    assert!(!lost(&["/data/wal", "/data", "/"]));
}

#[test]
fn unsynced_sectors_are_kept_lost_or_torn_independently() {
    let found = after_crash(
        |disk| {
            let file = put_durably(disk, "/file", &[b'o'; 1536]);
            file.write_all_at(&[b'n'; 1536], 0).unwrap();
        },
        |disk| content(disk, "/file").unwrap(),
    );
    let of = |sectors: [u8; 3]| sectors.map(|byte| [byte; 512]).concat();
    assert!([*b"ooo", *b"nnn", *b"noo", *b"ono"].iter().all(|sectors| found.contains(&of(*sectors))));
    let is_torn = |sector: &[u8]| sector.contains(&b'o') && sector.contains(&b'n');
    assert!(found.iter().any(|content| is_torn(&content[1024..])));
    assert!(!found.iter().any(|content| is_torn(&content[..512]) || is_torn(&content[512..1024])));
}

#[test]
fn unsynced_growth_keeps_any_length_after_a_power_cut() {
    let found = after_crash(
        |disk| put_durably(disk, "/file", b"12345").write_all_at(b"67890", 5).unwrap(),
        |disk| content(disk, "/file").unwrap(),
    );
    let lengths: BTreeSet<usize> = found.iter().map(Vec::len).collect();
    assert!(lengths.contains(&5) && lengths.contains(&10) && lengths.len() > 3);
    assert!(found.iter().all(|content| content.starts_with(b"12345")), "a neighbour was damaged");
    assert!(found.contains(b"12345\0\0\0\0\0".as_slice()), "the length alone was kept");
}

#[test]
fn unsynced_truncation_leaves_the_old_content_or_a_prefix_of_the_new() {
    let found = after_crash(
        |disk| {
            put_durably(disk, "/file", b"old content");
            put(disk, "/file", b"new");
        },
        |disk| content(disk, "/file").unwrap(),
    );
    let expected: [&[u8]; 3] = [b"old content", b"", b"new"];
    assert!(expected.iter().all(|content| found.contains(*content)));
    assert!(!found.iter().any(|content| content.len() > 3 && *content != b"old content"), "{found:?}");
}

#[test]
fn unsynced_renames_and_removals_keep_a_prefix_after_a_power_cut() {
    let names = |disk: &SimDisk| {
        let entries = disk.list(Path::new("/")).unwrap();
        entries.into_iter().map(|entry| entry.name.into_string().unwrap()).collect::<String>()
    };
    let prepare = |disk: &SimDisk| {
        put_durably(disk, "/a", b"1");
        put_durably(disk, "/b", b"2");
        disk.rename(Path::new("/a"), Path::new("/c")).unwrap();
        disk.remove_file(Path::new("/b")).unwrap();
        put(disk, "/d", b"3");
    };
    let expected = ["ab", "bc", "c", "cd"].map(str::to_owned);
    assert_eq!(after_crash(prepare, names), BTreeSet::from(expected));
}

#[test]
fn linked_file_outlives_its_first_name_once_the_directory_of_the_second_is_synced() {
    let prepare = |syncs: bool| {
        move |disk: &SimDisk| {
            disk.make_dir(Path::new("/from")).unwrap();
            disk.make_dir(Path::new("/to")).unwrap();
            put_durably(disk, "/from/file", b"kept");
            disk.link(Path::new("/from/file"), Path::new("/to/file")).unwrap();
            if syncs {
                disk.sync_dir(Path::new("/to")).unwrap();
            }
            disk.remove_file(Path::new("/from/file")).unwrap();
            disk.sync_dir(Path::new("/from")).unwrap();
        }
    };
    let kept = Some(b"kept".to_vec());
    let read = |disk: &SimDisk| content(disk, "/to/file");
    assert_eq!(after_crash(prepare(true), read), BTreeSet::from([kept.clone()]));
    assert_eq!(after_crash(prepare(false), read), BTreeSet::from([None, kept]));
}

#[test]
fn link_on_the_machines_disk_shares_the_content_and_rejects_a_taken_name() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let disk = RealDisk::default();
    disk.create(&from).unwrap().write_all_at(b"kept", 0).unwrap();
    disk.link(&from, &to).unwrap();
    disk.remove_file(&from).unwrap();
    assert_eq!(disk.read(&to).unwrap(), b"kept");
    disk.create(&from).unwrap();
    assert_eq!(disk.link(&from, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_killed_process_loses_its_handles_and_locks_and_nothing_else() {
    let disk = SimDisk::new(1);
    let file = put(&disk, "/file", b"written");
    let lock = disk.try_lock(Path::new("/"), LockMode::Exclusive).unwrap();
    let is_locked = |mode| matches!(disk.try_lock(Path::new("/"), mode), Err(TryLockError::WouldBlock));
    assert!(is_locked(LockMode::Exclusive) && is_locked(LockMode::Shared));
    disk.kill();
    assert!(file.write_all_at(b"x", 0).is_err() && file.sync_data().is_err() && file.len().is_err());
    assert_eq!(content(&disk, "/file").unwrap(), b"written");
    let _next = disk.try_lock(Path::new("/"), LockMode::Exclusive).unwrap();
    drop(lock);
    assert!(is_locked(LockMode::Shared), "dropping the dead process's lock released the new one");
}

#[test]
fn shared_locks_exclude_the_writer_and_not_one_another() {
    let disk = SimDisk::new(1);
    let lock = |mode| disk.try_lock(Path::new("/"), mode);
    let readers = (lock(LockMode::Shared).unwrap(), lock(LockMode::Shared).unwrap());
    drop(readers.0);
    assert!(lock(LockMode::Exclusive).is_err());
    drop(readers.1);
    assert!(lock(LockMode::Exclusive).is_ok());
}

#[test]
fn failed_sync_loses_data_that_readers_still_see() {
    let disk = SimDisk::new(1);
    let file = put_durably(&disk, "/file", b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.fail_next_sync();
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "/file").unwrap(), b"new");
    disk.crash();
    assert_eq!(content(&disk, "/file").unwrap(), b"old");
}

#[test]
fn sync_that_lies_makes_nothing_durable() {
    let disk = SimDisk::new(1);
    disk.sync_lies(true);
    put_durably(&disk, "/file", b"synced");
    assert_eq!(content(&disk.durable(), "/file"), None);
    disk.sync_lies(false);
    put_durably(&disk, "/file", b"synced");
    assert_eq!(content(&disk.durable(), "/file").unwrap(), b"synced");
}

#[test]
fn full_disk_writes_what_fits_and_frees_removed_bytes() {
    let disk = SimDisk::new(1);
    put(&disk, "/old", &[1; 100]);
    disk.set_free_bytes(Some(50));
    let file = disk.create(Path::new("/new")).unwrap();
    let refused = file.write_all_at(&[2; 60], 0).unwrap_err();
    assert_eq!((refused.kind(), file.len().unwrap()), (ErrorKind::StorageFull, 50));
    file.write_all_at(&[3; 50], 0).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 0);
    disk.remove_file(Path::new("/old")).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 100);
    disk.set_free_bytes(None);
    file.write_all_at(&[2; 6000], 0).unwrap();
}

#[test]
fn flip_synced_bit_changes_one_durable_bit_of_a_candidate_file() {
    let disk = SimDisk::new(3);
    put_durably(&disk, "/a", b"content");
    put(&disk, "/b", b"content");
    assert_eq!(disk.flip_synced_bit(|path| path.ends_with("b")), None);
    let (path, byte) = disk.flip_synced_bit(|_| true).unwrap();
    assert_eq!(path, Path::new("/a"));
    let found = content(&disk, "/a").unwrap();
    let differing: Vec<usize> = (0..7).filter(|at| found[*at] != b"content"[*at]).collect();
    assert_eq!(differing, [byte as usize]);
    assert_eq!((found[differing[0]] ^ b"content"[differing[0]]).count_ones(), 1);
}

#[test]
fn copied_disk_is_independent_and_wiped_disk_is_empty() {
    let disk = SimDisk::new(1);
    put(&disk, "/file", b"1");
    let copy = disk.copy();
    put(&disk, "/file", b"2");
    assert_eq!(content(&copy, "/file").unwrap(), b"1");
    disk.wipe();
    assert_eq!(disk.list(Path::new("/")).unwrap(), []);
    assert_eq!(content(&copy, "/file").unwrap(), b"1");
}

#[test]
fn equal_seeds_leave_equal_disks() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/file", &[0; 20_000]);
        file.write_all_at(&[7; 20_000], 0).unwrap();
        disk.crash();
        content(&disk, "/file").unwrap()
    };
    assert!((0..20).all(|seed| run(seed) == run(seed)));
    assert!((1..20).any(|seed| run(seed) != run(0)));
}

#[test]
fn power_cut_fails_all_operations_until_the_process_restarts() {
    let disk = SimDisk::new(1);
    disk.cut_power_after(2);
    let file = disk.create(Path::new("/file")).unwrap();
    file.write_all_at(b"1", 0).unwrap();
    assert!(file.sync_data().is_err() && disk.read(Path::new("/file")).is_err());
    assert_eq!(
        disk.stats(),
        DiskStats { operations: 2, writes: 1, written_bytes: 1, ..DiskStats::default() }
    );
    disk.kill();
    assert_eq!(content(&disk, "/file").unwrap(), b"1");
}

#[test]
fn real_and_simulated_disk_behave_alike_without_faults() {
    let temp = tempfile::tempdir().unwrap();
    for (disk, root) in [(real(), temp.path()), (Arc::new(SimDisk::new(1)) as _, Path::new("/root"))] {
        let path = |name: &str| root.join("deep/er").join(name);
        disk.make_dir(&path("")).unwrap();
        let file = disk.create(&path("a")).unwrap();
        file.write_all_at(b"hole", 3).unwrap();
        assert_eq!(disk.read(&path("a")).unwrap(), b"\0\0\0hole");
        let mut buffer = [9; 4];
        assert_eq!((file.read_at(&mut buffer, 5).unwrap(), buffer), (2, *b"le\x09\x09"));
        assert_eq!((file.read_at(&mut buffer, 50).unwrap(), file.len().unwrap()), (0, 7));
        disk.rename(&path("a"), &path("b")).unwrap();
        assert_eq!((disk.kind(&path("a")), disk.kind(&path("b"))), (None, Some(Kind::File)));
        assert_eq!(disk.list(&path("")).unwrap(), [DirEntry { name: "b".into(), kind: Kind::File }]);
        assert_eq!(disk.open(&path("a")).map(drop).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.remove_file(&path("a")).unwrap_err().kind(), ErrorKind::NotFound);
        let lock = disk.try_lock(&path("LOCK"), LockMode::Exclusive).unwrap();
        assert!(matches!(disk.try_lock(&path("LOCK"), LockMode::Shared), Err(TryLockError::WouldBlock)));
        drop(lock);
        assert!(disk.try_lock(&path("LOCK"), LockMode::Shared).is_ok());
        assert!(disk.free_bytes(root).unwrap() > 0);
        disk.remove_dir_all(&root.join("deep")).unwrap();
        assert!(!disk.exists(&root.join("deep")));
    }
}

/// Prints the time of a small write and its sync:
/// `cargo test --release -p helios-storage disk::tests::figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints a figure, checks nothing"]
fn figures() {
    const ROUNDS: u64 = 200_000;
    let disk = SimDisk::new(1);
    let file = put_durably(&disk, "/segment", &[0; 64 << 10]);
    let start = std::time::Instant::now();
    for round in 0..ROUNDS {
        file.write_all_at(&[round as u8; 300], round * 300 % (63 << 10)).unwrap();
        file.sync_data().unwrap();
    }
    println!("{} ns for a write of 300 bytes and its sync", start.elapsed().as_nanos() as u64 / ROUNDS);
}
