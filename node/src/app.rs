//! Assembles the parts of one node: the only module that knows all services.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use helios_proto::v1::archive_server::ArchiveServer;
use helios_proto::v1::cluster_info_server::ClusterInfoServer;
use helios_proto::v1::cluster_server::ClusterServer;
use helios_proto::v1::follow_server::FollowServer;
use helios_proto::v1::kv_server::KvServer;
use helios_proto::v1::peer_server::PeerServer;
use helios_proto::v1::restore_server::RestoreServer;
use helios_service::auth::Access;
use helios_service::database::Database as _;
use helios_service::rejections::Rejections;
use helios_service::tls::{Acceptor, Certificates, Protocol, Slots};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use crate::archive::Archive;
use crate::config::{ConfigError, Settings, Source};
use crate::descriptors::{self, Shares};
use crate::follow::Followers;
use crate::grpc::{
    Admission, ArchiveService, ClusterService, FollowService, GuardLayer, HealthService, InfoService,
    KvService, RestoreService,
};
use crate::http;
use crate::http::{Gateway, Keeps};
use crate::inner_runtime::InnerRuntime;
use crate::management::Management;
use crate::metrics::Metrics;
use crate::node::{Node, NodeError};
use crate::peer::{MAX_MESSAGE_BYTES, PeerService};
use crate::raft::Fatal;
use crate::reload::Reloader;
use crate::state::Driven;

/// Longest time for which open client streams may delay the end of the process.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of HTTP/2 pings, and the time without an answer after which a connection is closed.
const HTTP2_KEEPALIVE: Duration = Duration::from_secs(5);

/// Concurrent calls on one gRPC connection; the client queues more (HTTP/2 `MAX_CONCURRENT_STREAMS`).
pub const MAX_CONCURRENT_STREAMS: u32 = 1_024;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{field} {addr}: {source}; is another process using the port? Set {field} to another address")]
    Bind { field: &'static str, addr: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Files(#[from] ConfigError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the thread for peers and probes does not start: {0}")]
    Thread(std::io::Error),
}

/// Checks that the files that the settings name, certificates and users, can be used.
///
/// # Errors
/// One line that names the key and the file.
pub fn check_files(settings: &Settings) -> Result<(), ConfigError> {
    Certificates::load(settings)?;
    Access::load(settings.into()).map(drop)
}

/// A running node and its services.
pub struct App {
    node: Node,
    stop: CancellationToken,
    /// Services for clients: stopped first.
    client_services: JoinSet<()>,
    /// Services for peers and probes: needed until leadership is transferred.
    inner_services: JoinSet<()>,
    /// The runtime of `inner_services`.
    inner: InnerRuntime,
}

struct Listeners {
    /// Listener that the inner runtime registers and serves.
    peer: std::net::TcpListener,
    metrics: Option<std::net::TcpListener>,
    client: Option<TcpListener>,
    grpc: Option<TcpListener>,
    gateway: Option<TcpListener>,
}

impl Listeners {
    async fn bind(settings: &Settings) -> Result<Self, AppError> {
        Ok(Self {
            peer: detached("listen.peer", settings.listen_peer).await?,
            metrics: match settings.listen_metrics {
                Some(addr) => Some(detached("listen.metrics", addr).await?),
                None => None,
            },
            client: bind_some("listen.client", settings.listen_client).await?,
            grpc: bind_some("listen.grpc", settings.listen_grpc).await?,
            gateway: bind_some("listen.gateway", settings.listen_gateway).await?,
        })
    }
}

async fn bind(field: &'static str, addr: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(addr).await.map_err(|source| AppError::Bind { field, addr, source })
}

/// Binds a listener that is registered with no runtime.
async fn detached(field: &'static str, addr: SocketAddr) -> Result<std::net::TcpListener, AppError> {
    let listener = bind(field, addr).await?;
    listener.into_std().map_err(|source| AppError::Bind { field, addr, source })
}

