//! Tests of entries that are on the leader's disk only, and are fetched for a member that lags.

use super::purge::Laggard;
use super::*;

const MIB: usize = 1 << 20;
const CACHE_BYTES: u64 = 4 << 10;

impl Laggard {
    /// A lagging voter that missed `count` entries, of which its leader has the last [`CACHE_BYTES`] in memory.
    fn behind(count: usize, bytes: usize) -> Self {
        let mut laggard = Self::new();
        let settings = &mut laggard.mesh.cores[laggard.leader].settings;
        settings.log_cache_bytes = CACHE_BYTES;
        laggard.write(count, bytes);
        laggard.mesh.fetches.clear();
        laggard
    }

    fn leader(&mut self) -> &mut Core {
        &mut self.mesh.cores[self.leader]
    }

    /// Completes the fetches as the log on disk does; returns their number.
    fn serve(&mut self) -> usize {
        let jobs = std::mem::take(&mut self.mesh.fetches);
        let count = jobs.len();
        for (at, job) in jobs {
            let mut bytes = 0;
            let fits = |entry: &&Entry| {
                bytes += entry.data.len() as u64;
                bytes <= job.max_bytes
            };
            let log = self.mesh.applied[at].iter();
            let wanted = log.filter(|entry| (job.low..job.high).contains(&entry.index));
            let entries: Vec<Entry> = wanted.take_while(fits).cloned().collect();
            assert_eq!(entries.first().map(|entry| entry.index), Some(job.low));
            self.complete(at, job.number, Ok(Some(entries)));
        }
        count
    }

    fn complete(&mut self, at: usize, number: u64, outcome: Result<Option<Vec<Entry>>, String>) {
        self.mesh.cores[at].on_done(Done::Fetched { number, outcome }, Instant::now());
        self.mesh.settle(at);
    }

    /// Probes the lagging voter, then as [`Laggard::pass`].
    fn run(&mut self, ticks: usize, each: impl FnMut(&mut Self)) {
        let to = self.lags as u64 + 1;
        self.leader().handle(Input::Unreachable(to), Instant::now());
        self.pass(ticks, each);
    }

    /// Lets messages of all kinds reach the lagging voter for `ticks`; `each` runs after each delivery.
    fn pass(&mut self, ticks: usize, mut each: impl FnMut(&mut Self)) {
        for _ in 0..ticks {
            let leader = self.leader;
            self.mesh.cores[leader].tick();
            self.mesh.settle(leader);
            while !self.mesh.under_way.is_empty() {
                self.mesh.deliver(true);
                each(self);
            }
        }
    }

    fn snapshots_under_way(&self) -> usize {
        let is_snapshot = |message: &&Message| message.get_msg_type() == MessageType::MsgSnapshot;
        self.mesh.under_way.iter().filter(is_snapshot).count()
    }
}

#[test]
fn lagging_member_gets_entries_from_disk_and_no_snapshot() {
    let mut laggard = Laggard::behind(3_000, 4 << 10);
    let (index, first) = laggard.snapshot();
    assert_eq!(first, laggard.matched + 1, "the log on disk was not kept");
    assert!(laggard.leader().raft.log().memory_bytes() <= CACHE_BYTES);
    let (mut fetches, mut snapshots, mut most_bytes) = (0, 0, 0);
    laggard.run(60, |laggard| {
        fetches += laggard.serve();
        snapshots += laggard.snapshots_under_way();
        most_bytes = laggard.leader().raft.log().memory_bytes().max(most_bytes);
    });
    assert_eq!((snapshots, laggard.mesh.wants_snapshot), (0, false));
    assert!(fetches >= 6, "{fetches} fetches");
    assert!(most_bytes <= CACHE_BYTES + (3 << 20), "{most_bytes} bytes in memory");
    let (leader, lags) = (laggard.leader, laggard.lags);
    assert!(laggard.mesh.applied[lags].last().unwrap().index >= index);
    assert_eq!(laggard.mesh.applied[lags], laggard.mesh.applied[leader]);
    assert!(laggard.leader().raft.log().memory_bytes() <= CACHE_BYTES, "fetched entries stay in memory");
}

