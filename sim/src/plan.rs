//! The plan of a seed: the faults that may happen, how often they happen, and how fast disks and links are.
//! Every seed has its own mix, because a fault that is always there hides the bugs that need its absence
//! (Groce et al., "Swarm Testing", 2012).

use std::ops::Range;
use std::time::Duration;

use helios_raft::simulation::longest_lease;
use helios_state::{EngineKind, StoreOptions};
use helios_storage::wal::WalOptions;
use rand::Rng;
use rand::rngs::SmallRng;

/// Microseconds of simulated time.
pub type Micros = u64;

pub const MILLIS: Micros = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The process is killed; its writes stay in the page cache.
    Kill,
    /// The power fails: each unsynced sector is kept, lost or torn.
    PowerCut,
    /// The power fails at one of the next disk operations of the process.
    PowerCutInWrite,
    /// The process is paused for a while, the clock is not.
    Pause,
    /// Some links lose all messages, perhaps in one direction only.
    Cut,
    /// Writes of the log take up to 100 ms longer for a while.
    SlowDisk,
    /// A sync fails, and the process ends because of the error.
    SyncFails,
    /// A bit flips in a durable file: of the log or the state while the process is down, or of a snapshot that a
    /// running process does not need itself.
    BitRot,
    /// The disk is lost and replaced by a blank one.
    Wipe,
    /// The disk is replaced by an earlier copy of it.
    OldCopy,
    /// Leadership is transferred.
    Transfer,
    /// A member is added or removed, or several voters are exchanged at once.
    Membership,
    /// A snapshot is requested.
    Snapshot,
    /// All members but one are lost for good, and the survivor is made the only member (force-new-cluster).
    ForceNew,
    /// An entry is committed that ends every process that applies it.
    Poison,
}

impl Fault {
    pub const ALL: [Self; 15] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutInWrite,
        Self::Pause,
        Self::Cut,
        Self::SlowDisk,
        Self::SyncFails,
        Self::BitRot,
        Self::Wipe,
        Self::OldCopy,
        Self::Transfer,
        Self::Membership,
        Self::Snapshot,
        Self::ForceNew,
        Self::Poison,
    ];
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of initial voters of the cluster.
    pub members: usize,
    /// Number of machines, including those that may join later.
    pub machines: usize,
    pub clients: usize,
    pub keys: usize,
    /// Simulated time at which faults and new requests of clients end.
    pub horizon: Micros,
    pub faults: Vec<Fault>,
    /// Pause between two faults.
    pub fault_gap: Range<Micros>,
    /// Pause of a client between two requests.
    pub think: Range<Micros>,
    /// Time of a message on its link.
    pub wire: Range<Micros>,
    /// Messages of 1000 that are lost.
    pub loss: u32,
    /// Messages of 1000 that arrive twice.
    pub duplication: u32,
    /// Messages of 1000 that many later ones overtake, as behind a packet that is sent again.
    pub late: u32,
    /// Time of a write and sync of the log.
    pub sync: Range<Micros>,
    pub segment_bytes: u64,
    pub snapshot_entries: u64,
    pub trailing_entries: u64,
    /// Bytes of the log that a leader keeps for members that lag.
    pub held_bytes: u64,
    /// Bytes of applied entries that a member has in memory. Few, so that entries are often read back from disk.
    pub log_cache_bytes: u64,
    /// Limit of the bytes of log that a member has in memory; in most seeds above what a run reaches.
    pub max_log_bytes: u64,
    /// Limit of the bytes of a member's overlay; in most seeds above what a run reaches.
    pub max_overlay_bytes: u64,
    /// Duration of the lease of lease reads; `None` where they are off.
    pub lease: Option<Duration>,
    /// Reads among 100 requests.
    pub reads: u32,
    /// Requests of 100 that are not on registers, but those of `workload`.
    pub wide: u32,
    /// Whether clients remove all keys at times (FLUSHALL).
    pub flushes: bool,
    /// Writes of 100 that have a request id, and are retried while their outcome is unknown.
    pub named: u32,
    /// Requests of 100 that have a long timeout.
    pub patient: u32,
    /// Writes of 100 that another client reads at once at another member.
    pub follow_ups: u32,
    /// Bytes of a value beside those that the checker compares.
    pub padding: usize,
    /// Whether the members have the engine `runs`; otherwise one that is modified in place.
    pub runs: bool,
    pub block_bytes: usize,
    pub file_bytes: u64,
    pub cache_bytes: u64,
}

