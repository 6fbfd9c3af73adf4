//! The archiver against members in this process and a store in a directory.

mod faults;

use std::sync::Arc;
use std::time::Duration;

use helios_archive::plan::{Plan, Target};
use helios_archive::retention::Retention;
use helios_archive::{Archive, Drill, History, Keyring, Origin, Parent, Store};
use helios_proto::v1::{ArchiverReport, ErrorCode, Role};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::view::Shared;
use super::{Archiver, Limits, Settings};
use crate::Failure;
use crate::members::Connection;
use crate::testing::{Digest, Member, base_content, entry, members};

const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Failure>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn store(dir: &TempDir) -> Store {
    Store::open(&format!("file://{}", dir.path().join("store").display())).unwrap()
}

fn archive(dir: &TempDir, incarnation: u64) -> Archive {
    Archive::new(store(dir), History::new("a", incarnation).unwrap(), Keyring::unencrypted())
}

fn start(dir: &TempDir, all: &[&Member]) -> Running {
    start_with(store(dir), Limits::default(), all)
}

fn start_with(store: Store, limits: Limits, all: &[&Member]) -> Running {
    let settings = Settings {
        name: "orders".to_owned(),
        namespace: "shop".to_owned(),
        flush_interval: Duration::from_millis(50),
        retention: Retention::default(),
        max_bytes_per_second: 0,
        base_interval: Duration::ZERO,
        limits,
    };
    let shared = Arc::new(Shared::new());
    let members = members(all.iter().copied());
    let archiver = Archiver::new(settings, members, store, Keyring::unencrypted(), Arc::clone(&shared));
    let stop = CancellationToken::new();
    Running { shared, stop: stop.clone(), task: tokio::spawn(archiver.run(stop)) }
}

impl Running {
    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.shared.status();
            if is_so(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "not in time: {what}: {status:#}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn archived(&self, index: u64) -> Value {
        self.until(&format!("{index} is archived"), |status| status["archivedIndex"] == index).await
    }

    async fn based(&self, index: u64) -> Value {
        self.until(&format!("a base at {index}"), |status| status["lastBase"]["index"] == index).await
    }

    async fn end(mut self) -> Result<(), Failure> {
        self.stop.cancel();
        (&mut self.task).await.unwrap()
    }
}

/// Restores an index by the archive's own reader, and compares with what the members wrote.
async fn assert_restores(archive: &Archive, index: u64, base: u64) {
    let catalog = archive.catalog().await.unwrap();
    let plan = archive.plan(&catalog, &mut Default::default(), Target::Index(index)).await.unwrap();
    let plan: Plan = plan.unwrap();
    assert_eq!(plan.base.index, base);
    let mut reader = plan.entries(archive);
    let mut next = base + 1;
    while let Some(entries) = reader.next().await.unwrap() {
        for found in entries {
            let expected = entry(next);
            assert_eq!(
                (found.index, found.now_ms, &found.payload),
                (next, expected.now_ms, &expected.payload)
            );
            next += 1;
        }
    }
    assert_eq!(next, index + 1);
    let mut reader = helios_archive::base::BaseReader::open(archive, plan.base).await.unwrap();
    let mut content = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        content.extend_from_slice(&part);
    }
    assert!(content == base_content(base));
}

