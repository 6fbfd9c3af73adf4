use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::{Command, Membership, Set, command::Op};
use tempfile::TempDir;

use super::*;
use crate::lifecycle::Belonging;
use crate::state::{EngineKind, Store};
use crate::wal::{Base, Batch, HardState, LogEntry, Wal, WalOptions};

const OPTIONS: WalOptions = WalOptions { segment_bytes: 4096, spare_segments: 1 };

/// Data of a stopped member: log entries 11 to 30, snapshots at 10 and 20, state at 25.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn new() -> Self {
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        let mut data_dir = DataDir::open(disk::real(), disk.dir.path(), "a", None, Duration::ZERO).unwrap();
        data_dir
            .join(Belonging { cluster_id: "c".into(), member_id: 3, removed: false, incarnation: 0 })
            .unwrap();
        let (mut wal, _) = Wal::open(disk::real(), &disk.path("wal"), OPTIONS).unwrap();
        for index in 1..=30 {
            let entries = vec![LogEntry { index, term: 2, payload: vec![7; 900].into() }];
            let hard_state = Some(HardState { term: 2, vote: 3, commit: index - 1 });
            wal.append(&[Batch { reset: None, entries, hard_state }]).unwrap();
        }
        wal.purge(Base { index: 10, term: 2 }).unwrap();
        let store = Store::open(&disk.path("state"), EngineKind::Sled).unwrap();
        let snapshots = Snapshots::open(disk::real(), &disk.path("snapshots"), true).unwrap();
        store.apply_membership(1, 1, Membership { voters: vec![1, 2, 3], ..Default::default() });
        for index in 2..=25 {
            let key = Bytes::from(format!("key {index}"));
            let set = Set { key, value: Bytes::from_static(b"value"), ..Set::default() };
            store.apply(index, 2, &Command { now_ms: 1, op: Some(Op::Set(set)), ..Command::default() });
            if index % 10 == 0 || index == 25 {
                store.checkpoint().unwrap();
            }
            if index % 10 == 0 {
                snapshots.write(&store, true).unwrap();
            }
        }
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn verify(&self) -> Vec<Finding> {
        let before = content(self.dir.path());
        let findings = verify(&Places { data_dir: self.dir.path().to_owned(), wal_dir: self.path("wal") });
        assert!(content(self.dir.path()) == before, "something was changed");
        findings
    }

    /// Asserts that only `thing` is damaged, and that its line contains each of `words`.
    fn assert_damaged(&self, thing: &str, words: &[&str]) {
        let findings = self.verify();
        assert_eq!(exit_code(&findings), 1, "{findings:?}");
        let damaged: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Damaged).collect();
        assert_eq!(damaged.iter().map(|finding| finding.thing).collect::<Vec<_>>(), [thing], "{findings:?}");
        for word in words {
            assert!(damaged[0].text.contains(word), "no word of {word:?}: {}", damaged[0].text);
        }
    }

    /// Asserts that there is one finding, with exit code 78, and returns its text.
    fn unknown(&self) -> String {
        let findings = self.verify();
        assert_eq!(exit_code(&findings), 78, "{findings:?}");
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].to_string()
    }

    fn files(&self, dir: &str, extension: &str) -> Vec<PathBuf> {
        let paths = fs::read_dir(self.path(dir)).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
        found.sort();
        found
    }
}

fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

