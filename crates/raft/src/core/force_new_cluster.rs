//! The conditions under which this member may be made the only one of its cluster (`force_new_cluster`). Nothing is
//! changed here: that is done when the process starts again.

use std::time::Instant;

use helios_proto::v1::ErrorCode;
use raft::{GetEntriesContext, Storage};

use super::Core;
use crate::force_new_cluster::{self, LastEntry, Verdict};
use crate::membership;
use helios_proto::Error;

/// Longest election timeouts without a leader after which a majority is taken for lost.
const LEADERLESS_TIMEOUTS: u32 = 5;

impl Core {
    pub(super) fn may_force_new(
        &self,
        expected: LastEntry,
        fencing_token: u64,
        now: Instant,
    ) -> Result<Verdict, Error> {
        let refuse = |code, message: String| Err(Error::new(code, message));
        let own = self.settings.id;
        membership::check_token(&self.membership, fencing_token)?;
        if self.membership.members.len() == 1 && self.membership.members[0].id == own {
            return Ok(Verdict::Done);
        }
        if !membership::electorate(&self.membership).contains(&own) {
            return refuse(
                ErrorCode::WrongMember,
                format!("member {own} is no voter and may lack acknowledged writes; choose a voter"),
            );
        }
        if self.raft.has_leader() {
            let leader = self.leader_name();
            return refuse(
                ErrorCode::AlreadyStarted,
                format!(
                    "{leader} leads the cluster, so its majority is not lost; change the membership there"
                ),
            );
        }
        let patience = self.settings.election_max * LEADERLESS_TIMEOUTS;
        if self.elections.leaderless_for(now) < patience || !self.pipeline.is_idle() {
            return refuse(
                ErrorCode::ElectionTimeout,
                format!("a majority counts as lost only after {patience:?} without a leader; try again"),
            );
        }
        let found = LastEntry { term: self.raft.last_term(), index: self.raft.last_index() };
        if found != expected {
            return refuse(
                ErrorCode::StaleTerm,
                format!(
                    "the log here ends with entry {} of term {}, not {} of term {}: read the status and decide again",
                    found.index, found.term, expected.index, expected.term
                ),
            );
        }
        let tail = self.log_after(self.applying.index())?;
        let (_, alone) =
            force_new_cluster::plan(&self.membership, tail.iter(), found.index, own, fencing_token)?;
        Ok(Verdict::Possible(alone))
    }

    fn log_after(&self, index: u64) -> Result<Vec<raft::eraftpb::Entry>, Error> {
        let log = self.raft.log();
        let last = log.last();
        if index >= last {
            return Ok(Vec::new());
        }
        log.entries(index + 1, last + 1, None, GetEntriesContext::empty(false))
            .map_err(|error| Error::new(ErrorCode::Internal, format!("reading the log: {error}")))
    }
}
