//! Acknowledgements beyond commit: the wait of a write with ack level `all`, and `WAIT`, which counts replicas
//! afterwards (docs/design/node.md, section 4).

use std::time::Duration;

use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{AwaitReplicasRequest, ErrorCode};
use helios_service::database::Ack;
use tokio::time::{Instant, timeout_at};

use super::writes::Outcome;
use super::{leader_unreachable, no_leader};
use crate::error::Error;
use crate::node::{ActiveMember, Node};
use crate::raft::{RaftStatus, Role, membership};

/// Timeout of one request to the leader on behalf of WAIT.
const AWAIT_STEP: Duration = Duration::from_secs(5);
/// Pause before WAIT is retried after a change of leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// Rejects a write that could not be acknowledged at the level requested, before it is proposed.
    pub(super) fn check_replicas(&self, status: &RaftStatus, ack: Ack) -> Result<(), Error> {
        if ack == Ack::Majority || !self.settings().strict_acks {
            return Ok(());
        }
        let Some(silent) = status.durable.silent.first() else { return Ok(()) };
        let name = membership::name_of(&status.membership, *silent).unwrap_or_default();
        Err(Error::new(
            ErrorCode::InsufficientReplicas,
            format!(
                "not enough good replicas to write: ack all needs every voter and {name} does not answer; \
                 nothing was written"
            ),
        ))
    }

    /// Delays the answers until the entries are on as many disks as `ack` requires. An entry that is committed but not
    /// there in time is answered `REPLICATION_SHORTFALL`.
    pub(super) async fn await_acks(
        &self,
        member: &ActiveMember,
        outcomes: &mut [Outcome],
        ack: Ack,
        deadline: Instant,
    ) {
        if ack == Ack::Majority {
            return;
        }
        let applied = |outcome: &Outcome| outcome.as_ref().ok().map(|reply| reply.index);
        let Some(last) = outcomes.iter().filter_map(applied).max() else { return };
        let status = member.raft.status();
        let term = status.term;
        let settled = |now: &RaftStatus| !leads(now, term) || now.durable.held_by_all(last);
        drop(member.raft.wait_status(deadline, |now| settled(now)).await);
        let status = member.raft.status();
        let is_leader = leads(&status, term);
        for outcome in outcomes {
            let Some(index) = applied(outcome) else { continue };
            if is_leader && status.durable.held_by_all(index) {
                continue;
            }
            self.inner().metrics.ack_shortfalls.inc();
            *outcome = Err(shortfall(&status, index));
        }
    }

    /// Implements `Database::wait_replicas`. `timeout` zero: no limit.
    pub(super) async fn await_replicas(
        &self,
        index: u64,
        replicas: u64,
        timeout: Duration,
    ) -> Result<u64, Error> {
        let member = self.active()?;
        let end = (timeout > Duration::ZERO).then(|| Instant::now() + timeout);
        loop {
            let step = Instant::now() + AWAIT_STEP;
            let deadline = end.unwrap_or(step).min(step);
            let found = self.await_replicas_once(member, index, replicas, deadline).await;
            let over = end.is_some_and(|end| Instant::now() >= end);
            match found {
                Ok(found) if found >= replicas || over => return Ok(found),
                Err(error) if over || !error.is_retryable() => return Err(error),
                Ok(_) => {}
                // The next leader counts from zero, in its own term.
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn await_replicas_once(
        &self,
        member: &ActiveMember,
        index: u64,
        replicas: u64,
        deadline: Instant,
    ) -> Result<u64, Error> {
        let known = member.raft.wait_status(deadline, |status| status.leader_id != 0).await;
        let status = known.ok_or_else(no_leader)?;
        if status.role == Role::Leader {
            return count_replicas(member, index, replicas, deadline).await;
        }
        let request = AwaitReplicasRequest {
            cluster_id: member.cluster_id.clone(),
            index,
            replicas,
            timeout_ms: deadline.saturating_duration_since(Instant::now()).as_millis() as u32,
            from: self.handshake_to(&status, status.leader_id),
            group: 0,
        };
        let mut leader = PeerClient::new(self.channel_to(&status, status.leader_id)?);
        // Slightly later than the leader's own deadline, so that its count arrives.
        match timeout_at(deadline + RETRY_PAUSE, leader.await_replicas(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().replicas),
            Ok(Err(status)) => Err(helios_proto::detail_of(&status).into()),
            Err(_) => Err(leader_unreachable()),
        }
    }

    /// Counts replicas on the leader on behalf of a follower.
    pub(crate) async fn take_await_replicas(&self, request: AwaitReplicasRequest) -> Result<u64, Error> {
        let AwaitReplicasRequest { cluster_id, index, replicas, timeout_ms, from: _, group: _ } = request;
        let member = self.active_in(&cluster_id)?;
        let timeout = Duration::from_millis(timeout_ms.into()).min(AWAIT_STEP);
        count_replicas(member, index, replicas, Instant::now() + timeout).await
    }
}

/// Waits, on the leader, until `replicas` other voters hold `index`; returns the number that do.
async fn count_replicas(
    member: &ActiveMember,
    index: u64,
    replicas: u64,
    deadline: Instant,
) -> Result<u64, Error> {
    let term = member.raft.status().term;
    let settled = |now: &RaftStatus| !leads(now, term) || now.durable.replicas(index) >= replicas;
    drop(member.raft.wait_status(deadline, |now| settled(now)).await);
    let status = member.raft.status();
    if leads(&status, term) {
        return Ok(status.durable.replicas(index));
    }
    Err(Error::not_leader(membership::member(&status.membership, status.leader_id)))
}

fn leads(status: &RaftStatus, term: u64) -> bool {
    status.role == Role::Leader && status.term == term
}

/// Returns the error of a write that is committed and applied, so that a retry would apply it twice.
fn shortfall(status: &RaftStatus, index: u64) -> Error {
    let voters = status.membership.voters.len() as u64;
    // A former leader only knows that a majority holds the committed entry.
    let replicas = status.durable.holders(index).max(voters / 2 + 1);
    Error::new(
        ErrorCode::ReplicationShortfall,
        format!(
            "replication shortfall: committed=true index={index} replicas={replicas} voters={voters}: the write \
             took effect, but not every voter is known to hold it on disk; do not send it again"
        ),
    )
}