#[tokio::test]
async fn base_and_log_are_archived_from_a_follower_and_resumed_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let leader = Member::start("m0", Role::Leader, 10).await;
    let follower = Member::start("m1", Role::Follower, 10).await;
    let running = start(&dir, &[&leader, &follower]);
    let status = running.based(10).await;
    assert_eq!(status["lastBase"]["member"], "m1");
    assert_eq!(status["lastBase"]["stateDigest"], format!("{:016x}", 10));
    for index in [11, 40, 41] {
        follower.write(index);
        running.archived(index).await;
    }
    let status = running.until("it is archiving", |status| status["state"] == "Archiving").await;
    assert_eq!(status["member"], follower.address);
    assert_eq!(status["recoverable"][0]["toIndex"], 41);
    assert_eq!(status["archivedNowMs"], entry(41).now_ms);
    assert_eq!(status["gaps"], serde_json::json!([]));
    // Both members keep what the store does not have.
    running
        .until("holds", |_| leader.facts().holds.contains(&42) && follower.facts().holds.contains(&42))
        .await;
    follower.write(50);
    running.end().await.unwrap();

    let restore = Drill {
        at_ms: 7_000,
        index: 10,
        term: 2,
        is_restore: true,
        succeeded: true,
        took_ms: 900,
        detail: String::new(),
        compared_index: None,
    };
    for drill in [
        Drill { at_ms: 6_000, index: 9, ..restore.clone() },
        restore.clone(),
        Drill { at_ms: 8_000, is_restore: false, ..restore.clone() },
        Drill { at_ms: 9_000, succeeded: false, ..restore },
    ] {
        archive(&dir, 1).report_drill(&drill).await.unwrap();
    }
    let running = start(&dir, &[&leader, &follower]);
    running.archived(50).await;
    follower.write(60);
    let status = running.archived(60).await;
    assert_eq!(status["lastVerifiedRestore"]["atMs"], 7_000, "{status:#}");
    let reported = |member: &Member| {
        member.facts().report.clone().is_some_and(|report| {
            let ArchiverReport { state, archived_index, last_base, last_verified_restore, .. } = report;
            let indexes = (last_base.map(|base| base.index), last_verified_restore.map(|state| state.index));
            (state.as_str(), archived_index, indexes) == ("Archiving", 60, (Some(10), Some(10)))
        })
    };
    running.until("reports to all members", |_| reported(&leader) && reported(&follower)).await;
    running.end().await.unwrap();
    let archive = archive(&dir, 1);
    assert_restores(&archive, 60, 10).await;
    assert_restores(&archive, 37, 10).await;
    let Origin { name, namespace, parent, .. } = archive.origin().await.unwrap();
    assert_eq!((name.as_str(), namespace.as_str(), parent), ("orders", "shop", None));
    assert_eq!(leader.facts().offsets.len(), 0, "the leader was read");
}

#[tokio::test]
async fn archiver_killed_at_any_moment_leaves_no_gap_and_no_fork() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 5).await;
    for round in 0..25 {
        let running = start(&dir, &[&member]);
        for step in 0..=round % 7 {
            member.write(5 + round * 10 + step);
            sleep(Duration::from_millis(7 * (round % 5))).await;
        }
        running.task.abort();
        drop((&mut { running }.task).await);
    }
    let running = start(&dir, &[&member]);
    let last = member.facts().log.len() as u64;
    running.archived(last).await;
    let status = running.until("a base", |status| !status["lastBase"].is_null()).await;
    assert_eq!(status["gaps"], serde_json::json!([]));
    running.end().await.unwrap();
    let archive = archive(&dir, 1);
    let catalog = archive.catalog().await.unwrap();
    let base = catalog.usable_bases().next().unwrap();
    // There may be overlaps: a segment that was on its way when its archiver was killed may arrive after the next one has
    // listed the store.
    assert!(catalog.gaps().is_empty(), "{:?}", catalog.gaps());
    assert_restores(&archive, last, catalog.usable_bases().next_back().unwrap().index).await;
    assert_eq!(catalog.reach_of(base), last);
}

#[tokio::test]
async fn purged_log_is_a_gap_with_a_new_base() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    let running = start(&dir, &[&member]);
    running.based(10).await;
    member.write(20);
    running.archived(20).await;
    running.end().await.unwrap();
    member.write(100);
    member.facts().first_index = 80;

    let running = start(&dir, &[&member]);
    running.based(100).await;
    member.write(110);
    let status = running.archived(110).await;
    assert_eq!(status["gaps"], serde_json::json!([{"from": 21, "to": 100}]));
    assert_eq!(status["recoverable"].as_array().unwrap().len(), 2);
    assert_eq!(running.shared.metrics.gaps.get(), 1);
    assert_restores(&archive(&dir, 1), 110, 100).await;
    assert_restores(&archive(&dir, 1), 20, 10).await;
}

