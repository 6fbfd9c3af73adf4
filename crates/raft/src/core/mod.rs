//! The Raft core: the raft crate's node and what belongs to it, as a synchronous machine. Inputs and completions go in,
//! [`Effect`]s come out. It has no thread, no clock but the `now` that it is given, no disk and no network: the driver
//! thread runs it, and so can a simulation.

mod acks;
mod changes;
mod elections;
mod guards;
mod joint;
mod leadership;
mod learners;
#[cfg(test)]
mod lease_tests;
mod propose;
pub(crate) mod raft_rs;
mod reads;
mod ready;
mod room;
mod skipping;
mod snapshotting;
mod space;
mod status;
mod survivor;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use helios_proto::v1::Membership;
use raft::SnapshotStatus;
use raft::eraftpb::{HardState, Snapshot, SnapshotMetadata};

use super::format::{self, Formats};
use super::log::Log;
use super::membership;
use super::proposals::Proposals;
use super::types::*;
use super::unappliable::Unappliable;
use crate::faults;
use elections::Elections;
use helios_state::SnapshotMeta;
use leadership::Leadership;
use learners::Learners;
use raft_rs::RaftRs;
use reads::Reads;
use ready::InFlight;
use room::Allowance;

pub use reads::{MAX_TICKS_PER_TURN, longest_lease};
pub use room::LONGEST_WAIT;
pub use snapshotting::MAX_HELD_BYTES;

pub const TICK: Duration = Duration::from_millis(10);
/// Ready states handed to the log writer and not yet on disk.
const MAX_IN_FLIGHT: usize = 128;
/// Committed bytes waiting to be applied before new proposals are refused as overload.
pub const MAX_APPLYING_BYTES: u64 = 32 << 20;
/// Bytes of entries that a leader holds and that no majority has yet.
pub const MAX_UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Log bytes since the last snapshot that make another due, whatever else is set.
const MAX_LOG_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub struct Settings {
    pub id: u64,
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// Entries after which a snapshot is due (C9).
    pub snapshot_entries: u64,
    /// Age after which a snapshot is due if there are new entries (C9).
    pub snapshot_interval: Duration,
    /// Entries kept before the newest snapshot for followers that lag a little (C9).
    pub trailing_entries: u64,
    /// Log kept beyond that for members that lag and answer, bytes.
    pub held_bytes: u64,
    /// Of the log, held in memory: a leader takes no writes beyond it, a follower no entries far beyond it.
    pub max_log_bytes: u64,
    /// Of the state that is not on disk yet, alike.
    pub max_overlay_bytes: u64,
    /// How long a round spares reads another one; `None`: not at all. At most [`longest_lease`].
    pub lease: Option<Duration>,
    /// A leader hands over to a voter with a higher one.
    pub priority: u32,
}

pub struct Core {
    raft: RaftRs,
    settings: Settings,
    elections: Elections,
    membership: Arc<Membership>,
    proposed: Vec<Proposal>,
    parked: Vec<Proposal>,
    proposals: Proposals,
    reads: Reads,
    started: Instant,
    in_flight: VecDeque<InFlight>,
    /// A commit index that needs no fsync of its own; goes with the next job.
    lazy_hard_state: Option<HardState>,
    applying_bytes: u64,
    overlay_bytes: u64,
    /// The last committed entry that the apply thread was given, and the last there is: those between wait in the
    /// log for room.
    handed_out: u64,
    committed_out: u64,
    /// The last committed entry that skips another.
    last_skip: u64,
    allowance: Allowance,
    last_heard: HashMap<u64, Instant>,
    /// The log was reset by an installed snapshot, and the state is still to follow.
    restoring: bool,
    building_snapshot: bool,
    /// Somebody asked for one since: what is being built may lack what he counts on.
    wants_another: bool,
    snapshot_bytes: u64,
    /// Of the log, left by the last purge.
    kept_bytes: u64,
    snapshot_at: Instant,
    /// After one that failed.
    snapshot_not_before: Instant,
    snapshot_index: u64,
    applied_index: u64,
    learners: Learners,
    /// The log lives on its reserve: what makes the state grow is refused.
    log_is_short: bool,
    short_since: Instant,
    leadership: Leadership,
    formats: Formats,
    snapshot_failures: u64,
    /// When to try again to find a leader among those who stay.
    give_way_at: Instant,
    /// The apply thread holds it back, and all after it.
    unappliable: Option<Unappliable>,
    skipped_entries: u64,
    last_skipped: u64,
    effects: Vec<Effect>,
}

impl Core {
    /// `applied` is the index the state machine is at; `boot_nonce` differs at every start.
    pub fn new(
        settings: Settings,
        log: Log,
        membership: Arc<Membership>,
        applied: u64,
        boot_nonce: u64,
        now: Instant,
    ) -> raft::Result<Self> {
        let snapshot_index = log.base().index;
        let raft = RaftRs::new(&settings, log, applied)?;
        Ok(Self {
            elections: Elections::new(&settings, &raft, boot_nonce, now),
            raft,
            reads: Reads::new(&settings, boot_nonce, now),
            started: now,
            leadership: Leadership::new(&settings, now),
            settings,
            membership,
            proposed: Vec::new(),
            parked: Vec::new(),
            proposals: Proposals::default(),
            in_flight: VecDeque::new(),
            lazy_hard_state: None,
            applying_bytes: 0,
            overlay_bytes: 0,
            handed_out: applied,
            committed_out: applied,
            last_skip: 0,
            allowance: Allowance::new(now),
            last_heard: HashMap::new(),
            restoring: false,
            building_snapshot: false,
            wants_another: false,
            snapshot_bytes: 0,
            kept_bytes: 0,
            snapshot_at: now,
            snapshot_not_before: now,
            snapshot_index,
            applied_index: applied,
            learners: Learners::new(),
            log_is_short: false,
            short_since: now,
            formats: Formats::new(format::FORMAT),
            snapshot_failures: 0,
            give_way_at: now,
            unappliable: None,
            skipped_entries: 0,
            last_skipped: 0,
            effects: Vec::new(),
        })
    }

