//! Backups over gRPC, for users with the role `backup`.

use std::sync::Arc;

use helios_proto::v1::archive_server::Archive as Calls;
use helios_proto::v1::{BaseChunk, BaseRequest, HoldRequest, HoldResponse, LogChunk, LogRequest};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::guard::{Answers, bounded};
use crate::archive::Archive;

pub struct ArchiveService {
    archive: Arc<Archive>,
    /// Ends the streams when the node stops.
    stop: CancellationToken,
}

impl ArchiveService {
    pub fn new(archive: Archive, stop: CancellationToken) -> Self {
        Self { archive: Arc::new(archive), stop }
    }
}

#[tonic::async_trait]
impl Calls for ArchiveService {
    type BaseStream = Answers<BaseChunk>;
    type LogStream = Answers<LogChunk>;

    async fn base(&self, request: Request<BaseRequest>) -> Result<Response<Self::BaseStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        Ok(bounded(self.archive.base(request).await?, self.stop.clone(), &extensions))
    }

    async fn log(&self, request: Request<LogRequest>) -> Result<Response<Self::LogStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        Ok(bounded(self.archive.log(&request)?, self.stop.clone(), &extensions))
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        Ok(Response::new(self.archive.hold(request.into_inner()).await?))
    }
}
