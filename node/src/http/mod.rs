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

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use warp::filters::BoxedFilter;
use warp::http::Request;
use warp::reply::Response;

use crate::auth::Client;
use crate::tls::Door;

/// Connections served at once on one port; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 1_024;
/// Bytes of a request head, and of what is read ahead of a body.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// A connection that sends no complete request head for this long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves `routes` until `stop`, then lets requests in flight finish.
///
/// Our own accept loop, as warp 0.4 has none that takes TLS or a stop signal and a connection
/// limit together (dependencies.md, section 2).
pub async fn serve(
    listener: TcpListener,
    door: Door,
    routes: BoxedFilter<(Response,)>,
    stop: CancellationToken,
) {
    let service = warp::service(routes);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // HTTP/1 only: telling it from HTTP/2 waits without limit for the first bytes.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, from, permit)) = accepted else { continue };
        let (door, builder, service) = (door.clone(), builder.clone(), service.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            if let Some(stream) = door.open(stream, from).await {
                let client = Client::new(from);
                let service =
                    TowerToHyperService::new(service.map_request(move |mut request: Request<_>| {
                        request.extensions_mut().insert(client.clone());
                        request
                    }));
                let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    lost(&door, from, &*error);
                }
            }
            drop(permit);
        });
    }
    drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await);
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => Some((stream, from, permit)),
        Err(error) => {
            // Out of file descriptors, most likely: give others time to close theirs.
            tracing::warn!(%error, "http connection not accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// A client that breaks off is no error of ours; one that is slow or sends too much is told apart.
fn lost(door: &Door, from: SocketAddr, error: &(dyn std::error::Error + 'static)) {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_timeout() => {
            door.refusals.tell(
                door.name,
                "slow_request",
                from,
                "the head of its request was not here in time",
            );
        }
        Some(error) if error.is_parse_too_large() => {
            door.refusals.tell(door.name, "too_large", from, "the head of its request is too large");
        }
        _ => {}
    }
}

type Answer = Result<Response, Infallible>;
