//! Reads: the wait until the local state is fresh enough for the level requested.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use helios_proto::v1::{ErrorCode, Token};
use helios_service::database::Freshness;
use tokio::time::{Instant, timeout_at};

use super::no_leader;
use crate::error::Error;
use crate::node::{ActiveMember, Node};
use crate::raft::membership;
use crate::state::Applied;

/// Latest moment up to which this node's state is known to cover all writes that any member had acknowledged. Derived
/// from ReadIndex rounds, not from the leader's heartbeats, which do not show a lagging follower what it lacks.
#[derive(Default)]
pub struct FreshAt(Mutex<Option<Instant>>);

impl FreshAt {
    fn record(&self, moment: Instant) {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (*latest).max(Some(moment));
    }

    fn is_within(&self, age: Duration, now: Instant) -> bool {
        let latest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.is_some_and(|latest| now.saturating_duration_since(latest) <= age)
    }
}

impl Node {
    pub(super) async fn await_state(&self, freshness: Freshness, after: Option<&Token>) -> Result<(), Error> {
        let member = self.active()?;
        let now = Instant::now();
        let deadline = now + self.settings().request_timeout;
        if let Some(token) = after {
            check_cluster(member, token)?;
        }
        match freshness {
            Freshness::Linearizable => barrier(member, false, deadline).await?,
            Freshness::Lease => barrier(member, true, deadline).await?,
            Freshness::Stale(None) => {}
            Freshness::Stale(Some(age)) if member.fresh_at.is_within(age, now) => {}
            // Cheaper than a rejection: the round of this read also serves the reads of the next `age`.
            Freshness::Stale(Some(age)) => {
                barrier(member, false, deadline.min(now + age)).await.map_err(|_| too_stale(age))?;
            }
        }
        match after {
            Some(token) => self.await_token(member, token, deadline).await,
            None => Ok(()),
        }
    }

    async fn await_token(
        &self,
        member: &ActiveMember,
        token: &Token,
        deadline: Instant,
    ) -> Result<(), Error> {
        match timeout_at(deadline, member.raft.wait_applied(token.index)).await {
            Ok(applied) => applied?,
            Err(_) => return Err(not_caught_up(member, token)),
        }
        check_history(self.inner().store.applied(), token)
    }
}

async fn barrier(member: &ActiveMember, by_lease: bool, deadline: Instant) -> Result<(), Error> {
    let asked = Instant::now();
    let applied = async {
        let index = member.raft.read_index(by_lease).await?;
        member.raft.wait_applied(index).await
    };
    match timeout_at(deadline, applied).await {
        Ok(done) => done.map(|()| member.fresh_at.record(asked)),
        Err(_) if member.raft.status().leader_id == 0 => Err(no_leader()),
        Err(_) => Err(Error::new(
            ErrorCode::NoQuorum,
            "no majority confirmed the read in time; check that most members run and reach each other",
        )),
    }
}

fn check_cluster(member: &ActiveMember, token: &Token) -> Result<(), Error> {
    if token.cluster_id == member.cluster_id {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::WrongCluster,
        format!("the token is of cluster {}, this is {}", token.cluster_id, member.cluster_id),
    ))
}

/// Checks that the write of a token is part of this history. Terms only grow along a log: a log that is past the
/// token's index in an older term never held that write, so the cluster was restored to an earlier time, or forked.
fn check_history(applied: Applied, token: &Token) -> Result<(), Error> {
    if applied.term >= token.term {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::WrongCluster,
        format!(
            "the token is of term {}, but this cluster is past its index in term {}: it was restored or forked \
             since, and the write is not part of it",
            token.term, applied.term
        ),
    ))
}

fn too_stale(age: Duration) -> Error {
    Error::new(
        ErrorCode::TooStale,
        format!(
            "this member could not confirm in time that its state is at most {age:?} old; try again, or use \
             another member"
        ),
    )
}

fn not_caught_up(member: &ActiveMember, token: &Token) -> Error {
    let status = member.raft.status();
    let at = member.raft.applied_index();
    let message = format!(
        "this member has applied index {at}, the token requires {}; try again, or use the leader",
        token.index
    );
    let leader = membership::member(&status.membership, status.leader_id);
    Error::new(ErrorCode::NotCaughtUp, message).hinting(leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_measured_from_the_start_of_a_read_and_never_decreases() {
        let (fresh_at, start) = (FreshAt::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let age = Duration::from_millis(100);
        assert!(!fresh_at.is_within(age, start), "nothing is known");
        fresh_at.record(after(50));
        fresh_at.record(after(20));
        assert!(fresh_at.is_within(age, after(150)));
        assert!(!fresh_at.is_within(age, after(151)));
    }

    #[test]
    fn a_token_of_another_history_is_rejected() {
        let token = Token { cluster_id: "c".into(), term: 5, index: 10 };
        for (index, term, known) in [(10, 5, true), (99, 6, true), (10, 4, false), (99, 4, false)] {
            assert_eq!(check_history(Applied { index, term }, &token).is_ok(), known, "{index} {term}");
        }
    }
}
