//! The seam for this crate's seeded bugs. The code of consensus calls these functions unconditionally. Each behaves
//! as in the first line of its comment, unless the [`SeededBug`] named there is on, which is possible only with the
//! feature `simulation`.

use std::sync::Arc;

use helios_proto::Error;
use helios_proto::v1::Membership;
use helios_storage::seeded_bug::SeededBug;
use helios_storage::wal::Base;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};

use crate::change;
use crate::core::raft_rs::{Progress, RaftRs};
use crate::suspects::Suspects;
use crate::types::{ApplyJob, Effect, ReadWaiter};

/// Whether a Ready waits for its fsync. Seeded bug: [`SeededBug::HardStateWithoutEntriesLost`].
pub fn must_sync(is_needed: bool, is_hard_state_only: bool) -> bool {
    is_needed && !(is_hard_state_only && SeededBug::HardStateWithoutEntriesLost.is_on())
}

/// Takes the messages that are sent before the data that they acknowledge is durable: none. Seeded bugs:
/// [`SeededBug::VoteBeforeSync`] and [`SeededBug::AppendAckBeforeSync`].
pub fn sent_before_sync(messages: &mut Vec<Message>) -> Option<Effect> {
    let is_early = |message: &Message| match message.get_msg_type() {
        MessageType::MsgRequestVote | MessageType::MsgRequestVoteResponse => {
            SeededBug::VoteBeforeSync.is_on()
        }
        MessageType::MsgAppendResponse => SeededBug::AppendAckBeforeSync.is_on(),
        _ => false,
    };
    let early: Vec<Message> = messages.extract_if(.., |message| is_early(message)).collect();
    (!early.is_empty()).then_some(Effect::Send(early))
}

/// Restore of the state before the log's reset is durable: none. Seeded bug: [`SeededBug::RestoredBeforeLogReset`].
pub fn restored_before_reset(reset: Option<Base>) -> Option<Effect> {
    let base = reset.filter(|_| SeededBug::RestoredBeforeLogReset.is_on())?;
    Some(Effect::Apply(ApplyJob::Restore { index: base.index }))
}

/// Applies membership changes before they are committed: none. Seeded bug: [`SeededBug::ChangeBeforeCommit`].
pub fn change_before_commit(raft: &mut RaftRs, entries: &[Entry]) {
    if SeededBug::ChangeBeforeCommit.is_on() {
        for (_, change) in entries.iter().filter_map(|entry| change::decode(entry).ok().flatten()) {
            drop(raft.apply_conf_change(&change));
        }
    }
}

/// Counts the leader's own log before its fsync: never. Seeded bug: [`SeededBug::LeaderCountsItselfEarly`].
pub fn count_leader_early(raft: &mut RaftRs, number: u64) {
    if SeededBug::LeaderCountsItselfEarly.is_on() {
        raft.persisted(number);
    }
}

/// Whether a leader that applies its own removal steps down: always. Seeded bug: [`SeededBug::RemovedLeaderStays`].
pub fn steps_down(is_removed: bool) -> bool {
    is_removed && !SeededBug::RemovedLeaderStays.is_on()
}

/// Whether campaigns wait until the state of a snapshot is restored. Seeded bug:
/// [`SeededBug::CampaignsWhileRestoring`].
pub fn holds_election(is_restoring: bool) -> bool {
    is_restoring && !SeededBug::CampaignsWhileRestoring.is_on()
}

/// Index that a ReadIndex round answers. Seeded bug: [`SeededBug::ReadIndexTooLow`].
pub fn read_index(index: u64) -> u64 {
    index - u64::from(SeededBug::ReadIndexTooLow.is_on())
}

/// Returns the waiter of a read if it has to wait for a ReadIndex round: always. Seeded bug:
/// [`SeededBug::ReadWithoutRound`].
pub fn waits_for_round(waiter: ReadWaiter, applied: u64) -> Option<ReadWaiter> {
    if !SeededBug::ReadWithoutRound.is_on() {
        return Some(waiter);
    }
    drop(waiter.send(Ok(applied)));
    None
}

/// Number of the round after `last`. Seeded bug: [`SeededBug::ReadContextReused`].
pub fn next_round(last: u64) -> u64 {
    if SeededBug::ReadContextReused.is_on() && last > 0 { last } else { last + 1 }
}

/// Setting of the raft crate that joins append messages: off. Seeded bug: [`SeededBug::AppendsBatched`].
pub fn batches_appends() -> bool {
    SeededBug::AppendsBatched.is_on()
}

/// Whether a committed entry is the proposal of this leader at its index. Seeded bug:
/// [`SeededBug::ProposalTermIgnored`].
pub fn is_own_proposal(is_same_term: bool) -> bool {
    is_same_term || SeededBug::ProposalTermIgnored.is_on()
}

/// Outcome of a proposal below an installed snapshot. Seeded bug: [`SeededBug::SkippedMeansRefused`].
pub fn outcome_below_snapshot() -> Error {
    if SeededBug::SkippedMeansRefused.is_on() { Error::not_leader(None) } else { Error::outcome_unknown() }
}

/// Index of the last entry that is purged. Seeded bug: [`SeededBug::PurgedBeyondSnapshot`].
pub fn purge_floor(floor: u64, applied: u64) -> u64 {
    if SeededBug::PurgedBeyondSnapshot.is_on() { applied } else { floor }
}

/// Index of the last entry that may be dropped from memory. Seeded bug: [`SeededBug::EvictedUnapplied`].
pub fn evicted_through(applied: u64, last: u64) -> u64 {
    if SeededBug::EvictedUnapplied.is_on() { last } else { applied }
}

