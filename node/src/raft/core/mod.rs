//! The Raft core: one `RawNode` and what belongs to it, as a synchronous machine. Inputs and
//! completions go in, [`Effect`]s come out. No thread, no clock but the `now` it is given, no disk,
//! no network: the driver thread runs it, and so can a simulation.

mod acks;
mod changes;
mod election;
mod lease;
#[cfg(test)]
mod lease_tests;
mod ready;
mod snapshotting;
mod space;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use helios_proto::v1::{ErrorCode, Membership, Progress};
use raft::eraftpb::{
    ConfChange, ConfChangeType, Entry, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};

use super::log::Log;
use super::membership;
use super::proposals::Proposals;
use super::reads::Reads;
use super::transfer::{self, Transfer};
use super::types::*;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::state::SnapshotMeta;
use election::ElectionTimeout;
use lease::Lease;
use ready::InFlight;

pub use lease::{MAX_TICKS_PER_TURN, longest as longest_lease};

pub const TICK: Duration = Duration::from_millis(10);
/// Ready states handed to the log writer and not yet on disk.
const MAX_IN_FLIGHT: usize = 128;
/// Committed bytes waiting to be applied before new proposals are refused as overload.
const MAX_APPLYING_BYTES: u64 = 32 << 20;
/// Log bytes in memory that make a snapshot due, whatever else is set.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// Proposals kept back during a leadership transfer.
const MAX_PARKED: usize = 8_192;

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
    /// How long a round spares reads another one; `None`: not at all. At most [`longest_lease`].
    pub lease: Option<Duration>,
}

