//! The metrics of a node, on a struct it owns: several members in one process do not mix
//! (product.md, "Metrics"; names follow etcd's where a twin exists).

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::raft::{RaftStatus, Role};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    pub peer: String,
}

pub struct Metrics {
    pub wal_fsync_duration_seconds: Histogram,
    pub apply_duration_seconds: Histogram,
    pub snapshot_save_duration_seconds: Histogram,
    pub snapshot_install_duration_seconds: Histogram,
    pub forwarded: Counter,
    pub ack_shortfalls: Counter,
    raft_has_leader: Gauge,
    raft_is_leader: Gauge,
    raft_term: Gauge,
    raft_leader_changes: Gauge,
    raft_elections: Gauge,
    raft_commit_index: Gauge,
    raft_applied_index: Gauge,
    raft_proposals_pending: Gauge,
    raft_read_rounds: Gauge,
    raft_lease_reads: Gauge,
    raft_disk_transfers: Gauge,
    raft_log_bytes: Gauge,
    raft_snapshot_index: Gauge,
    peer_match_lag_entries: Family<PeerLabel, Gauge>,
    peer_active: Family<PeerLabel, Gauge>,
    lowest_format: Gauge,
    members: Gauge,
    keys: Gauge,
    db_size_bytes: Gauge,
    state_rebuilds: Gauge,
    pub disk_full: Gauge,
    pub cluster_incarnation: Gauge,
    pub log_writes_held: Counter,
    pub checkpoints_skipped: Counter,
    pub snapshots_skipped: Counter,
    pub snapshot_sent_bytes: Counter,
    pub snapshot_received_bytes: Counter,
    pub snapshot_resumed_bytes: Counter,
}

/// 0.1 ms to about 10 s: an fsync of a fast disk at one end, a stuck one at the other.
fn durations() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.0001, 2.0, 18))
}

