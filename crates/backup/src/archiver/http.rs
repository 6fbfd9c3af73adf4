//! The HTTP server of the archiver: /healthz, /metrics and /status.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::view::Shared;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 64;
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (builder, shared) = (builder.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let answer =
                service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &shared))));
            // A client that disconnects is no error.
            drop(builder.serve_connection(TokioIo::new(stream), answer).await);
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served\n".to_owned());
    }
    match request.uri().path() {
        "/healthz" if shared.is_alive() => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/healthz" => {
            let reason = "the archiver has done nothing for three minutes\n";
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", reason.to_owned())
        }
        "/metrics" => text(StatusCode::OK, METRICS_TYPE, shared.metrics_text()),
        "/status" => text(StatusCode::OK, "application/json", format!("{}\n", shared.status())),
        _ => {
            let paths = "there are /healthz, /metrics and /status\n";
            text(StatusCode::NOT_FOUND, "text/plain", paths.to_owned())
        }
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
