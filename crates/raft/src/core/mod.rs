//! The Raft core: the raft crate's node and the rules around it, as a synchronous state machine. Inputs and completions
//! go in, [`Effect`]s come out. It has no thread, no clock except the `now` of each call, no disk and no network: the
//! driver thread runs it, and so does the simulator.

mod acks;
mod admission;
mod applying;
#[cfg(test)]
mod cluster_tests;
mod elections;
mod fetching;
mod force_new_cluster;
mod holds;
mod leadership;
mod members;
mod pipeline;
mod proposals;
pub(crate) mod raft_rs;
mod reads;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use helios_proto::v1::Membership;
use raft::SnapshotStatus;
use raft::eraftpb::{Snapshot, SnapshotMetadata};

use super::log::Log;
use super::membership;
use super::types::*;
use crate::faults;
use admission::Admission;
use applying::Applying;
use elections::Elections;
use helios_state::SnapshotMeta;
use holds::Holds;
use leadership::Leadership;
use members::Members;
use pipeline::Pipeline;
use proposals::Proposals;
use raft_rs::RaftRs;
use reads::Reads;
use snapshots::Snapshots;

pub use admission::LONGEST_WAIT;
pub use holds::{HOLD_TIME, MAX_HOLDERS};
pub use reads::{MAX_TICKS_PER_TURN, longest_lease};

pub const TICK: Duration = Duration::from_millis(10);
/// Bytes of committed entries that wait to be applied, beyond which new proposals are rejected with OVERLOADED.
pub const MAX_APPLYING_BYTES: u64 = 32 << 20;
/// Limit of the bytes of uncommitted entries on a leader.
pub const MAX_UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Applied entries that stay in memory for members that lag a little, bytes.
pub const LOG_CACHE_BYTES: u64 = 32 << 20;
/// Log bytes since the last snapshot that make another due, regardless of the settings.
const MAX_LOG_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub struct Settings {
    pub id: u64,
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// Entries after which a snapshot is due (C9).
    pub snapshot_entries: u64,
    /// Whether snapshots are built for members that need one only. Otherwise also regularly, because only they let the
    /// log be purged.
    pub snapshots_on_demand: bool,
    /// Age after which a snapshot is due if there are new entries (C9).
    pub snapshot_interval: Duration,
    /// Entries kept before the newest snapshot for followers that lag a little (C9).
    pub trailing_entries: u64,
    /// Limit of the log that a leader keeps on disk for active members that lag, bytes.
    pub held_bytes: u64,
    /// Limit of the applied entries that stay in memory, bytes; at most a quarter of `max_log_bytes` is used.
    pub log_cache_bytes: u64,
    /// Limit of the log in memory, bytes: a leader rejects writes at the limit, a follower drops entries at 1.25
    /// times as much.
    pub max_log_bytes: u64,
    /// Limit of the state that is in no checkpoint yet, bytes: a leader rejects writes at the limit.
    pub max_overlay_bytes: u64,
    /// Length of the leader's lease after a ReadIndex round, at most [`longest_lease`]; `None`: no lease.
    pub lease: Option<Duration>,
    /// Leader priority of this member: a leader transfers leadership to a voter with a higher one.
    pub priority: u32,
}

/// The node of the raft crate, and an owner for each concern around it. The fields of an owner are private to its
/// file and the files below it, so that nothing else can break its rules.
pub struct Core {
    raft: RaftRs,
    settings: Settings,
    /// Membership as of the last applied entry.
    membership: Arc<Membership>,
    started: Instant,
    elections: Elections,
    leadership: Leadership,
    members: Members,
    admission: Admission,
    proposals: Proposals,
    reads: Reads,
    pipeline: Pipeline,
    applying: Applying,
    snapshots: Snapshots,
    holds: Holds,
    /// Commit index that was sent last, as leader, while all entries were committed.
    announced_commit: u64,
    /// Effects collected until the end of a drain.
    effects: Vec<Effect>,
}

