//! The standard health service (grpc.health.v1) and what clients may know of the cluster.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, stream};
use helios_proto::v1::cluster_info_server::ClusterInfo;
use helios_proto::v1::{StatusRequest, StatusResponse};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::database::Database;

/// Readiness has many causes, so a watch looks at it now and then.
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

pub struct HealthService<D>(D);

impl<D: Database> HealthService<D> {
    pub fn new(database: D) -> Self {
        Self(database)
    }
}

fn serving<D: Database>(database: &D) -> HealthCheckResponse {
    let status = if database.status().ready { ServingStatus::Serving } else { ServingStatus::NotServing };
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
        Ok(Response::new(serving(&self.0)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = SERVICES.contains(&request.into_inner().service.as_str());
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let start = (self.0.clone(), None);
        let changes = stream::unfold(start, move |(database, told)| async move {
            loop {
                let now = if is_known { serving(&database) } else { unknown };
                if told != Some(now) {
                    return Some((Ok(now), (database, Some(now))));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