pub const HEARTBEAT: Duration = Duration::from_millis(20);
pub const ELECTION_MIN: Duration = Duration::from_millis(60);
pub const ELECTION_MAX: Duration = Duration::from_millis(120);

impl Plan {
    pub fn draw(random: &mut SmallRng) -> Self {
        let members = if random.random_ratio(1, 4) { 5 } else { 3 };
        let share = random.random_range(2..=Fault::ALL.len());
        let mut faults = Fault::ALL.to_vec();
        while faults.len() > share {
            faults.swap_remove(random.random_range(0..faults.len()));
        }
        // A seed changes the membership or loses data of disks, not both. The removal of a healthy member while the
        // disk of another loses data can cost the quorum, more than Raft promises to survive; and the log of the
        // survivor of `ForceNew` may hold its own removal.
        let kept = random.random_ratio(1, 2);
        let forgets = [Fault::Wipe, Fault::BitRot, Fault::OldCopy, Fault::ForceNew];
        faults.retain(|fault| if kept { *fault != Fault::Membership } else { !forgets.contains(fault) });
        if faults.is_empty() {
            faults.push(Fault::Kill);
        }
        let calm = random.random_range(20..120) * MILLIS;
        let wire = if random.random_ratio(1, 3) { 100..15 * MILLIS } else { 50..500 };
        let small = random.random_ratio(1, 2);
        let slow = random.random_ratio(1, 4);
        Self {
            members,
            machines: members + 2,
            clients: random.random_range(2..=6),
            keys: random.random_range(1..=4),
            horizon: random.random_range(1_500..3_000) * MILLIS,
            faults,
            fault_gap: calm / 4..calm,
            think: if random.random_ratio(1, 2) { 0..MILLIS } else { 0..20 * MILLIS },
            wire,
            loss: if random.random_ratio(1, 3) { random.random_range(1..100) } else { 0 },
            duplication: if random.random_ratio(1, 3) { random.random_range(1..100) } else { 0 },
            late: if random.random_ratio(1, 3) { random.random_range(1..100) } else { 0 },
            sync: if slow { MILLIS..20 * MILLIS } else { 50..2 * MILLIS },
            segment_bytes: 4096 << random.random_range(0..3),
            snapshot_entries: random.random_range(if small { 5..25 } else { 20..200 }),
            trailing_entries: if random.random_ratio(1, 2) { 0 } else { random.random_range(0..30) },
            lease: random.random_ratio(1, 3).then(|| longest_lease(ELECTION_MIN)),
            reads: random.random_range(10..70),
            wide: random.random_range(20..80),
            flushes: random.random_ratio(1, 3),
            named: if random.random_ratio(1, 2) { 100 } else { random.random_range(0..100) },
            patient: random.random_range(5..60),
            follow_ups: random.random_range(0..80),
            padding: if random.random_ratio(1, 2) { 0 } else { random.random_range(1..900) },
            held_bytes: if random.random_ratio(1, 2) { 0 } else { random.random_range(0..32 << 10) },
            // Drawn from a copy: a new size must not move the seeds of known bugs.
            log_cache_bytes: random.clone().random_range(0..4 << 10),
            max_log_bytes: Self::limit(random),
            max_overlay_bytes: Self::limit(random),
            runs: random.random_ratio(2, 3),
            block_bytes: random.random_range(32..1_024),
            file_bytes: random.random_range(128..8 << 10),
            cache_bytes: if random.random_ratio(1, 4) { 0 } else { random.random_range(0..16 << 10) },
        }
    }

    pub fn wal_options(&self) -> WalOptions {
        WalOptions { segment_bytes: self.segment_bytes, spare_segments: 1 }
    }

    /// Returns the options of the state of a process; `seed` is another one for each.
    pub fn store_options(&self, seed: u64) -> StoreOptions {
        let Self { block_bytes, file_bytes, .. } = *self;
        StoreOptions {
            engine: if self.runs { EngineKind::Runs } else { EngineKind::Simulated },
            cache_bytes: self.cache_bytes,
            runs: helios_state::RunsOptions {
                block_bytes,
                file_bytes,
                ..helios_state::RunsOptions::default()
            },
            seed,
            ..StoreOptions::default()
        }
    }

    fn limit(random: &mut SmallRng) -> u64 {
        if random.random_ratio(1, 8) { random.random_range(32 << 10..256 << 10) } else { 256 << 20 }
    }

    pub fn may(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}