pub struct Core {
    pub(super) node: RawNode<Log>,
    settings: Settings,
    election_timeout: ElectionTimeout,
    pub(super) membership: Arc<Membership>,
    proposed: Vec<Proposal>,
    parked: Vec<Proposal>,
    proposals: Proposals,
    reads: Reads<ReadWaiter>,
    pub(super) lease: Lease,
    /// Readers whom a lease would do; none between two drains.
    lease_readers: Vec<ReadWaiter>,
    started: Instant,
    pub(super) transfer: Option<Transfer>,
    in_flight: VecDeque<InFlight>,
    /// A commit index that needs no fsync of its own; goes with the next job.
    lazy_hard_state: Option<HardState>,
    applying_bytes: u64,
    last_heard: HashMap<u64, Instant>,
    /// The log was reset by an installed snapshot, and the state is still to follow.
    restoring: bool,
    building_snapshot: bool,
    snapshot_bytes: u64,
    snapshot_at: Instant,
    /// After one that failed.
    snapshot_not_before: Instant,
    snapshot_index: u64,
    applied_index: u64,
    last_role: (StateRole, u64, u64),
    elections: u64,
    leader_changes: u64,
    read_rounds: u64,
    /// The log lives on its reserve: what makes the state grow is refused.
    log_is_short: bool,
    lease_reads: u64,
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
        let config = raft::Config {
            id: settings.id,
            election_tick: ticks(settings.election_min),
            min_election_tick: ticks(settings.election_min),
            max_election_tick: ticks(settings.election_max),
            heartbeat_tick: ticks(settings.heartbeat),
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            // Off: the crate joins entries to an empty append of another position, whose answer then
            // speaks for entries that nobody has (ADR 0006).
            batch_append: Mutation::AppendsBatched.is_on(),
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 4 << 20,
            ..raft::Config::default()
        };
        let snapshot_index = log.base().index;
        // The crate insists on slog; what matters of its log is logged on role changes here.
        let node = RawNode::new(&config, log, &slog::Logger::root(slog::Discard, slog::o!()))?;
        Ok(Self {
            last_role: (node.raft.state, node.raft.term, node.raft.leader_id),
            node,
            reads: Reads::new(settings.id, boot_nonce),
            lease: Lease::new(settings.lease, now),
            lease_readers: Vec::new(),
            started: now,
            election_timeout: ElectionTimeout::new(settings.election_min, settings.election_max, boot_nonce),
            settings,
            membership,
            proposed: Vec::new(),
            parked: Vec::new(),
            proposals: Proposals::default(),
            transfer: None,
            in_flight: VecDeque::new(),
            lazy_hard_state: None,
            applying_bytes: 0,
            last_heard: HashMap::new(),
            restoring: false,
            building_snapshot: false,
            snapshot_bytes: 0,
            snapshot_at: now,
            snapshot_not_before: now,
            snapshot_index,
            applied_index: applied,
            elections: 0,
            leader_changes: 0,
            read_rounds: 0,
            log_is_short: false,
            lease_reads: 0,
            effects: Vec::new(),
        })
    }

    /// A snapshot that a previous run left and that still may be sent.
    pub fn offer_snapshot(&mut self, meta: &SnapshotMeta) {
        self.snapshot_index = meta.index;
        self.snapshot_bytes = meta.size_bytes;
        self.node.mut_store().set_snapshot(raft_snapshot(meta));
    }

    pub fn tick(&mut self) {
        if self.restoring {
            // The raft crate cannot campaign between the reset of its log and of its state.
            self.node.raft.election_elapsed = 0;
        }
        self.election_timeout.pin(&mut self.node.raft);
        self.node.tick();
        self.reads.retain(|waiter| !waiter.is_closed());
    }

    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Messages(messages) => self.step_all(messages, now),
            Input::Propose(proposals) => self.proposed.extend(proposals),
            Input::Read(waiter) if Mutation::ReadWithoutRound.is_on() => {
                drop(waiter.send(Ok(self.applied_index)));
            }
            Input::Read(waiter) => self.await_round(waiter),
            Input::LeaseRead(waiter) => self.await_lease(waiter),
            Input::Change { request, expected_index, waiter } => {
                if let Err((error, waiter)) = self.change(request, expected_index, waiter, now) {
                    drop(waiter.send(Err(error)));
                }
            }
            Input::Transfer { target, timeout, waiter } => {
                transfer::start(self, target, now, timeout, waiter);
            }
            Input::Unreachable(id) => self.node.report_unreachable(id),
            Input::SnapshotSent { to, ok } => {
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.node.report_snapshot(to, status);
            }
            Input::BuildSnapshot => self.build_snapshot(),
            Input::Stop => {}
        }
    }

    fn await_round(&mut self, waiter: ReadWaiter) {
        if let Err(waiter) = self.reads.push(waiter) {
            drop(waiter.send(Err(Error::new(
                ErrorCode::Overloaded,
                "too many reads are waiting for this member; try again",
            ))));
        }
    }

    fn step_all(&mut self, messages: Vec<Message>, now: Instant) {
        for message in messages {
            // A follower that cannot keep up applying lets the leader probe again later.
            if message.get_msg_type() == MessageType::MsgAppend
                && self.applying_bytes > 2 * MAX_APPLYING_BYTES
            {
                continue;
            }
            if self.breaks_boot_quiet(&message, now) {
                continue;
            }
            if self.restoring && message.get_msg_type() == MessageType::MsgTimeoutNow {
                continue;
            }
            if self.contradicts_committed(&message) {
                tracing::error!(
                    from = message.from,
                    "a snapshot contradicts what is committed here; not taken"
                );
                continue;
            }
            self.last_heard.insert(message.from, now);
            if self.has_lost_entries(&message) {
                return;
            }
            if let Err(error) = self.node.step(message) {
                tracing::debug!(%error, "message not taken");
            }
        }
    }

    /// A leader tells a follower no commit index above what that one acknowledged to it, so a higher
    /// one means that this disk forgot. The raft crate would panic; whoever runs the node is told why.
    fn has_lost_entries(&mut self, message: &Message) -> bool {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        let is_lost = message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= raft.term
            && message.commit > last;
        if is_lost {
            let from = membership::name_of(&self.membership, message.from).unwrap_or_default();
            self.effects.push(Effect::Lost(format!(
                "leader {from} has this member's word for log entry {}, and the log here ends at {last}: the disk \
                 lost what it had synced, or is an older copy; remove the member and let it join anew with an \
                 empty data directory",
                message.commit
            )));
        }
        is_lost
    }

    pub fn on_done(&mut self, done: Done, now: Instant) {
        match done {
            Done::Persisted(number) => self.persisted(number),
            Done::Applied(applied) => {
                self.applying_bytes -= applied.bytes;
                self.applied_index = applied.index;
                if !applied.conf_changes.is_empty() {
                    self.lease.revoke(now);
                }
                for conf_change in &applied.conf_changes {
                    self.step_down_if_removed(conf_change);
                    if let Err(error) = self.node.apply_conf_change(conf_change) {
                        tracing::error!(%error, "configuration change not taken by the raft core");
                    }
                }
                self.node.advance_apply_to(applied.index);
                if let Some(membership) = applied.membership {
                    self.set_membership(membership);
                }
                for waiter in applied.changed {
                    self.effects.push(Effect::Changed(waiter, Arc::clone(&self.membership)));
                }
            }
            Done::Restored { index, membership } => {
                self.restoring = false;
                self.applied_index = index;
                self.node.advance_apply_to(index);
                self.set_membership(membership);
            }
            Done::SnapshotBuilt(meta) => self.snapshot_built(&meta, now),
            Done::SnapshotFailed => self.snapshot_failed(now),
            Done::LogSpace { is_short } => self.log_is_short = is_short,
        }
    }

    /// The raft crate panics when a leader that is no member any more counts itself (0.7, `maybe_commit`).
    fn step_down_if_removed(&mut self, change: &ConfChange) {
        let raft = &mut self.node.raft;
        let removes_self =
            change.get_change_type() == ConfChangeType::RemoveNode && change.node_id == self.settings.id;
        if removes_self && raft.state == StateRole::Leader {
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
    }

    fn set_membership(&mut self, membership: Arc<Membership>) {
        self.membership = Arc::clone(&membership);
        self.effects.push(Effect::Membership(membership));
    }

    /// Runs everything that has become possible and answers what is to be done outside.
    pub fn drain(&mut self, now: Instant) -> Vec<Effect> {
        self.propose_waiting();
        self.pump_reads(now);
        self.take_readies();
        self.note_role();
        transfer::settle(self, now);
        if self.transfer.is_none() && !self.parked.is_empty() {
            self.propose_waiting();
            self.take_readies();
        }
        if now >= self.snapshot_not_before
            && (self.snapshot_due(now) || self.node.store().take_snapshot_wanted())
        {
            self.build_snapshot();
        }
        std::mem::take(&mut self.effects)
    }

    fn take_readies(&mut self) {
        while self.in_flight.len() < MAX_IN_FLIGHT && self.node.has_ready() {
            self.on_ready();
        }
    }

    fn propose_waiting(&mut self) {
        if self.transfer.is_none() && !self.parked.is_empty() {
            let mut parked = std::mem::take(&mut self.parked);
            parked.append(&mut self.proposed);
            self.proposed = parked;
        }
        if self.proposed.is_empty() {
            return;
        }
        let mut proposals = std::mem::take(&mut self.proposed);
        if self.node.raft.state != StateRole::Leader {
            return self.refuse(proposals, Error::not_leader(self.leader_name()));
        }
        if self.transfer.is_some() || self.node.raft.lead_transferee.is_some() {
            let room = MAX_PARKED.saturating_sub(self.parked.len()).min(proposals.len());
            let mut proposals = proposals;
            let excess = proposals.split_off(room);
            self.parked.extend(proposals);
            return self.refuse(excess, overloaded());
        }
        if self.applying_bytes > MAX_APPLYING_BYTES {
            return self.refuse(proposals, overloaded());
        }
        if self.log_is_short {
            proposals = self.refuse_growth(proposals);
        }
        if !proposals.is_empty() {
            self.propose(proposals);
        }
    }

    /// Proposes many entries as one message: one append message per peer, not one per entry.
    fn propose(&mut self, mut proposals: Vec<Proposal>) {
        let entries = proposals
            .iter_mut()
            .map(|proposal| Entry { data: std::mem::take(&mut proposal.data), ..Entry::default() })
            .collect();
        let first = self.node.raft.raft_log.last_index() + 1;
        let mut message = Message { from: self.settings.id, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        match self.node.step(message) {
            Ok(()) => {
                for (index, proposal) in (first..).zip(proposals) {
                    self.proposals.push(index, self.node.raft.term, Waiter::Write(proposal.waiter));
                }
            }
            Err(_) => self.refuse(proposals, overloaded()),
        }
    }

    fn refuse(&self, proposals: Vec<Proposal>, error: Error) {
        for proposal in proposals {
            drop(proposal.waiter.send(Err(error.clone())));
        }
    }

    fn pump_reads(&mut self, now: Instant) {
        self.serve_lease_reads(now);
        if self.reads.round_older_than(self.settings.election_min, now) {
            self.reads.give_up_round();
        }
        // A leader answers only after an entry of its own term is committed (Raft thesis, 6.4).
        let possible = match self.node.raft.state {
            StateRole::Leader => self.node.raft.commit_to_current_term(),
            StateRole::Follower => self.node.raft.leader_id != 0,
            _ => false,
        };
        if possible && let Some(context) = self.reads.start_round(now) {
            self.read_rounds += 1;
            self.node.read_index(context.to_vec());
        }
    }

    pub(super) fn is_active(&self, id: u64, now: Instant) -> bool {
        id == self.settings.id
            || self
                .last_heard
                .get(&id)
                .is_some_and(|heard| now.duration_since(*heard) < 2 * self.settings.election_min)
    }

    fn note_role(&mut self) {
        let raft = &self.node.raft;
        let current = (raft.state, raft.term, raft.leader_id);
        let (old_state, old_term, old_leader) = self.last_role;
        if current == self.last_role {
            return;
        }
        self.last_role = current;
        let (state, term, leader_id) = current;
        if state != old_state || term != old_term {
            self.reads.give_up_round();
            match state {
                StateRole::Candidate | StateRole::PreCandidate => {
                    self.elections += u64::from(state == StateRole::Candidate);
                    tracing::info!(term, ?state, "starting election");
                }
                StateRole::Leader => {
                    tracing::info!(term, node = %self.own_name(), "Became leader: won election, entering leader state");
                }
                StateRole::Follower if old_state != StateRole::Follower => {
                    tracing::info!(term, "entering follower state");
                }
                StateRole::Follower => {}
            }
        }
        if leader_id != old_leader && leader_id != 0 {
            self.leader_changes += 1;
            tracing::info!(term, leader = %self.leader_name().unwrap_or_default(), "leader known");
        } else if leader_id == 0 && old_leader != 0 {
            tracing::info!(term, "no leader known");
        }
    }

    pub(super) fn leader_name(&self) -> Option<String> {
        membership::name_of(&self.membership, self.node.raft.leader_id)
    }

    fn own_name(&self) -> String {
        membership::name_of(&self.membership, self.settings.id).unwrap_or_default()
    }

    pub fn status(&self, now: Instant) -> RaftStatus {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.membership.learners.contains(&self.settings.id) => Role::Learner,
            StateRole::Follower => Role::Follower,
        };
        let progress = if role == Role::Leader { self.progress(now) } else { Vec::new() };
        RaftStatus {
            role,
            term: raft.term,
            leader_id: raft.leader_id,
            commit_index: raft.raft_log.committed,
            last_index: raft.raft_log.last_index(),
            first_index: self.node.store().base().index + 1,
            snapshot_index: self.snapshot_index,
            log_bytes: self.node.store().bytes(),
            membership: Arc::clone(&self.membership),
            progress,
            durable: self.durable(now),
            elections: self.elections,
            leader_changes: self.leader_changes,
            pending_proposals: self.proposals.len() as u64,
            read_rounds: self.read_rounds,
            lease_reads: self.lease_reads,
        }
    }

    /// Term of an entry that this member's log has.
    #[cfg(feature = "simulation")]
    pub fn term_of(&self, index: u64) -> Option<u64> {
        raft::Storage::term(self.node.store(), index).ok()
    }

    fn progress(&self, now: Instant) -> Vec<Progress> {
        let mut found: Vec<Progress> = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != self.settings.id)
            .map(|(id, progress)| Progress {
                id: *id,
                match_index: progress.matched,
                active: self.is_active(*id, now),
                snapshotting: progress.state == ProgressState::Snapshot,
            })
            .collect();
        found.sort_by_key(|progress| progress.id);
        found
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

fn overloaded() -> Error {
    Error::new(ErrorCode::Overloaded, "this member has more writes in flight than it takes; try again")
}
