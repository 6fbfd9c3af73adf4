//! The gate above commit: what a write waits for when a majority is not enough, and `WAIT`, which
//! is the same question asked later (docs/design/node.md, section 4).

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

/// How long the leader is asked at once on behalf of WAIT.
const AWAIT_STEP: Duration = Duration::from_secs(5);
/// How soon a WAIT that met a change of leader looks again if nothing is heard.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// Refuses a write that could not be acknowledged as asked: nothing is proposed then.
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

    /// Holds answers back until the entries are on disk where `ack` says. What commits and does not
    /// get there in time is told so.
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

    /// `timeout` zero: without limit.
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
                // Another leader counts anew, in its own term.
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
        };
        let mut leader = PeerClient::new(self.channel_to(&status, status.leader_id)?);
        // A little later than the leader's own deadline, so that its count arrives.
        match timeout_at(deadline + RETRY_PAUSE, leader.await_replicas(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().replicas),
            Ok(Err(status)) => Err(helios_proto::detail_of(&status).into()),
            Err(_) => Err(leader_unreachable()),
        }
    }

    /// Asked by a member that does not lead.
    pub(crate) async fn take_await_replicas(&self, request: AwaitReplicasRequest) -> Result<u64, Error> {
        let AwaitReplicasRequest { cluster_id, index, replicas, timeout_ms, from: _ } = request;
        let member = self.active_in(&cluster_id)?;
        let timeout = Duration::from_millis(timeout_ms.into()).min(AWAIT_STEP);
        count_replicas(member, index, replicas, Instant::now() + timeout).await
    }
}

/// Waits, on the leader, until so many voters beside it hold `index`; answers how many do.
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

/// The write is committed and applied, so that sending it again would apply it twice.
fn shortfall(status: &RaftStatus, index: u64) -> Error {
    let voters = status.membership.voters.len() as u64;
    // One who does not lead knows of no disk but that a majority committed the entry.
    let replicas = status.durable.holders(index).max(voters / 2 + 1);
    Error::new(
        ErrorCode::ReplicationShortfall,
        format!(
            "replication shortfall: committed=true index={index} replicas={replicas} voters={voters}: the write \
             took effect, but not every voter is known to hold it on disk; do not send it again"
        ),
    )
}
