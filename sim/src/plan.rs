//! What a seed stands for: which faults may come, how often, and how fast disks and wires are.
//! Every seed has a mix of its own, since a fault that is always there hides what comes without it
//! (Groce et al., "Swarm Testing", 2012).

use std::ops::Range;
use std::time::Duration;

use helios_raft::simulation::longest_lease;
use rand::Rng;
use rand::rngs::SmallRng;

/// Microseconds of simulated time.
pub type Micros = u64;

pub const MILLIS: Micros = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The process dies; what it wrote stays in the page cache.
    Kill,
    /// Power fails: un-synced sectors are kept, lost or torn.
    PowerCut,
    /// Power fails in the middle of a disk operation of the log.
    PowerCutInWrite,
    /// The process stands still for a while, its clock does not.
    Pause,
    /// Some links carry nothing, perhaps in one direction only.
    Cut,
    /// The disk takes long.
    SlowDisk,
    /// A sync fails; the process ends by itself.
    SyncFails,
    /// A durable byte changes while the process is down.
    BitRot,
    /// The disk is lost; a blank one takes its place.
    Wipe,
    /// The disk is replaced by a copy made some time before.
    OldCopy,
    /// Leadership is handed over.
    Transfer,
    /// A member is added or removed.
    Membership,
    /// A snapshot is asked for.
    Snapshot,
    /// All members but one are lost for good, and that one is made the only one.
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
    /// Voters that begin the cluster.
    pub members: usize,
    /// Machines, those that may join later among them.
    pub machines: usize,
    pub clients: usize,
    pub keys: usize,
    /// How long faults may come.
    pub horizon: Micros,
    pub faults: Vec<Fault>,
    /// Pause between two faults.
    pub fault_gap: Range<Micros>,
    /// Pause of a client between two operations.
    pub think: Range<Micros>,
    pub wire: Range<Micros>,
    /// In 1000: messages lost, and messages that arrive twice.
    pub loss: u32,
    pub duplication: u32,
    /// In 1000: messages that many later ones overtake, as behind a packet that is sent again.
    pub late: u32,
    pub sync: Range<Micros>,
    pub segment_bytes: u64,
    pub snapshot_entries: u64,
    pub trailing_entries: u64,
    /// What a leader keeps of its log for members that lag.
    pub held_bytes: u64,
    /// What a member holds in memory of its log, and of its state: most often more than there will be.
    pub max_log_bytes: u64,
    pub max_overlay_bytes: u64,
    /// Lease reads, where they are on.
    pub lease: Option<Duration>,
    /// In 100 operations: reads.
    pub reads: u32,
    /// In 100 operations: on what is no register.
    pub wide: u32,
    /// Whether all keys are removed at times.
    pub flushes: bool,
    /// In 100 writes: under a name, which is sent again until it is answered.
    pub named: u32,
    /// In 100 questions: waited for long.
    pub patient: u32,
    /// In 100 writes: followed at once by a read of somebody else at another member.
    pub follow_ups: u32,
    /// Bytes that a write carries beside what the checker looks at.
    pub padding: usize,
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
        // A removal of a healthy member while another's disk forgets can cost the quorum, which nobody
        // promises to bear; and a survivor may hold its own removal.
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
            max_log_bytes: Self::limit(random),
            max_overlay_bytes: Self::limit(random),
        }
    }

    fn limit(random: &mut SmallRng) -> u64 {
        if random.random_ratio(1, 8) { random.random_range(32 << 10..256 << 10) } else { 256 << 20 }
    }

    pub fn may(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}
