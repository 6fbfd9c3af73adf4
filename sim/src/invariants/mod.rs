//! The invariants, which hold after every step, under every fault that a seed may have. Each has its own file, named
//! after the property, with its place in the Raft paper (Ongaro and Ousterhout, 2014, extended version) and a test
//! that shows that it can fail.
//!
//! | file | property | paper |
//! |---|---|---|
//! | [`election_safety`] | at most one leader in a term | figure 3, 5.2 |
//! | [`vote_once`] | at most one vote of a member in a term, restarts or not | 5.2 |
//! | [`leader_append_only`] | a leader overwrites no entry of its own log | figure 3, 5.3 |
//! | [`log_matching`] | two logs with the same entry are the same up to it, committed or not | figure 3, 5.3 |
//! | [`leader_completeness`] | a leader has every entry that was committed in an earlier term | figure 3, 5.4.3 |
//! | [`state_machine_safety`] | all members apply the same entry at an index, and have the same state there | figure 3, 5.4.3 |
//! | [`commit_durability`] | a committed or acknowledged entry is on the disks that it needs | 5.3, 5.4.2 |
//! | [`persistent_state`] | a start finds everything that was on disk: entries, term and vote | figure 2, 5.1 |
//! | [`monotonic_indexes`] | term, commit index and applied index never decrease in a process | figure 2 |
//!
//! Answers to clients are checked elsewhere: each against the `reference`, and at the end for linearizability (`end`).

mod commit_durability;
mod disks;
mod election_safety;
mod leader_append_only;
mod leader_completeness;
mod log_matching;
mod monotonic_indexes;
mod persistent_state;
mod state_machine_safety;
mod vote_once;

use helios_raft::simulation::{RaftStatus, Role};
use helios_storage::wal::Batch;
use raft::eraftpb::{Entry, Message};

use crate::Violation;
use disks::Disks;
use election_safety::ElectionSafety;
use leader_completeness::LeaderCompleteness;
use log_matching::LogMatching;
use state_machine_safety::StateMachineSafety;
use vote_once::VoteOnce;

pub use commit_durability::Electorate;
pub use disks::Found;
pub use monotonic_indexes::MonotonicIndexes;

/// All invariants over one world, and the facts that they share.
#[derive(Default)]
pub struct Invariants {
    disks: Disks,
    election_safety: ElectionSafety,
    vote_once: VoteOnce,
    log_matching: LogMatching,
    leader_completeness: LeaderCompleteness,
    state_machine_safety: StateMachineSafety,
}

impl Invariants {
    /// Checks a message that a member sends.
    pub fn on_send(&mut self, message: &Message) -> Result<(), Violation> {
        self.vote_once.on_send(message)
    }

    /// Checks the status of `member` after a turn. `term_of` returns the term of an entry of its log. If the commit
    /// index `has_advanced` since its last turn, one of `electorates` decided that.
    pub fn on_status(
        &mut self,
        member: u64,
        status: &RaftStatus,
        electorates: &[Electorate],
        has_advanced: bool,
        term_of: impl Fn(u64) -> Option<u64>,
    ) -> Result<(), Violation> {
        let commit = status.commit_index;
        if let Some(term) = term_of(commit) {
            commit_durability::check_acknowledged(&self.disks, status, commit, term)?;
        }
        if status.role != Role::Leader {
            return Ok(());
        }
        self.election_safety.on_leader(member, status.term)?;
        self.leader_completeness.on_leader(member, status, &term_of)?;
        match term_of(commit).filter(|_| has_advanced) {
            Some(term) => commit_durability::check_commit(&self.disks, member, (commit, term), electorates),
            None => Ok(()),
        }
    }

    /// Checks committed entries that `member` hands to its state machine.
    pub fn on_commit<'a>(
        &mut self,
        member: u64,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> Result<(), Violation> {
        entries.into_iter().try_for_each(|entry| self.state_machine_safety.on_commit(member, entry))
    }

