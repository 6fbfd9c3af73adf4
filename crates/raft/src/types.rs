//! Inputs, completions and effects of the Raft core, and its status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use helios_proto::v1::{Member, Membership, Progress, Reply};
use raft::eraftpb::{ConfChangeV2, Entry, HardState, Message};
use tokio::sync::oneshot;

use super::acks::Durable;
use super::force_new_cluster::{LastEntry, Verdict};
use super::unappliable::Unappliable;
use crate::trace::Span;
use helios_proto::Error;
use helios_state::SnapshotMeta;
use helios_storage::wal::Base;

pub type ReadWaiter = oneshot::Sender<Result<u64, Error>>;
pub type ChangeWaiter = oneshot::Sender<Result<Arc<Membership>, Error>>;
pub type ForceNewWaiter = oneshot::Sender<Result<Verdict, Error>>;
pub type HoldWaiter = oneshot::Sender<Result<u64, Error>>;
pub type TransferWaiter = oneshot::Sender<Result<(u64, u64), Error>>;

/// Receiver of the reply to a write, with the current span of its trace.
pub struct WriteWaiter {
    answer: oneshot::Sender<Result<Reply, Error>>,
    span: Span,
}

impl WriteWaiter {
    /// Begins the span "apply": the entry is committed and about to be applied.
    pub fn applying(&mut self) {
        self.span.next("apply");
    }

    /// Sends the outcome. The receiver may be gone: its request has timed out and was answered.
    pub fn send(self, outcome: Result<Reply, Error>) {
        drop(self.answer.send(outcome));
    }
}

impl From<oneshot::Sender<Result<Reply, Error>>> for WriteWaiter {
    fn from(answer: oneshot::Sender<Result<Reply, Error>>) -> Self {
        Self { answer, span: Span::begin("propose") }
    }
}

/// A write that is to be proposed.
pub struct Proposal {
    /// Encoded `helios.v1.Command`.
    pub data: Vec<u8>,
    /// Log format that all members have to be able to read ([`super::format`]).
    pub format: u32,
    pub waiter: WriteWaiter,
    pub charge: Charge,
}

/// Charge for the bytes of a waiting write; released on drop.
#[derive(Default)]
pub struct Charge(Option<(Arc<AtomicU64>, u64)>);