    /// A snapshot that a previous run left and that still may be sent.
    pub fn offer_snapshot(&mut self, meta: &SnapshotMeta) {
        self.snapshot_index = meta.index;
        self.snapshot_bytes = meta.size_bytes;
        self.raft.log_mut().set_snapshot(raft_snapshot(meta));
    }

    pub fn tick(&mut self) {
        if self.restoring {
            // The raft crate cannot campaign between the reset of its log and of its state.
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
            Input::Propose(proposals) => self.proposed.extend(proposals),
            Input::Read(waiter) => {
                let waiter = faults::waits_for_round(waiter, self.applied_index);
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
            Input::PeerFormat { id, format } => self.formats.heard(id, format),
            Input::PeerPriority { id, priority } => self.leadership.set_peer_priority(id, priority),
            Input::Unreachable(id) => self.raft.report_unreachable(id),
            Input::SnapshotSent { to, ok } => {
                if ok {
                    self.raft.log_mut().snapshot_settled(to);
                }
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raft.report_snapshot(to, status);
            }
            Input::SnapshotGone(to) => {
                self.raft.log_mut().snapshot_settled(to);
                self.raft.report_snapshot(to, SnapshotStatus::Failure);
                self.build_snapshot();
            }
            Input::BuildSnapshot => {
                self.wants_another = self.building_snapshot;
                self.build_snapshot();
            }
            Input::Stop => {}
        }
    }

    pub fn on_done(&mut self, done: Done, now: Instant) {
        match done {
            Done::Persisted(number) => self.persisted(number, now),
            Done::Applied(applied) => {
                self.applying_bytes -= applied.bytes;
                self.overlay_bytes = applied.overlay_bytes;
                self.applied_index = applied.index;
                self.note_skipped(&applied);
                if !applied.conf_changes.is_empty() {
                    self.reads.revoke_lease(now);
                }
                for conf_change in &applied.conf_changes {
                    self.raft.step_down_if_removed(conf_change);
                    if let Err(error) = self.raft.apply_conf_change(conf_change) {
                        tracing::error!(%error, "configuration change not taken by the raft core");
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
            Done::Held(unappliable) => self.unappliable = Some(unappliable),
            Done::Restored { index, membership, bytes } => {
                self.restoring = false;
                self.overlay_bytes = 0;
                self.applying_bytes -= bytes;
                self.unappliable = None;
                self.applied_index = index;
                self.raft.applied(index);
                self.set_membership(membership);
            }
            Done::SnapshotBuilt(meta) => self.snapshot_built(&meta, now),
            Done::SnapshotFailed => self.snapshot_failed(now),
            Done::Overlay { bytes } => self.overlay_bytes = bytes,
            Done::LogSpace { is_short } => {
                self.log_is_short = is_short;
                self.short_since = now;
            }
        }
    }

    fn set_membership(&mut self, membership: Arc<Membership>) {
        self.membership = Arc::clone(&membership);
        self.effects.push(Effect::Membership(membership));
    }

    /// Runs everything that has become possible and answers what is to be done outside.
    pub fn drain(&mut self, now: Instant) -> Vec<Effect> {
        self.propose_waiting(now);
        self.serve_reads(now);
        self.take_readies(now);
        self.observe_role(now);
        self.warn_of_repeated_elections(now);
        self.watch_learners(now);
        self.leave_joint(now);
        self.leave_bad_disk(now);
        self.hand_over_to_priority(now);
        self.retry_transfer(now);
        self.settle_transfer(now);
        if !self.leadership.is_transferring() && !self.parked.is_empty() {
            self.propose_waiting(now);
            self.take_readies(now);
        }
        if now >= self.snapshot_not_before
            && (self.snapshot_due(now) || self.raft.log().take_snapshot_wanted())
        {
            self.build_snapshot();
        }
        self.hand_out_owed();
        std::mem::take(&mut self.effects)
    }

    fn take_readies(&mut self, now: Instant) {
        while self.in_flight.len() < MAX_IN_FLIGHT && self.raft.has_ready() {
            self.on_ready(now);
        }
    }
}

/// The form in which the raft crate passes a snapshot about; the state itself travels as a file.
pub fn raft_snapshot(meta: &SnapshotMeta) -> Snapshot {
    let metadata = SnapshotMetadata {
        conf_state: Some(membership::conf_state(&meta.membership)),
        index: meta.index,
        term: meta.term,
    };
    Snapshot { data: Vec::new(), metadata: Some(metadata) }
}

/// Whole ticks, at least one.
fn ticks(duration: Duration) -> usize {
    (duration.as_millis() / TICK.as_millis()).max(1) as usize
}
