//! HTTP through warp: health and metrics for Kubernetes and Prometheus, and the JSON gateway.

mod answer;
mod cluster;
mod config;
mod gateway;
mod guard;
mod health;
mod keys;
mod openapi;
mod page;
mod parts;
mod request;
mod route;

#[cfg(test)]
pub use answer::status_of;
pub use gateway::Gateway;
pub use health::routes as health_routes;
use helios_service::auth::Client;
use helios_service::tls::{Acceptor, accept};

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use warp::filters::BoxedFilter;
use warp::http::Request;
use warp::reply::Response;

/// Bytes of a request head, and of what is read ahead of a body.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// A connection that sends no complete request head for this long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Who keeps a connection when all places of the port are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Who has sent a whole request.
    Clients,
    /// Nobody: requests are short, and the next may be a probe's.
    Nobody,
}

/// Serves `routes` until `stop`, then lets requests in flight finish.
///
/// Our own accept loop, as warp 0.4 has none that takes TLS or a stop signal and a connection
/// limit together.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    routes: BoxedFilter<(Response,)>,
    keeps: Keeps,
    stop: CancellationToken,
) {
    let service = warp::service(routes);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    // HTTP/1 only: telling it from HTTP/2 waits without limit for the first bytes.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES);
    loop {
        let accepted = async {
            let (stream, from) = accept(&listener, acceptor.name).await;
            (stream, from, acceptor.slots.take().await)
        };
        let (stream, from, slot) = tokio::select! {
            () = stop.cancelled() => break,
            (stream, from, Some(slot)) = accepted => (stream, from, Arc::new(slot)),
            else => break,
        };
        let (acceptor, builder, service) = (acceptor.clone(), builder.clone(), service.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let proven = Arc::clone(&slot);
            let client = Client::new(from);
            let service = TowerToHyperService::new(service.map_request(move |mut request: Request<_>| {
                request.extensions_mut().insert(client.clone());
                request
            }));
            let service = service_fn(move |request| {
                if keeps == Keeps::Clients {
                    proven.prove();
                }
                service.call(request)
            });
            let serving = async {
                let Some(stream) = acceptor.open(stream, from).await else { return };
                let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    lost(&acceptor, from, &*error);
                }
            };
            let evicted = slot.evicted();
            tokio::select! {
                () = serving => {}
                () = evicted.cancelled() => acceptor.rejections.report(
                    acceptor.name,
                    "no_slot",
                    from,
                    "all connections of this port are taken, and it was the oldest without a request",
                ),
            }
        });
    }
    drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await);
}

/// A client that breaks off is no error of ours; one that is slow or sends too much is told apart.
fn lost(acceptor: &Acceptor, from: SocketAddr, error: &(dyn std::error::Error + 'static)) {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_timeout() => {
            acceptor.rejections.report(
                acceptor.name,
                "slow_request",
                from,
                "the head of its request was not here in time",
            );
        }
        Some(error) if error.is_parse_too_large() => {
            acceptor.rejections.report(
                acceptor.name,
                "too_large",
                from,
                "the head of its request is too large",
            );
        }
        _ => {}
    }
}

type Answer = Result<Response, Infallible>;
