//! Membership changes requested at any member: forwarded to the leader, one hop, and retried at the next leader if the
//! first transfers leadership. For users of the gateway; the operator calls the leader directly.

use std::time::Duration;

use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{AddLearnerRequest, ErrorCode, Handshake, Membership, PromoteRequest, RemoveRequest};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::{Management, disk_of, unknown};
use crate::error::Error;
use crate::raft::{RaftStatus, Role};

/// Deadline of a change, elections and the catching up of a new member included.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two attempts unless the leader changes.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Limit of a learner's lag at its promotion, in entries.
const MAX_LAG_ENTRIES: u64 = 100;
/// Metadata key of a forwarded request: the handshake of the member that forwards it.
const SENT_ON_BY: &str = "helios-sent-on-by-bin";

#[derive(Clone)]
enum Change {
    Add(AddLearnerRequest),
    Promote(PromoteRequest),
    Remove(RemoveRequest),
}

impl Management {
    /// Adds the blank node that answers at `peer_addr` as a learner; with `vote` also promotes it once it has caught
    /// up.
    pub async fn add_from_anywhere(
        &self,
        name: &str,
        peer_addr: &str,
        vote: bool,
    ) -> Result<Membership, Error> {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let request = AddLearnerRequest {
            name: name.to_owned(),
            peer_addr: peer_addr.to_owned(),
            disk_id: disk_of(&self.0.inner().dialer, name, peer_addr, deadline).await?,
            ..AddLearnerRequest::default()
        };
        let added = self.execute_at_leader(Change::Add(request), deadline).await?;
        if !vote {
            return Ok(added);
        }
        let id = added.members.iter().find(|member| member.name == name).map(|member| member.id);
        let id = id.ok_or_else(unknown)?;
        loop {
            match self.execute_at_leader(promotion(id), deadline).await {
                Err(error) if error.code == ErrorCode::LearnerLagging && Instant::now() < deadline => {
                    // The leader does not notify when the learner has caught up.
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Promotes a learner to voter; refused with its lag if it lags.
    pub async fn promote_from_anywhere(&self, id: u64) -> Result<Membership, Error> {
        self.execute_at_leader(promotion(id), Instant::now() + CHANGE_TIMEOUT).await
    }

    pub async fn remove_from_anywhere(&self, id: u64) -> Result<Membership, Error> {
        let request = RemoveRequest { id, ..RemoveRequest::default() };
        self.execute_at_leader(Change::Remove(request), Instant::now() + CHANGE_TIMEOUT).await
    }

    /// Executes a change at the leader; retries until `deadline` while there is no leader or leadership changes.
    async fn execute_at_leader(&self, change: Change, deadline: Instant) -> Result<Membership, Error> {
        let raft = &self.0.active()?.raft;
        loop {
            let Some(status) = raft.wait_status(deadline, |status| status.leader_id != 0).await else {
                return Err(Error::new(
                    ErrorCode::NoLeader,
                    "the cluster has no leader: check that most members run and reach each other",
                ));
            };
            let outcome = match status.role {
                Role::Leader => self.execute_locally(change.clone()).await,
                _ => self.forward_to_leader(&status, change.clone(), deadline).await,
            };
            match outcome {
                Err(error) if is_elsewhere(error.code) && Instant::now() < deadline => {
                    let pause = (Instant::now() + RETRY_PAUSE).min(deadline);
                    let is_other = |now: &std::sync::Arc<RaftStatus>| now.leader_id != status.leader_id;
                    drop(raft.wait_status(pause, is_other).await);
                }
                Ok(membership) => {
                    // Waits until this member knows the change, so that the next call here sees it.
                    let knows = |now: &std::sync::Arc<RaftStatus>| now.membership.index >= membership.index;
                    drop(raft.wait_status(deadline, knows).await);
                    return Ok(membership);
                }
                outcome => return outcome,
            }
        }
    }

    async fn execute_locally(&self, change: Change) -> Result<Membership, Error> {
        match change {
            Change::Add(request) => self.add_learner(request).await,
            Change::Promote(request) => self.promote(request).await,
            Change::Remove(request) => self.remove(request).await,
        }
    }

    async fn forward_to_leader(
        &self,
        status: &RaftStatus,
        change: Change,
        deadline: Instant,
    ) -> Result<Membership, Error> {
        let mut client = ClusterClient::new(self.0.channel_to(status, status.leader_id)?);
        // A member's certificate alone does not authorize management: the handshake names the forwarding member.
        let from = self.0.handshake_to(status, status.leader_id).map(|from| from.encode_to_vec());
        let call = async {
            match change {
                Change::Add(request) => client.add_learner(with_handshake(request, from)).await,
                Change::Promote(request) => client.promote(with_handshake(request, from)).await,
                Change::Remove(request) => client.remove(with_handshake(request, from)).await,
            }
        };
        let answer = timeout_at(deadline, call).await.map_err(|_| unknown())?;
        let answer = answer.map_err(|status| crate::requests::forward_error(&status))?;
        Ok(answer.into_inner().membership.unwrap_or_default())
    }
}

fn with_handshake<T>(request: T, from: Option<Vec<u8>>) -> Request<T> {
    let mut request = Request::new(request);
    if let Some(from) = from {
        request.metadata_mut().insert_bin(SENT_ON_BY, MetadataValue::from_bytes(&from));
    }
    request
}

/// Returns the handshake of the member that forwarded a request, unverified.
pub fn sent_on_by(metadata: &MetadataMap) -> Option<Handshake> {
    let bytes = metadata.get_bin(SENT_ON_BY)?.to_bytes().ok()?;
    Handshake::decode(bytes).ok()
}

fn promotion(id: u64) -> Change {
    Change::Promote(PromoteRequest { id, max_lag_entries: MAX_LAG_ENTRIES, ..PromoteRequest::default() })
}

/// Whether the error means that nothing was changed and another member has to be called.
fn is_elsewhere(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotLeader | ErrorCode::NoLeader | ErrorCode::PeerUnreachable)
}
