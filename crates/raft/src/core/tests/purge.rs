//! Tests of the purge: which part of the log is kept for members that lag (docs/design/node.md, pitfalls 14 and 15).

use super::super::snapshots::MAX_TRAILING_BYTES;
use super::*;

const TRAILING: u64 = 2;
const MIB: usize = 1 << 20;

/// A leader, and a lagging voter that answers heartbeats and receives no entries.
pub struct Laggard {
    pub mesh: Mesh,
    pub leader: usize,
    pub lags: usize,
    pub matched: u64,
    begun: Instant,
}

impl Laggard {
    pub fn new() -> Self {
        let mut mesh = Mesh::new(1);
        let leader = mesh.elect();
        mesh.cores[leader].settings.trailing_entries = TRAILING;
        let matched = mesh.cores[leader].status(Instant::now()).last_index;
        Self { mesh, leader, lags: (leader + 1) % 3, matched, begun: Instant::now() }
    }

    /// Commits `count` entries that the lagging voter does not receive.
    pub fn write(&mut self, count: usize, bytes: usize) {
        for _ in 0..count {
            let (proposal, _) = proposal(&vec![7; bytes]);
            self.mesh.cores[self.leader].handle(Input::Propose(vec![proposal]), Instant::now());
            self.mesh.settle(self.leader);
            self.exchange();
        }
        self.hear_from_all();
    }

    /// Exchanges heartbeats and their answers.
    fn hear_from_all(&mut self) {
        for _ in 0..20 {
            self.mesh.cores[self.leader].tick();
            self.mesh.settle(self.leader);
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        let to = self.lags as u64 + 1;
        let is_entries = |message: &Message| {
            matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgSnapshot)
        };
        while !self.mesh.under_way.is_empty() {
            self.mesh.under_way.retain(|message| message.to != to || !is_entries(message));
            self.mesh.deliver(true);
        }
    }

    /// Calls `snapshot_at` at a time when all members count as active.
    pub fn snapshot(&mut self) -> (u64, u64) {
        self.snapshot_at(self.begun)
    }

    /// Reports a snapshot of everything committed, built at `now`. Returns its index and the first index of the log
    /// after it.
    fn snapshot_at(&mut self, now: Instant) -> (u64, u64) {
        let core = &mut self.mesh.cores[self.leader];
        let index = core.status(now).commit_index;
        let membership = core.membership.as_ref().clone();
        let meta =
            SnapshotMeta { index, term: core.raft.term(), membership, size_bytes: 1, crc32c: 0, version: 1 };
        core.on_done(Done::SnapshotBuilt(meta), now);
        (index, core.status(now).first_index)
    }
}

#[test]
fn log_for_a_member_that_lags_is_limited_by_the_size_of_the_state_if_snapshots_are_cheap() {
    let core = &mut Mesh::new(1).cores[0];
    core.settings.held_bytes = 1 << 30;
    assert_eq!(core.max_held_bytes(), 1 << 30, "an engine that writes snapshots");
    core.settings.snapshots_on_demand = true;
    assert_eq!(core.max_held_bytes(), 128 << 20);
    let done = |state_bytes| Done::Overlay { bytes: 0, durable: 0, state_bytes };
    core.on_done(done(4 << 30), Instant::now());
    assert_eq!(core.max_held_bytes(), 256 << 20);
    core.on_done(done(100 << 30), Instant::now());
    assert_eq!(core.max_held_bytes(), 1 << 30);
}

#[test]
fn entries_that_a_slow_voter_needs_are_kept_after_a_snapshot() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (_, first) = laggard.snapshot();
    assert_eq!(first, laggard.matched + 1);
}

