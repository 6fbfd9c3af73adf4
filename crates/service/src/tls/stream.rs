//! An accepted connection, with or without TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::slots::Slot;
use crate::auth::Client;
use crate::rejections::Rejections;
use crate::sessions::Session;

/// Remote end of a connection of a gRPC port; an extension of each of its requests.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    pub client: Client,
    /// Certificate that the client presented, DER. `None`: none was requested.
    pub certificate: Option<Arc<[u8]>>,
}

pub struct Stream {
    inner: Inner,
    greeting: Option<Greeting>,
    /// Counts the connection as open until it is dropped.
    _session: Option<Session>,
    slot: Option<Slot>,
}

enum Inner {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Bytes that the client has to send first, and their deadline.
struct Greeting {
    missing_bytes: usize,
    /// Resolves when the connection is evicted for another one.
    evicted: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    until: Pin<Box<Sleep>>,
    refused: Box<dyn Fn() + Send + Sync>,
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self { inner: Inner::Plain(stream), greeting: None, _session: None, slot: None }
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self { inner: Inner::Tls(Box::new(stream)), greeting: None, _session: None, slot: None }
    }
}

impl Stream {
    pub fn tcp(&self) -> &TcpStream {
        match &self.inner {
            Inner::Plain(stream) => stream,
            Inner::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Counts the connection as open until it is dropped.
    pub fn counted_by(self, session: Session) -> Self {
        Self { _session: Some(session), ..self }
    }

    /// Holds the slot until the connection is dropped.
    pub fn in_slot(self, slot: Slot) -> Self {
        Self { slot: Some(slot), ..self }
    }

    /// Closes the connection unless `bytes` bytes arrive within `limit`: the HTTP/2 server enforces its own timeouts
    /// only after the preface.
    pub fn greeted_by(
        mut self,
        bytes: usize,
        limit: Duration,
        port: &'static str,
        rejections: &Rejections,
    ) -> Self {
        let (rejections, from) = (rejections.clone(), self.tcp().peer_addr());
        let from = from.map_or_else(|_| "a client that is gone".to_owned(), |from| from.to_string());
        self.greeting = Some(Greeting {
            missing_bytes: bytes,
            evicted: self.slot.as_ref().map(|slot| Box::pin(slot.evicted().cancelled_owned())),
            until: Box::pin(tokio::time::sleep(limit)),
            refused: Box::new(move || {
                rejections.report(port, "slow_handshake", &from, "it sent no HTTP/2 preface in time");
            }),
        });
        self
    }

    /// Reads at most `most` bytes into `buffer`; 0: end of stream. Reserves the buffer only once there is input, so
    /// that an idle connection without TLS needs none.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => loop {
                ready!(stream.poll_read_ready(context))?;
                buffer.reserve(most);
                match stream.try_read_buf(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return Poll::Ready(received),
                }
            },
            Inner::Tls(stream) => {
                buffer.reserve(most);
                poll_read_buf(Pin::new(&mut **stream), context, buffer)
            }
        }
    }
}

impl Greeting {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_evicted =
            self.evicted.as_mut().is_some_and(|evicted| evicted.as_mut().poll(context).is_ready());
        if !is_evicted {
            ready!(self.until.as_mut().poll(context));
        }
        (self.refused)();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        let Some(greeting) = &mut self.greeting else { return read };
        if read.is_pending() {
            return greeting.poll(context);
        }
        greeting.missing_bytes = greeting.missing_bytes.saturating_sub(buffer.filled().len() - before);
        if greeting.missing_bytes == 0 {
            self.greeting = None;
            if let Some(slot) = &self.slot {
                slot.prove();
            }
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Inner::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(stream) => stream.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_flush(context),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        let client = self.tcp().peer_addr().map(Client::new).unwrap_or_default();
        let certificate = match &self.inner {
            Inner::Plain(_) => None,
            Inner::Tls(stream) => stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()),
        };
        Caller { client, certificate: certificate.map(|leaf| Arc::from(leaf.as_ref())) }
    }
}
