//! Seeded bugs: mistakes built in on purpose. The simulator turns one on and must find it (docs/design/node.md,
//! section 5, "Gate of seeded bugs"). The code reaches them only through the `faults.rs` of each crate. Without the
//! feature `simulation` none can be on, and the compiler removes them.

/// A bug that can be turned on. Each was found in some Raft store, or could be made by a careless change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeededBug {
    /// Votes are sent before they are durable.
    VoteBeforeSync,
    /// Append responses are sent before the entries are durable.
    AppendAckBeforeSync,
    /// A leader counts itself before the entries are durable on its own disk.
    LeaderCountsItselfEarly,
    /// A new term or vote without entries is not written to the disk.
    HardStateWithoutEntriesLost,
    /// The vote is forgotten at a restart.
    VoteForgotten,
    /// The term is forgotten at a restart.
    TermForgotten,
    /// After a restart learners count as voters.
    LearnersCount,
    /// A configuration change takes effect in the Raft core before it is committed.
    ChangeBeforeCommit,
    /// Reads are answered without a ReadIndex round to a majority.
    ReadWithoutRound,
    /// ReadIndex rounds use the same context again.
    ReadContextReused,
    /// A ReadIndex round answers an index one too low.
    ReadIndexTooLow,
    /// The waiter of a proposal is answered whichever entry is committed at its index.
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
    /// Entries that later ones replaced are read back from the log.
    OldSuffixKept,
    /// Entries have the terms of those that they replaced.
    OldTermsKept,
    /// Entries that are not applied are dropped from memory.
    EvictedUnapplied,
    /// Entries that are fetched from disk have the content of the entry after them.
    FetchShifted,
    /// Frames of an earlier use of a segment are taken for valid.
    StaleFramesAccepted,
    /// Corruption in the middle of the log is cut off like a torn tail.
    DamageCutOff,
    /// Segments that still hold needed entries are recycled.
    RecycledEarly,
    /// The log is purged up to the applied index, whether a snapshot holds the entries or not.
    PurgedBeyondSnapshot,
    /// A snapshot is not synced before the log is purged.
    SnapshotNotSynced,
    /// The checksum of a snapshot is not verified.
    SnapshotNotVerified,
    /// The state is restored from an installed snapshot before the reset of the log is durable.
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
    /// During joint consensus acknowledgements count only the incoming voters.
    JointIgnoresOutgoing,
    /// A restart during joint consensus forgets the outgoing voters.
    JointForgotten,
    /// SET keeps the expiry of the value that it replaces.
    ExpiryKeptBySet,
    /// A transaction is executed although its guards do not hold.
    GuardsIgnored,
    /// A guard that a key does not exist always holds.
    MissingKeyNotGuarded,
    /// A rejected step ends its transaction.
    ExecEndsAtRefusal,
    /// A change of the expiry leaves the revision as it was.
    RevisionKeptByExpiry,
    /// The log's clock goes back with the clock of a new leader.
    ClockFollowsLeader,
    /// Collections made by one entry share an id.
    CollectionIdShared,
    /// FLUSHALL forgets which requests were applied.
    FlushForgetsRequests,
    /// A checkpoint after a FLUSHALL writes the later keys and keeps the keys from before it.
    ClearNotCheckpointed,
    /// A script takes effect although keys that it read have changed.
    ScriptNotGuarded,
    /// Random results of a script are drawn again when its entry is applied.
    ScriptDrawsAgain,
    /// A retry is applied like a new request.
    RetryAppliedAgain,
    /// A request that was rejected is not remembered.
    RefusalForgotten,
    /// A request that was applied before is answered with the index of its retry.
    RepeatHasNewIndex,
    /// An installed snapshot does not restore the records of applied requests.
    RequestsNotInSnapshot,
    /// A membership change replaces the known fencing token by a lower one.
    FencingTokenForgotten,
    /// A caller with a stale fencing token may change the membership.
    FencingNotChecked,
    /// Acknowledgements leave out voters that the leader has not heard from lately.
    SilentVotersLeftOut,
    /// Acknowledgements count entries that were sent to a voter as durable there.
    SentCountsAsHeld,
    /// An acknowledgement by all voters needs one voter less.
    OneVoterMayLack,
    /// An entry that ended the process is applied again at every start.
    HeldTriedAgain,
    /// An entry that ended the process is skipped without a skip in the log.
    HeldPassedOver,
    /// A skip covers the entry after the one that it names, too.
    SkipTakesMore,
    /// A leader that applies its own removal does not step down.
    RemovedLeaderStays,
    /// A member campaigns although the state of an installed snapshot is not restored yet.
    CampaignsWhileRestoring,
    /// A run is not synced before the manifest names it.
    RunNotSynced,
    /// The name of a run is not synced before the manifest names it.
    RunNameNotSynced,
    /// A frame of the manifest is not synced before the log is purged.
    ManifestNotSynced,
    /// A new manifest's name is not synced.
    ManifestNameNotSynced,
    /// An incomplete frame of the manifest is taken for valid.
    TornFrameAccepted,
    /// The checksum of a block of a run is not verified.
    BlockNotVerified,
    /// A run's filter is queried with another key.
    FilterOfOtherKey,
    /// The block cache answers a block of another run.
    CacheIgnoresRun,
    /// A merge of runs keeps the oldest value of a key.
    OldestRunDecides,
    /// A merge drops a removal while an older run has the key.
    TombstoneDroppedEarly,
    /// A merge takes effect although its inputs were cleared.
    MergeOverClear,
    /// A merge in several jobs loses the key between two of them.
    MergeSkipsKey,
    /// A merge drops a run that it did not merge.
    LiveRunDropped,
    /// The keys of a run that were merged into the bottom are still read from it.
    MergedKeysRead,
    /// A start removes the file of a live run.
    LiveFileRemoved,
    /// A checkpoint after a FLUSHALL keeps the bottom runs.
    ClearKeepsBottom,
    /// A snapshot is installed without its newest run.
    SetLacksRun,
    /// A received snapshot is not synced before Raft installs it.
    ReceivedNotSynced,
    /// A restore applies an entry that a later one skips.
    RestoreIgnoresSkip,
    /// A start keeps what an interrupted restore left in the log and the state.
    RestoreRemainsKept,
    /// A restore ends before its last entries are in a checkpoint.
    RestoreNotCheckpointed,
}

impl SeededBug {
    #[cfg(feature = "simulation")]
    pub const ALL: [Self; 83] = [
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
        Self::OldTermsKept,
        Self::EvictedUnapplied,
        Self::FetchShifted,
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
        Self::RunNotSynced,
        Self::RunNameNotSynced,
        Self::ManifestNotSynced,
        Self::ManifestNameNotSynced,
        Self::TornFrameAccepted,
        Self::BlockNotVerified,
        Self::FilterOfOtherKey,
        Self::CacheIgnoresRun,
        Self::OldestRunDecides,
        Self::TombstoneDroppedEarly,
        Self::MergeOverClear,
        Self::MergeSkipsKey,
        Self::LiveRunDropped,
        Self::MergedKeysRead,
        Self::LiveFileRemoved,
        Self::ClearKeepsBottom,
        Self::SetLacksRun,
        Self::ReceivedNotSynced,
        Self::RestoreIgnoresSkip,
        Self::RestoreRemainsKept,
        Self::RestoreNotCheckpointed,
    ];

    /// Whether this bug is on in the calling thread.
    #[cfg(feature = "simulation")]
    pub fn is_on(self) -> bool {
        ON.get() == Some(self)
    }

    /// Returns false: without the feature `simulation` no bug is on.
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
