//! The webhook's process: answers the API server over TLS. It reads the HeliosClient that a pod names, and nothing else.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use helios_crds::{HeliosClient, INJECT_LABEL, SidecarSettings};
use helios_proto::tls::{certificates, innermost, private_key};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use k8s_openapi::api::core::v1::Pod;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::patch::{Asked, asked, patch};
use crate::config::WebhookConfig;
use crate::http;
use crate::metrics::Metrics;
use crate::security::certificates::{CERTIFICATE, KEY};

/// Path at which the API server asks.
pub const PATH: &str = "/inject";
/// Limit of a request: that of the API server.
const MAX_REQUEST_BYTES: usize = 3 << 20;
/// Limit of connections; an API server needs few.
const MAX_CONNECTIONS: usize = 256;
/// Time for a TLS handshake, the headers, and a whole request; the API server waits 3 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the read of a HeliosClient, within that of the API server.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which the files of the certificate are read.
const RELOAD_EVERY: Duration = Duration::from_secs(10);
/// Time for which requests are served after SIGTERM: until then the Service may still send some.
const LEAVE: Duration = Duration::from_secs(5);
/// Time for open requests after that.
const FINISH: Duration = Duration::from_secs(5);

/// Serves until `terminated`, and for up to 10 s after it.
///
/// # Errors
/// An address cannot be listened on.
pub async fn run(
    config: WebhookConfig,
    client: Client,
    metrics: Metrics,
    terminated: CancellationToken,
) -> anyhow::Result<()> {
    let bind = async |addr, flag: &str| {
        let listener = TcpListener::bind(addr).await;
        listener.with_context(|| format!("cannot listen on {addr}; choose another {flag}"))
    };
    let listener = bind(config.listen, "--listen").await?;
    let probes = bind(config.http_addr, "--http-addr").await?;
    let (tls, ready) = Certificate::watch(config.certificate_dir);
    tokio::spawn(http::serve_when(probes, metrics.clone(), ready));
    tracing::info!(listen = %listener.local_addr()?, image = config.node_image, "webhook");
    let webhook = Arc::new(Webhook { image: config.node_image, client, metrics });
    let leave = async {
        terminated.cancelled().await;
        tokio::time::sleep(LEAVE).await;
    };
    let open = GracefulShutdown::new();
    tokio::select! {
        () = accept(&listener, &tls, &webhook, &open) => {}
        () = leave => {}
    }
    drop(listener);
    tokio::select! {
        () = open.shutdown() => {}
        () = tokio::time::sleep(FINISH) => tracing::warn!("requests are left unanswered"),
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    tls: &watch::Receiver<Option<Arc<ServerConfig>>>,
    webhook: &Arc<Webhook>,
    open: &GracefulShutdown,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = http::accept(listener).await;
        let Some(config) = tls.borrow().clone() else { continue };
        let (webhook, watcher) = (webhook.clone(), open.watcher());
        tokio::spawn(async move {
            let Some(stream) = handshake(stream, config).await else { return };
            let service = service_fn(move |request| {
                let webhook = webhook.clone();
                async move { Ok::<_, Infallible>(webhook.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
}

async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(REQUEST_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::warn!(%error, "TLS handshake; if it repeats, the API server does not trust the certificate");
            None
        }
        Err(_) => None,
    }
}

struct Webhook {
    image: String,
    client: Client,
    metrics: Metrics,
}

impl Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST || request.uri().path() != PATH {
            return http::text(StatusCode::NOT_FOUND, format!("try POST {PATH}\n"));
        }
        let body = Limited::new(request.into_body(), MAX_REQUEST_BYTES).collect();
        let body = match tokio::time::timeout(REQUEST_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return http::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            Err(_) => {
                return http::text(StatusCode::REQUEST_TIMEOUT, "the request is not complete\n".to_owned());
            }
        };
        let answer = match serde_json::from_slice::<AdmissionReview<Pod>>(&body) {
            Ok(review) => self.review(review).await,
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(answer) => {
                let mut response = Response::new(Full::from(answer));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(error) => {
                http::text(StatusCode::BAD_REQUEST, format!("no AdmissionReview of a pod: {error}\n"))
            }
        }
    }

    async fn review(&self, review: AdmissionReview<Pod>) -> Result<Vec<u8>, String> {
        let request: AdmissionRequest<Pod> = review.try_into().map_err(|_| "it has no request".to_owned())?;
        let response = AdmissionResponse::from(&request);
        let pod = request.object.as_ref().ok_or("it has no object")?;
        // A pod that a controller creates has its namespace in the request only.
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let changes = match asked(pod) {
            Asked::Nothing => Ok(None),
            Asked::Impossible(reason) => Err(reason),
            Asked::Sidecar { client, spec } => {
                let settings = self.settings(namespace, client).await;
                settings.map(|settings| Some(patch(client, spec, &self.image, settings)))
            }
        };
        let (result, response) = match changes {
            Ok(None) => ("skipped", response),
            Ok(Some(patch)) => ("injected", response.with_patch(patch).map_err(|error| error.to_string())?),
            Err(reason) => {
                tracing::info!(namespace, pod = request.name, reason, "refused");
                ("refused", response.deny(reason))
            }
        };
        self.metrics.injection(result);
        serde_json::to_vec(&response.into_review()).map_err(|error| error.to_string())
    }

    /// Reads the settings of the sidecars of a HeliosClient. They are not cached: a HeliosClient and its pods may be created
    /// at once, and a wrong mode would stay for the life of the pod.
    async fn settings(&self, namespace: &str, name: &str) -> Result<SidecarSettings, String> {
        let api = Api::<HeliosClient>::namespaced(self.client.clone(), namespace);
        let cannot = |why: String| {
            format!(
                "HeliosClient {name} of namespace {namespace} cannot be read: {why}; controllers try again"
            )
        };
        match tokio::time::timeout(READ_TIMEOUT, api.get_opt(name)).await {
            Ok(Ok(Some(found))) => found
                .spec
                .sidecar()
                .map_err(|why| format!("HeliosClient {name} of namespace {namespace}: {why}")),
            Ok(Ok(None)) => Err(format!(
                "there is no HeliosClient {name} in namespace {namespace}; create it, or correct the label {INJECT_LABEL}; \
                 controllers try again"
            )),
            Ok(Err(error)) => Err(cannot(innermost(&error))),
            Err(_) => Err(cannot(format!("no answer of the API server within {} s", READ_TIMEOUT.as_secs()))),
        }
    }
}

/// The certificate in a mounted Secret, read again periodically.
struct Certificate {
    dir: PathBuf,
    held: Option<(Vec<u8>, Vec<u8>)>,
    /// So that one reason is logged once.
    failure: Option<String>,
}

impl Certificate {
    /// Returns the configuration of new connections, and whether there is one. A certificate that cannot be used leaves the
    /// present one in use.
    fn watch(dir: PathBuf) -> (watch::Receiver<Option<Arc<ServerConfig>>>, watch::Receiver<bool>) {
        let (tls, tls_now) = watch::channel(None);
        let (ready, ready_now) = watch::channel(false);
        let mut certificate = Self { dir, held: None, failure: None };
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(RELOAD_EVERY);
            loop {
                interval.tick().await;
                match certificate.load().await {
                    Ok(None) => {}
                    Ok(Some(config)) => {
                        tracing::info!("certificate loaded");
                        tls.send_replace(Some(config));
                        ready.send_replace(true);
                        certificate.failure = None;
                    }
                    Err(error) => certificate.failed(format!("{error:#}")),
                }
                if tls.is_closed() {
                    return;
                }
            }
        });
        (tls_now, ready_now)
    }

    fn failed(&mut self, reason: String) {
        if self.failure.as_ref() != Some(&reason) {
            tracing::warn!(reason, "certificate not loaded; the operator writes it, see its log");
            self.failure = Some(reason);
        }
    }

    async fn load(&mut self) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        let read = async |name: &str| {
            let path = Path::new(&self.dir).join(name);
            tokio::fs::read(&path).await.with_context(|| path.display().to_string())
        };
        let found = (read(CERTIFICATE).await?, read(KEY).await?);
        if self.held.as_ref() == Some(&found) {
            return Ok(None);
        }
        let config = server_config(&found.0, &found.1)?;
        self.held = Some(found);
        Ok(Some(Arc::new(config)))
    }
}

fn server_config(certificate: &[u8], key: &[u8]) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(private_key(key)?)?;
    let certified = CertifiedKey::new(certificates(certificate)?, key);
    // The two files of a Secret change together; this is for directories that are written by hand.
    certified.keys_match().context("certificate and key do not belong together")?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified))))
}
