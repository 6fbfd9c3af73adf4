//! The way to other members, with TLS when this node has certificates for it.

use std::sync::Arc;
use std::time::Duration;

use helios_proto::tls::{ClientTls, ConnectError, dial, endpoint, host_of, innermost, why};
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{StatusRequest, StatusResponse};
use helios_service::tls::Material;
use tonic::transport::{Channel, Endpoint};

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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// RFC 9113: the client's preface, and a frame's head of length (3 bytes), type, flags and stream (4).
    const PREFACE: usize = 24;
    const HEAD: usize = 9;
    const PING: u8 = 6;

    #[tokio::test]
    async fn a_peer_that_answers_no_ping_is_hung_up_on_though_nothing_is_asked_of_it() {
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