impl Core {
    /// Creates a core on `log`. `applied` is the applied index of the state machine; `boot_nonce` differs at every
    /// start.
    pub fn new(
        settings: Settings,
        log: Log,
        membership: Arc<Membership>,
        applied: u64,
        boot_nonce: u64,
        now: Instant,
    ) -> raft::Result<Self> {
        let snapshots = Snapshots::new(log.base().index, now);
        let raft = RaftRs::new(&settings, log, applied)?;
        Ok(Self {
            elections: Elections::new(&settings, &raft, boot_nonce, now),
            leadership: Leadership::new(&settings, now),
            members: Members::new(now),
            admission: Admission::new(now),
            proposals: Proposals::default(),
            reads: Reads::new(&settings, boot_nonce, now),
            pipeline: Pipeline::default(),
            applying: Applying::new(applied),
            snapshots,
            holds: Holds::default(),
            raft,
            settings,
            membership,
            started: now,
            announced_commit: 0,
            effects: Vec::new(),
        })
    }

    pub fn tick(&mut self) {
        if faults::holds_election(self.pipeline.is_restoring()) {
            // The raft crate cannot campaign between the reset of the log and the restore of the state.
            self.raft.hold_election();
        }
        self.tick_failover();
        self.elections.before_tick(&mut self.raft);
        self.raft.tick();
        self.reads.drop_closed();
    }

    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Messages(messages) => self.step_all(messages, now),
            Input::Propose(proposals) => self.proposals.queue(proposals),
            Input::Read(waiter) => {
                let waiter = faults::waits_for_round(waiter, self.applying.index());
                waiter.into_iter().for_each(|waiter| self.reads.await_round(waiter));
            }
            Input::LeaseRead(waiter) => self.reads.await_lease(waiter),
            Input::Change { request, expected, waiter } => {
                if let Err((error, waiter)) = self.change(request, expected, waiter, now) {
                    drop(waiter.send(Err(error)));
                }
            }
            Input::Transfer { target, timeout, fencing_token, waiter } => {
                match membership::check_token(&self.membership, fencing_token) {
                    Ok(()) => self.start_transfer(target, now, timeout, waiter),
                    Err(error) => drop(waiter.send(Err(error))),
                }
            }
            Input::ForceNew { expected, fencing_token, waiter } => {
                drop(waiter.send(self.may_force_new(expected, fencing_token, now)));
            }
            Input::LinkLost(id) => self.link_lost(id, now),
            Input::LinkFound(id) => self.link_found(id),
            Input::PeerDisk { id, is_bad } => self.leadership.set_peer_disk(id, is_bad),
            Input::PeerFormat { id, format } => self.members.set_format(id, format),
            Input::PeerPriority { id, priority } => self.leadership.set_peer_priority(id, priority),
            Input::Unreachable(id) => self.raft.report_unreachable(id),
            Input::Committed(base) => self.raft.learn_commit(base),
            Input::SnapshotSent { to, ok } => {
                // The transfer is complete, the snapshot not installed: `settle_snapshots` waits for that.
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raft.report_snapshot(to, status);
            }
            Input::SnapshotGone(to) => {
                self.raft.log_mut().snapshot_settled(to);
                self.raft.report_snapshot(to, SnapshotStatus::Failure);
                self.build_snapshot();
            }
            Input::BuildSnapshot => self.request_snapshot(),
            Input::Hold { holder, from_index, limit_bytes, waiter } => {
                let first = self.raft.log().base().index + 1;
                let held = self.holds.set(holder, from_index, limit_bytes, first, now);
                drop(waiter.send(held.map(|()| first)));
            }
            Input::Stop => {}
        }
    }

    pub fn on_done(&mut self, done: Done, now: Instant) {
        match done {
            Done::Persisted(number) => self.persisted(number, now),
            Done::Applied(applied) => self.applied(applied, now),
            Done::Held(unappliable) => self.applying.hold(unappliable),
            Done::Restored { index, membership, bytes } => {
                self.pipeline.end_restore(index);
                self.applying.record_restore(index, bytes);
                self.raft.applied(index);
                self.set_membership(membership);
            }
            Done::SnapshotBuilt(meta) => self.snapshot_built(&meta, now),
            Done::SnapshotFailed => self.snapshots.record_failure(now),
            Done::Overlay { bytes, durable, state_bytes } => {
                self.applying.set_overlay_bytes(bytes);
                self.snapshots.set_state_bytes(state_bytes);
                self.checkpointed(durable, now);
            }
            Done::Fetched { number, outcome } => self.fetched(number, outcome),
            Done::LogSpace { is_short } => {
                self.admission.set_log_short(is_short, now);
                if is_short {
                    self.purge(self.snapshots.covered(), now);
                }
            }
        }
    }

    fn applied(&mut self, applied: Applied, now: Instant) {
        self.applying.record(&applied);
        if !applied.conf_changes.is_empty() {
            self.reads.revoke_lease(now);
        }
        // The raft crate took over the membership of the snapshot when it accepted it. These entries are from before it, and
        // their changes must not be applied to it again.
        let is_superseded = self.pipeline.is_restoring() || self.raft.has_accepted_snapshot();
        for conf_change in applied.conf_changes.iter().filter(|_| !is_superseded) {
            self.raft.step_down_if_removed(conf_change);
            if let Err(error) = self.raft.apply_conf_change(conf_change) {
                tracing::error!(%error, "the raft crate rejected a configuration change");
            }
        }
        self.raft.applied(applied.index);
        if let Some(membership) = applied.membership {
            self.set_membership(membership);
        }
        for waiter in applied.changed {
            self.effects.push(Effect::Changed(waiter, Arc::clone(&self.membership)));
        }
    }

    fn set_membership(&mut self, membership: Arc<Membership>) {
        self.membership = Arc::clone(&membership);
        self.effects.push(Effect::Membership(membership));
    }

    /// Runs every step that has become possible, and returns the effects.
    ///
    /// | step | reason for its place |
    /// |---|---|
    /// | `reject_dropped` | before the readies, so that the answer leaves in this turn |
    /// | `propose_waiting`, `serve_reads` | before the readies, so that proposals and read rounds leave with the messages of this turn |
    /// | `announce_commit` | after the proposals, whose appends have the commit index, and before the readies, so that it leaves in this turn |
    /// | `take_readies` | turns them into effects: appends, messages, committed entries, answered rounds |
    /// | `observe_role` | after the readies, so that it sees what the inputs and they made of the role; it gives up the round of an old role, so after the answered rounds. All later steps decide by the role as it is now |
    /// | `warn_of_repeated_elections`, `watch_learners` | only log and count; `watch_learners` by the progress of this turn |
    /// | `leave_joint`, `leave_bad_disk`, `hand_over_to_priority` | may start a transfer, the first of them only: a leader that leaves the cluster has to transfer, one with a bad disk should, a priority can wait |
    /// | `retry_transfer`, `settle_transfer` | after all that may start a transfer; a settled one is answered in this turn |
    /// | `propose_parked` | after the transfer is settled, so that what waited for it goes into the log before later proposals |
    /// | `build_due_snapshot`, `fetch_entries` | after the last readies, in which the raft crate may have asked for a snapshot or for entries that are on disk only |
    /// | `evict_applied` | after the last entries were appended to the log |
    /// | `hand_out_owed` | last: what is committed in this turn is behind what waited in the log, and entries are handed out in order |
    pub fn drain(&mut self, now: Instant) -> Vec<Effect> {
        self.reject_dropped(now);
        self.propose_waiting(now);
        self.serve_reads(now);
        self.raft.announce_commit(&mut self.announced_commit);
        self.take_readies(now);
        self.observe_role(now);
        self.warn_of_repeated_elections(now);
        self.watch_learners(now);
        self.leave_joint(now);
        self.leave_bad_disk(now);
        self.hand_over_to_priority(now);
        self.retry_transfer(now);
        self.settle_transfer(now);
        self.propose_parked(now);
        self.build_due_snapshot(now);
        self.fetch_entries();
        self.evict_applied();
        self.hand_out_owed();
        std::mem::take(&mut self.effects)
    }

    /// Proposes the writes that waited for the end of a transfer, if it has ended.
    fn propose_parked(&mut self, now: Instant) {
        if !self.leadership.is_transferring() && self.proposals.has_parked() {
            self.propose_waiting(now);
            self.take_readies(now);
        }
    }
}

/// Converts snapshot metadata to the raft crate's snapshot message; the state itself is sent as a file.
pub fn raft_snapshot(meta: &SnapshotMeta) -> Snapshot {
    let metadata = SnapshotMetadata {
        conf_state: Some(membership::conf_state(&meta.membership)),
        index: meta.index,
        term: meta.term,
    };
    Snapshot { data: Vec::new(), metadata: Some(metadata) }
}

/// Converts a duration to whole ticks, at least one.
fn ticks(duration: Duration) -> usize {
    (duration.as_millis() / TICK.as_millis()).max(1) as usize
}
