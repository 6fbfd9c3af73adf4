//! The ports of the application: accepts connections up to a limit, and lets them finish when the sidecar stops.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use helios_proto::tls::Pipe;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::ConfigError;
use crate::connection::{Connection, Shared};

/// Idle time after which TCP probes a client.
const KEEPALIVE: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub struct Listeners {
    tcp: Vec<TcpListener>,
    unix: Option<UnixListener>,
}

impl Listeners {
    /// Binds the ports of the application.
    ///
    /// # Errors
    /// A port is in use, or a socket cannot be made: its address, the cause and what to do.
    pub async fn bind(addresses: &[SocketAddr], unix: Option<&Path>) -> Result<Self, ConfigError> {
        let mut tcp = Vec::new();
        for address in addresses {
            match TcpListener::bind(address).await {
                Ok(listener) => tcp.push(listener),
                Err(error)
                    if is_without_ipv6(*address, &error) && (addresses.len() > 1 || unix.is_some()) =>
                {
                    tracing::info!(%address, "left out: this host has no IPv6");
                }
                Err(error) => return Err(in_use("--listen", *address, &error)),
            }
        }
        let unix = unix.map(bind_unix).transpose()?;
        Ok(Self { tcp, unix })
    }

    /// Accepts the next connection. Cancel safe.
    async fn accept(&self) -> (Pipe, SocketAddr) {
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let accepts = self.tcp.iter().map(|listener| Box::pin(accept(listener)));
        let tcp = async {
            if self.tcp.is_empty() {
                return std::future::pending().await;
            }
            select_all(accepts.collect()).await
        };
        let unix = async {
            let Some(listener) = &self.unix else { return std::future::pending().await };
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => return Box::new(stream) as Pipe,
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted; trying again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            accepted = tcp => accepted,
            stream = unix => (stream, unknown),
        }
    }
}

/// Awaits the first of several futures.
async fn select_all<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
    use std::pin::Pin;
    use std::task::Poll;
    std::future::poll_fn(|context| {
        for future in &mut futures {
            if let Poll::Ready(output) = Pin::new(future).poll(context) {
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}

async fn accept(listener: &TcpListener) -> (Pipe, SocketAddr) {
    loop {
        let (stream, address) = helios_service::tls::accept(listener, "sidecar").await;
        match prepare(&stream) {
            Ok(()) => return (Box::new(stream), address),
            Err(error) => tracing::debug!(%error, "cannot set up a connection"),
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

/// Binds a port.
///
/// # Errors
/// The flag, the address, the cause and what to do.
pub async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, ConfigError> {
    TcpListener::bind(address).await.map_err(|error| in_use(flag, address, &error))
}

fn is_without_ipv6(address: SocketAddr, error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    let has_none =
        error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT);
    address.is_ipv6() && address.ip().is_loopback() && has_none
}

fn in_use(flag: &str, address: SocketAddr, error: &std::io::Error) -> ConfigError {
    ConfigError(format!(
        "{flag} {address}: {error}; is another process using the port? Set {flag} to another address"
    ))
}

fn bind_unix(path: &Path) -> Result<UnixListener, ConfigError> {
    let wrong = |error: std::io::Error| ConfigError(format!("--unix-socket {}: {error}", path.display()));
    // The socket of an earlier process stays when it ends. Nobody accepts connections at it.
    if std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path).map_err(wrong)?;
    }
    UnixListener::bind(path).map_err(wrong)
}

/// Serves clients until the sidecar stops; then lets each finish what it has in flight, for at most `grace`.
pub async fn serve(listeners: Listeners, shared: Arc<Shared>, max_clients: usize, grace: Duration) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, address) = listeners.accept() => {
                if connections.len() >= max_clients {
                    shared.metrics.rejections.report("sidecar", "max_clients", address, "--max-clients are connected");
                    connections.spawn(reject(stream));
                } else {
                    connections.spawn(serve_client(stream, address, Arc::clone(&shared)));
                }
            }
        }
    }
    drop(listeners);
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(grace, drained).await.is_err() {
        let count = connections.len();
        tracing::warn!(count, "connections aborted: their commands did not finish within --grace-ms");
        connections.shutdown().await;
    }
}

async fn reject(mut stream: Pipe) {
    // Best effort: the connection ends in any case.
    let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
    let _ = stream.shutdown().await;
}

async fn serve_client(stream: Pipe, address: SocketAddr, shared: Arc<Shared>) {
    let cut = CancellationToken::new();
    let account = shared.memory.open(address, cut.clone());
    let open = shared.metrics.connections.clone();
    open.inc();
    let _open = Counted(open);
    if let Err(error) = Connection::new(stream, shared, account, cut).run().await {
        tracing::debug!(%error, %address, "connection of the application ended");
    }
}

/// Counts a connection as open while it exists, even if its task is aborted.
struct Counted(prometheus_client::metrics::gauge::Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "the task of a connection panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn only_a_missing_ipv6_loopback_is_left_out() {
        let none = || Error::from(ErrorKind::AddrNotAvailable);
        let is_left_out = |address: &str, error| is_without_ipv6(address.parse().unwrap(), &error);
        assert!(is_left_out("[::1]:6379", none()) && is_left_out("[::1]:6379", Error::from_raw_os_error(97)));
        assert!(!is_left_out("[::1]:6379", Error::from(ErrorKind::AddrInUse)));
        assert!(!is_left_out("[2001:db8::1]:6379", none()) && !is_left_out("127.0.0.1:6379", none()));
    }
}