#[tokio::test]
async fn log_continues_from_another_member_when_the_follower_is_gone() {
    let dir = TempDir::new().unwrap();
    let leader = Member::start("m0", Role::Leader, 10).await;
    let follower = Member::start("m1", Role::Follower, 10).await;
    let running = start(&dir, &[&leader, &follower]);
    follower.write(20);
    running.archived(20).await;
    leader.write(30);
    drop(follower);
    let status = running.archived(30).await;
    assert_eq!(
        (&status["member"], &status["gaps"]),
        (&Value::from(&*leader.address), &serde_json::json!([]))
    );
}

#[tokio::test]
async fn log_moves_to_a_follower_without_a_gap_when_its_member_becomes_the_leader() {
    let dir = TempDir::new().unwrap();
    let (first, second) =
        (Member::start("m0", Role::Leader, 10).await, Member::start("m1", Role::Follower, 10).await);
    let running = start(&dir, &[&first, &second]);
    for (before, leader, last) in [(&first, &second, 30), (&second, &first, 50)] {
        running.until("the follower is read", |status| status["member"] == leader.address).await;
        first.write(last - 10);
        second.write(last - 10);
        running.archived(last - 10).await;
        before.facts().role = Role::Follower;
        leader.facts().role = Role::Leader;
        running.until("the new follower is read", |status| status["member"] == before.address).await;
        before.write(last);
        let status = running.archived(last).await;
        assert_eq!(status["gaps"], serde_json::json!([]));
        leader.write(last);
    }
    running.end().await.unwrap();
    assert_restores(&archive(&dir, 1), 50, 10).await;
}

#[tokio::test]
async fn interrupted_base_is_resumed_by_its_offset() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    member.facts().broken_bases = 2;
    let running = start(&dir, &[&member]);
    let status = running.based(10).await;
    // It has the end of the last attempt.
    assert_eq!(status["lastBase"]["stateDigest"], format!("{:016x}", 10));
    assert_eq!(member.facts().offsets.len(), 3);
    member.write(11);
    running.archived(11).await;
    assert_restores(&archive(&dir, 1), 11, 10).await;
}

#[tokio::test]
async fn base_of_a_member_of_an_older_build_has_the_digest_of_its_header() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    (member.facts().digest, member.facts().broken_bases) = (Digest::InHeader, 1);
    let running = start(&dir, &[&member]);
    let status = running.based(10).await;
    // The digest of the first attempt is that of the snapshot.
    assert_eq!(status["lastBase"]["stateDigest"], format!("{:016x}", 10));
    assert_eq!(member.facts().offsets.len(), 2);
}

#[tokio::test]
async fn base_that_is_found_damaged_at_its_end_is_not_completed() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    member.facts().digest = Digest::Damaged;
    let running = start(&dir, &[&member]);
    running
        .until("the base is refused", |status| {
            status["message"].as_str().is_some_and(|text| text.contains("the snapshot is damaged"))
        })
        .await;
    assert_eq!(archive(&dir, 1).catalog().await.unwrap().usable_bases().count(), 0);
    member.facts().digest = Digest::AtEnd;
    running.based(10).await;
}

#[tokio::test]
async fn new_incarnation_is_another_history_with_a_parent() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    let running = start(&dir, &[&member]);
    running.based(10).await;
    member.write(20);
    running.archived(20).await;
    member.facts().incarnation = 2;
    member.write(25);
    let status = running.until("the new history", |status| status["incarnation"] == 2).await;
    assert_eq!(status["clusterId"], "a");
    running.based(25).await;
    member.write(30);
    running.archived(30).await;
    running.end().await.unwrap();
    let parent = archive(&dir, 2).origin().await.unwrap().parent.unwrap();
    let expected = Parent { cluster_id: "a".to_owned(), incarnation: 1, index: 20, now_ms: entry(20).now_ms };
    assert_eq!(parent, expected);
    assert_restores(&archive(&dir, 2), 30, 25).await;
}

