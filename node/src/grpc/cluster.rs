//! Cluster management over gRPC, for the operator and for people with a tool.

use helios_proto::v1::cluster_server::Cluster;
use helios_proto::v1::{
    AddLearnerRequest, ChangeMembershipRequest, ForceNewRequest, InitializeRequest, InitializeResponse,
    Membership, MembershipResponse, PromoteRequest, RemoveRequest, SkipEntryRequest, SkipEntryResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, StepDownRequest, TransferRequest,
    TransferResponse,
};
use tonic::{Request, Response, Status};

use crate::management::Management;

pub struct ClusterService(Management);

impl ClusterService {
    pub fn new(management: Management) -> Self {
        Self(management)
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(crate::status::of(self.0.node())))
    }

    async fn initialize(
        &self,
        request: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let membership = Some(self.0.initialize(request.into_inner()).await?);
        Ok(Response::new(InitializeResponse { membership }))
    }

    async fn add_learner(
        &self,
        request: Request<AddLearnerRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.0.add_learner(request.into_inner()).await?))
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.0.promote(request.into_inner()).await?))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.0.remove(request.into_inner()).await?))
    }

    async fn change_membership(
        &self,
        request: Request<ChangeMembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.0.change_membership(request.into_inner()).await?))
    }

    async fn force_new(
        &self,
        request: Request<ForceNewRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.0.force_new(request.into_inner()).await?))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        Ok(Response::new(self.0.transfer(request.into_inner()).await?))
    }

    async fn step_down(
        &self,
        request: Request<StepDownRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        Ok(Response::new(self.0.step_down(request.into_inner()).await?))
    }

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<SnapshotResponse>, Status> {
        Ok(Response::new(self.0.snapshot().await?))
    }

    async fn skip_entry(
        &self,
        request: Request<SkipEntryRequest>,
    ) -> Result<Response<SkipEntryResponse>, Status> {
        Ok(Response::new(self.0.skip_entry(request.into_inner()).await?))
    }
}

fn now(membership: Membership) -> Response<MembershipResponse> {
    Response::new(MembershipResponse { membership: Some(membership) })
}
