//! Backups over gRPC, for users with the role `backup`.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use helios_proto::v1::archive_server::Archive as Calls;
use helios_proto::v1::{BaseChunk, BaseRequest, HoldRequest, HoldResponse, LogChunk, LogRequest};
use helios_service::auth::Pass;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status};

use super::guard::until_revoked;
use crate::archive::Archive;

pub struct ArchiveService {
    archive: Arc<Archive>,
    /// Ends the streams when the node stops.
    stop: CancellationToken,
}

type Chunks<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ArchiveService {
    pub fn new(archive: Archive, stop: CancellationToken) -> Self {
        Self { archive: Arc::new(archive), stop }
    }

    /// Returns `stream`, which ends when the node stops or the credentials of the call are revoked.
    fn bounded<T: 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
        extensions: &Extensions,
    ) -> Response<Chunks<T>> {
        let stream = stream.take_until(self.stop.clone().cancelled_owned());
        Response::new(match extensions.get::<Pass>().cloned() {
            Some(pass) => Box::pin(until_revoked(stream, pass)),
            None => Box::pin(stream),
        })
    }
}

#[tonic::async_trait]
impl Calls for ArchiveService {
    type BaseStream = Chunks<BaseChunk>;
    type LogStream = Chunks<LogChunk>;

    async fn base(&self, request: Request<BaseRequest>) -> Result<Response<Self::BaseStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        Ok(self.bounded(self.archive.base(request).await?, &extensions))
    }

    async fn log(&self, request: Request<LogRequest>) -> Result<Response<Self::LogStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        Ok(self.bounded(self.archive.log(&request)?, &extensions))
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        Ok(Response::new(self.archive.hold(request.into_inner()).await?))
    }
}