#[test]
fn intact_data_is_reported_with_one_line_per_part() {
    let findings = Disk::new().verify();
    assert_eq!(exit_code(&findings), 0);
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let expected = [
        "marker    whole    node a, disk ",
        "log       whole    ",
        "snapshot  whole    ",
        "snapshot  whole    ",
        "state     whole    applied index 25, term 2, 24 keys",
        "together  whole    the log continues from applied index 25",
    ];
    assert!(lines.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{lines:#?}");
    assert!(lines[0].ends_with("started 1 times; member 3 of cluster c"), "{}", lines[0]);
    assert!(lines[1].contains("20 entries, 11 to 30; term 2, commit index 29"), "{}", lines[1]);
}

#[test]
fn a_flipped_byte_of_the_log_is_named_by_file_and_offset() {
    let disk = Disk::new();
    let segment = &disk.files("wal", "wal")[0];
    flip(segment, 700);
    disk.assert_damaged("log", &[segment.to_str().unwrap(), "byte ", "let it rejoin"]);
}

#[test]
fn a_missing_segment_or_log_is_named() {
    let disk = Disk::new();
    let segments = disk.files("wal", "wal");
    fs::remove_file(&segments[1]).unwrap();
    disk.assert_damaged("log", &[segments[1].to_str().unwrap(), "the segment is missing"]);
    fs::remove_dir_all(disk.path("wal")).unwrap();
    disk.assert_damaged("log", &["is missing", "--wal-dir"]);
    fs::create_dir(disk.path("wal")).unwrap();
    disk.assert_damaged("log", &["holds no segment"]);
}

#[test]
fn a_damaged_snapshot_is_named_and_the_rest_still_fits() {
    let disk = Disk::new();
    let newest = disk.files("snapshots", "snap").pop().unwrap();
    flip(&newest, 200);
    disk.assert_damaged("snapshot", &[newest.to_str().unwrap(), "byte ", "remove the file"]);
    fs::write(&newest, b"").unwrap();
    disk.assert_damaged("snapshot", &[newest.to_str().unwrap(), "byte 0"]);
}

#[test]
fn a_damaged_state_is_named_and_the_next_start_rebuilds_it() {
    let disk = Disk::new();
    let db = sled::open(disk.path("state/00000001")).unwrap();
    db.insert(b"dkey 7", b"another").unwrap();
    db.flush().unwrap();
    drop(db);
    disk.assert_damaged("state", &[disk.path("state").to_str().unwrap(), "digest", "rebuilds it"]);
    fs::write(disk.path("state/CURRENT"), "nonsense").unwrap();
    disk.assert_damaged("state", &["CURRENT holds no number"]);
    fs::remove_dir_all(disk.path("state")).unwrap();
    let findings = disk.verify();
    assert_eq!(exit_code(&findings), 0);
    assert!(findings.last().unwrap().text.contains("builds the state from snapshot 20 and the log"));
}

#[test]
fn an_interrupted_checkpoint_is_not_damage() {
    let disk = Disk::new();
    fs::write(disk.path("state/REDO"), "half a journal").unwrap();
    fs::write(disk.path("state/OPENING"), "...").unwrap();
    assert_eq!(exit_code(&disk.verify()), 0);
}

#[test]
fn parts_that_do_not_fit_together_are_damage() {
    let disk = Disk::new();
    fs::remove_dir_all(disk.path("state")).unwrap();
    fs::remove_dir_all(disk.path("snapshots")).unwrap();
    disk.assert_damaged("together", &["the state is at index 0", "begins after 10", "ends at 30"]);
}

#[test]
fn a_missing_or_unreadable_marker_is_damage() {
    let disk = Disk::new();
    let marker = disk.path("node.json");
    fs::remove_file(&marker).unwrap();
    disk.assert_damaged("marker", &[marker.to_str().unwrap(), "lost its identity"]);
    fs::write(&marker, "{").unwrap();
    disk.assert_damaged("marker", &[marker.to_str().unwrap()]);
}

#[test]
fn a_directory_in_use_or_without_node_data_is_refused() {
    let disk = Disk::new();
    let running = DataDir::open(disk::real(), disk.dir.path(), "a", None, Duration::ZERO).unwrap();
    assert!(disk.unknown().contains("is in use: stop the node first"));
    drop(running);
    let other = Disk { dir: tempfile::tempdir().unwrap() };
    assert!(other.unknown().contains("is not the data directory of a node"));
    let (_wal, _) = Wal::open(disk::real(), &disk.path("wal"), OPTIONS).unwrap();
    assert_eq!(exit_code(&disk.verify()), 78);
}

#[test]
fn damage_takes_precedence_over_unreadable_parts_in_the_exit_code() {
    let finding = |verdict| Finding { thing: "log", verdict, text: String::new() };
    let code = |verdicts: &[Verdict]| exit_code(&verdicts.iter().copied().map(finding).collect::<Vec<_>>());
    assert_eq!(code(&[Verdict::Unknown(78), Verdict::Damaged, Verdict::Whole]), 1);
    assert_eq!(code(&[Verdict::Whole, Verdict::Unknown(78), Verdict::Unknown(74)]), 74);
}