#[test]
fn checkpoint_of_a_trusted_engine_purges_the_log_without_a_snapshot() {
    let mut laggard = Laggard::new();
    laggard.mesh.cores[laggard.leader].settings.snapshots_on_demand = true;
    laggard.write(50, 10);
    // Late enough that the lagging voter counts as inactive, and that a snapshot would be due.
    let now = Instant::now() + Duration::from_secs(100_000);
    let core = &mut laggard.mesh.cores[laggard.leader];
    let before = core.status(now).first_index;
    core.on_done(Done::Overlay { bytes: 0, durable: 0, state_bytes: 0 }, now);
    assert_eq!(core.status(now).first_index, before, "purged without a checkpoint");
    let durable = core.status(now).commit_index - 5;
    core.on_done(Done::Overlay { bytes: 0, durable, state_bytes: 0 }, now);
    let base = durable - TRAILING;
    assert_eq!(core.status(now).first_index, base + 1);
    let effects = core.drain(now);
    let removed = |effect: &Effect| matches!(effect, Effect::RemoveSnapshots { before } if *before == base);
    let purged = |effect: &Effect| matches!(effect, Effect::Log(LogJob::Purge(to)) if to.index == base);
    assert!(effects.iter().any(removed) && effects.iter().any(purged));
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::BuildSnapshot { .. })),
        "a snapshot nobody needs"
    );
}

#[test]
fn the_log_kept_for_a_slow_voter_is_limited() {
    let mut laggard = Laggard::new();
    let count = HELD_BYTES as usize / MIB + 8;
    laggard.write(count, MIB);
    let (index, first) = laggard.snapshot();
    assert!(first > laggard.matched + 1, "all is kept");
    assert!(first <= index - TRAILING, "nothing is kept for the voter");
    let bytes = laggard.mesh.cores[laggard.leader].status(Instant::now()).log_bytes;
    assert!((HELD_BYTES - MIB as u64 * 2..=HELD_BYTES).contains(&bytes), "{bytes} bytes are kept");
}

#[test]
fn log_is_kept_for_a_silent_voter_for_ten_minutes() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (_, first) = laggard.snapshot_at(Instant::now() + Duration::from_secs(500));
    assert_eq!(first, laggard.matched + 1);
    let (index, first) = laggard.snapshot_at(Instant::now() + Duration::from_secs(700));
    assert_eq!(first, index - TRAILING + 1);
}

#[test]
fn the_log_after_an_interrupted_snapshot_transfer_is_kept_until_it_is_complete() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (sent, _) = laggard.snapshot_at(Instant::now() + Duration::from_secs(700));
    let to = laggard.lags as u64 + 1;
    // The leader's next probe finds that the log begins too late, and sends the snapshot.
    laggard.mesh.cores[laggard.leader].handle(Input::Unreachable(to), Instant::now());
    laggard.hear_from_all();
    assert_eq!(laggard.mesh.cores[laggard.leader].raft.log().unfinished(to), Some(sent));
    laggard.mesh.cores[laggard.leader].handle(Input::SnapshotSent { to, ok: false }, Instant::now());
    laggard.write(50, 10);
    assert_eq!(laggard.snapshot().1, sent + 1);
    laggard.mesh.cores[laggard.leader].handle(Input::SnapshotGone(to), Instant::now());
    laggard.write(50, 10);
    assert!(laggard.snapshot_at(Instant::now() + Duration::from_secs(700)).1 > sent + 1);
}

