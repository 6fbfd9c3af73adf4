//! Talks to the nodes over the `Cluster` service on the peer port.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use tonic::transport::{Channel, Endpoint};

use super::Pod;
use crate::names::{self, PEER_PORT};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// A client of the node at `address` (`host:port`), every call of which ends within `timeout`.
///
/// # Errors
/// When the node cannot be connected to, in words.
pub async fn connect(address: &str, timeout: Duration) -> Result<ClusterClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(timeout).connect().await;
    channel.map(ClusterClient::new).map_err(|e| describe(&e))
}

/// Where to reach a pod: its address of the moment, or its name while it has none.
pub fn address(cluster: &str, namespace: &str, ordinal: u32, pod: Option<&Pod>) -> String {
    match pod.and_then(|pod| pod.ip.as_deref()) {
        Some(ip) if ip.contains(':') => format!("[{ip}]:{PEER_PORT}"),
        Some(ip) => format!("{ip}:{PEER_PORT}"),
        None => names::stable_address(cluster, namespace, ordinal, PEER_PORT),
    }
}

/// Asks all pods at once; one that does not answer in time is left out.
pub async fn statuses(
    cluster: &str,
    namespace: &str,
    pods: &BTreeMap<u32, Pod>,
) -> BTreeMap<u32, StatusResponse> {
    let asked = pods.iter().map(|(ordinal, pod)| async move {
        let address = address(cluster, namespace, *ordinal, Some(pod));
        match tokio::time::timeout(STATUS_TIMEOUT, status(&address)).await {
            Ok(Ok(status)) => Some((*ordinal, status)),
            Ok(Err(reason)) => {
                tracing::debug!(cluster, namespace, ordinal, reason, "no status");
                None
            }
            Err(_) => None,
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn status(address: &str) -> Result<StatusResponse, String> {
    let mut client = connect(address, STATUS_TIMEOUT).await?;
    client.status(StatusRequest {}).await.map(tonic::Response::into_inner).map_err(|e| e.message().to_owned())
}

/// The innermost reason: the outer ones only say "transport error".
fn describe(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
