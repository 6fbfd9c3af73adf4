//! Seeded bugs. The simulator turns one on and must find it (docs/design/node.md, section 5, "mutation gate"). The code
//! reaches them through the `faults.rs` of each crate only. Without the feature `simulation` none can be on, and the
//! compiler removes them.

/// A bug that can be turned on. Each is one that a Raft store was found
/// with, or that a hurried change could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeededBug {
    /// Votes leave before the disk has them.
    VoteBeforeSync,
    /// Append responses leave before the disk has the entries.
    AppendAckBeforeSync,
    /// A leader counts itself before its own disk has the entries.
    LeaderCountsItselfEarly,
    /// A new term or vote without entries is not written to the disk.
    HardStateWithoutEntriesLost,
    /// The vote is forgotten at a restart.
    VoteForgotten,
    /// The term is forgotten at a restart.
    TermForgotten,
    /// A restart takes learners for voters.
    LearnersCount,
    /// A configuration change takes effect in the Raft core before it is committed.
    ChangeBeforeCommit,
    /// Reads are answered without asking a majority.
    ReadWithoutRound,
    /// Read rounds use the same context again.
    ReadContextReused,
    /// A read round returns an index one too low.
    ReadIndexTooLow,
    /// A waiter of an index is answered whichever entry is committed there.
    ProposalTermIgnored,
    /// A proposal that a snapshot skipped is reported as never executed.
    SkippedMeansRefused,
    /// An entry is skipped after a restart.
    AppliedSkipped,
    /// The raft crate joins append messages, which it does wrongly (ADR 0006).
    AppendsBatched,
    /// Only the last of the jobs drained together is written.
    LogJobsDropped,
    /// A failed write or sync of the log is ignored.
    LogErrorIgnored,
    /// The log does not sync what it writes.
    LogNotSynced,
    /// A new segment's name is not synced.
    SegmentNameNotSynced,
    /// Recovery keeps entries that later ones replaced.
    OldSuffixKept,
    /// Frames of an earlier use of a segment are taken for valid.
    StaleFramesAccepted,
    /// Damage in the middle of the log is cut off like a torn tail.
    DamageCutOff,
    /// Segments that still hold wanted entries are recycled.
    RecycledEarly,
    /// The log is purged up to what is applied, snapshot or not.
    PurgedBeyondSnapshot,
    /// A snapshot is not synced before the log is purged.
    SnapshotNotSynced,
    /// The checksum of a snapshot is not verified.
    SnapshotNotVerified,
    /// The state jumps to an installed snapshot before the log has.
    RestoredBeforeLogReset,
    /// A checkpoint writes into the engine without its journal.
    CheckpointWithoutJournal,
    /// A checkpoint records an index below what it holds.
    CheckpointIndexTooLow,
    /// A snapshot is named after a later index than what it holds.
    SnapshotIndexTooHigh,
    /// The remains of an interrupted append are left behind the end of the log.
    TailNotErased,
    /// A restart takes its membership from the newest snapshot, not from the state.
    MembershipFromSnapshot,
    /// Acknowledgements count only the new voters while the old ones still decide, too.
    JointIgnoresOutgoing,
    /// A restart in the middle of a joint change takes it for done.
    JointForgotten,
    /// SET leaves the expiry of what it replaces.
    ExpiryKeptBySet,
    /// A transaction is executed although its guards do not hold.
    GuardsIgnored,
    /// A guard that a key does not exist always holds.
    MissingKeyNotGuarded,
    /// A refused step ends its transaction.
    ExecEndsAtRefusal,
    /// A change of the expiry leaves the revision as it was.
    RevisionKeptByExpiry,
    /// The log's clock goes back with the clock of a new leader.
    ClockFollowsLeader,
    /// Collections made by one entry share an id.
    CollectionIdShared,
    /// FLUSHALL forgets which requests were applied.
    FlushForgetsRequests,
    /// A checkpoint writes what came after a FLUSHALL and keeps what was before it.
    ClearNotCheckpointed,
    /// A script takes effect although keys that it read have changed.
    ScriptNotGuarded,
    /// Random results of a script are drawn again when its entry is applied.
    ScriptDrawsAgain,
    /// A retry is applied like a new request.
    RetryAppliedAgain,
    /// A refused request is not remembered.
    RefusalForgotten,
    /// A request that was applied before is answered with the index of its retry.
    RepeatHasNewIndex,
    /// An installed snapshot does not bring the requests that were applied.
    RequestsNotInSnapshot,
    /// A change of the membership takes over a lower fencing token.
    FencingTokenForgotten,
    /// A fenced caller may change the membership.
    FencingNotChecked,
    /// Acknowledgements do not count voters that were not heard of lately.
    SilentVotersLeftOut,
    /// Acknowledgements count what was sent to a voter.
    SentCountsAsHeld,
    /// An acknowledgement by all voters does without one.
    OneVoterMayLack,
    /// An entry that ended the process is tried at every start.
    HeldTriedAgain,
    /// An entry that ended the process is skipped without a skip in the log.
    HeldPassedOver,
    /// A skip takes the entry after the one that it names, too.
    SkipTakesMore,
    /// A leader that applies its own removal stays leader.
    RemovedLeaderStays,
    /// A member campaigns although the state of an installed snapshot is still to follow.
    CampaignsWhileRestoring,
}

