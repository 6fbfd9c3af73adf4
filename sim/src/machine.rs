//! A machine: its disk, the marker on it, and the process, if one runs. The process has the parts that `Node::open` and
//! `raft::start` make, without their threads.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use helios_proto::v1::Membership;
use helios_raft::metrics::Metrics;
use helios_raft::simulation::{Applier, ApplyJob, Core, Done, FetchJob, Input, LogJob, Settings, Suspects};
use helios_raft::{self as raft, RecoveryError, Snapshots};
use helios_state::{StateError, Store};
use helios_storage::disk::{Disk, SimDisk};
use helios_storage::wal::{self, Batch, Wal, WalError};
use prometheus_client::registry::Registry;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::watch;

use crate::events::{Run, Slot};
use crate::invariants::{Electorate, Found, MonotonicIndexes};
use crate::plan::{ELECTION_MAX, ELECTION_MIN, HEARTBEAT, Micros, Plan};

pub const CLUSTER: &str = "sim";

/// Content of `node.json`. Here a change of it is atomic and durable (crates/storage/src/lifecycle/marker.rs has its
/// own tests).
#[derive(Debug, Clone)]
pub struct Marker {
    pub disk_id: String,
    pub boot_epoch: u64,
    pub member: Option<u64>,
    pub removed: bool,
    /// Fencing token under which the next start makes this member the only one.
    pub force_new: Option<u64>,
    /// Number of times that a member was made the only one of its cluster.
    pub incarnation: u64,
}

pub struct Machine {
    pub slot: Slot,
    pub name: String,
    pub disk: SimDisk,
    pub marker: Marker,
    pub process: Option<Process>,
    pub paused_until: Micros,
    pub slow_until: Micros,
    /// Failed syncs of the disk at the last call of [`Machine::sync_failed`].
    failed_syncs: u64,
    /// Whether the state is damaged. State and snapshots never are at the same time: one has to be intact.
    state_rots: bool,
    /// Whether a snapshot is damaged.
    snapshots_rot: bool,
    /// Whether a sync is going to fail, or has failed since the process started; perhaps one of the state.
    sync_fails: bool,
    /// Whether the last start failed because the state is lost, and waits for that of another member.
    pub awaits_repair: bool,
    /// Reason why the disk cannot serve any more; the keeper replaces it.
    pub broken: Option<String>,
    /// Copy of disk and marker, with which `Fault::OldCopy` replaces them later.
    pub backup: Option<(SimDisk, Marker)>,
    /// Number of disks that were replaced by a blank one.
    disks: u64,
}

pub struct Process {
    pub run: Run,
    pub core: Core,
    pub wal: Wal,
    pub applier: Applier,
    pub applied: watch::Receiver<u64>,
    pub store: Store,
    pub snapshots: Arc<Snapshots>,
    pub inbox: Vec<Input>,
    pub done: VecDeque<Done>,
    /// Results of checkpoints and snapshots, on their way to `done`.
    pub built: VecDeque<Done>,
    pub log_jobs: VecDeque<LogJob>,
    pub apply_jobs: VecDeque<ApplyJob>,
    pub fetch_jobs: VecDeque<FetchJob>,
    /// The snapshot to build, and whether as a set.
    pub snapshot_wanted: Option<bool>,
    /// Machine of each member that sent a message: a member that just joined knows no other address.
    pub callers: BTreeMap<u64, Slot>,
    pub turn_planned: bool,
    pub log_planned: bool,
    pub apply_planned: bool,
    pub indexes: MonotonicIndexes,
    /// Voters at the last turn.
    pub electorate: Electorate,
    pub elections: u64,
}

/// A process that started, with the log that it found.
pub struct Started {
    pub process: Process,
    pub found: Found,
    /// Batches that the start itself wrote to the log.
    pub written: Vec<Batch>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("snapshots: {0}")]
    Snapshots(#[from] std::io::Error),
    #[error("notes of entries that ended the process: {0}")]
    Note(std::io::Error),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("raft: {0}")]
    Raft(String),
}

impl Machine {
    pub fn new(slot: Slot, seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let marker = blank_marker(slot, 0);
        Self {
            slot,
            name: format!("node-{slot}"),
            disk,
            marker,
            process: None,
            paused_until: 0,
            slow_until: 0,
            failed_syncs: 0,
            state_rots: false,
            snapshots_rot: false,
            sync_fails: false,
            awaits_repair: false,
            broken: None,
            backup: None,
            disks: 0,
        }
    }

