//! What goes into the Raft core and what comes out of it.

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
pub type TransferWaiter = oneshot::Sender<Result<(u64, u64), Error>>;

/// Who waits for a write, and the part of a trace that the write is in.
pub struct WriteWaiter {
    answer: oneshot::Sender<Result<Reply, Error>>,
    span: Span,
}

impl WriteWaiter {
    /// The entry is committed and about to be applied.
    pub fn applying(&mut self) {
        self.span.next("apply");
    }

    /// The receiver may be gone: its request has timed out and was answered.
    pub fn send(self, outcome: Result<Reply, Error>) {
        drop(self.answer.send(outcome));
    }
}

impl From<oneshot::Sender<Result<Reply, Error>>> for WriteWaiter {
    fn from(answer: oneshot::Sender<Result<Reply, Error>>) -> Self {
        Self { answer, span: Span::begin("propose") }
    }
}

/// A write on its way into the log.
pub struct Proposal {
    /// Encoded `helios.v1.Command`.
    pub data: Vec<u8>,
    /// What all members have to be able to read ([`super::format`]).
    pub format: u32,
    pub waiter: WriteWaiter,
    pub charge: Charge,
}

/// The bytes of a write that waits, until it is dropped.
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

/// What the caller of a membership change counts on; refused if it is not so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Of the membership that it has seen; 0: whichever.
    pub index: u64,
    /// None lower than any that was seen; 0: none.
    pub fencing_token: u64,
}

/// Requests from other threads and tasks.
pub enum Input {
    Messages(Vec<Message>),
    Propose(Vec<Proposal>),
    /// Answers the index that the applied state must reach for a linearizable read.
    Read(ReadWaiter),
    /// As `Read`, without a round while the leader's lease lasts.
    LeaseRead(ReadWaiter),
    Change {
        request: ChangeRequest,
        expected: Expected,
        waiter: ChangeWaiter,
    },
    /// `target` `None`: the most caught-up voter. Answers the new leader and its term.
    Transfer {
        target: Option<u64>,
        timeout: Duration,
        fencing_token: u64,
        waiter: TransferWaiter,
    },
    /// Whether this member may be made the only one of its cluster.
    ForceNew {
        expected: LastEntry,
        fencing_token: u64,
        waiter: ForceNewWaiter,
    },
    /// The connection from this member ended.
    LinkLost(u64),
    /// It is there again, from the same process.
    LinkFound(u64),
    /// Whether this member's disk is full or slow, as it says with its messages.
    PeerDisk {
        id: u64,
        is_bad: bool,
    },
    /// What this member can read, as it says when it connects.
    PeerFormat {
        id: u64,
        format: u32,
    },
    /// The priority that it has, as it says when it connects.
    PeerPriority {
        id: u64,
        priority: u32,
    },
    /// A message to this member could not be delivered.
    Unreachable(u64),
    SnapshotSent {
        to: u64,
        ok: bool,
    },
    /// The snapshot for this member is not on disk any more.
    SnapshotGone(u64),
    /// Take a snapshot as soon as possible.
    BuildSnapshot,
    Stop,
}

/// Completions from the node's own worker threads.
pub enum Done {
    /// The log job of this number, and all before it, are on disk.
    Persisted(u64),
    Applied(Applied),
    /// The state was replaced by a snapshot.
    Restored {
        index: u64,
        membership: Arc<Membership>,
        /// Bytes of the entries that were held back and are covered by the snapshot.
        bytes: u64,
    },
    /// This entry and all after it are held back.
    Held(Unappliable),
    SnapshotBuilt(SnapshotMeta),
    SnapshotFailed,
    /// A checkpoint has ended: so much of the state is not on disk yet.
    Overlay {
        bytes: u64,
    },
    /// Whether the log has no room for more than its reserve of segments.
    LogSpace {
        is_short: bool,
    },
}