#[test]
fn no_more_is_fetched_for_a_member_that_does_not_acknowledge() {
    let mut laggard = Laggard::behind(60, MIB / 2);
    let to = laggard.lags as u64 + 1;
    let mut acknowledged = false;
    laggard.run(30, |laggard| {
        laggard.serve();
        let is_append = |message: &Message| message.to == to && !message.entries.is_empty();
        let is_acknowledgement = |message: &Message| {
            message.from == to && message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject
        };
        // After the first acknowledgement the member receives no entries any more.
        acknowledged |= laggard.mesh.under_way.iter().any(is_acknowledgement);
        if acknowledged && laggard.mesh.under_way.iter().all(is_append) {
            laggard.mesh.under_way.clear();
        }
        if acknowledged {
            laggard.mesh.under_way.sort_by_key(is_append);
        }
    });
    let core = laggard.leader();
    let progress = core.raft.progress(to).unwrap();
    assert!(acknowledged && progress.matched > 0);
    let bytes = core.raft.log().bytes_between(progress.matched, progress.sent);
    assert!((6 * MIB as u64..12 * MIB as u64).contains(&bytes), "{bytes} bytes are under way");
}

#[test]
fn member_that_dropped_entries_for_lack_of_room_gets_them_from_disk_once_it_has_room() {
    let mut laggard = Laggard::behind(60, MIB / 2);
    let (lags, to) = (laggard.lags, laggard.lags as u64 + 1);
    laggard.run(30, |laggard| {
        laggard.serve();
        if laggard.leader().raft.progress(to).unwrap().matched > laggard.matched {
            let core = &mut laggard.mesh.cores[lags];
            core.applying.pretend(core.applying.index(), 3 * MAX_APPLYING_BYTES, 0);
        }
    });
    let last = laggard.leader().raft.last_index();
    let progress = laggard.leader().raft.progress(to).unwrap();
    assert!(progress.matched < progress.sent && progress.sent < last, "{progress:?}");
    let core = &mut laggard.mesh.cores[lags];
    core.applying.pretend(core.applying.index(), 0, 0);
    laggard.pass(30, |laggard| _ = laggard.serve());
    assert_eq!(laggard.leader().raft.progress(to).unwrap().matched, last);
    assert_eq!(laggard.snapshots_under_way(), 0);
}

#[test]
fn member_gets_a_snapshot_once_the_entries_on_disk_cannot_be_read() {
    let mut laggard = Laggard::behind(100, 1 << 10);
    let mut snapshots = 0;
    laggard.run(40, |laggard| {
        for (at, job) in std::mem::take(&mut laggard.mesh.fetches) {
            laggard.complete(at, job.number, Err("segment 1 is corrupt at byte 48".to_owned()));
        }
        if std::mem::take(&mut laggard.mesh.wants_snapshot) {
            laggard.snapshot();
            let leader = laggard.leader;
            laggard.mesh.settle(leader);
        }
        snapshots += laggard.snapshots_under_way();
    });
    assert!(snapshots > 0, "the member got no snapshot");
    assert!(laggard.mesh.fetches.is_empty());
}

#[test]
fn former_leader_drops_what_it_fetched() {
    let mut laggard = Laggard::behind(100, 1 << 10);
    laggard.run(15, |_| {});
    let (at, job) = laggard.mesh.fetches.remove(0);
    assert!(laggard.mesh.fetches.is_empty(), "one fetch for each member at a time");
    let (term, leader) = (laggard.leader().raft.term(), laggard.leader);
    let newer = Message { to: leader as u64 + 1, ..message(MessageType::MsgHeartbeat, 9, term + 1) };
    step(&mut laggard.mesh.cores[leader], newer);
    assert!(!laggard.leader().raft.is_leader() && !laggard.leader().raft.log().has_fetches());
    let entries = laggard.mesh.applied[at].iter().filter(|entry| entry.index >= job.low).cloned().collect();
    laggard.complete(at, job.number, Ok(Some(entries)));
    assert!(!laggard.leader().raft.log().has_fetches());
}