/// Before, the leader took the snapshot for delivered at the end of its transfer, purged the entries after it while the
/// member installed it, and sent the next snapshot, and the next.
#[test]
fn the_log_after_a_sent_snapshot_is_kept_until_the_member_has_installed_it() {
    let mut laggard = Laggard::new();
    let (leader, lags) = (laggard.leader, laggard.lags);
    laggard.mesh.cores[leader].settings.held_bytes = 0;
    laggard.write(50, 10);
    let (sent, _) = laggard.snapshot();
    let to = lags as u64 + 1;
    laggard.mesh.cores[leader].handle(Input::Unreachable(to), Instant::now());
    laggard.hear_from_all();
    laggard.mesh.cores[leader].handle(Input::SnapshotSent { to, ok: true }, Instant::now());
    for _ in 0..3 {
        // The member is busy with the snapshot.
        laggard.write(50, 10);
        assert_eq!(laggard.snapshot().1, sent + 1, "the entries after the snapshot were purged");
    }
    let term = laggard.mesh.cores[leader].raft.term();
    let announced = Message { from: leader as u64 + 1, to, ..snapshot(term, sent) };
    let taken = step(&mut laggard.mesh.cores[lags], announced);
    let mut next = Vec::new();
    for answer in persisted(&mut laggard.mesh.cores[lags], taken.log[0]).sent {
        next.extend(step(&mut laggard.mesh.cores[leader], answer).sent);
    }
    let to_it: Vec<_> = next.iter().filter(|message| message.to == to).map(Message::get_msg_type).collect();
    assert!(to_it.contains(&MessageType::MsgAppend), "{to_it:?}");
    assert!(!to_it.contains(&MessageType::MsgSnapshot), "another snapshot");
    laggard.write(50, 10);
    assert!(laggard.snapshot().1 > sent + 1, "the log is kept although the snapshot is installed");
}

#[test]
fn little_of_the_log_is_kept_for_a_slow_voter_while_the_disk_is_full() {
    let mut laggard = Laggard::new();
    laggard.write(HELD_BYTES as usize / MIB - 2, MIB);
    assert_eq!(laggard.snapshot().1, laggard.matched + 1);
    let begun = laggard.begun;
    let core = &mut laggard.mesh.cores[laggard.leader];
    core.on_done(Done::LogSpace { is_short: true }, begun);
    let bytes = core.status(begun).log_bytes;
    assert!((MAX_TRAILING_BYTES / 2..=MAX_TRAILING_BYTES).contains(&bytes), "{bytes} bytes are kept");
}

/// Match index of the lagging voter on its leader, and whether a snapshot is being sent to it.
fn progress(laggard: &Laggard) -> (u64, bool) {
    let status = laggard.mesh.cores[laggard.leader].status(Instant::now());
    let of = status.progress.iter().find(|progress| progress.id == laggard.lags as u64 + 1).unwrap();
    (of.match_index, of.snapshotting)
}

/// d-engine's #308: the end of the transfer does not mean that the follower has installed the snapshot.
#[test]
fn a_snapshot_counts_as_installed_only_after_the_follower_has_reset_its_log_durably_and_answered() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (sent, _) = laggard.snapshot_at(Instant::now() + Duration::from_secs(700));
    let (leader, lags) = (laggard.leader, laggard.lags);
    let to = lags as u64 + 1;
    laggard.mesh.cores[leader].handle(Input::Unreachable(to), Instant::now());
    laggard.hear_from_all();
    assert_eq!(progress(&laggard), (laggard.matched, true));
    laggard.mesh.cores[leader].handle(Input::SnapshotSent { to, ok: true }, Instant::now());
    turn(&mut laggard.mesh.cores[leader]);
    assert_eq!(
        progress(&laggard).0,
        laggard.matched,
        "the end of the transfer counted as the follower's answer"
    );

    let term = laggard.mesh.cores[leader].raft.term();
    let announced = Message { from: leader as u64 + 1, to, ..snapshot(term, sent) };
    let taken = step(&mut laggard.mesh.cores[lags], announced);
    assert_eq!((taken.resets, taken.restores), (vec![sent], vec![]));
    let is_answered = |turn: &[Message]| turn.iter().any(|message| message.index == sent);
    assert!(!is_answered(&taken.sent), "it answers before the reset of its log is durable");
    let on_disk = persisted(&mut laggard.mesh.cores[lags], taken.log[0]);
    assert!(is_answered(&on_disk.sent));
    assert_eq!(on_disk.restores, [sent], "it answers and the state is never restored");
    for answer in on_disk.sent {
        step(&mut laggard.mesh.cores[leader], answer);
    }
    assert_eq!(progress(&laggard), (sent, false));
}

