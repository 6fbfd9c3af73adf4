//! Acceptor of Redis connections: bounds their number, and lets them finish on shutdown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use helios_service::auth::Access;
use helios_service::client_memory::{ClientMemory, MemoryLimits};
use helios_service::database::Database;
use helios_service::idle::IdleTimeout;
use helios_service::tls::{Acceptor, Stream, accept};
use helios_state::EventFilter;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::connection::Connection;
use super::cursor::Cursors;
use super::frame::{Frame, Protocol};
use super::metrics::Metrics;
use super::notifications::Notifications;
use super::pause::Pause;
use super::script::Scripts;
use super::stats::Stats;
use super::waiting::Waiting;

/// Time and bytes that a rejected client may still send before it is disconnected.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// Default of [`Limits::max_request_bytes`].
pub const MAX_REQUEST_BYTES: usize = 16 << 20;

/// Limits on clients, their requests and their data.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_clients: usize,
    /// Keyspace events that are published, until `CONFIG SET notify-keyspace-events` changes them.
    pub events: EventFilter,
    /// Maximum size of one request with all its arguments, in bytes.
    pub max_request_bytes: usize,
    pub max_value_bytes: usize,
    pub max_key_bytes: usize,
    pub memory: MemoryLimits,
    /// Time for a client to authenticate and to complete its first command.
    pub auth_timeout: Duration,
    /// Time for a request to arrive, from its first byte to its last.
    pub request_timeout: Duration,
    /// Time without a request after which a connection is closed.
    pub idle_timeout: IdleTimeout,
    /// Idle time after which TCP probes a peer.
    pub keepalive: Duration,
    /// Time that commands in flight have to finish on shutdown.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            events: EventFilter::default(),
            max_request_bytes: MAX_REQUEST_BYTES,
            max_value_bytes: 8 * 1024 * 1024,
            max_key_bytes: helios_state::MAX_KEY_BYTES,
            memory: MemoryLimits::default(),
            auth_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            idle_timeout: IdleTimeout::default(),
            keepalive: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// State that the connections of one listener share.
#[derive(Debug)]
pub struct Shared {
    pub limits: Limits,
    pub access: Arc<Access>,
    pub metrics: Metrics,
    pub clients: Arc<Clients>,
    pub memory: Arc<ClientMemory>,
    pub stats: Stats,
    pub cursors: Cursors,
    pub scripts: Scripts,
    pub waiting: Arc<Waiting>,
    pub notifications: Notifications,
    pub pause: Pause,
    pub started: Instant,
    /// Local address of the listener.
    pub address: SocketAddr,
}

/// Serves Redis clients until `shutdown`; then accepts no more, lets each connection finish the commands it is
/// executing, for at most [`Limits::drain_timeout`], and returns.
///
/// Fails only if the listener has no local address.
pub async fn serve<D: Database>(
    listener: TcpListener,
    acceptor: Acceptor,
    db: D,
    limits: Limits,
    access: Arc<Access>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let shared = Arc::new(Shared {
        notifications: Notifications::new(limits.events, db.store()),
        pause: Pause::default(),
        memory: ClientMemory::new(limits.memory, acceptor.rejections.clone()),
        limits,
        access,
        metrics,
        clients: Arc::default(),
        stats: Stats::default(),
        cursors: Cursors::default(),
        scripts: Scripts::default(),
        waiting: Arc::default(),
        started: Instant::now(),
        address: listener.local_addr()?,
    });
    let mut connections = JoinSet::new();
    let notified = shared.notifications.run(db.clone(), shutdown.clone());
    tokio::pin!(notified);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = &mut notified => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, address) = accept(&listener, acceptor.name) => {
                let (acceptor, db, shared) = (acceptor.clone(), db.clone(), Arc::clone(&shared));
                connections.spawn(serve_client(stream, address, acceptor, db, shared, shutdown.clone()));
            }
        }
    }
    drop(listener);
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(shared.limits.drain_timeout, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "Redis connections aborted: their commands did not finish within the drain timeout"
        );
        connections.shutdown().await;
    }
    Ok(())
}

async fn serve_client<D: Database>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Acceptor,
    db: D,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let Ok(local_address) = stream.local_addr() else { return };
    let Shared { clients, memory, limits, .. } = &*shared;
    let Some(registration) = clients.register(memory, address, local_address, limits.max_clients) else {
        shared.stats.rejected();
        shared.metrics.rejected("max_clients");
        if acceptor.tls.is_none() {
            // The text fits the empty send buffer of a new connection; if the client is gone, it needs no
            // reply.
            let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
        }
        return;
    };
    if let Err(error) = prepare(&stream, &shared.limits) {
        tracing::debug!(%error, %address, "cannot set up a Redis connection");
        return;
    }
    let stream = tokio::select! {
        opened = acceptor.open(stream, address) => opened,
        () = shutdown.cancelled() => None,
    };
    let Some(stream) = stream else { return };
    if let Err(error) = shared.access.check_host(address.ip()) {
        shared.stats.rejected();
        shared.metrics.rejections().report(
            "client",
            "protected_mode",
            address,
            "the client is on another host",
        );
        return reject(stream, error.into()).await;
    }
    shared.stats.connected();
    let _open = OpenConnection::new(&shared.metrics);
    let connection = Connection::new(stream, db, shared.clone(), registration.client());
    if let Err(error) = connection.run(shutdown).await {
        tracing::debug!(%error, %address, "Redis connection lost");
    }
}

/// Sends the error `why`, closes, and reads for a moment: closing a socket with unread input would reset the
/// connection and could lose the message.
async fn reject(mut stream: Stream, why: Frame) {
    let mut text = BytesMut::new();
    why.encode(Protocol::default(), &mut text);
    let sent = async {
        stream.write_all_buf(&mut text).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Best effort: nothing else can be done for a client that did not receive the message.
    let _ = tokio::time::timeout(LINGER, sent).await;
}

fn prepare(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(limits.keepalive))
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "the task of a Redis connection panicked");
    }
}

/// Guard that counts the connection as open while it exists, even if its task is aborted.
struct OpenConnection<'a>(&'a Metrics);

impl<'a> OpenConnection<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connected();
        Self(metrics)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}
