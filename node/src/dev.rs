//! `heliosd dev`: a cluster in one process, for a laptop without Kubernetes.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::{Config, DevArgs, InitialMember, Settings};
use crate::scratch::ScratchDir;
use crate::{logging, memory};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Default log filter. The members start one after another, so each first cannot reach the next: that is not worth a
/// warning.
const DEFAULT_LOG_FILTER: &str = "warn,helios_node::peer=error";
/// WAL segment size: members on a laptop need no segments of 64 MiB.
const SEGMENT_BYTES: u64 = 16 << 20;
const BASE_PEER_PORT: u16 = 7000;
const BASE_CLIENT_PORT: u16 = 6379;

/// Runs the cluster until Ctrl-C or SIGTERM.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let _written = logging::start(
        &std::env::var("LOG_LEVEL").unwrap_or_else(|_| DEFAULT_LOG_FILTER.into()),
        false,
        None,
    )?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let scratch = match args.data_dir {
        Some(_) => None,
        None => Some(ScratchDir::new("dev")?),
    };
    let data_dir = match (&args.data_dir, &scratch) {
        (Some(dir), _) => dir.clone(),
        (None, Some(scratch)) => scratch.path().to_owned(),
        (None, None) => unreachable!("one of the two was made above"),
    };
    let mut apps = Vec::new();
    let mut gateway = None;
    for index in 0..args.members {
        let settings = member_settings(&args, &data_dir, index)?;
        gateway = gateway.or(settings.listen_gateway);
        apps.push(App::start(settings).await.with_context(|| format!("member node-{}", index + 1))?);
    }
    let ready = async {
        for app in &apps {
            app.node().ready().await;
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        waited = tokio::time::timeout(READY_TIMEOUT, ready) => {
            waited.context("the members did not elect a leader in time")?;
            banner(&args, &data_dir, gateway);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                reason = any_failed(&apps) => anyhow::bail!(reason),
            }
        }
    }
    eprintln!("stopping");
    futures::future::join_all(apps.into_iter().map(App::stop)).await;
    Ok(())
}

async fn any_failed(apps: &[App]) -> String {
    let failures = apps.iter().map(|app| Box::pin(async { app.node().failed().await }));
    futures::future::select_all(failures).await.0
}

fn member_settings(args: &DevArgs, data_dir: &Path, index: u16) -> anyhow::Result<Settings> {
    let offset = args.port.saturating_sub(BASE_CLIENT_PORT);
    let peer = |index: u16| format!("127.0.0.1:{}", BASE_PEER_PORT + offset + index);
    let name = |index: u16| format!("node-{}", index + 1);
    let mut config = Config::default();
    config.node.name = name(index);
    config.node.data_dir = data_dir.join(name(index)).display().to_string();
    config.node.initial_members =
        (0..args.members).map(|index| InitialMember { name: name(index), address: peer(index) }).collect();
    config.listen.client = format!("127.0.0.1:{}", args.port + index);
    config.listen.peer = peer(index);
    config.raft.segment_bytes = Some(SEGMENT_BYTES);
    if let Some(limit_bytes) = memory::limit_bytes() {
        config.fit_memory(limit_bytes / u64::from(args.members));
    }
    // The default ports of the other services move with the client port.
    Ok(config.try_into()?)
}

fn banner(args: &DevArgs, data_dir: &Path, gateway: Option<SocketAddr>) {
    let kept = if args.data_dir.is_some() { "kept" } else { "removed at the end; --data-dir keeps it" };
    // The reader of the pipe may be gone.
    _ = writeln!(
        std::io::stdout(),
        "{members} members are up. Data: {dir} ({kept}). Ctrl-C stops them.\n\nTry:\n  \
         redis-cli -p {first} SET hello world\n  \
         redis-cli -p {last} GET hello\n  \
         curl 'http://{gateway}/status'",
        members = args.members,
        dir = data_dir.display(),
        first = args.port,
        last = args.port + args.members - 1,
        gateway = gateway.map_or_else(String::new, |address| address.to_string()),
    );
}