impl SeededBug {
    #[cfg(feature = "simulation")]
    pub const ALL: [Self; 59] = [
        Self::VoteBeforeSync,
        Self::AppendAckBeforeSync,
        Self::LeaderCountsItselfEarly,
        Self::HardStateWithoutEntriesLost,
        Self::VoteForgotten,
        Self::TermForgotten,
        Self::LearnersCount,
        Self::ChangeBeforeCommit,
        Self::ReadWithoutRound,
        Self::ReadContextReused,
        Self::ReadIndexTooLow,
        Self::ProposalTermIgnored,
        Self::SkippedMeansRefused,
        Self::AppliedSkipped,
        Self::AppendsBatched,
        Self::LogJobsDropped,
        Self::LogErrorIgnored,
        Self::LogNotSynced,
        Self::SegmentNameNotSynced,
        Self::OldSuffixKept,
        Self::StaleFramesAccepted,
        Self::DamageCutOff,
        Self::RecycledEarly,
        Self::PurgedBeyondSnapshot,
        Self::SnapshotNotSynced,
        Self::SnapshotNotVerified,
        Self::RestoredBeforeLogReset,
        Self::CheckpointWithoutJournal,
        Self::CheckpointIndexTooLow,
        Self::SnapshotIndexTooHigh,
        Self::TailNotErased,
        Self::MembershipFromSnapshot,
        Self::JointIgnoresOutgoing,
        Self::JointForgotten,
        Self::ExpiryKeptBySet,
        Self::GuardsIgnored,
        Self::MissingKeyNotGuarded,
        Self::ExecEndsAtRefusal,
        Self::RevisionKeptByExpiry,
        Self::ClockFollowsLeader,
        Self::CollectionIdShared,
        Self::FlushForgetsRequests,
        Self::ClearNotCheckpointed,
        Self::ScriptNotGuarded,
        Self::ScriptDrawsAgain,
        Self::RetryAppliedAgain,
        Self::RefusalForgotten,
        Self::RepeatHasNewIndex,
        Self::RequestsNotInSnapshot,
        Self::FencingTokenForgotten,
        Self::FencingNotChecked,
        Self::SilentVotersLeftOut,
        Self::SentCountsAsHeld,
        Self::OneVoterMayLack,
        Self::HeldTriedAgain,
        Self::HeldPassedOver,
        Self::SkipTakesMore,
        Self::RemovedLeaderStays,
        Self::CampaignsWhileRestoring,
    ];

    /// Whether this bug is on in the calling thread.
    #[cfg(feature = "simulation")]
    pub fn is_on(self) -> bool {
        ON.get() == Some(self)
    }

    #[cfg(not(feature = "simulation"))]
    pub const fn is_on(self) -> bool {
        false
    }

    /// Turns one bug on in the calling thread, and the others off.
    #[cfg(feature = "simulation")]
    pub fn set(bug: Option<Self>) {
        ON.set(bug);
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static ON: std::cell::Cell<Option<SeededBug>> = const { std::cell::Cell::new(None) };
}