impl Metrics {
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self {
            wal_fsync_duration_seconds: durations(),
            apply_duration_seconds: durations(),
            snapshot_save_duration_seconds: durations(),
            snapshot_install_duration_seconds: durations(),
            forwarded: Counter::default(),
            ack_shortfalls: Counter::default(),
            raft_has_leader: Gauge::default(),
            raft_is_leader: Gauge::default(),
            raft_term: Gauge::default(),
            raft_leader_changes: Gauge::default(),
            raft_elections: Gauge::default(),
            raft_commit_index: Gauge::default(),
            raft_applied_index: Gauge::default(),
            raft_proposals_pending: Gauge::default(),
            raft_read_rounds: Gauge::default(),
            raft_lease_reads: Gauge::default(),
            raft_disk_transfers: Gauge::default(),
            raft_log_bytes: Gauge::default(),
            raft_snapshot_index: Gauge::default(),
            peer_match_lag_entries: Family::default(),
            peer_active: Family::default(),
            lowest_format: Gauge::default(),
            members: Gauge::default(),
            keys: Gauge::default(),
            db_size_bytes: Gauge::default(),
            state_rebuilds: Gauge::default(),
            disk_full: Gauge::default(),
            cluster_incarnation: Gauge::default(),
            log_writes_held: Counter::default(),
            checkpoints_skipped: Counter::default(),
            snapshots_skipped: Counter::default(),
            snapshot_sent_bytes: Counter::default(),
            snapshot_received_bytes: Counter::default(),
            snapshot_resumed_bytes: Counter::default(),
        };
        metrics.register(registry);
        Arc::new(metrics)
    }

    fn register(&self, registry: &mut Registry) {
        let histograms = [
            (
                "wal_fsync_duration_seconds",
                "One write and fsync of the log",
                &self.wal_fsync_duration_seconds,
            ),
            ("apply_duration_seconds", "Applying one batch of entries", &self.apply_duration_seconds),
            ("snapshot_save_duration_seconds", "Writing a snapshot", &self.snapshot_save_duration_seconds),
            (
                "snapshot_install_duration_seconds",
                "Installing a snapshot",
                &self.snapshot_install_duration_seconds,
            ),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
        let counters = [
            ("forwarded", "Writes sent on to the leader", &self.forwarded),
            (
                "ack_shortfalls",
                "Writes committed but not on as many disks as asked for in time",
                &self.ack_shortfalls,
            ),
            ("log_writes_held", "Times the log had to wait for room on a full disk", &self.log_writes_held),
            (
                "checkpoints_skipped",
                "Checkpoints put off because the disk is full",
                &self.checkpoints_skipped,
            ),
            ("snapshots_skipped", "Snapshots put off because the disk is full", &self.snapshots_skipped),
            ("snapshot_sent_bytes", "Bytes of snapshots sent to other members", &self.snapshot_sent_bytes),
            (
                "snapshot_received_bytes",
                "Bytes of snapshots received from other members",
                &self.snapshot_received_bytes,
            ),
            (
                "snapshot_resumed_bytes",
                "Bytes of snapshots not sent again, because they were here from a transfer that broke off",
                &self.snapshot_resumed_bytes,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("raft_has_leader", "1 when a leader is known", &self.raft_has_leader),
            ("raft_is_leader", "1 on the leader", &self.raft_is_leader),
            ("raft_term", "Current term", &self.raft_term),
            ("raft_leader_changes_total", "Leaders seen since start", &self.raft_leader_changes),
            ("raft_elections_total", "Elections started by this member since start", &self.raft_elections),
            ("raft_proposals_committed_total", "Index of the last committed entry", &self.raft_commit_index),
            ("raft_proposals_applied_total", "Index of the last applied entry", &self.raft_applied_index),
            (
                "raft_proposals_pending",
                "Proposals waiting for commit and apply",
                &self.raft_proposals_pending,
            ),
            ("raft_read_rounds_total", "ReadIndex rounds started since start", &self.raft_read_rounds),
            (
                "raft_disk_transfers_total",
                "Times this member gave up leadership because its disk was slow or full",
                &self.raft_disk_transfers,
            ),
            ("raft_lease_reads_total", "Reads answered by the lease since start", &self.raft_lease_reads),
            ("wal_size_bytes", "Log entries kept, in memory and on disk", &self.raft_log_bytes),
            ("raft_snapshot_index", "Index of the newest snapshot", &self.raft_snapshot_index),
            (
                "disk_full",
                "1 while the log has no room and writes that need some are refused",
                &self.disk_full,
            ),
            (
                "cluster_incarnation",
                "How often the cluster was made anew from one survivor of a lost majority",
                &self.cluster_incarnation,
            ),
            (
                "lowest_format",
                "Log format that all members can read, as far as this one has heard",
                &self.lowest_format,
            ),
            ("members", "Members of the cluster, learners included", &self.members),
            ("keys", "Keys held, expired ones not yet removed included", &self.keys),
            ("db_size_bytes", "State engine and overlay", &self.db_size_bytes),
            (
                "state_rebuilds_total",
                "Times the state engine was set aside and rebuilt",
                &self.state_rebuilds,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "peer_match_lag_entries",
            "Entries a peer is behind the leader's log, on the leader",
            self.peer_match_lag_entries.clone(),
        );
        registry.register(
            "peer_active",
            "1 when the peer was heard within two election timeouts, on the leader",
            self.peer_active.clone(),
        );
        let build = Family::<BuildLabel, Gauge>::default();
        build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION").into() }).set(1);
        registry.register("build_info", "Version of this binary", build);
    }

    /// Brings the gauges up to date; called when the metrics are asked for.
    pub fn observe(&self, status: &RaftStatus, applied: u64, store: &crate::state::Store) {
        let gauge = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.raft_has_leader, u64::from(status.leader_id != 0));
        gauge(&self.raft_is_leader, u64::from(status.role == Role::Leader));
        gauge(&self.raft_term, status.term);
        gauge(&self.raft_leader_changes, status.leader_changes);
        gauge(&self.raft_elections, status.elections);
        gauge(&self.raft_commit_index, status.commit_index);
        gauge(&self.raft_applied_index, applied);
        gauge(&self.raft_proposals_pending, status.pending_proposals);
        gauge(&self.raft_read_rounds, status.read_rounds);
        gauge(&self.raft_lease_reads, status.lease_reads);
        gauge(&self.raft_disk_transfers, status.disk_transfers);
        gauge(&self.raft_log_bytes, status.log_bytes);
        gauge(&self.raft_snapshot_index, status.snapshot_index);
        gauge(&self.lowest_format, status.lowest_format.into());
        gauge(&self.members, status.membership.members.len() as u64);
        gauge(&self.keys, store.key_count());
        gauge(&self.db_size_bytes, store.bytes());
        gauge(&self.state_rebuilds, store.rebuilds());
        self.peer_match_lag_entries.clear();
        self.peer_active.clear();
        for progress in &status.progress {
            let Some(peer) = crate::raft::membership::name_of(&status.membership, progress.id) else {
                continue;
            };
            let label = PeerLabel { peer };
            let lag = status.last_index.saturating_sub(progress.match_index);
            gauge(&self.peer_match_lag_entries.get_or_create(&label), lag);
            gauge(&self.peer_active.get_or_create(&label), u64::from(progress.active));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: String,
}
