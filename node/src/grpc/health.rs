//! The standard health service (grpc.health.v1), and the cluster status for clients.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::ready;
use futures::{Stream, StreamExt as _, stream};
use helios_proto::v1::cluster_info_server::ClusterInfo;
use helios_proto::v1::{StatusRequest, StatusResponse};
use helios_service::database::Database;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::guard::User;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Interval at which readiness, which depends on many things, is polled while there are watchers.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Names that a health check may contain: the empty one for the node as a whole, and its services.
const SERVICES: [&str; 5] =
    ["", "helios.v1.Kv", "helios.v1.ClusterInfo", "helios.v1.Archive", "helios.v1.Follow"];

pub struct InfoService<D>(D);

impl<D: Database> InfoService<D> {
    pub fn new(database: D) -> Self {
        Self(database)
    }
}

#[tonic::async_trait]
impl<D: Database> ClusterInfo for InfoService<D> {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = self.0.status();
        if User::of(request.extensions()).is_limited() {
            // Their sizes would reveal the keys of others.
            return Ok(Response::new(StatusResponse {
                keys: 0,
                snapshot_size_bytes: 0,
                state: None,
                ..status
            }));
        }
        Ok(Response::new(status))
    }
}

type IsReady = Arc<dyn Fn() -> bool + Send + Sync>;

pub struct HealthService {
    is_ready: IsReady,
    /// Readiness at the last poll, shared by all watchers.
    ready: Arc<watch::Sender<bool>>,
}

impl HealthService {
    /// Creates the service and polls readiness until `stop`. Must be called within a tokio runtime.
    pub fn new(is_ready: impl Fn() -> bool + Send + Sync + 'static, stop: CancellationToken) -> Self {
        let is_ready: IsReady = Arc::new(is_ready);
        let ready = Arc::new(watch::Sender::new(false));
        tokio::spawn(stop.run_until_cancelled_owned(poll_while_watched(is_ready.clone(), ready.clone())));
        Self { is_ready, ready }
    }
}

async fn poll_while_watched(is_ready: IsReady, ready: Arc<watch::Sender<bool>>) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        if ready.receiver_count() > 0 {
            poll(&is_ready, &ready);
        }
    }
}

fn poll(is_ready: &IsReady, ready: &watch::Sender<bool>) {
    let now = is_ready();
    ready.send_if_modified(|ready| std::mem::replace(ready, now) != now);
}

fn serving(ready: bool) -> HealthCheckResponse {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!("unknown service {service:?}")));
        }
        Ok(Response::new(serving((self.is_ready)())))
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
        // Without a poll here, the value dates from the last watcher, and a change back to it would not be noticed.
        poll(&self.is_ready, &self.ready);
        let changes = WatchStream::new(self.ready.subscribe()).scan(None, |sent, now| {
            let is_changed = sent.replace(now) != Some(now);
            ready(Some(is_changed.then_some(Ok(serving(now)))))
        });
        let changes = changes.filter_map(ready);
        Ok(Response::new(Box::pin(changes)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_new_watcher_is_notified_of_a_change_back_to_the_previous_watchers_value() {
        let readiness = Arc::new(AtomicBool::new(false));
        let seen = readiness.clone();
        let health = HealthService::new(move || seen.load(Ordering::Relaxed), CancellationToken::new());
        readiness.store(true, Ordering::Relaxed);
        let request = Request::new(HealthCheckRequest::default());
        let mut changes = health.watch(request).await.unwrap().into_inner();
        let first = changes.next().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        readiness.store(false, Ordering::Relaxed);
        let second =
            tokio::time::timeout(20 * POLL_INTERVAL, changes.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(second.status(), ServingStatus::NotServing);
    }
}
