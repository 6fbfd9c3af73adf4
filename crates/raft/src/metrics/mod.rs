//! The metrics of a node, in a struct that it owns, so that several members in one process have separate ones
//! (docs/design/product.md, "Metrics"; names follow etcd's where etcd has the same metric). The names on `/metrics` are
//! frozen by `docs/reference/metrics.md` and the test that reads it.

mod contacts;
mod scrub;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use self::contacts::Contacts;
pub use self::contacts::Heard;
use self::scrub::Scrub;
pub use self::scrub::{Progress, ScrubReport};
use helios_state::EngineStats;

use crate::membership::name_of;
use crate::{RaftStatus, Role};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    pub peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    level: &'static str,
}

/// Values that are read when the metrics are requested, because they are not counted as they change.
pub struct Observed {
    pub keys: u64,
    pub state_bytes: u64,
    pub engine: EngineStats,
    pub state_rebuilds: u64,
    pub slow_listeners_cut: u64,
    /// `None`: it cannot be determined.
    pub disk_free_bytes: Option<u64>,
    /// `None`: it cannot be determined.
    pub disk_size_bytes: Option<u64>,
    /// Memory that the process uses, and its limit, bytes; `None`: unknown, and no limit.
    pub memory_used_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    /// `None`: the node belongs to no cluster yet.
    pub member: Option<ObservedMember>,
}

pub struct ObservedMember {
    pub status: Arc<RaftStatus>,
    pub applied_index: u64,
    pub snapshot_size_bytes: u64,
    pub snapshot_age_seconds: u64,
    pub has_quorum: bool,
    /// 0 unless this member is the leader.
    pub healthy_members: u64,
}

type PerPeer<M> = Family<PeerLabel, M>;

pub struct Metrics {
    /// Source of the round trips and of the times since the last contact.
    pub contacts: Contacts,
    /// Source of the scrub's figures.
    pub scrub: Scrub,
    checkpointed_at: Mutex<Option<Instant>>,
    pub wal_fsync_duration_seconds: Histogram,
    pub apply_duration_seconds: Histogram,
    pub snapshot_save_duration_seconds: Histogram,
    pub snapshot_install_duration_seconds: Histogram,
    snapshot_failures: Counter,
    log_entries_skipped: Counter,
    entry_unappliable: Gauge,
    pub snapshots_skipped: Counter,
    pub snapshot_sent_bytes: Counter,
    pub snapshot_received_bytes: Counter,
    pub snapshot_resumed_bytes: Counter,
    pub archive_streams: Gauge,
    pub archive_sent_bytes: Counter,
    pub archive_sent_as_leader_bytes: Counter,
    pub follow_streams: Gauge,
    pub follow_groups: Gauge,
    pub follow_sent_bytes: Counter,
    pub follow_cuts: Counter,
    archive_hold_bytes: Gauge,
    archive_hold_dropped: Counter,
    pub checkpoints_skipped: Counter,
    pub log_writes_held: Counter,
    pub log_fetches: Counter,
    pub engine_merges: Counter,
    pub engine_merged_bytes: Counter,
    pub raft_entries_appended: Counter,
    pub raft_proposals_failed: Counter,
    pub forwarded: Counter,
    pub ack_shortfalls: Counter,
    pub disk_full: Gauge,
    pub cluster_incarnation: Gauge,
    peer_rtt_seconds: Family<PeerLabel, Histogram, fn() -> Histogram>,
    peer_last_contact_seconds: PerPeer<Gauge<f64, AtomicU64>>,
    peer_match_lag_entries: PerPeer<Gauge>,
    peer_active: PerPeer<Gauge>,
    peer_consecutive_errors: PerPeer<Gauge>,
    raft_has_leader: Gauge,
    raft_is_leader: Gauge,
    raft_has_quorum: Gauge,
    raft_term: Gauge,
    raft_snapshot_index: Gauge,
    raft_snapshot_size_bytes: Gauge,
    raft_snapshot_age_seconds: Gauge,
    raft_leader_changes: Counter,
    raft_elections: Counter,
    raft_election_duration_seconds: Histogram,
    stale_learners: Gauge,
    raft_proposals_committed: Counter,
    raft_proposals_applied: Counter,
    raft_proposals_pending: Gauge,
    raft_read_rounds: Counter,
    raft_lease_reads: Counter,
    raft_disk_transfers: Counter,
    members: Gauge,
    healthy_members: Gauge,
    lowest_format: Gauge,
    keys: Gauge,
    db_size_bytes: Gauge,
    checkpoint_age_seconds: Gauge,
    durable_index: Gauge,
    engine_size_bytes: Gauge,
    engine_runs: Family<LevelLabel, Gauge>,
    engine_cache_bytes: Gauge,
    engine_cache_hits: Counter,
    engine_cache_misses: Counter,
    wal_size_bytes: Gauge,
    wal_memory_bytes: Gauge,
    disk_free_bytes: Gauge,
    disk_size_bytes: Gauge,
    memory_used_bytes: Gauge,
    memory_limit_bytes: Gauge,
    state_rebuilds: Counter,
    scrub_bytes: Counter,
    scrub_passes: Counter,
    scrub_damaged_files: Gauge,
    scrub_last_pass_age_seconds: Gauge,
    slow_listeners_cut: Counter,
}