/// Entries that were read for a member that lags. Seeded bug: [`SeededBug::FetchShifted`].
pub fn fetched(mut entries: Vec<Entry>) -> Vec<Entry> {
    if SeededBug::FetchShifted.is_on() {
        for at in 1..entries.len() {
            entries[at - 1].data = entries[at].data.clone();
        }
    }
    entries
}

/// Whether acknowledgements count the outgoing voters, too: during joint consensus. Seeded bug:
/// [`SeededBug::JointIgnoresOutgoing`].
pub fn counts_outgoing(is_joint: bool) -> bool {
    is_joint && !SeededBug::JointIgnoresOutgoing.is_on()
}

/// Whether acknowledgements count a voter: always. Seeded bug: [`SeededBug::SilentVotersLeftOut`].
pub fn counts_voter(is_active: impl FnOnce() -> bool) -> bool {
    !SeededBug::SilentVotersLeftOut.is_on() || is_active()
}

/// Index of the last entry that is durable on a voter. Seeded bug: [`SeededBug::SentCountsAsHeld`].
pub fn held_by(progress: Progress) -> u64 {
    if SeededBug::SentCountsAsHeld.is_on() { progress.sent } else { progress.matched }
}

/// Number of holders that an acknowledgement by all of `voters` needs: all. Seeded bug: [`SeededBug::OneVoterMayLack`].
pub fn needed_holders(voters: u64) -> u64 {
    voters.saturating_sub(u64::from(SeededBug::OneVoterMayLack.is_on()))
}

/// Configuration of the raft crate for a membership. Seeded bugs: [`SeededBug::LearnersCount`] and
/// [`SeededBug::JointForgotten`].
pub fn conf_state(state: ConfState) -> ConfState {
    if SeededBug::LearnersCount.is_on() {
        let voters = [&state.voters[..], &state.learners[..]].concat();
        return ConfState { voters, ..ConfState::default() };
    }
    if SeededBug::JointForgotten.is_on() {
        return ConfState { voters: state.voters, learners: state.learners, ..ConfState::default() };
    }
    state
}

/// Fencing token that is known before a membership change. Seeded bug: [`SeededBug::FencingTokenForgotten`].
pub fn known_token(token: u64) -> u64 {
    if SeededBug::FencingTokenForgotten.is_on() { 0 } else { token }
}

/// Whether a fencing token admits its caller. Seeded bug: [`SeededBug::FencingNotChecked`].
pub fn admits_token(is_current: bool) -> bool {
    is_current || SeededBug::FencingNotChecked.is_on()
}

/// Hard state that a start continues from; `last_term` is the term of the log's last entry. Seeded bugs:
/// [`SeededBug::VoteForgotten`] and [`SeededBug::TermForgotten`].
pub fn recovered(mut state: HardState, last_term: u64) -> HardState {
    if SeededBug::VoteForgotten.is_on() {
        state.vote = 0;
    }
    if SeededBug::TermForgotten.is_on() {
        state.vote = 0;
        state.term = last_term;
    }
    state
}

/// Membership that a start continues from: the state's. Seeded bug: [`SeededBug::MembershipFromSnapshot`].
pub fn recovered_membership(state: Arc<Membership>, snapshot: Option<&Membership>) -> Arc<Membership> {
    match snapshot {
        Some(snapshot) if SeededBug::MembershipFromSnapshot.is_on() => Arc::new(snapshot.clone()),
        _ => state,
    }
}

/// Applied index that a start continues from. Seeded bug: [`SeededBug::AppliedSkipped`].
pub fn applied_at_start(index: u64) -> u64 {
    index + u64::from(SeededBug::AppliedSkipped.is_on())
}

/// Jobs drained together that are written: all. Seeded bug: [`SeededBug::LogJobsDropped`].
pub fn written<T>(jobs: &[T]) -> &[T] {
    let first = if SeededBug::LogJobsDropped.is_on() { jobs.len() - 1 } else { 0 };
    &jobs[first..]
}

/// Result of a write of the log. Seeded bug: [`SeededBug::LogErrorIgnored`].
pub fn write_result<E>(result: Result<(), E>) -> Result<(), E> {
    if SeededBug::LogErrorIgnored.is_on() { Ok(()) } else { result }
}

/// Whether an entry is held back because it ended the process too often. Seeded bug: [`SeededBug::HeldTriedAgain`].
pub fn is_held(ended_too_often: bool) -> bool {
    ended_too_often && !SeededBug::HeldTriedAgain.is_on()
}

/// Whether the entry at `index` is skipped although no skip names it: never. Seeded bug: [`SeededBug::HeldPassedOver`].
pub fn is_passed_over(suspects: &Suspects, index: u64) -> bool {
    SeededBug::HeldPassedOver.is_on() && suspects.holds(index)
}

/// Whether a skip of the entry at position `target` covers the one at `at`. Seeded bug: [`SeededBug::SkipTakesMore`].
pub fn is_covered(target: usize, at: usize) -> bool {
    target == at || SeededBug::SkipTakesMore.is_on() && target + 1 == at
}

/// Whether a restore skips an entry that a later one of the archive names: always. Seeded bug:
/// [`SeededBug::RestoreIgnoresSkip`].
pub fn restore_skips(is_named: bool) -> bool {
    is_named && !SeededBug::RestoreIgnoresSkip.is_on()
}

/// Whether a start removes what an interrupted restore left. Seeded bug: [`SeededBug::RestoreRemainsKept`].
pub fn discards_restore(has_begun: bool) -> bool {
    has_begun && !SeededBug::RestoreRemainsKept.is_on()
}

/// Whether a restore makes its last entries durable in a checkpoint: always. Seeded bug:
/// [`SeededBug::RestoreNotCheckpointed`].
pub fn restore_is_checkpointed() -> bool {
    !SeededBug::RestoreNotCheckpointed.is_on()
}
