//! The part of the log that is kept for members that are behind (docs/design/node.md, pitfalls 14 and 15).

use super::super::MAX_HELD_BYTES;
use super::*;

const TRAILING: u64 = 2;
const MIB: usize = 1 << 20;

/// A leader, and a voter that answers and gets no more entries.
struct Laggard {
    mesh: Mesh,
    leader: usize,
    lags: usize,
    matched: u64,
    begun: Instant,
}

impl Laggard {
    fn new() -> Self {
        let mut mesh = Mesh::new(1);
        let leader = mesh.elect();
        mesh.cores[leader].settings.trailing_entries = TRAILING;
        let matched = mesh.cores[leader].status(Instant::now()).last_index;
        Self { mesh, leader, lags: (leader + 1) % 3, matched, begun: Instant::now() }
    }

    /// Commits `count` entries without the one who lags.
    fn write(&mut self, count: usize, bytes: usize) {
        for _ in 0..count {
            let (proposal, _) = proposal(&vec![7; bytes]);
            self.mesh.cores[self.leader].handle(Input::Propose(vec![proposal]), Instant::now());
            self.mesh.settle(self.leader);
            self.exchange();
        }
        self.hear_from_all();
    }

    /// Heartbeats and their answers.
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

    /// As `snapshot_at`, while all that was heard is fresh.
    fn snapshot(&mut self) -> (u64, u64) {
        self.snapshot_at(self.begun)
    }

    /// The index of a snapshot of everything that was taken at `now`, and the first index of the log after it.
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
fn entries_that_a_slow_voter_still_needs_outlive_a_snapshot() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (_, first) = laggard.snapshot();
    assert_eq!(first, laggard.matched + 1);
}

#[test]
fn a_slow_voter_holds_no_more_of_the_log_than_the_cap() {
    let mut laggard = Laggard::new();
    let count = MAX_HELD_BYTES as usize / MIB + 8;
    laggard.write(count, MIB);
    let (index, first) = laggard.snapshot();
    assert!(first > laggard.matched + 1, "all is kept");
    assert!(first <= index - TRAILING, "nothing is kept for the voter");
    let bytes = laggard.mesh.cores[laggard.leader].status(Instant::now()).log_bytes;
    assert!(bytes <= MAX_HELD_BYTES, "{bytes} bytes are kept");
}

#[test]
fn a_voter_that_is_silent_holds_nothing() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (index, first) = laggard.snapshot_at(Instant::now() + Duration::from_secs(10));
    assert_eq!(first, index - TRAILING + 1);
}

#[test]
fn the_log_after_a_snapshot_that_broke_off_is_kept_until_it_has_arrived() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (sent, _) = laggard.snapshot_at(Instant::now() + Duration::from_secs(10));
    let to = laggard.lags as u64 + 1;
    // Its next try finds that the log begins too late, and sends the snapshot.
    laggard.mesh.cores[laggard.leader].handle(Input::Unreachable(to), Instant::now());
    laggard.hear_from_all();
    assert_eq!(laggard.mesh.cores[laggard.leader].raft.log().unfinished(to), Some(sent));
    laggard.mesh.cores[laggard.leader].handle(Input::SnapshotSent { to, ok: false }, Instant::now());
    laggard.write(50, 10);
    assert_eq!(laggard.snapshot().1, sent + 1);
    laggard.mesh.cores[laggard.leader].handle(Input::SnapshotGone(to), Instant::now());
    laggard.write(50, 10);
    assert!(laggard.snapshot_at(Instant::now() + Duration::from_secs(10)).1 > sent + 1);
}

/// Progress of the voter that lags, as its leader has it: last entry, and whether a snapshot is on its way.
fn progress(laggard: &Laggard) -> (u64, bool) {
    let status = laggard.mesh.cores[laggard.leader].status(Instant::now());
    let of = status.progress.iter().find(|progress| progress.id == laggard.lags as u64 + 1).unwrap();
    (of.match_index, of.snapshotting)
}

/// d-engine's #308: that the bytes have arrived says nothing of what the follower made of them.
#[test]
fn a_snapshot_counts_as_taken_by_the_followers_own_word_only_and_that_comes_after_its_disk() {
    let mut laggard = Laggard::new();
    laggard.write(50, 10);
    let (sent, _) = laggard.snapshot_at(Instant::now() + Duration::from_secs(10));
    let (leader, lags) = (laggard.leader, laggard.lags);
    let to = lags as u64 + 1;
    laggard.mesh.cores[leader].handle(Input::Unreachable(to), Instant::now());
    laggard.hear_from_all();
    assert_eq!(progress(&laggard), (laggard.matched, true));
    laggard.mesh.cores[leader].handle(Input::SnapshotSent { to, ok: true }, Instant::now());
    turn(&mut laggard.mesh.cores[leader]);
    assert_eq!(progress(&laggard).0, laggard.matched, "the transfer's end was taken for the follower's word");

    let term = laggard.mesh.cores[leader].raft.term();
    let announced = Message { from: leader as u64 + 1, to, ..snapshot(term, sent) };
    let taken = step(&mut laggard.mesh.cores[lags], announced);
    assert_eq!((taken.resets, taken.restores), (vec![sent], vec![]));
    let speaks = |turn: &[Message]| turn.iter().any(|message| message.index == sent);
    assert!(!speaks(&taken.sent), "it answers for a log that is not on its disk");
    let on_disk = persisted(&mut laggard.mesh.cores[lags], taken.log[0]);
    assert!(speaks(&on_disk.sent));
    assert_eq!(on_disk.restores, [sent], "the answer leaves with the state still to follow for ever");
    for answer in on_disk.sent {
        step(&mut laggard.mesh.cores[leader], answer);
    }
    assert_eq!(progress(&laggard), (sent, false));
}

#[test]
fn one_message_to_a_laggard_carries_a_mebibyte_of_entries_at_most() {
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
fn who_asks_for_a_snapshot_while_one_is_built_gets_one_of_his_own() {
    let mut laggard = Laggard::new();
    laggard.write(10, 10);
    let leader = laggard.leader;
    let builds = |core: &mut Core, now| {
        core.drain(now).iter().filter(|effect| matches!(effect, Effect::BuildSnapshot)).count()
    };
    let now = laggard.begun;
    let ask = |core: &mut Core| {
        core.handle(Input::BuildSnapshot, now);
        builds(core, now)
    };
    assert_eq!(ask(&mut laggard.mesh.cores[leader]), 1);
    // Of what was applied when the first was begun.
    let early = laggard.mesh.cores[leader].applying.index();
    laggard.write(10, 10);
    assert_eq!(ask(&mut laggard.mesh.cores[leader]), 0, "two at once");
    let core = &mut laggard.mesh.cores[leader];
    let membership = core.membership.as_ref().clone();
    let (term, crc32c) = (core.raft.term(), 0);
    let meta = SnapshotMeta { index: early, term, membership, size_bytes: 1, crc32c, version: 1 };
    core.on_done(Done::SnapshotBuilt(meta), now);
    assert_eq!(builds(core, now), 1, "he waits for one that nobody builds");
    laggard.snapshot();
    assert_eq!(builds(&mut laggard.mesh.cores[leader], now), 0);
}