    /// Replaces the disk by a blank one; the machine is no member any more.
    pub fn wipe(&mut self) {
        self.process = None;
        self.disks += 1;
        self.disk.wipe();
        self.marker = blank_marker(self.slot, self.disks);
        self.broken = None;
        self.backup = None;
        (self.state_rots, self.snapshots_rot, self.sync_fails) = (false, false, false);
        self.awaits_repair = false;
    }

    /// Flips a bit of the log, while no process has it open; returns whether it did. Bytes behind those that are proven
    /// to have been durable are spared: to every log, damage there looks like an interrupted write.
    pub fn rot_log(&mut self) -> bool {
        let before = self.disk.copy();
        // A damaged log is not damaged again: the second place may be the only proof of the first.
        let Ok(report) = wal::verify(Arc::new(before.clone()), Path::new("/wal")) else { return false };
        let Some((path, byte)) = self.disk.flip_synced_bit(|path| path.extension() == Some("wal".as_ref()))
        else {
            return false;
        };
        let listed = before.list(Path::new("/wal")).unwrap_or_default();
        let last = listed
            .iter()
            .map(|entry| &entry.name)
            .filter(|name| Path::new(name).extension() == Some("wal".as_ref()))
            .max();
        let is_last = last.is_some_and(|last| path.file_name() == Some(last));
        if is_last && byte >= report.proven_bytes {
            self.disk = before;
            return false;
        }
        true
    }

    /// Flips a bit of the state, while no process has it open and the snapshots are intact; returns whether it did.
    pub fn rot_state(&mut self) -> bool {
        let may = self.process.is_none() && !self.snapshots_rot;
        // Preferably in a run: the other files are small, and every start reads them.
        let flip = |is_candidate: fn(&Path) -> bool| self.disk.flip_synced_bit(is_candidate);
        let is_run = |path: &Path| path.extension() == Some("run".as_ref());
        let rots = may && flip(is_run).or_else(|| flip(|path| path.starts_with("/state"))).is_some();
        self.state_rots |= rots;
        rots
    }

    /// Flips a bit of the snapshot that a running process offers to others and does not need itself; returns whether it
    /// did.
    pub fn rot_snapshot(&mut self, now: Instant) -> bool {
        let is_needed = self.state_rots || self.sync_fails;
        let Some(process) = self.process.as_ref().filter(|_| !is_needed) else { return false };
        let offered = process.core.status(now).snapshot_index;
        let name = format!("/snapshots/{offered:020}-");
        // The runs of a set are those of the state.
        let is_candidate = |path: &Path| {
            path.to_string_lossy().starts_with(&name) && path.extension() != Some("run".as_ref())
        };
        let rots = offered <= process.applied_index() && self.disk.flip_synced_bit(is_candidate).is_some();
        self.snapshots_rot |= rots;
        rots
    }

    /// Makes the next sync fail, while the snapshots are intact: the state may be lost with it. Returns whether it
    /// will.
    pub fn fail_next_sync(&mut self) -> bool {
        if self.process.is_none() || self.snapshots_rot {
            return false;
        }
        self.disk.fail_next_sync();
        self.sync_fails = true;
        true
    }

    /// Records that a process started, and so that its state is intact again, unless damage is found later.
    pub fn healed(&mut self) {
        self.state_rots &= self
            .process
            .as_ref()
            .is_some_and(|process| process.store.is_trusted() && process.store.rebuilds() == 0);
        self.sync_fails = self.disk.fails_next_sync();
        self.awaits_repair = false;
    }

    /// Whether an injected fault explains that a start rebuilt its state.
    pub fn may_rebuild(&self) -> bool {
        self.state_rots || self.disk.stats().failed_syncs > 0
    }

    /// Replaces disk and marker by an older copy, as it was after a power cut.
    pub fn go_back(&mut self, copy: SimDisk, marker: Marker) {
        copy.crash();
        self.failed_syncs = copy.stats().failed_syncs;
        self.disk = copy;
        self.marker = marker;
        self.backup = None;
        self.awaits_repair = false;
    }

    /// Whether a sync failed since the last call.
    pub fn sync_failed(&mut self) -> bool {
        let failed = self.disk.stats().failed_syncs;
        std::mem::replace(&mut self.failed_syncs, failed) != failed
    }

    /// Opens the snapshots on the disk, whether a process runs or not.
    pub fn snapshots(&self, plan: &Plan) -> std::io::Result<Snapshots> {
        Snapshots::open(Arc::new(self.disk.clone()), Path::new("/snapshots"), plan.runs)
    }

    /// Whether a bit of the state was flipped and the state was not replaced since.
    pub fn has_rotten_state(&self) -> bool {
        self.state_rots
    }

    /// Records that the state was replaced by that of another member.
    pub fn repaired(&mut self) {
        self.state_rots = false;
    }