impl Charge {
    pub fn new(waiting: &Arc<AtomicU64>, bytes: u64) -> Self {
        waiting.fetch_add(bytes, Ordering::Relaxed);
        Self(Some((Arc::clone(waiting), bytes)))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some((waiting, bytes)) = &self.0 {
            waiting.fetch_sub(*bytes, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
pub enum ChangeRequest {
    AddLearner(Member),
    Promote { id: u64, max_lag: u64 },
    Remove { id: u64 },
    Several { promote: Vec<u64>, remove: Vec<u64>, max_lag: u64 },
}

/// Preconditions of a membership change; the change is rejected if one is not met.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Index of the membership that the caller has read; 0: any.
    pub index: u64,
    /// Fencing token of the caller, not lower than the highest seen by the cluster; 0: none.
    pub fencing_token: u64,
}

/// Requests from other threads and tasks.
pub enum Input {
    Messages(Vec<Message>),
    Propose(Vec<Proposal>),
    /// Linearizable read. The answer is the index that the applied state must reach before it.
    Read(ReadWaiter),
    /// Like `Read`, but without a round while the leader has a lease.
    LeaseRead(ReadWaiter),
    Change {
        request: ChangeRequest,
        expected: Expected,
        waiter: ChangeWaiter,
    },
    /// Transfer of leadership; `target` `None`: to the most caught-up voter. The answer is the new leader and its term.
    Transfer {
        target: Option<u64>,
        timeout: Duration,
        fencing_token: u64,
        waiter: TransferWaiter,
    },
    /// Query whether this member may be made the only one of its cluster.
    ForceNew {
        expected: LastEntry,
        fencing_token: u64,
        waiter: ForceNewWaiter,
    },
    /// The connection from this member was closed.
    LinkLost(u64),
    /// The same process of this member is connected again.
    LinkFound(u64),
    /// Report of a peer, with its messages, whether its disk is full or slow.
    PeerDisk {
        id: u64,
        is_bad: bool,
    },
    /// Log format that a peer can read, from its handshake.
    PeerFormat {
        id: u64,
        format: u32,
    },
    /// Leader priority of a peer, from its handshake.
    PeerPriority {
        id: u64,
        priority: u32,
    },
    /// A message to this member could not be delivered.
    Unreachable(u64),
    /// The entry at this position is committed, as another member knows.
    Committed(Base),
    SnapshotSent {
        to: u64,
        ok: bool,
    },
    /// The snapshot to send to this member is no longer on disk.
    SnapshotGone(u64),
    /// Request to take a snapshot as soon as possible.
    BuildSnapshot,
    /// Request to keep the log from `from_index` on, at most `limit_bytes`; 0: no longer. The answer is its first index.
    Hold {
        holder: String,
        from_index: u64,
        limit_bytes: u64,
        waiter: HoldWaiter,
    },
    Stop,
}

/// Work of the checkpoint thread, besides checkpoints.
pub enum CheckpointJob {
    /// See [`Effect::BuildSnapshot`].
    BuildSnapshot {
        as_set: bool,
    },
    RemoveSnapshots {
        before: u64,
    },
}

/// Completions from the member's worker threads.
pub enum Done {
    /// The log job of this number and all before it are durable.
    Persisted(u64),
    Applied(Applied),
    /// The state was replaced by a snapshot.
    Restored {
        index: u64,
        membership: Arc<Membership>,
        /// Charge of the entries that were held back and are dropped; the snapshot covers them.
        bytes: u64,
    },
    /// This entry and all after it are held back.
    Held(Unappliable),
    SnapshotBuilt(SnapshotMeta),
    SnapshotFailed,
    /// A checkpoint has ended; `bytes` of the state are in no checkpoint yet.
    Overlay {
        bytes: u64,
        /// See [`helios_state::Store::durable_index`].
        durable: u64,
        /// Size of the state.
        state_bytes: u64,
    },
    /// Result of the fetch job of this number. `None`: the log no longer has the entries.
    Fetched {
        number: u64,
        outcome: Result<Option<Vec<Entry>>, String>,
    },
    /// The log has only its reserve of spare segments left (`is_short`), or has room again.
    LogSpace {
        is_short: bool,
    },
}

#[derive(Default)]
pub struct Applied {
    pub index: u64,
    /// Charge of the entries, as counted when they were handed out.
    pub bytes: u64,
    /// Configuration changes among the entries, in order.
    pub conf_changes: Vec<ConfChangeV2>,
    /// Receivers of the changes' answers. They are answered after the core has applied the changes, so that the
    /// client's next change and next status see the effect.
    pub changed: Vec<ChangeWaiter>,
    /// The membership after the last entry, when it changed.
    pub membership: Option<Arc<Membership>>,
    /// Bytes of the state that are in no checkpoint yet.
    pub overlay_bytes: u64,
    /// Indexes of the entries that a `SkipEntry` skipped; they changed nothing.
    pub skipped: Vec<u64>,
}

/// Receiver of the answer once an entry is applied.
pub enum Waiter {
    Write(WriteWaiter),
    Change(ChangeWaiter),
}

impl Waiter {
    pub fn fail(self, error: Error) {
        // A receiver that is gone has timed out and answered for itself.
        match self {
            Waiter::Write(waiter) => waiter.send(Err(error)),
            Waiter::Change(waiter) => drop(waiter.send(Err(error))),
        }
    }
}

/// Work for the log writer, in order.
pub enum LogJob {
    Append { number: u64, reset: Option<Base>, entries: Vec<Entry>, hard_state: Option<HardState> },
    Purge(Base),
}

/// Work for the reader of the log: entries from `low` on, before `high`, and about `max_bytes` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchJob {
    pub number: u64,
    pub low: u64,
    pub high: u64,
    pub max_bytes: u64,
}

/// A committed entry, with the waiter of its answer.
pub type Committed = (Entry, Option<Waiter>);

/// Returns the charge of an entry, in bytes, until it is applied.
pub fn charge_of(entry: &Entry) -> u64 {
    entry.data.len() as u64 + 64
}

/// Work for the apply thread, in order.
pub enum ApplyJob {
    Entries {
        entries: Vec<Committed>,
        bytes: u64,
    },
    /// Replaces the state by the installed snapshot of this index.
    Restore {
        index: u64,
    },
}

/// Effects that the driver executes for the Raft core. Within one drain only the order of the log jobs and the order
/// of the apply jobs matter; each of the two has a separate queue.
pub enum Effect {
    Send(Vec<Message>),
    Log(LogJob),
    Apply(ApplyJob),
    Fetch(FetchJob),
    /// Builds a snapshot: as a set if all members can read one (`format::SNAPSHOT_SETS`).
    BuildSnapshot {
        as_set: bool,
    },
    /// The log does not continue from snapshots below this index: they are of no use any more.
    RemoveSnapshots {
        before: u64,
    },
    Membership(Arc<Membership>),
    Changed(ChangeWaiter, Arc<Membership>),
    /// An election with this member as candidate ended with a known leader, after this duration.
    ElectionOver(Duration),
    /// The disk of this member lost data that was acknowledged: the process must end, for this reason.
    Lost(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    #[default]
    Follower,
    Candidate,
    Leader,
    Learner,
}

/// Cause of a candidacy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No message of a leader for an election timeout.
    Timeout,
    /// The connection from the leader was closed.
    LeaderLost,
    /// The leader transferred leadership.
    Handover,
}

/// An election in which this member was a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Election {
    pub cause: Cause,
    pub began: Instant,
    /// Time until a leader was known; `None` while the election is in progress.
    pub took: Option<Duration>,
}

/// Status of the Raft core for other threads; published when it changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RaftStatus {
    pub role: Role,
    pub term: u64,
    /// 0: none known.
    pub leader_id: u64,
    pub commit_index: u64,
    pub last_index: u64,
    /// Term of the entry at `last_index`.
    pub last_log_term: u64,
    pub first_index: u64,
    pub snapshot_index: u64,
    /// Index up to which a snapshot or a trusted checkpoint makes the log unnecessary for this member.
    pub covered_index: u64,
    /// Bytes of the log's entries.
    pub log_bytes: u64,
    /// Bytes of those that are in memory.
    pub log_memory_bytes: u64,
    pub membership: Arc<Membership>,
    /// On the leader: progress of the other members. Empty elsewhere.
    pub progress: Vec<Progress>,
    /// On the leader: durable entries of the voters. Empty elsewhere.
    pub durable: Durable,
    pub elections: u64,
    pub last_election: Option<Election>,
    pub leader_changes: u64,
    /// On the leader: voters that could take over at once.
    pub may_lead: Vec<u64>,
    /// Target of the current transfer of leadership.
    pub transfer_target: Option<u64>,
    /// On the leader: learners that are behind and make no progress.
    pub stale_learners: Vec<u64>,
    pub pending_proposals: u64,
    pub read_rounds: u64,
    /// Reads that were answered by the lease.
    pub lease_reads: u64,
    /// Snapshots that could not be taken.
    pub snapshot_failures: u64,
    /// Number of times this member gave up leadership because its disk was slow or full.
    pub disk_transfers: u64,
    /// Log format that all members can read, as far as this member knows.
    pub lowest_format: u32,
    /// The disk is full or slow, or an entry is held back: other members should not choose this one as leader.
    pub disk_is_bad: bool,
    /// The committed entry that this member does not apply, nor any entry after it.
    pub unappliable: Option<Unappliable>,
    /// Number of skipped entries since the process started.
    pub skipped_entries: u64,
    /// Index of the last skipped entry; 0: none.
    pub last_skipped: u64,
    /// Bytes of the log that is kept for archivers.
    pub held_bytes: u64,
    /// Number of holds of archivers that were dropped because they kept too much of the log.
    pub holds_dropped: u64,
}

impl RaftStatus {
    /// Whether entry `index` is held back until an admin skips an entry.
    pub fn holds(&self, index: u64) -> bool {
        self.unappliable.as_ref().is_some_and(|held| held.index <= index)
    }
}