#[tokio::test]
async fn store_that_fails_is_reported_and_everything_is_written_when_it_is_back() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    let running = start(&dir, &[&member]);
    running.based(10).await;
    let (folder, aside) = (dir.path().join("store"), dir.path().join("aside"));
    std::fs::rename(&folder, &aside).unwrap();
    // No directory can be made here.
    std::fs::write(&folder, "").unwrap();
    member.write(20);
    let status =
        running.until("the trouble is reported", |status| status["state"] == "StoreUnavailable").await;
    assert!(status["message"].as_str().unwrap().contains("log/"), "{status}");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    member.write(30);
    let status = running.archived(30).await;
    assert_eq!(status["gaps"], serde_json::json!([]));
    running.until("it recovered", |status| status["state"] == "Archiving").await;
    running.end().await.unwrap();
    assert_restores(&archive(&dir, 1), 30, 10).await;
}

#[tokio::test]
async fn second_writer_with_another_log_is_a_fork_that_stops() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    let running = start(&dir, &[&member]);
    running.based(10).await;
    // The same index with other content, as by an archiver of a cluster with the same id.
    let position =
        helios_archive::segments::Position { next_index: 11, term: 2, now_ms: 1, previous: [0; 32] };
    let mut other = helios_archive::segments::SegmentWriter::new(&archive(&dir, 1), position);
    let payload = "other".into();
    other.push(&helios_archive::segments::Entry { index: 11, term: 2, now_ms: 1, payload }).await.unwrap();
    other.flush().await.unwrap();
    member.write(11);
    let status = running.until("the fork", |status| status["state"] == "Forked").await;
    assert!(status["message"].as_str().unwrap().contains("second writer"), "{status}");
    member.write(12);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(running.shared.status()["archivedIndex"], 10);
    running.end().await.unwrap_or_default();
}

#[tokio::test]
async fn damaged_end_of_the_archive_is_continued_by_a_new_base() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    let running = start(&dir, &[&member]);
    running.based(10).await;
    member.write(20);
    running.archived(20).await;
    running.end().await.unwrap();
    let archive = archive(&dir, 1);
    let last = *archive.catalog().await.unwrap().segments.keys().next_back().unwrap();
    let file = dir.path().join("store").join(archive.name(helios_archive::Object::Segment(last)));
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    member.write(30);
    let running = start(&dir, &[&member]);
    running.based(30).await;
    member.write(40);
    running.archived(40).await;
    running.end().await.unwrap();
    assert_restores(&archive, 40, 30).await;
}

#[tokio::test]
async fn missing_members_are_a_state_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 10).await;
    let running = start(&dir, &[&member]);
    running.based(10).await;
    drop(member);
    let status = running.until("no member", |status| status["state"] == "NoMember").await;
    assert!(!status["message"].as_str().unwrap().is_empty());
    running.end().await.unwrap();
}

#[tokio::test]
async fn calls_have_the_password_of_the_file() {
    let dir = TempDir::new().unwrap();
    let member = Member::start("m0", Role::Leader, 1).await;
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\nsecond line").unwrap();
    let connection =
        Connection { user: Some("backup".to_owned()), password_file: Some(file), ..Connection::default() };
    let members = crate::members::Members::new(std::slice::from_ref(&member.address), connection).unwrap();
    assert!(members.survey().await[0].status.is_ok());
    assert_eq!(member.facts().authorization.as_deref(), Some("Basic YmFja3VwOnNlY3JldA=="));
    let history = History::new("b", 1).unwrap();
    let error = members.iter().next().unwrap().log(&history, 1).await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::WrongCluster);
}