async fn bind_some(field: &'static str, addr: Option<SocketAddr>) -> Result<Option<TcpListener>, AppError> {
    match addr {
        Some(addr) => Ok(Some(bind(field, addr).await?)),
        None => Ok(None),
    }
}

impl App {
    /// Binds the ports first, so that a port in use changes nothing on disk; then opens the node.
    pub async fn start(settings: Settings) -> Result<Self, AppError> {
        Self::start_parts(settings, None, None).await
    }

    /// As `start`, with a state machine that the embedding application supplies.
    pub async fn start_with(settings: Settings, machine: Arc<dyn Driven>) -> Result<Self, AppError> {
        Self::start_parts(settings, Some(machine), None).await
    }

    /// As `start`; `source` is the origin of `settings` and is reloaded when it changes.
    pub async fn start_from(settings: Settings, source: Source) -> Result<Self, AppError> {
        Self::start_parts(settings, None, Some(source)).await
    }

    async fn start_parts(
        settings: Settings,
        machine: Option<Arc<dyn Driven>>,
        source: Option<Source>,
    ) -> Result<Self, AppError> {
        let certificates = Certificates::load(&settings)?;
        let access = Arc::new(Access::load((&settings).into())?);
        warn_of_open_ports(&settings, &access);
        let listeners = Listeners::bind(&settings).await?;
        let mut registry = Registry::with_prefix("helios");
        let metrics = Metrics::new(&mut registry);
        let rejections = Rejections::default();
        let client_metrics = helios_redis::Metrics::new(rejections.clone());
        client_metrics.register(&mut registry);
        let shares = shares(&settings);
        let inner = InnerRuntime::start(&settings.name).map_err(AppError::Thread)?;
        let (stop, mut inner_services) = (CancellationToken::new(), JoinSet::new());
        certificates.watch(&mut registry, &mut inner_services, &stop);
        inner_services.spawn(Arc::clone(&access).watch(stop.clone()));
        let events = settings.keyspace_events;
        let Settings { auth_timeout, client_memory, .. } = settings;
        let registry = Arc::new(registry);
        let node =
            Node::open(settings, machine, certificates.clone(), metrics, Fatal::default(), inner.handle())?;
        _ = node.inner().access.set(Arc::clone(&access));

        let client_acceptor = |name, protocol, count| Acceptor {
            name,
            protocol,
            tls: certificates.client.clone(),
            rejections: rejections.clone(),
            open: node.inner().sessions.of(name),
            slots: Slots::new(count),
        };
        let mut app =
            Self { node: node.clone(), stop, client_services: JoinSet::new(), inner_services, inner };
        let reloader = Arc::new(Reloader::new(app.node.clone(), source));
        app.inner_services.spawn(Arc::clone(&reloader).watch(app.stop.clone()));
        app.serve_peers(
            listeners.peer,
            Acceptor {
                tls: certificates.peer.clone(),
                ..client_acceptor("peer", Protocol::Http2, shares.peer)
            },
        );
        if let Some(listener) = listeners.metrics {
            let routes = http::health_routes(app.node.clone(), Arc::clone(&registry));
            let acceptor =
                Acceptor { tls: None, ..client_acceptor("metrics", Protocol::Http1, shares.metrics) };
            let stop = app.stop.clone();
            app.serve_inside(listener, |listener| {
                http::serve(listener, acceptor, routes, Keeps::Nobody, stop)
            });
        }
        if let Some(listener) = listeners.client {
            let idle_timeout = node.inner().idle_timeout.clone();
            let limits = helios_redis::Limits {
                max_clients: shares.client,
                events,
                idle_timeout,
                auth_timeout,
                memory: client_memory,
                ..helios_redis::Limits::default()
            };
            let (acceptor, stop) =
                (client_acceptor("client", Protocol::Redis, shares.client), app.stop.child_token());
            let served = helios_redis::serve(
                listener,
                acceptor,
                app.node.clone(),
                limits,
                Arc::clone(&access),
                client_metrics,
                stop,
            );
            app.client_services.spawn(async move { drop(served.await) });
        }
        if let Some(listener) = listeners.grpc {
            app.serve_grpc(listener, client_acceptor("grpc", Protocol::Http2, shares.grpc), &access);
        }
        if let Some(listener) = listeners.gateway {
            let gateway = Gateway::new(reloader, registry, access, rejections.clone(), app.stop.clone());
            let acceptor = client_acceptor("gateway", Protocol::Http1, shares.gateway);
            let stop = app.stop.clone();
            app.client_services.spawn(http::serve(
                listener,
                acceptor,
                gateway.routes(),
                Keeps::Clients,
                stop,
            ));
        }
        Ok(app)
    }