    /// Starts the process of a member. `begin` is the initial membership, if the start bootstraps the cluster.
    pub fn start(
        &mut self,
        plan: &Plan,
        begin: Option<&Membership>,
        run: Run,
        seed: u64,
        now: Instant,
    ) -> Result<Started, StartError> {
        self.marker.boot_epoch += 1;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (mut wal, mut recovered) = Wal::open(Arc::clone(&disk), Path::new("/wal"), plan.wal_options())?;
        let options = plan.store_options(seed);
        let store = Store::open_with(Arc::clone(&disk), Path::new("/state"), options)?;
        let snapshots = Arc::new(self.snapshots(plan)?);
        if let Some(membership) = begin {
            recovered = raft::bootstrap(&mut wal, &store, &snapshots, membership)?;
        }
        let id = self.marker.member.unwrap_or_default();
        let settings = Settings {
            id,
            heartbeat: HEARTBEAT,
            election_min: ELECTION_MIN,
            election_max: ELECTION_MAX,
            snapshot_entries: plan.snapshot_entries,
            snapshots_on_demand: store.is_trusted(),
            snapshot_interval: std::time::Duration::from_secs(3_600),
            trailing_entries: plan.trailing_entries,
            held_bytes: plan.held_bytes,
            log_cache_bytes: plan.log_cache_bytes,
            max_log_bytes: plan.max_log_bytes,
            max_overlay_bytes: plan.max_overlay_bytes,
            lease: plan.lease,
            priority: 0,
        };
        let found = Found::read(&wal, &recovered)?;
        let mut recovery = raft::recover(&mut wal, recovered, &store, &snapshots)?;
        let reset = (wal.base() != found.base).then(|| wal.base());
        let mut written = vec![Batch { reset, ..Batch::default() }];
        if let Some(token) = self.marker.force_new {
            written.push(recovery.force_new(&mut wal, &store, id, token)?);
            self.marker.force_new = None;
            self.marker.incarnation += 1;
        }
        let mut suspects =
            Suspects::open(&disk, Path::new("/state"), recovery.last_index()).map_err(StartError::Note)?;
        recovery.skipped(&store).into_iter().for_each(|index| suspects.skip(index));
        let core =
            recovery.into_core(settings, &store, seed, now).map_err(|e| StartError::Raft(e.to_string()))?;
        let process = Process::new(run, core, wal, store, snapshots, suspects);
        Ok(Started { process, found, written })
    }
}

impl Process {
    /// Executes some of the merges that are due. At times a checkpoint falls between the start and the end of one.
    pub fn merge(&mut self, random: &mut SmallRng) -> Result<(), StateError> {
        while random.random_ratio(2, 3) {
            let mut checkpoint = random.random_ratio(1, 3).then(|| self.store.clone());
            let is_merged = self.store.merge_runs(random.random_ratio(1, 2), |_| {
                // Its error, if any, is that of the next operation, too.
                drop(checkpoint.take().map(|store| store.checkpoint()));
                ControlFlow::Continue(())
            })?;
            if !is_merged {
                break;
            }
        }
        Ok(())
    }

    fn new(
        run: Run,
        core: Core,
        wal: Wal,
        store: Store,
        snapshots: Arc<Snapshots>,
        suspects: Suspects,
    ) -> Self {
        let (applied_sender, applied) = watch::channel(store.applied().index);
        let (done_sender, _) = crossbeam_channel::unbounded();
        let applier = Applier {
            store: store.clone(),
            snapshots: Arc::clone(&snapshots),
            done: done_sender,
            applied: applied_sender,
            metrics: Metrics::new(&mut Registry::default()),
            suspects,
            held: Vec::new(),
        };
        Self {
            run,
            core,
            wal,
            applier,
            applied,
            store,
            snapshots,
            inbox: Vec::new(),
            done: VecDeque::new(),
            built: VecDeque::new(),
            log_jobs: VecDeque::new(),
            apply_jobs: VecDeque::new(),
            fetch_jobs: VecDeque::new(),
            snapshot_wanted: None,
            callers: BTreeMap::new(),
            turn_planned: false,
            log_planned: false,
            apply_planned: false,
            indexes: MonotonicIndexes::default(),
            electorate: Electorate::default(),
            elections: 0,
        }
    }

    pub fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.applier.metrics
    }
}

fn blank_marker(slot: Slot, disks: u64) -> Marker {
    Marker {
        disk_id: format!("disk-{slot}-{disks}"),
        boot_epoch: 0,
        member: None,
        removed: false,
        force_new: None,
        incarnation: 0,
    }
}
