//! Cluster management over gRPC, for the operator and for users' tools.

use std::sync::Arc;

use helios_proto::v1::cluster_server::Cluster;
use helios_proto::v1::{
    AddLearnerRequest, ChangeMembershipRequest, ForceNewRequest, InitializeRequest, InitializeResponse,
    Membership, MembershipResponse, PromoteRequest, RemoveRequest, SkipEntryRequest, SkipEntryResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, StepDownRequest, TransferRequest,
    TransferResponse,
};
use tonic::{Request, Response, Status};

use super::manager::Admission;
use crate::management::{Management, sent_on_by};
use crate::peer::PeerHost as _;

pub struct ClusterService {
    management: Management,
    admission: Arc<Admission>,
}

impl ClusterService {
    pub fn new(management: Management, admission: Arc<Admission>) -> Self {
        Self { management, admission }
    }

    /// Returns the request if its caller may manage the cluster.
    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        self.admission.admit(request)
    }

    /// As `admit`; also accepts calls that a member forwards for a user of its gateway.
    fn admit_or_member<T>(&self, request: Request<T>) -> Result<T, Status> {
        match sent_on_by(request.metadata()) {
            Some(from) => {
                self.management.node().check_call(Some(&from))?;
                Ok(request.into_inner())
            }
            None => self.admit(request),
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        // The operator requests the status often, so the management certificate is noticed early.
        self.admission.notice(&request);
        Ok(Response::new(crate::status::of(self.management.node())))
    }

    async fn initialize(
        &self,
        request: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let membership = Some(self.management.initialize(self.admit(request)?).await?);
        Ok(Response::new(InitializeResponse { membership }))
    }

    async fn add_learner(
        &self,
        request: Request<AddLearnerRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.management.add_learner(self.admit_or_member(request)?).await?))
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.management.promote(self.admit_or_member(request)?).await?))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.management.remove(self.admit_or_member(request)?).await?))
    }

    async fn change_membership(
        &self,
        request: Request<ChangeMembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.management.change_membership(self.admit(request)?).await?))
    }

    async fn force_new(
        &self,
        request: Request<ForceNewRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        Ok(now(self.management.force_new(self.admit(request)?).await?))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        Ok(Response::new(self.management.transfer(self.admit(request)?).await?))
    }

    async fn step_down(
        &self,
        request: Request<StepDownRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        Ok(Response::new(self.management.step_down(self.admit(request)?).await?))
    }

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<SnapshotResponse>, Status> {
        self.admit(request)?;
        Ok(Response::new(self.management.snapshot().await?))
    }

    async fn skip_entry(
        &self,
        request: Request<SkipEntryRequest>,
    ) -> Result<Response<SkipEntryResponse>, Status> {
        Ok(Response::new(self.management.skip_entry(self.admit(request)?).await?))
    }
}

fn now(membership: Membership) -> Response<MembershipResponse> {
    Response::new(MembershipResponse { membership: Some(membership) })
}