    /// Runs a service of a listener on the inner runtime.
    fn serve_inside<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        listener: std::net::TcpListener,
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) {
        let serving = async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve(listener).await,
                Err(error) => {
                    tracing::error!(%error, "listener cannot be registered; its port is not served")
                }
            }
        };
        self.inner_services.spawn_on(serving, self.inner.handle());
    }

    fn serve_peers(&mut self, listener: std::net::TcpListener, acceptor: Acceptor) {
        let node = self.node.clone();
        let peer = PeerServer::new(PeerService::new(Arc::new(node.clone()), acceptor.rejections.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let admission = Arc::new(Admission::new(node.clone(), acceptor.rejections.clone()));
        let restore = RestoreServer::new(RestoreService::new(node.clone(), Arc::clone(&admission)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let cluster = ClusterServer::new(ClusterService::new(Management::new(node), admission));
        let router = server().add_service(peer).add_service(cluster).add_service(restore);
        let stop = self.stop.clone();
        self.serve_inside(listener, |listener| async move {
            if let Err(error) =
                router.serve_with_incoming_shutdown(acceptor.incoming(listener), stop.cancelled()).await
            {
                tracing::error!(%error, "peer service ended");
            }
        });
    }

    fn serve_grpc(&mut self, listener: TcpListener, acceptor: Acceptor, access: &Arc<Access>) {
        let (node, stop) = (self.node.clone(), self.stop.clone());
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(helios_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("helios.v1.Kv")
            .with_service_name("helios.v1.ClusterInfo")
            .with_service_name("helios.v1.Archive")
            .with_service_name("helios.v1.Follow")
            .with_service_name("grpc.health.v1.Health")
            .build_v1()
            .expect("descriptors that were compiled with the services");
        let observed = node.clone();
        let health = HealthService::new(move || observed.status().ready, stop.clone());
        let server = server();
        #[cfg(feature = "otel")]
        let server = server.trace_fn(|call| crate::trace::client_call(call.uri().path(), call.headers()));
        let router = server
            .layer(GuardLayer::new(Arc::clone(access), acceptor.rejections.clone()))
            .add_service(KvServer::new(KvService::new(node.clone(), stop.clone())))
            .add_service(ArchiveServer::new(ArchiveService::new(Archive::new(node.clone()), stop.clone())))
            .add_service(FollowServer::new(FollowService::new(Followers::new(node.clone()), stop.clone())))
            .add_service(ClusterInfoServer::new(InfoService::new(node)))
            .add_service(HealthServer::new(health))
            .add_service(reflection);
        self.client_services.spawn(async move {
            if let Err(error) =
                router.serve_with_incoming_shutdown(acceptor.incoming(listener), stop.cancelled()).await
            {
                tracing::error!(%error, "gRPC service ended");
            }
        });
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Shuts the node down: readiness off, leadership transferred while clients are still served, a pause
    /// (`client.shutdown_delay`) in which proxies notice, services stopped, threads stopped (docs/design/node.md,
    /// section 3, "Clean shutdown").
    pub async fn stop(mut self) {
        let delay = self.node.shutdown_delay();
        self.node.stop().await;
        tokio::time::sleep(delay).await;
        self.stop.cancel();
        let ended = async { while self.client_services.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::debug!("open client streams did not end in time and were closed");
        }
        // Peers never close their streams, and this member has nothing more to send to them.
        self.inner_services.shutdown().await;
        self.node.close().await;
        self.inner.stop().await;
    }
}

/// Returns the connection limit of each port; logs a warning if the file descriptor limit allows fewer clients than
/// configured.
fn shares(settings: &Settings) -> Shares {
    let (wanted, limit) = (settings.max_connections, descriptors::limit());
    let shares = descriptors::shares(limit, wanted);
    if shares.client < wanted {
        tracing::warn!(
            wanted,
            max_connections = shares.client,
            "client.max_connections lowered: this process may open {limit} files (raise its limit: ulimit -n, \
             LimitNOFILE)"
        );
    }
    shares
}

/// Logs a warning for each client port that other hosts can reach while authentication is off.
fn warn_of_open_ports(settings: &Settings, access: &Access) {
    let ports = [("listen.client", settings.listen_client), ("listen.grpc", settings.listen_grpc)];
    for (key, address) in ports {
        let Some(address) = address.filter(|address| access.is_open() && !address.ip().is_loopback()) else {
            continue;
        };
        match access.is_protected() {
            true => tracing::warn!(
                key, %address,
                "protected mode: without users, clients of other hosts are refused; set auth.users_file or \
                 client.password, or client.protected_mode: false to allow everyone who reaches this port"
            ),
            false => tracing::warn!(
                key, %address,
                "everyone who reaches this port may read and write: no users are configured (auth.users_file, client.password)"
            ),
        }
    }
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_keepalive_interval(Some(HTTP2_KEEPALIVE))
        .http2_keepalive_timeout(Some(HTTP2_KEEPALIVE))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::mpsc;

    use helios_proto::v1::StatusRequest;
    use helios_proto::v1::cluster_client::ClusterClient;

    use super::*;
    use crate::config::Config;

    const WORKERS: usize = 2;
    const PATIENCE: Duration = Duration::from_secs(10);

    fn free_address() -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    fn livez(address: &str) -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Requests `Status` on a separate runtime.
    fn peer_status(address: String) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let asked = async {
                let mut client =
                    ClusterClient::connect(format!("http://{address}")).await.map_err(|e| e.to_string())?;
                client.status(StatusRequest {}).await.map_err(|e| e.to_string())
            };
            let answered = tokio::time::timeout(PATIENCE, asked).await.map_err(|e| e.to_string())??;
            Ok(answered.into_inner().name)
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peers_and_probes_are_answered_while_all_client_workers_are_busy() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.name = "a".into();
        config.node.bootstrap = Some("single".into());
        config.node.data_dir = dir.path().display().to_string();
        config.raft.segment_bytes = Some(4 << 20);
        config.listen.client = String::new();
        config.listen.peer = free_address();
        config.listen.metrics = Some(free_address());
        (config.listen.grpc, config.listen.gateway) = (Some(String::new()), Some(String::new()));
        let (peer, metrics) = (config.listen.peer.clone(), config.listen.metrics.clone().unwrap());
        let app = App::start(config.try_into().unwrap()).await.unwrap();
        app.node().ready().await;

        let (busy, is_busy) = mpsc::channel();
        let (ends, mut workers) = (Vec::from_iter((0..WORKERS).map(|_| mpsc::channel::<()>())), Vec::new());
        let (ends, waits): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        for wait in waits {
            let busy = busy.clone();
            workers.push(tokio::spawn(async move {
                busy.send(()).unwrap();
                // Blocks the worker, as a long command does.
                assert!(wait.recv().is_err());
            }));
        }
        // This task runs on the thread of the test, which may block.
        for _ in 0..WORKERS {
            is_busy.recv_timeout(PATIENCE).unwrap();
        }
        let alive = std::thread::spawn(move || livez(&metrics)).join().unwrap();
        let status = std::thread::spawn(move || peer_status(peer)).join().unwrap();
        drop(ends);
        for worker in workers {
            worker.await.unwrap();
        }
        assert!(alive.unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(status.unwrap(), "a");
        app.stop().await;
    }
}
