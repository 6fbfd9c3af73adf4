//! `/livez`, `/readyz` and `/metrics`. A waiting replica is ready too: it can take over.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;

/// Limit of connections; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped; always ready.
pub async fn serve(listener: TcpListener, metrics: Metrics) {
    let (_always, ready) = watch::channel(true);
    serve_when(listener, metrics, ready).await;
}

/// Serves until dropped; `/readyz` is 503 until `ready`.
pub async fn serve_when(listener: TcpListener, metrics: Metrics, ready: watch::Receiver<bool>) {
    let permits = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = accept(&listener).await;
        let (metrics, ready) = (metrics.clone(), ready.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &metrics, *ready.borrow());
                async { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
}

/// Accepts the next connection. Failures, such as a lack of file descriptors, are logged and retried after a pause.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Returns a response in plain text.
pub fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, is_ready: bool) -> Response<Full<Bytes>> {
    let (status, body) = match request.uri().path() {
        "/readyz" if !is_ready => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        "/livez" | "/readyz" => (StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => match metrics.encode() {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => (StatusCode::NOT_FOUND, "try /livez, /readyz or /metrics\n".to_owned()),
    };
    text(status, body)
}