    /// Checks a snapshot that `member` built at `index`; `digest` is that of its state.
    pub fn on_snapshot(&mut self, member: u64, index: u64, digest: u64) -> Result<(), Violation> {
        self.state_machine_safety.on_snapshot(member, index, digest)
    }

    /// Checks and records `batches` that the log writer of `member` reported as durable.
    pub fn on_write(&mut self, member: u64, batches: &[Batch]) -> Result<(), Violation> {
        let log = self.disks.log_mut(member);
        for batch in batches {
            if let Some(base) = batch.reset {
                log.reset(base);
            }
            let term = batch.hard_state.map_or(log.term, |state| state.term);
            let leads = self.election_safety.leader(term) == Some(member);
            for entry in &batch.entries {
                if leads && entry.term == term {
                    leader_append_only::check(member, log, entry)?;
                }
                self.log_matching.on_write(member, log, entry)?;
                log.put(entry);
            }
            if let Some(state) = batch.hard_state {
                (log.term, log.vote) = (state.term, state.vote);
            }
        }
        Ok(())
    }

    /// Checks the log `found` with which `member` starts. It was writing `torn` when it stopped: any part of that may
    /// be there.
    pub fn on_start(&mut self, member: u64, found: &Found, torn: &[Batch]) -> Result<(), Violation> {
        persistent_state::check(&self.disks, member, found, torn)?;
        self.disks.set(member, found);
        Ok(())
    }

    /// Records that the disk of `member` is lost, or replaced by an older copy.
    pub fn on_disk_lost(&mut self, member: u64) {
        self.disks.forget(member);
    }

    /// Records that a member was made the only one in `term`: this and later terms of the others belong to a cluster
    /// that no longer exists.
    pub fn on_force_new(&mut self, term: u64) {
        self.election_safety.forget_from(term);
        self.vote_once.forget_from(term);
        self.log_matching.forget_from(term);
        let last = self.last_committed().map_or(0, |(index, _)| index);
        self.leader_completeness.forget_from(term, last);
    }

    /// Index and term of the last entry that any state machine got.
    pub fn last_committed(&self) -> Option<(u64, u64)> {
        self.state_machine_safety.last()
    }

    pub fn committed_count(&self) -> u64 {
        self.state_machine_safety.count()
    }

    /// Whether the disk of `member` has this entry.
    pub fn holds_now(&self, member: u64, index: u64, term: u64) -> bool {
        self.disks.holds_now(member, index, term)
    }

    /// Whether the disk of `member` has this entry, or had it before the disk was lost.
    pub fn holds(&self, member: u64, index: u64, term: u64) -> bool {
        self.disks.holds(member, index, term)
    }
}

fn violated(invariant: &str, what: impl std::fmt::Display) -> Violation {
    Violation(format!("{invariant}: {what}"))
}

/// Entries, batches and logs for the tests of the invariants.
#[cfg(test)]
mod fixtures {
    use helios_storage::wal::{Base, Batch, HardState, LogEntry};
    use raft::eraftpb::Entry;

    use super::Found;

    pub fn log_entry(index: u64, term: u64, payload: &'static str) -> LogEntry {
        LogEntry { index, term, payload: payload.into() }
    }

    pub fn batch(entries: Vec<LogEntry>, term: u64) -> Batch {
        let hard_state = Some(HardState { term, vote: 0, commit: 0 });
        Batch { reset: None, entries, hard_state }
    }

    pub fn entry(index: u64, term: u64, data: &str) -> Entry {
        Entry { index, term, data: data.into(), ..Entry::default() }
    }

    pub fn recovered(entries: Vec<LogEntry>, term: u64, vote: u64) -> Found {
        let base = Base { index: 0, term: 0 };
        let hard_state = Some(HardState { term, vote, commit: 0 });
        Found { base, entries, hard_state }
    }
}
