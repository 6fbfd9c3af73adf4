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

/// Limit of a request head, and of the read-ahead of a body, bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Time for a complete request head; then the connection is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Which connections are not evicted when the port's connection limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Connections that have sent a complete request.
    Clients,
    /// None: requests are short, and the next one may be a probe.
    Nobody,
}

/// Serves `routes` until `stop`, then lets requests in flight finish.
///
/// This is our own accept loop, as warp 0.4 has none that combines TLS, a stop signal and a connection limit.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    routes: BoxedFilter<(Response,)>,
    keeps: Keeps,
    stop: CancellationToken,
) {
    let service = warp::service(routes);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    // HTTP/1 only: the detection of HTTP/2 would wait without limit for the first bytes.
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
                    report_lost(&acceptor, from, &*error);
                }
            };
            let evicted = slot.evicted();
            tokio::select! {
                () = serving => {}
                () = evicted.cancelled() => acceptor.rejections.report(
                    acceptor.name,
                    "no_slot",
                    from,
                    "evicted: the port's connection limit is reached, and it was the oldest without a request",
                ),
            }
        });
    }
    drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await);
}

/// Logs why a connection failed, if its client was slow or sent too much; a client that disconnects is not an error.
fn report_lost(acceptor: &Acceptor, from: SocketAddr, error: &(dyn std::error::Error + 'static)) {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_timeout() => {
            acceptor.rejections.report(
                acceptor.name,
                "slow_request",
                from,
                "its request head did not arrive in time",
            );
        }
        Some(error) if error.is_parse_too_large() => {
            acceptor.rejections.report(acceptor.name, "too_large", from, "its request head is too large");
        }
        _ => {}
    }
}

type Answer = Result<Response, Infallible>;