/// Histogram of durations from 0.1 ms to about 10 s: from an fsync of a fast disk to one that hangs.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Creates and registers all metrics. The registry adds the prefix, and `_total` to counters.
    #[rustfmt::skip]
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let build = add(registry, "build_info", "Version of this binary", Family::<BuildLabel, Gauge>::default());
        build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION").into() }).set(1);
        let time = |registry: &mut Registry, name, help| add(registry, name, help, durations());
        let count = |registry: &mut Registry, name, help| add(registry, name, help, Counter::default());
        let gauge = |registry: &mut Registry, name, help| add(registry, name, help, Gauge::default());
        let per_peer = |registry: &mut Registry, name, help| add(registry, name, help, PerPeer::<Gauge>::default());
        let r = registry;
        Arc::new(Self {
            contacts: Contacts::default(),
            scrub: Scrub::default(),
            checkpointed_at: Mutex::default(),
            wal_fsync_duration_seconds: time(r, "wal_fsync_duration_seconds", "One write and fsync of the log"),
            apply_duration_seconds: time(r, "apply_duration_seconds", "Applying one batch of entries"),
            snapshot_save_duration_seconds: time(r, "snapshot_save_duration_seconds", "Writing a snapshot"),
            snapshot_install_duration_seconds: time(r, "snapshot_install_duration_seconds", "Installing a snapshot"),
            snapshot_failures: count(r, "snapshot_failures", "Snapshots that could not be taken, for lack of room or another reason"),
            log_entries_skipped: count(r, "log_entries_skipped", "Entries that changed nothing, because applying them ended processes and they were skipped by an operator"),
            entry_unappliable: gauge(r, "entry_unappliable", "1 while an entry is not applied, because applying it ended this process twice"),
            snapshots_skipped: count(r, "snapshots_skipped", "Snapshots put off because the disk is full"),
            snapshot_sent_bytes: count(r, "snapshot_sent_bytes", "Bytes of snapshots sent to other members"),
            snapshot_received_bytes: count(r, "snapshot_received_bytes", "Bytes of snapshots received from other members"),
            snapshot_resumed_bytes: count(r, "snapshot_resumed_bytes", "Bytes of snapshots not sent again, because they were here from a transfer that broke off"),
            archive_streams: gauge(r, "archive_streams", "Bases and logs that are being sent to archivers"),
            archive_sent_bytes: count(r, "archive_sent_bytes", "Bytes of bases and of log entries sent to archivers"),
            archive_sent_as_leader_bytes: count(r, "archive_sent_as_leader_bytes", "Bytes of bases and of log entries sent to archivers while this member was the leader"),
            follow_streams: gauge(r, "follow_streams", "Replicas outside of the cluster that follow this member"),
            follow_groups: gauge(r, "follow_groups", "Groups of followers with the same prefixes"),
            follow_sent_bytes: count(r, "follow_sent_bytes", "Bytes sent to followers"),
            follow_cuts: count(r, "follow_cuts", "Times a follower was too far behind to get changes only"),
            archive_hold_bytes: gauge(r, "archive_hold_bytes", "Bytes of the log that is kept for archivers"),
            archive_hold_dropped: count(r, "archive_hold_dropped", "Times the log was no longer kept for an archiver, because it was too far behind"),
            checkpoints_skipped: count(r, "checkpoints_skipped", "Checkpoints put off because the disk is full"),
            log_writes_held: count(r, "log_writes_held", "Times the log had to wait for room on a full disk"),
            log_fetches: count(r, "log_fetches", "Reads of entries from the log on disk, for members that lag"),
            engine_merges: count(r, "engine_merges", "Merges of files of the state engine"),
            engine_merged_bytes: count(r, "engine_merged_bytes", "Bytes that merges of the state engine have read"),
            raft_entries_appended: count(r, "raft_entries_appended", "Entries written to the log of this member"),
            raft_proposals_failed: count(r, "raft_proposals_failed", "Writes that this member, as the leader, proposed or was to propose, and that failed"),
            forwarded: count(r, "forwarded", "Writes sent on to the leader"),
            ack_shortfalls: count(r, "ack_shortfalls", "Writes committed but not on as many disks as asked for in time"),
            disk_full: gauge(r, "disk_full", "1 while the log has no room and writes that need some are refused"),
            cluster_incarnation: gauge(r, "cluster_incarnation", "Number of times the cluster was recreated from one survivor of a lost majority"),
            peer_rtt_seconds: add(r, "peer_rtt_seconds", "From a heartbeat to its answer, on the leader", Family::new_with_constructor(durations as fn() -> _)),
            peer_last_contact_seconds: add(r, "peer_last_contact_seconds", "Time since a message of the peer arrived", Family::default()),
            peer_match_lag_entries: per_peer(r, "peer_match_lag_entries", "Entries a peer is behind the leader's log, on the leader"),
            peer_active: per_peer(r, "peer_active", "1 when the peer was heard within two election timeouts, on the leader"),
            peer_consecutive_errors: per_peer(r, "peer_consecutive_errors", "Attempts to connect to the peer that failed since the last one that did not"),
            raft_has_leader: gauge(r, "raft_has_leader", "1 when a leader is known"),
            raft_is_leader: gauge(r, "raft_is_leader", "1 on the leader"),
            raft_has_quorum: gauge(r, "raft_has_quorum", "On the leader: 1 while it hears a majority. Elsewhere: 1 while a leader is known"),
            raft_term: gauge(r, "raft_term", "Current term"),
            raft_snapshot_index: gauge(r, "raft_snapshot_index", "Index of the newest snapshot"),
            raft_snapshot_size_bytes: gauge(r, "raft_snapshot_size_bytes", "Size of the newest snapshot; 0 without one"),
            raft_snapshot_age_seconds: gauge(r, "raft_snapshot_age_seconds", "Time since the newest snapshot was written or received; 0 without one"),
            raft_leader_changes: count(r, "raft_leader_changes", "Leaders seen since start"),
            raft_elections: count(r, "raft_elections", "Elections started by this member since start"),
            raft_election_duration_seconds: time(r, "raft_election_duration_seconds", "From the moment this member stood for election until it knew a leader, itself or another"),
            stale_learners: gauge(r, "stale_learners", "Learners that are behind and have taken no entry for a minute, on the leader"),
            raft_proposals_committed: count(r, "raft_proposals_committed", "Index of the last committed entry"),
            raft_proposals_applied: count(r, "raft_proposals_applied", "Index of the last applied entry"),
            raft_proposals_pending: gauge(r, "raft_proposals_pending", "Proposals waiting for commit and apply"),
            raft_read_rounds: count(r, "raft_read_rounds", "ReadIndex rounds started since start"),
            raft_lease_reads: count(r, "raft_lease_reads", "Reads answered by the lease since start"),
            raft_disk_transfers: count(r, "raft_disk_transfers", "Times this member gave up leadership because its disk was slow or full"),
            members: gauge(r, "members", "Members of the cluster, learners included"),
            healthy_members: gauge(r, "healthy_members", "Members that were heard within two election timeouts, itself included; 0 unless this member leads"),
            lowest_format: gauge(r, "lowest_format", "Log format that all members can read, as far as this one has heard"),
            keys: gauge(r, "keys", "Keys held, expired ones not yet removed included"),
            db_size_bytes: gauge(r, "db_size_bytes", "State engine and overlay"),
            checkpoint_age_seconds: gauge(r, "checkpoint_age_seconds", "Time since the last checkpoint; 0 before the first one. Without writes there is none"),
            durable_index: gauge(r, "durable_index", "Index up to which a checkpoint or a snapshot of this process makes the log unnecessary"),
            engine_size_bytes: gauge(r, "engine_size_bytes", "Files of the state engine"),
            engine_runs: add(r, "engine_runs", "Files of the engine runs: upper ones, which every read visits, and the bottom", Family::default()),
            engine_cache_bytes: gauge(r, "engine_cache_bytes", "Block cache of the engine runs"),
            engine_cache_hits: count(r, "engine_cache_hits", "Blocks that reads found in the cache of the engine runs"),
            engine_cache_misses: count(r, "engine_cache_misses", "Blocks that reads took from the files of the engine runs"),
            wal_size_bytes: gauge(r, "wal_size_bytes", "Log entries kept on disk"),
            wal_memory_bytes: gauge(r, "wal_memory_bytes", "Log entries kept in memory as well"),
            disk_free_bytes: gauge(r, "disk_free_bytes", "Free on the volume of the data directory, less what a checkpoint under way will take"),
            disk_size_bytes: gauge(r, "disk_size_bytes", "Size of the volume of the data directory"),
            memory_used_bytes: gauge(r, "memory_used_bytes", "Memory of this process that the kernel cannot take back: its anonymous pages"),
            memory_limit_bytes: gauge(r, "memory_limit_bytes", "Memory limit of the container; 0 without one"),
            state_rebuilds: count(r, "state_rebuilds", "Times the state engine was set aside and rebuilt"),
            scrub_bytes: count(r, "scrub_bytes", "Bytes of the state's files that the scrub has read and checked"),
            scrub_passes: count(r, "scrub_passes", "Passes of the scrub over all files of the state"),
            scrub_damaged_files: gauge(r, "scrub_damaged_files", "Files of the state that the scrub found damaged or could not read"),
            scrub_last_pass_age_seconds: gauge(r, "scrub_last_pass_age_seconds", "Time since the scrub completed a pass; 0 before the first one"),
            slow_listeners_cut: count(r, "slow_listeners_cut", "Listening clients cut off because they did not read fast enough"),
        })
    }

    /// Records the round trip of a heartbeat.
    pub fn round_trip(&self, peer: &str, took: Duration) {
        let label = PeerLabel { peer: peer.to_owned() };
        self.peer_rtt_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// Records a checkpoint.
    pub fn checkpointed(&self, now: Instant) {
        *self.checkpointed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Returns the time since the last checkpoint; `None` before the first one of this process.
    pub fn checkpoint_age(&self) -> Option<Duration> {
        let at = *self.checkpointed_at.lock().unwrap_or_else(PoisonError::into_inner);
        at.map(|at| at.elapsed())
    }

    /// Records the duration of an election in which this member was a candidate.
    pub fn election_over(&self, took: Duration) {
        self.raft_election_duration_seconds.observe(took.as_secs_f64());
    }

    /// Updates the metrics that are not counted as they change; called when the metrics are requested.
    pub fn observe(&self, observed: &Observed) {
        set(&self.keys, observed.keys);
        set(&self.db_size_bytes, observed.state_bytes);
        set(&self.checkpoint_age_seconds, self.checkpoint_age().map_or(0, |age| age.as_secs()));
        self.observe_engine(&observed.engine);
        total(&self.state_rebuilds, observed.state_rebuilds);
        total(&self.slow_listeners_cut, observed.slow_listeners_cut);
        if let Some(free) = observed.disk_free_bytes {
            set(&self.disk_free_bytes, free);
        }
        set(&self.disk_size_bytes, observed.disk_size_bytes.unwrap_or(0));
        set(&self.memory_used_bytes, observed.memory_used_bytes.unwrap_or(0));
        set(&self.memory_limit_bytes, observed.memory_limit_bytes.unwrap_or(0));
        self.observe_scrub();
        if let Some(member) = &observed.member {
            self.observe_raft(&member.status, member.applied_index);
            set(&self.raft_snapshot_size_bytes, member.snapshot_size_bytes);
            set(&self.raft_snapshot_age_seconds, member.snapshot_age_seconds);
            set(&self.raft_has_quorum, member.has_quorum.into());
            set(&self.healthy_members, member.healthy_members);
            self.observe_peers(&member.status);
        }
    }

    fn observe_raft(&self, status: &RaftStatus, applied: u64) {
        set(&self.raft_has_leader, u64::from(status.leader_id != 0));
        set(&self.raft_is_leader, u64::from(status.role == Role::Leader));
        set(&self.raft_term, status.term);
        total(&self.raft_leader_changes, status.leader_changes);
        total(&self.raft_elections, status.elections);
        total(&self.raft_proposals_committed, status.commit_index);
        total(&self.raft_proposals_applied, applied);
        set(&self.raft_proposals_pending, status.pending_proposals);
        total(&self.raft_read_rounds, status.read_rounds);
        total(&self.raft_lease_reads, status.lease_reads);
        total(&self.raft_disk_transfers, status.disk_transfers);
        total(&self.snapshot_failures, status.snapshot_failures);
        total(&self.log_entries_skipped, status.skipped_entries);
        set(&self.entry_unappliable, u64::from(status.unappliable.is_some()));
        set(&self.archive_hold_bytes, status.held_bytes);
        total(&self.archive_hold_dropped, status.holds_dropped);
        set(&self.wal_size_bytes, status.log_bytes);
        set(&self.wal_memory_bytes, status.log_memory_bytes);
        set(&self.durable_index, status.covered_index);
        set(&self.raft_snapshot_index, status.snapshot_index);
        set(&self.lowest_format, status.lowest_format.into());
        set(&self.stale_learners, status.stale_learners.len() as u64);
        set(&self.members, status.membership.members.len() as u64);
    }

    fn observe_engine(&self, engine: &EngineStats) {
        set(&self.engine_size_bytes, engine.bytes);
        for (level, runs) in [("upper", engine.uppers), ("bottom", engine.bottom_runs)] {
            set(&self.engine_runs.get_or_create(&LevelLabel { level }), runs);
        }
        set(&self.engine_cache_bytes, engine.cache.bytes);
        total(&self.engine_cache_hits, engine.cache.hits);
        total(&self.engine_cache_misses, engine.cache.misses);
    }

    fn observe_scrub(&self) {
        let report = self.scrub.report();
        total(&self.scrub_bytes, report.bytes);
        total(&self.scrub_passes, report.passes);
        set(&self.scrub_damaged_files, report.damaged_files.len() as u64);
        set(&self.scrub_last_pass_age_seconds, report.since_complete.map_or(0, |age| age.as_secs()));
    }

    fn observe_peers(&self, status: &RaftStatus) {
        self.peer_match_lag_entries.clear();
        self.peer_active.clear();
        self.peer_last_contact_seconds.clear();
        self.peer_consecutive_errors.clear();
        let label = |id| name_of(&status.membership, id).map(|peer| PeerLabel { peer });
        for progress in &status.progress {
            let Some(label) = label(progress.id) else { continue };
            let lag = status.last_index.saturating_sub(progress.match_index);
            set(&self.peer_match_lag_entries.get_or_create(&label), lag);
            set(&self.peer_active.get_or_create(&label), u64::from(progress.active));
        }
        for heard in self.contacts.heard_of() {
            let Some(label) = label(heard.id) else { continue };
            set(&self.peer_consecutive_errors.get_or_create(&label), heard.consecutive_errors);
            if let Some(silence) = heard.silence {
                self.peer_last_contact_seconds.get_or_create(&label).set(silence.as_secs_f64());
            }
        }
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Sets a counter to the value of an external count.
fn total(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: String,
}
