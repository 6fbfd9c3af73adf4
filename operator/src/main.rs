//! The operator's process: one lease, one controller for each watched namespace.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use futures::future::{self, join_all};
use helios_operator::config::{Arguments, Command, Config, WebhookConfig};
use helios_operator::controller::{self, Context};
use helios_operator::lease::Holder;
use helios_operator::metrics::Metrics;
use helios_operator::observe::Hosts;
use helios_operator::validate::Defaults;
use helios_operator::{backups, clients, events, http, injection};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::runtime::events::Recorder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tower::util::MapRequestLayer;
use tracing_subscriber::EnvFilter;

/// Time for reconciles that have begun when the process is terminated; less than the 30 s that
/// Kubernetes gives, and more than the slowest step.
const LAST_RECONCILES: Duration = Duration::from_secs(20);

/// Reports of one controller that wait for another one; more are dropped.
const REPORTS: usize = 256;

const NO_KUBERNETES: &str = "no Kubernetes to talk to; run in a pod or set KUBECONFIG";

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, operator } = Arguments::parse();
    let ended = match command {
        None => run(operator).await,
        Some(Command::Webhook(config)) => webhook(config).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("helios-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts logging and TLS.
fn begin(log: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(log).context("--log is not a filter; write info or debug")?;
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Fails only if a provider is installed already, and then there is one.
    _ = rustls::crypto::ring::default_provider().install_default();
    Ok(())
}

async fn webhook(config: WebhookConfig) -> anyhow::Result<()> {
    begin(&config.log)?;
    let mut terminated = signal(SignalKind::terminate())?;
    let ending = CancellationToken::new();
    let when = ending.clone();
    tokio::spawn(async move {
        stop(&mut terminated).await;
        when.cancel();
    });
    let metrics = Metrics::new();
    let client = client(metrics.clone()).await.context(NO_KUBERNETES)?;
    injection::serve::run(config, client, metrics, ending).await
}

async fn run(config: Config) -> anyhow::Result<()> {
    begin(&config.log)?;
    let listener = TcpListener::bind(config.http_addr)
        .await
        .with_context(|| format!("cannot listen on {}; choose another --http-addr", config.http_addr))?;
    let metrics = Metrics::new();
    let client = client(metrics.clone()).await.context(NO_KUBERNETES)?;
    tokio::spawn(http::serve(listener, metrics.clone()));

    let identity = config.identity.clone().unwrap_or_else(identity);
    let namespace = config.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let defaults = Defaults { node_image: config.node_image.clone(), operator_namespace: namespace.clone() };
    let mut lease = Holder::new(client.clone(), &namespace, config.lease_name.clone(), identity.clone());
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        () = lease.acquire() => {}
        () = stop(&mut terminated) => return Ok(()),
    }
    tracing::info!(identity, "leading");
    metrics.set_leading(true);
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), events::reporter(&identity)),
        hosts: Hosts::watch(client.clone()),
        client,
        metrics,
        defaults,
        fence: lease.fence(),
        stores: broadcast::channel(REPORTS).0,
        drills: broadcast::channel(REPORTS).0,
    });
    let injection = inject(&context, &config);
    let ending = CancellationToken::new();
    // A step that is half way must not meet another process's: the controllers go before the lease.
    let mut controllers = Box::pin(control(context, config.namespace, ending.clone()));
    tokio::select! {
        () = &mut controllers => anyhow::bail!("the watches ended"),
        () = injection => anyhow::bail!("the injection of sidecars ended"),
        why = lease.keep() => anyhow::bail!(why),
        () = stop(&mut terminated) => ending.cancel(),
    }
    tokio::select! {
        () = &mut controllers => {}
        why = lease.keep() => anyhow::bail!(why),
        () = tokio::time::sleep(LAST_RECONCILES) => tracing::warn!("ending in the middle of a reconcile"),
    }
    drop(controllers);
    lease.release().await;
    Ok(())
}

/// A client of the API server that counts its requests, and makes each once. A request that is refused for now ends its
/// reconcile, and the next one decides again from its own observation: an eviction that a budget holds must not be repeated
/// for minutes and then take effect on a plan that is as old.
async fn client(metrics: Metrics) -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    let count = MapRequestLayer::new(move |request: hyper::Request<Body>| {
        metrics.request(&request);
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&count).build())
}

async fn control(context: Arc<Context>, namespaces: Vec<String>, ending: CancellationToken) {
    let all = |namespace: Option<String>| {
        future::join(
            controller::run(context.clone(), namespace.clone(), ending.clone()),
            backups::run(context.clone(), namespace, ending.clone()),
        )
    };
    // One for all: a HeliosClient may be in another namespace than its cluster.
    let clients = clients::run(context.clone(), namespaces.clone(), ending.clone());
    if namespaces.is_empty() {
        future::join(all(None), clients).await;
        return;
    }
    future::join(join_all(namespaces.into_iter().map(|namespace| all(Some(namespace)))), clients).await;
}

/// Keeps the certificate of the webhook, and looks for pods without their sidecar.
fn inject(context: &Context, config: &Config) -> impl Future<Output = ()> + use<> {
    let webhook = config.injection_webhook.clone().map(|name| {
        let namespace = context.defaults.operator_namespace.clone();
        injection::keep::run(context.client.clone(), injection::keep::Webhook { namespace, name })
    });
    let watchdog = config.injection_watchdog.then(|| {
        injection::watchdog::run(context.client.clone(), config.namespace.clone(), context.metrics.clone())
    });
    async move {
        match (webhook, watchdog) {
            (None, None) => future::pending().await,
            (webhook, watchdog) => {
                future::join(future::OptionFuture::from(webhook), future::OptionFuture::from(watchdog)).await;
            }
        }
    }
}

async fn stop(terminated: &mut tokio::signal::unix::Signal) {
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    format!("{host}-{}", std::process::id())
}
