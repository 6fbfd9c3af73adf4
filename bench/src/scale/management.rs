//! Changes of the membership as an admin makes them without Kubernetes: through the management service of the members.

use std::time::Duration;

use anyhow::{Context, Result};
use helios_proto::detail_of;
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{
    AddLearnerRequest, ErrorCode, PromoteRequest, RemoveRequest, StatusRequest, StatusResponse,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::client::Protocol;
use crate::cluster::Member;
use crate::wait_for;

/// Timeout of one call.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for a change of the membership, the transfer of the state included.
const CHANGE_PATIENCE: Duration = Duration::from_secs(1_800);
/// Entries that a learner may be behind when it is promoted: the default of the operator.
const MAX_LAG_ENTRIES: u64 = 1_000;

pub struct Management(ClusterClient<Channel>);

impl Management {
    /// Connects at the first call.
    pub fn new(member: &Member) -> Result<Self> {
        let address = format!("http://127.0.0.1:{}", member.peer_port()?);
        let endpoint = Endpoint::from_shared(address)?.timeout(CALL_PATIENCE);
        Ok(Self(ClusterClient::new(endpoint.connect_lazy())))
    }

    /// Returns `None` when the member does not answer.
    pub async fn status(&mut self) -> Option<StatusResponse> {
        Some(self.0.status(StatusRequest {}).await.ok()?.into_inner())
    }

    pub async fn remove(&mut self, id: u64) -> Result<()> {
        wait_for(CHANGE_PATIENCE, "the removal of a member", async || {
            retryable(self.0.remove(RemoveRequest { id, ..RemoveRequest::default() }).await)
        })
        .await?;
        Ok(())
    }

    /// Adds a blank member as a learner; returns its id.
    pub async fn add_learner(&mut self, member: &Member, disk_id: &str) -> Result<u64> {
        let request = AddLearnerRequest {
            name: member.server.name.clone(),
            peer_addr: format!("127.0.0.1:{}", member.peer_port()?),
            client_addr: format!("127.0.0.1:{}", member.port(Protocol::Redis)?),
            disk_id: disk_id.to_owned(),
            ..AddLearnerRequest::default()
        };
        let added = wait_for(CHANGE_PATIENCE, "the addition of a learner", async || {
            retryable(self.0.add_learner(request.clone()).await)
        })
        .await?;
        let members = added.into_inner().membership.unwrap_or_default().members;
        let found = members.iter().find(|found| found.name == member.server.name);
        Ok(found.context("the learner is not in the membership")?.id)
    }

    /// Makes a learner a voter; returns whether it is one.
    pub async fn promote(&mut self, id: u64) -> Result<bool> {
        let request = PromoteRequest { id, max_lag_entries: MAX_LAG_ENTRIES, ..PromoteRequest::default() };
        Ok(retryable(self.0.promote(request).await)?.is_some())
    }
}

/// Returns `None` for an error after which the same call may succeed. The calls are idempotent, so that one without an
/// outcome may be repeated.
fn retryable<T>(answer: Result<T, Status>) -> Result<Option<T>> {
    let status = match answer {
        Ok(answer) => return Ok(Some(answer)),
        Err(status) => status,
    };
    let detail = detail_of(&status);
    match detail.code() {
        ErrorCode::NotLeader => anyhow::bail!("the leader changed: {}", detail.message),
        ErrorCode::DeadlineExceeded | ErrorCode::OutcomeUnknown => Ok(None),
        _ if detail.retryable => Ok(None),
        _ => anyhow::bail!("{}", detail.message),
    }
}
