//! Probes: `/livez` (the process runs), `/readyz` and `/healthz` (it can serve or forward requests), `/primary`,
//! `/replica`; and `/metrics`. Liveness never requires a quorum: to restart members does not restore one.

use std::sync::Arc;

use helios_proto::v1::{Role, StatusResponse};
use helios_service::database::Database;
use prometheus_client::registry::Registry;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};
use warp::{Filter, path};

use super::answer::plain;

use crate::node::Node;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn routes(node: Node, registry: Arc<Registry>) -> BoxedFilter<(Response,)> {
    let status = {
        let node = node.clone();
        warp::any().map(move || node.status())
    };
    let livez = path!("livez").map(live);
    let readyz = path!("readyz").or(path!("healthz")).unify().and(status.clone()).map(|s| ready(&s));
    let primary = path!("primary").and(status.clone()).map(|s| primary(&s));
    let replica = path!("replica").and(status).map(|s| replica(&s));
    let metrics = path!("metrics").map(move || metrics(&node, &registry));
    livez.or(readyz).unify().or(primary).unify().or(replica).unify().or(metrics).unify().boxed()
}

pub fn live() -> Response {
    plain(StatusCode::OK, "ok")
}

pub fn ready(status: &StatusResponse) -> Response {
    is(status.ready, &status.not_ready_reason)
}

pub fn primary(status: &StatusResponse) -> Response {
    is(status.role() == Role::Leader, "not the leader")
}

pub fn replica(status: &StatusResponse) -> Response {
    is(status.ready && status.role() == Role::Follower, "not a ready follower")
}

fn is(yes: bool, otherwise: &str) -> Response {
    if yes { plain(StatusCode::OK, "ok") } else { plain(StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}

pub fn metrics(node: &Node, registry: &Registry) -> Response {
    node.inner().metrics.observe(&crate::status::observed(node));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => warp::reply::with_header(text, "content-type", OPENMETRICS).into_response(),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