#[test]
fn one_message_to_a_lagging_voter_contains_at_most_a_mebibyte_of_entries() {
    let mut laggard = Laggard::new();
    laggard.write(100, MIB / 10);
    laggard.mesh.cores[laggard.leader].handle(Input::Unreachable(laggard.lags as u64 + 1), Instant::now());
    let mut most = 0;
    let bytes = |message: &Message| message.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
    for _ in 0..20 {
        laggard.mesh.cores[laggard.leader].tick();
        laggard.mesh.settle(laggard.leader);
        while !laggard.mesh.under_way.is_empty() {
            most = laggard.mesh.under_way.iter().map(bytes).max().unwrap_or(0).max(most);
            laggard.mesh.deliver(true);
        }
    }
    assert!((MIB / 2..=MIB).contains(&most), "{most} bytes in one message");
}

#[test]
fn a_snapshot_requested_while_one_is_built_is_built_after_it() {
    let mut laggard = Laggard::new();
    laggard.write(10, 10);
    let leader = laggard.leader;
    let builds = |core: &mut Core, now| {
        core.drain(now).iter().filter(|effect| matches!(effect, Effect::BuildSnapshot { .. })).count()
    };
    let now = laggard.begun;
    let ask = |core: &mut Core| {
        core.handle(Input::BuildSnapshot, now);
        builds(core, now)
    };
    assert_eq!(ask(&mut laggard.mesh.cores[leader]), 1);
    // The first snapshot covers the entries applied when it began.
    let early = laggard.mesh.cores[leader].applying.index();
    laggard.write(10, 10);
    assert_eq!(ask(&mut laggard.mesh.cores[leader]), 0, "two at once");
    let core = &mut laggard.mesh.cores[leader];
    let membership = core.membership.as_ref().clone();
    let (term, crc32c) = (core.raft.term(), 0);
    let meta = SnapshotMeta { index: early, term, membership, size_bytes: 1, crc32c, version: 1 };
    core.on_done(Done::SnapshotBuilt(meta), now);
    assert_eq!(builds(core, now), 1, "the second snapshot is never built");
    laggard.snapshot();
    assert_eq!(builds(&mut laggard.mesh.cores[leader], now), 0);
}

/// Keeps the log of `core` from entry `from` on; returns the first index of the answer.
fn hold(core: &mut Core, from: u64, limit_bytes: u64, now: Instant) -> u64 {
    let (waiter, mut answer) = tokio::sync::oneshot::channel();
    core.handle(Input::Hold { holder: "archiver".to_owned(), from_index: from, limit_bytes, waiter }, now);
    answer.try_recv().unwrap().unwrap()
}

#[test]
fn log_is_kept_for_an_archiver_on_a_follower_and_purged_once_the_hold_is_over_its_limit() {
    let mut laggard = Laggard::new();
    laggard.write(50, 1_000);
    let now = Instant::now();
    let follower = (0..3).find(|at| ![laggard.leader, laggard.lags].contains(at)).unwrap();
    let core = &mut laggard.mesh.cores[follower];
    core.settings.snapshots_on_demand = true;
    core.settings.trailing_entries = TRAILING;
    let checkpoint = |core: &mut Core| {
        let durable = core.status(now).commit_index;
        core.on_done(Done::Overlay { bytes: 0, durable, state_bytes: 0 }, now);
        core.status(now).first_index
    };
    let last = core.status(now).commit_index;
    let first = hold(core, last - 40, 1 << 20, now);
    assert_eq!(first, BASE.index + 1);
    assert_eq!(checkpoint(core), last - 40, "the entries are kept, and those before them are not");
    let status = core.status(now);
    assert!((40_000..60_000).contains(&status.held_bytes), "{}", status.held_bytes);

    assert_eq!(hold(core, last - 40, 20_000, now), last - 40);
    assert_eq!(checkpoint(core), last - TRAILING + 1);
    assert_eq!((core.status(now).held_bytes, core.status(now).holds_dropped), (0, 1));
    assert_eq!(
        hold(core, last - 40, 20_000, now),
        last - TRAILING + 1,
        "the archiver learns that they are gone"
    );
}
