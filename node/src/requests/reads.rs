//! Reads: what has to be true of this node's state before one may look at it.

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

/// The latest moment that this node's state is known to be as fresh as: it covers all that any
/// member had acknowledged by then. Known from reads that asked a majority, not from the leader's
/// heartbeats, which tell a follower that lags nothing of what it lacks.
#[derive(Default)]
pub struct FreshAt(Mutex<Option<Instant>>);

impl FreshAt {
    fn note(&self, moment: Instant) {
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
            // Cheaper for all than to refuse: the reads of the next `age` are served by this one's round.
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
        Ok(done) => done.map(|()| member.fresh_at.note(asked)),
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

/// Terms only grow along a log. One that has come past the token's index in an older term than the
/// token's never held that write: the cluster was restored to a time before it, or forked.
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
            "this member could not confirm in time that its state is at most {age:?} old; try again, or ask \
             another member"
        ),
    )
}

fn not_caught_up(member: &ActiveMember, token: &Token) -> Error {
    let status = member.raft.status();
    let at = member.raft.applied_index();
    let message = format!(
        "this member has applied index {at}, the token asks for {}; try again, or ask the leader",
        token.index
    );
    let leader = membership::member(&status.membership, status.leader_id);
    Error::new(ErrorCode::NotCaughtUp, message).hinting(leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_counts_from_before_the_question_and_never_goes_back() {
        let (fresh_at, start) = (FreshAt::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let age = Duration::from_millis(100);
        assert!(!fresh_at.is_within(age, start), "nothing is known");
        fresh_at.note(after(50));
        fresh_at.note(after(20));
        assert!(fresh_at.is_within(age, after(150)));
        assert!(!fresh_at.is_within(age, after(151)));
    }

    #[test]
    fn a_token_of_a_history_that_was_taken_back_is_refused() {
        let token = Token { cluster_id: "c".into(), term: 5, index: 10 };
        for (index, term, known) in [(10, 5, true), (99, 6, true), (10, 4, false), (99, 4, false)] {
            assert_eq!(check_history(Applied { index, term }, &token).is_ok(), known, "{index} {term}");
        }
    }
}
