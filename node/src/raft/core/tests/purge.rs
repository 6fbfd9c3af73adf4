//! How much of the log is kept for members that are behind (node.md, pitfalls 14 and 15).

use super::super::snapshotting::MAX_HELD_BYTES;
use super::*;

const TRAILING: u64 = 2;
const MIB: usize = 1 << 20;

/// A leader, and a voter that answers and gets no entries any more.
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
        let meta = SnapshotMeta {
            index,
            term: core.node.raft.term,
            membership,
            size_bytes: 1,
            crc32c: 0,
            version: 1,
        };
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
    assert_eq!(laggard.mesh.cores[laggard.leader].node.store().unfinished(to), Some(sent));
    laggard.mesh.cores[laggard.leader].handle(Input::SnapshotSent { to, ok: false }, Instant::now());
    laggard.write(50, 10);
    assert_eq!(laggard.snapshot().1, sent + 1);
    laggard.mesh.cores[laggard.leader].handle(Input::SnapshotGone(to), Instant::now());
    laggard.write(50, 10);
    assert!(laggard.snapshot_at(Instant::now() + Duration::from_secs(10)).1 > sent + 1);
}