#[derive(Default)]
pub struct Applied {
    pub index: u64,
    /// Bytes of the entries, as charged when they were handed out.
    pub bytes: u64,
    /// Configuration changes among the entries, in order.
    pub conf_changes: Vec<ConfChangeV2>,
    /// Who asked for them: answered once the core has taken them, so that the next change and the
    /// next status find them done.
    pub changed: Vec<ChangeWaiter>,
    /// The membership after the last entry, when it changed.
    pub membership: Option<Arc<Membership>>,
    /// Of the state that is not on disk yet.
    pub overlay_bytes: u64,
    /// Indices of the entries that changed nothing, as a `SkipEntry` among the entries says.
    pub skipped: Vec<u64>,
}

/// Who waits for an entry to be applied.
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

/// A committed entry, and who waits for it.
pub type Committed = (Entry, Option<Waiter>);

/// What an entry counts for until it is applied.
pub fn charge_of(entry: &Entry) -> u64 {
    entry.data.len() as u64 + 64
}

/// Work for the apply thread, in order.
pub enum ApplyJob {
    Entries {
        entries: Vec<Committed>,
        bytes: u64,
    },
    /// Replace the state by the installed snapshot of this index.
    Restore {
        index: u64,
    },
}

/// What the Raft core wants done. Order within one drain matters for none but the log and apply
/// jobs, which are queues of their own.
pub enum Effect {
    Send(Vec<Message>),
    Log(LogJob),
    Apply(ApplyJob),
    BuildSnapshot,
    Membership(Arc<Membership>),
    Changed(ChangeWaiter, Arc<Membership>),
    /// An election that this member stood in ended with a known leader, after so long.
    ElectionOver(Duration),
    /// The disk of this member forgot what it had promised to keep: it must end, for this reason.
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

/// Why a member stood for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It heard no leader for an election timeout.
    Timeout,
    /// The connection from the leader ended.
    LeaderLost,
    /// The leader handed over.
    Handover,
}

/// An election that this member stood in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Election {
    pub cause: Cause,
    pub began: Instant,
    /// Until a leader was known; `None` while it goes on.
    pub took: Option<Duration>,
}

/// What other threads may know of the Raft core; published when it changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RaftStatus {
    pub role: Role,
    pub term: u64,
    /// 0: none known.
    pub leader_id: u64,
    pub commit_index: u64,
    pub last_index: u64,
    /// Term of the entry there.
    pub last_log_term: u64,
    pub first_index: u64,
    pub snapshot_index: u64,
    pub log_bytes: u64,
    pub membership: Arc<Membership>,
    /// On the leader, itself left out.
    pub progress: Vec<Progress>,
    /// On the leader; nobody's elsewhere.
    pub durable: Durable,
    pub elections: u64,
    pub last_election: Option<Election>,
    pub leader_changes: u64,
    /// On the leader: voters that could take over at once.
    pub may_lead: Vec<u64>,
    /// Whom leadership is being handed to.
    pub transfer_target: Option<u64>,
    /// On the leader: learners that are behind and get no further.
    pub stale_learners: Vec<u64>,
    pub pending_proposals: u64,
    pub read_rounds: u64,
    /// Reads that the lease answered.
    pub lease_reads: u64,
    /// Snapshots that could not be taken.
    pub snapshot_failures: u64,
    /// Times this member gave up leadership for its disk's sake.
    pub disk_transfers: u64,
    /// What all members can read, as far as this one has heard.
    pub lowest_format: u32,
    /// The disk is full or slow, or an entry is held back: better that another member leads.
    pub disk_is_bad: bool,
    /// The committed entry that is not applied here, nor any after it.
    pub unappliable: Option<Unappliable>,
    /// Since the process started.
    pub skipped_entries: u64,
    /// Index of the last of them; 0: none.
    pub last_skipped: u64,
}

impl RaftStatus {
    /// Whether entry `index` waits for an operator.
    pub fn holds(&self, index: u64) -> bool {
        self.unappliable.as_ref().is_some_and(|held| held.index <= index)
    }
}
