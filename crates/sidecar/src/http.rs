//! The HTTP server of the sidecar: /livez, /readyz and /metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::members::Members;
use crate::metrics::Metrics;
use crate::replica::Replica;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 64;
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
pub struct Probes {
    pub members: Arc<Members>,
    pub metrics: Arc<Metrics>,
    pub replica: Option<Arc<Replica>>,
    pub stop: tokio_util::sync::CancellationToken,
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, probes: Probes) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (stream, _) = helios_service::tls::accept(&listener, "metrics").await;
        let (builder, probes) = (builder.clone(), probes.clone());
        tokio::spawn(async move {
            let answer =
                service_fn(|request| std::future::ready(Ok::<_, Infallible>(probes.answer(&request))));
            // A client that disconnects is no error.
            drop(builder.serve_connection(TokioIo::new(stream), answer).await);
            drop(slot);
        });
    }
}

impl Probes {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served\n".to_owned());
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" if self.stop.is_cancelled() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the sidecar is stopping\n".to_owned())
            }
            "/readyz" if self.members.is_ready() => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" => {
                let seconds = self.members.since_contact().as_secs();
                let reason =
                    format!("no contact to the cluster for {seconds} s: {}\n", self.members.problem());
                text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", reason)
            }
            "/metrics" => {
                text(StatusCode::OK, METRICS_TYPE, self.metrics.text(&self.members, self.replica.as_deref()))
            }
            _ => {
                let paths = "there are /livez, /readyz and /metrics\n";
                text(StatusCode::NOT_FOUND, "text/plain", paths.to_owned())
            }
        }
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
