//! Connections to other members, with TLS if this node has certificates for it.

use std::sync::Arc;
use std::time::Duration;

use helios_proto::tls::{ClientTls, ConnectError, dial, endpoint, host_of, innermost, why};
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use helios_service::tls::Material;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval of HTTP/2 pings, and the time without an answer after which a connection is closed: the peer's host may
/// have failed silently.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Dialer of this node; cheap to clone. The default one dials without TLS.
#[derive(Clone, Default)]
pub struct Dialer(Option<Arc<Material>>);

impl Dialer {
    pub fn new(tls: Option<Arc<Material>>) -> Self {
        Self(tls)
    }

    /// Connects to `addr` (host:port). Resolves the name each time, as a pod returns under its old name with a new
    /// address (M-11).
    ///
    /// # Errors
    /// No connection within `CONNECT_TIMEOUT`, or either side rejects the other's certificate.
    pub async fn connect(&self, addr: &str) -> Result<Channel, ConnectError> {
        let dialer = self.clone();
        let dial = dial(addr.to_owned(), host_of(addr).to_owned(), move || dialer.tls());
        let connected = configured(addr)?.connect_with_connector(dial).await;
        connected.map_err(|error| ConnectError(innermost(&error)))
    }

    /// Returns a channel that connects and reconnects on use.
    ///
    /// # Errors
    /// `addr` is malformed.
    pub fn connect_lazy(&self, addr: &str) -> Result<Channel, ConnectError> {
        let dialer = self.clone();
        let dial = dial(addr.to_owned(), host_of(addr).to_owned(), move || dialer.tls());
        Ok(configured(addr)?.connect_with_connector_lazy(dial))
    }

    /// Requests the status of the node at `addr`.
    ///
    /// # Errors
    /// The node does not answer.
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Length of the client's preface (RFC 9113).
    const PREFACE: usize = 24;
    /// Length of a frame header: length (3 bytes), type, flags, stream (4).
    const HEAD: usize = 9;
    const PING: u8 = 6;

    #[tokio::test]
    async fn an_idle_connection_to_a_peer_that_answers_no_ping_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connecting = tokio::spawn(async move { Dialer::default().connect(&address).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let _channel = connecting.await.unwrap().unwrap();
        let mut heard = Vec::new();
        let ended = tokio::time::timeout(10 * KEEPALIVE, stream.read_to_end(&mut heard)).await;
        assert!(ended.is_ok(), "waits without limit");
        let mut frames = &heard[PREFACE..];
        let mut kinds = Vec::new();
        while let Some((head, rest)) = frames.split_at_checked(HEAD) {
            kinds.push(head[3]);
            frames = &rest[u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize..];
        }
        assert!(kinds.contains(&PING), "{kinds:?}");
    }
}
