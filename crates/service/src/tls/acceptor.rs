//! Acceptance of the connections of one port: limits and TLS handshake, before the service gets a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream as Incoming;
use helios_proto::tls::in_words;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::{Material, Slots, Stream};
use crate::rejections::Rejections;
use crate::sessions::Open;

/// Deadline of a TLS handshake, and of the HTTP/2 preface after it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of accepted connections that wait for the service.
const READY: usize = 16;
/// Time for which input of a client without TLS is read after the error message: a connection that is closed with
/// unread input is reset, and the client may lose the message.
const LINGER: Duration = Duration::from_millis(500);
/// Limit of the input that is read then.
const LINGER_BYTES: u64 = 64 << 10;
/// Pause after a failed accept, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// First byte of every TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 22;
/// Length of the HTTP/2 client preface, `PRI * HTTP/2.0 ...`.
const HTTP2_PREFACE_BYTES: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Redis,
    Http1,
    Http2,
}

impl Protocol {
    /// Returns the error message to a client without TLS on a port that requires it.
    fn tls_required_message(self) -> &'static [u8] {
        match self {
            Self::Redis => b"-ERR this port speaks TLS only: connect with TLS and the CA of the cluster\r\n",
            Self::Http1 => {
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\n\
                  this port speaks TLS only: ask https://\n"
            }
            // A fatal TLS alert, protocol_version: HTTP/2 has no error message before its handshake.
            Self::Http2 => &[21, 3, 3, 0, 2, 2, 70],
        }
    }
}

/// The acceptor of one port, with TLS if configured. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    /// Name of the port: `peer`, `client`, `grpc` or `gateway` as in the configuration, or `metrics`.
    pub name: &'static str,
    pub protocol: Protocol,
    pub tls: Option<Arc<Material>>,
    pub rejections: Rejections,
    /// Counter of the accepted connections that have not ended.
    pub open: Open,
    pub slots: Slots,
}

impl Acceptor {
    /// Performs the TLS handshake and returns the connection for the service; `None` if it was refused. May take
    /// `HANDSHAKE_TIMEOUT`, so call it in a separate task.
    pub async fn open(&self, stream: TcpStream, from: SocketAddr) -> Option<Stream> {
        let opened = self.handshake(stream, from).await?;
        Some(opened.counted_by(self.open.begin()))
    }

    async fn handshake(&self, stream: TcpStream, from: SocketAddr) -> Option<Stream> {
        let Some(tls) = &self.tls else { return Some(stream.into()) };
        let tls_acceptor = TlsAcceptor::from(tls.server(self.protocol));
        let handshake = async {
            let mut first = [0];
            // A client that disconnects without a byte is a load balancer's probe.
            if !matches!(stream.peek(&mut first).await, Ok(1)) {
                return None;
            }
            if first[0] != HANDSHAKE_RECORD {
                self.rejections.report(
                    self.name,
                    "no_tls",
                    from,
                    "it does not speak TLS, which this port requires",
                );
                self.reject(stream).await;
                return None;
            }
            match tls_acceptor.accept(stream).await {
                Ok(stream) => Some(Stream::from(stream)),
                Err(error) => {
                    self.rejections.report(self.name, "tls_handshake", from, in_words(&error));
                    None
                }
            }
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(opened) => opened,
            Err(_) => {
                self.rejections.report(self.name, "slow_handshake", from, "its TLS handshake took too long");
                None
            }
        }
    }

    async fn reject(&self, mut stream: TcpStream) {
        let answered = async {
            stream.write_all(self.protocol.tls_required_message()).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
        };
        // Best effort: the connection ends in any case.
        let _ = tokio::time::timeout(LINGER, answered).await;
    }

    /// Accepts connections of an HTTP/2 port as a stream for tonic, until that stream is dropped.
    pub fn incoming(self, listener: TcpListener) -> impl Incoming<Item = io::Result<Stream>> {
        let (ready, opened) = mpsc::channel(READY);
        tokio::spawn(async move {
            tokio::select! {
                () = ready.closed() => {}
                () = self.accept_all(&listener, &ready) => {}
            }
        });
        ReceiverStream::new(opened)
    }

    async fn accept_all(&self, listener: &TcpListener, ready: &mpsc::Sender<io::Result<Stream>>) {
        // Aborted with this task.
        let mut handshakes = JoinSet::new();
        loop {
            let (stream, from) = accept(listener, self.name).await;
            let Some(slot) = self.slots.take().await else { return };
            while handshakes.try_join_next().is_some() {}
            // Responses are sent at once. With Nagle's algorithm the second of two small ones waits until the client
            // acknowledges the first, which takes up to 40 ms (delayed ACK).
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let (acceptor, ready) = (self.clone(), ready.clone());
            handshakes.spawn(async move {
                let evicted = slot.evicted();
                let opened = tokio::select! {
                    opened = acceptor.open(stream, from) => opened,
                    () = evicted.cancelled() => None,
                };
                if let Some(stream) = opened {
                    let stream = stream.in_slot(slot).greeted_by(
                        HTTP2_PREFACE_BYTES,
                        HANDSHAKE_TIMEOUT,
                        acceptor.name,
                        &acceptor.rejections,
                    );
                    // Fails when the service has ended.
                    drop(ready.send(Ok(stream)).await);
                }
            });
        }
    }
}

/// Accepts the next connection. Failures, such as a lack of file descriptors, are logged and retried after a pause.
/// Cancel safe.
pub async fn accept(listener: &TcpListener, port: &'static str) -> (TcpStream, SocketAddr) {
    let mut is_logged = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(%error, port, "connection not accepted; trying again");
                }
                // There is no notification of free descriptors; an immediate retry would spin.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn grpc_connections_disable_nagles_algorithm() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut incoming = std::pin::pin!(acceptor().incoming(listener));
        let accepted = incoming.next().await.unwrap().unwrap();
        assert!(accepted.tcp().nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_connection_counts_as_open_until_it_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acceptor = acceptor();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let opened = acceptor.open(stream, from).await.unwrap();
        assert_eq!(acceptor.open.count(), 1);
        drop(opened);
        assert_eq!(acceptor.open.count(), 0);
    }

    fn acceptor() -> Acceptor {
        Acceptor {
            name: "grpc",
            protocol: Protocol::Http2,
            tls: None,
            rejections: Rejections::default(),
            open: Open::default(),
            slots: Slots::new(16),
        }
    }
}
