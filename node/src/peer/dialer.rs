//! The way to other members, with TLS when this node has certificates for it.

use std::sync::Arc;
use std::time::Duration;

use helios_proto::tls::{ClientTls, ConnectError, dial, endpoint, host_of, innermost, why};
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use tonic::transport::{Channel, Endpoint};

use crate::tls::Material;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that answers no HTTP/2 ping for this long is gone, even if its host said nothing.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Cheap to clone. The default one dials without TLS.
#[derive(Clone, Default)]
pub struct Dialer(Option<Arc<Material>>);

impl Dialer {
    pub fn new(tls: Option<Arc<Material>>) -> Self {
        Self(tls)
    }

    /// Connects to `addr` (host:port), looking the name up anew: a pod returns under its old name with a new
    /// address (M-11).
    ///
    /// # Errors
    /// When there is no connection within two seconds, or one of both refuses the other.
    pub async fn connect(&self, addr: &str) -> Result<Channel, ConnectError> {
        let dialer = self.clone();
        let dial = dial(addr.to_owned(), host_of(addr).to_owned(), move || dialer.tls());
        let connected = configured(addr)?.connect_with_connector(dial).await;
        connected.map_err(|error| ConnectError(innermost(&error)))
    }

    /// A channel that connects, and connects again, when it is used.
    ///
    /// # Errors
    /// When `addr` is no address.
    pub fn connect_lazy(&self, addr: &str) -> Result<Channel, ConnectError> {
        let dialer = self.clone();
        let dial = dial(addr.to_owned(), host_of(addr).to_owned(), move || dialer.tls());
        Ok(configured(addr)?.connect_with_connector_lazy(dial))
    }

    /// What the node at `addr` says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status_at(&self, addr: &str) -> Result<StatusResponse, ConnectError> {
        let mut client = ClusterClient::new(self.connect(addr).await?);
        let answer = client.status(StatusRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| ConnectError(why(&status)))
    }

    fn tls(&self) -> Option<ClientTls> {
        self.0.as_ref().and_then(|material| material.client())
    }
}

fn configured(addr: &str) -> Result<Endpoint, ConnectError> {
    Ok(endpoint(addr)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}
