//! Cluster management, for the operator and for people with a tool. Every call is idempotent.

use std::sync::Arc;
use std::time::Duration;

use helios_proto::v1::cluster_server::Cluster;
use helios_proto::v1::{
    AddLearnerRequest, ChangeMembershipRequest, ErrorCode, ForceNewRequest, InitializeRequest,
    InitializeResponse, Member, Membership, MembershipResponse, PromoteRequest, RemoveRequest,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, StepDownRequest, TransferRequest,
    TransferResponse,
};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::node::Node;
use crate::raft::{ChangeRequest, Expected, RaftStatus, Role, membership};

/// How long a membership change may take to be committed and applied.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

pub struct ClusterService(Node);

impl ClusterService {
    pub fn new(node: Node) -> Self {
        Self(node)
    }

    async fn change(
        &self,
        request: ChangeRequest,
        expected: Expected,
    ) -> Result<Response<MembershipResponse>, Status> {
        let raft = &self.0.active()?.raft;
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let changed = timeout_at(deadline, raft.change(request, expected)).await;
        let mut membership = changed.map_err(|_| unknown())??;
        if membership::is_joint(&membership) {
            let is_over = |status: &Arc<RaftStatus>| {
                status.membership.index > membership.index && !membership::is_joint(&status.membership)
            };
            let status = raft.wait_status(deadline, is_over).await.ok_or_else(unknown)?;
            membership = Arc::clone(&status.membership);
        }
        Ok(Response::new(MembershipResponse { membership: Some(owned(membership)) }))
    }

    /// A leader does not remove itself while another voter could lead: it gives way, and the caller asks
    /// the next leader.
    async fn give_way_if_among(&self, removed: &[u64], fencing_token: u64) -> Result<(), Error> {
        let member = self.0.active()?;
        let status = member.raft.status();
        let leads = status.role == Role::Leader && status.membership.voters.len() > 1;
        if !leads || !removed.contains(&member.id) {
            return Ok(());
        }
        let (leader, _) = member.raft.transfer(None, DEFAULT_TRANSFER_TIMEOUT, fencing_token).await?;
        Err(Error::not_leader(membership::name_of(&status.membership, leader)))
    }

    async fn transfer_to(
        &self,
        target: Option<u64>,
        timeout_ms: u32,
        fencing_token: u64,
    ) -> Result<Response<TransferResponse>, Status> {
        let timeout = match timeout_ms {
            0 => DEFAULT_TRANSFER_TIMEOUT,
            ms => Duration::from_millis(ms.into()),
        };
        let (leader_id, term) = self.0.active()?.raft.transfer(target, timeout, fencing_token).await?;
        Ok(Response::new(TransferResponse { leader_id, term }))
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(crate::status::of(&self.0)))
    }

    async fn initialize(
        &self,
        request: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let InitializeRequest { cluster_id, expected_disk_id, fencing_token } = request.into_inner();
        let node = self.0.clone();
        let begun = tokio::task::spawn_blocking(move || {
            node.initialize(&cluster_id, &expected_disk_id, fencing_token)
        });
        let membership =
            begun.await.map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))??;
        Ok(Response::new(InitializeResponse { membership: Some(owned(membership)) }))
    }

    async fn add_learner(
        &self,
        request: Request<AddLearnerRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let AddLearnerRequest {
            name,
            peer_addr,
            client_addr,
            disk_id,
            expected_membership_index,
            fencing_token,
        } = request.into_inner();
        let record = Member { name, peer_addr, client_addr, disk_id, ..Member::default() };
        let expected = Expected { index: expected_membership_index, fencing_token };
        self.change(ChangeRequest::AddLearner(record), expected).await
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let PromoteRequest { id, max_lag_entries, expected_membership_index, fencing_token } =
            request.into_inner();
        let request = ChangeRequest::Promote { id, max_lag: max_lag_entries };
        self.change(request, Expected { index: expected_membership_index, fencing_token }).await
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<MembershipResponse>, Status> {
        let RemoveRequest { id, expected_membership_index, fencing_token } = request.into_inner();
        self.give_way_if_among(&[id], fencing_token).await?;
        let expected = Expected { index: expected_membership_index, fencing_token };
        self.change(ChangeRequest::Remove { id }, expected).await
    }

    async fn change_membership(
        &self,
        request: Request<ChangeMembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let ChangeMembershipRequest {
            promote,
            remove,
            max_lag_entries,
            expected_membership_index,
            fencing_token,
        } = request.into_inner();
        self.give_way_if_among(&remove, fencing_token).await?;
        let request = ChangeRequest::Several { promote, remove, max_lag: max_lag_entries };
        self.change(request, Expected { index: expected_membership_index, fencing_token }).await
    }

    async fn force_new(
        &self,
        request: Request<ForceNewRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let membership = self.0.force_new(request.into_inner()).await?;
        Ok(Response::new(MembershipResponse { membership: Some(membership) }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        let TransferRequest { target_id, timeout_ms, fencing_token } = request.into_inner();
        if target_id == 0 {
            return Err(Error::invalid("target_id is empty: name the member that shall lead").into());
        }
        self.transfer_to(Some(target_id), timeout_ms, fencing_token).await
    }

    async fn step_down(
        &self,
        request: Request<StepDownRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        let StepDownRequest { timeout_ms, fencing_token } = request.into_inner();
        self.transfer_to(None, timeout_ms, fencing_token).await
    }

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<SnapshotResponse>, Status> {
        let raft = &self.0.active()?.raft;
        let wanted = raft.applied_index();
        raft.build_snapshot()?;
        let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
        let done = raft.wait_status(deadline, |status| status.snapshot_index >= wanted).await;
        let status = done.ok_or_else(|| {
            Error::new(ErrorCode::SnapshotFailed, "no snapshot was taken in time; see this node's log")
        })?;
        Ok(Response::new(SnapshotResponse { index: status.snapshot_index, term: status.term }))
    }
}

fn unknown() -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        "the membership change was not committed in time and may still be; read the status before trying again",
    )
}

fn owned(membership: Arc<Membership>) -> Membership {
    Arc::unwrap_or_clone(membership)
}
