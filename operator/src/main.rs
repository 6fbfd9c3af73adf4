//! The operator's process: one lease, one controller for each watched namespace.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use futures::future::join_all;
use helios_operator::config::Config;
use helios_operator::controller::{self, Context};
use helios_operator::http;
use helios_operator::lease::Holder;
use helios_operator::metrics::Metrics;
use helios_operator::observe::Hosts;
use helios_operator::validate::Defaults;
use kube::Client;
use kube::runtime::events::Recorder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("helios-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("--log is not a filter; write info or debug")?;
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Fails only if a provider is installed already, and then there is one.
    _ = rustls::crypto::ring::default_provider().install_default();

    let listener = TcpListener::bind(config.http_addr)
        .await
        .with_context(|| format!("cannot listen on {}; choose another --http-addr", config.http_addr))?;
    let client =
        Client::try_default().await.context("no Kubernetes to talk to; run in a pod or set KUBECONFIG")?;
    let metrics = Metrics::new();
    tokio::spawn(http::serve(listener, metrics.clone()));

    let identity = config.identity.clone().unwrap_or_else(identity);
    let namespace = config.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let mut lease = Holder::new(client.clone(), &namespace, config.lease_name.clone(), identity.clone());
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        () = lease.acquire() => {}
        () = stop(&mut terminated) => return Ok(()),
    }
    tracing::info!(identity, "leading");
    metrics.set_leading(true);
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), controller::reporter(&identity)),
        hosts: Hosts::watch(client.clone()),
        client,
        metrics,
        defaults: Defaults { node_image: config.node_image.clone() },
    });
    let stopped = tokio::select! {
        () = control(context, config.namespace) => Err(anyhow::anyhow!("the watches ended")),
        why = lease.keep() => Err(anyhow::anyhow!(why)),
        () = stop(&mut terminated) => Ok(()),
    };
    // The controllers are gone by now, so whoever takes over meets no step of ours.
    if stopped.is_ok() {
        lease.release().await;
    }
    stopped
}

async fn control(context: Arc<Context>, namespaces: Vec<String>) {
    if namespaces.is_empty() {
        return controller::run(context, None).await;
    }
    join_all(namespaces.into_iter().map(|namespace| controller::run(context.clone(), Some(namespace)))).await;
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
