//! Member-to-member traffic: ordered Raft message streams, snapshots, forwarded writes.

mod bandwidth;
pub mod handshake;
mod lanes;
mod links;
mod service;
mod snapshot;
mod turns;

pub use bandwidth::Bandwidth;
pub use handshake::{Local, Standing, Verdict, check};
pub use links::{LinkOptions, Links};
pub use service::{PeerHost, PeerService};

use std::time::Duration;

use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Largest gRPC message between peers, bytes: one maximal log entry and its frame.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that answers no HTTP/2 ping for this long is gone, even if its host said nothing.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Connects to `addr` (host:port), looking the name up anew: a pod returns under its old name
/// with a new address (M-11).
pub async fn connect(addr: &str) -> Result<Channel, tonic::transport::Error> {
    endpoint(addr)?.connect().await
}

/// A channel that connects, and connects again, when it is used.
pub fn connect_lazy(addr: &str) -> Result<Channel, tonic::transport::Error> {
    Ok(endpoint(addr)?.connect_lazy())
}

/// What the node at `addr` says of itself.
pub async fn status_at(addr: &str) -> Result<StatusResponse, Status> {
    let channel = connect(addr).await.map_err(|error| Status::unavailable(links::reason_of(&error)))?;
    Ok(ClusterClient::new(channel).status(StatusRequest {}).await?.into_inner())
}

fn endpoint(addr: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{addr}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}
