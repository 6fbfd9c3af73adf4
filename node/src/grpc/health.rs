//! The standard health service (grpc.health.v1) and what clients may know of the cluster.

use std::pin::Pin;
use std::time::Duration;

use futures::future::ready;
use futures::{Stream, StreamExt as _, stream};
use helios_proto::v1::cluster_info_server::ClusterInfo;
use helios_proto::v1::{StatusRequest, StatusResponse};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::database::Database;

/// Readiness has many causes, so it is looked at now and then while anybody watches.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What may be asked for: the node as a whole, and its services.
const SERVICES: [&str; 3] = ["", "helios.v1.Kv", "helios.v1.ClusterInfo"];

pub struct InfoService<D>(D);

impl<D: Database> InfoService<D> {
    pub fn new(database: D) -> Self {
        Self(database)
    }
}

#[tonic::async_trait]
impl<D: Database> ClusterInfo for InfoService<D> {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.0.status()))
    }
}

pub struct HealthService<D> {
    database: D,
    /// One look for all that watch.
    ready: watch::Receiver<bool>,
}

impl<D: Database> HealthService<D> {
    /// Looks at readiness until `stop`. Must be called within a tokio runtime.
    pub fn new(database: D, stop: CancellationToken) -> Self {
        let (looked, ready) = watch::channel(database.status().ready);
        tokio::spawn(stop.run_until_cancelled_owned(look(database.clone(), looked)));
        Self { database, ready }
    }
}

async fn look<D: Database>(database: D, looked: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if looked.receiver_count() > 1 {
            let now = database.status().ready;
            looked.send_if_modified(|ready| std::mem::replace(ready, now) != now);
        }
    }
}

fn serving(ready: bool) -> HealthCheckResponse {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl<D: Database> Health for HealthService<D> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!("there is no service {service:?} here")));
        }
        Ok(Response::new(serving(self.database.status().ready)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !SERVICES.contains(&request.into_inner().service.as_str()) {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let changes = stream::once(ready(Ok(unknown))).chain(stream::pending());
            return Ok(Response::new(Box::pin(changes)));
        }
        // The shared look may be old if nobody watched.
        let now = self.database.status().ready;
        let changes = WatchStream::from_changes(self.ready.clone());
        let changes = stream::once(ready(now)).chain(changes).scan(None, |told, now| {
            let is_news = told.replace(now) != Some(now);
            ready(Some(is_news.then_some(Ok(serving(now)))))
        });
        let changes = changes.filter_map(ready);
        Ok(Response::new(Box::pin(changes)))
    }
}
