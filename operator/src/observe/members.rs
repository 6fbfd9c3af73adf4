//! Client of the members' `Cluster` service on the peer port.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use helios_proto::tls::{self, ClientTls};
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use tonic::transport::Channel;

use super::Pod;
use crate::names::{self, PEER_PORT};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// Address of a member, and the name that its certificate must have.
#[derive(Debug, Clone)]
pub struct Place {
    pub address: String,
    pub server_name: String,
}

/// A client of the node at `place`, every call of which ends within `timeout`.
///
/// # Errors
/// When the node cannot be connected to, in words.
pub async fn connect(
    place: &Place,
    tls: Option<&ClientTls>,
    timeout: Duration,
) -> Result<ClusterClient<Channel>, String> {
    let channel = tls::connect(&place.address, &place.server_name, tls, CONNECT_TIMEOUT, timeout).await;
    channel.map(ClusterClient::new).map_err(|error| error.to_string())
}

/// Address of a pod: its present IP, or its name while it has none.
pub fn place(cluster: &str, namespace: &str, ordinal: u32, pod: Option<&Pod>) -> Place {
    let address = match pod.and_then(|pod| pod.ip.as_deref()) {
        Some(ip) if ip.contains(':') => format!("[{ip}]:{PEER_PORT}"),
        Some(ip) => format!("{ip}:{PEER_PORT}"),
        None => names::stable_address(cluster, namespace, ordinal, PEER_PORT),
    };
    Place { address, server_name: names::stable_host(cluster, namespace, ordinal) }
}

/// Status of all pods, requested concurrently; one that does not answer in time is left out.
pub async fn statuses(
    cluster: &str,
    namespace: &str,
    pods: &BTreeMap<u32, Pod>,
    tls: Option<&ClientTls>,
) -> BTreeMap<u32, StatusResponse> {
    let asked = pods.iter().map(|(ordinal, pod)| async move {
        let place = place(cluster, namespace, *ordinal, Some(pod));
        match tokio::time::timeout(STATUS_TIMEOUT, status(&place, tls)).await {
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

async fn status(place: &Place, tls: Option<&ClientTls>) -> Result<StatusResponse, String> {
    let mut client = connect(place, tls, STATUS_TIMEOUT).await?;
    client.status(StatusRequest {}).await.map(tonic::Response::into_inner).map_err(|e| e.message().to_owned())
}
