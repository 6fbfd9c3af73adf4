//! The program `heliosd sidecar`. Exit codes: 0 stopped by a signal, 78 unusable configuration (EX_CONFIG), 1 any other
//! failure.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use helios_service::client_memory::ClientMemory;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::{ConfigError, HostPort, Mode, SidecarArgs};
use crate::connection::Shared;
use crate::contact;
use crate::http::{self, Probes};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::replica::link::Link;
use crate::replica::{Replica, pulse};
use crate::secret::{Files, Identity};
use crate::server::{self, Listeners};
use crate::upstream::Dialer;

const EX_CONFIG: u8 = 78;
const WORKERS: usize = 2;
/// The age of the state is confirmed so many times within its limit, and at least this often, milliseconds.
const BEATS: u64 = 5;
const MAX_BEAT_MS: u64 = 200;
/// Time that blocking tasks, as the resolution of a name, get after everything else has stopped.
const BLOCKING_STOP_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs `heliosd sidecar` with the arguments after these two words.
pub fn sidecar(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // The name of the program, which clap leaves out.
    let args = match SidecarArgs::try_parse_from(std::iter::once(OsString::new()).chain(args)) {
        Ok(args) => args,
        Err(error) => {
            let is_usage = error.use_stderr();
            drop(error.print());
            return if is_usage { EX_CONFIG.into() } else { ExitCode::SUCCESS };
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal());
    // A second subscriber of one process is a test's.
    drop(log.with_writer(std::io::stderr).try_init());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("the async runtime does not start: {error}")),
    };
    let ended = runtime.block_on(run(&args));
    runtime.shutdown_timeout(BLOCKING_STOP_TIMEOUT);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(ConfigError(message)) => fail(EX_CONFIG, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("heliosd sidecar: {message}");
    ExitCode::from(code)
}

async fn run(args: &SidecarArgs) -> Result<(), ConfigError> {
    let hosts = args.checked()?;
    let followed = args.followed(&hosts)?;
    let files = Files::of(args);
    let identity = Arc::new(watch::Sender::new(Arc::new(files.read()?)));
    let listeners = Listeners::bind(&args.listen, args.unix_socket.as_deref()).await?;
    let probes = match args.metrics_address()? {
        Some(address) => Some(server::bind("--metrics-listen", address).await?),
        None => None,
    };
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;

    let members = Arc::new(Members::new(hosts, args.cut_off_after()));
    let metrics = Arc::new(Metrics::new());
    let dialer = || Dialer {
        members: Arc::clone(&members),
        identity: identity.subscribe(),
        server_name: args.tls_server_name.clone(),
    };
    let replica = (args.mode == Mode::Replica).then(|| {
        let replica = Arc::new(Replica::new(args.rules()));
        metrics.register_replica(&replica);
        replica
    });
    let shared = Arc::new(Shared {
        dialer: dialer(),
        members: Arc::clone(&members),
        metrics: Arc::clone(&metrics),
        replica: replica.clone(),
        memory: ClientMemory::new(args.memory_limits(), metrics.rejections.clone()),
        max_request_bytes: args.max_request_bytes,
        idle_timeout: (args.idle_seconds > 0).then(|| Duration::from_secs(args.idle_seconds)),
        fence: format!("helios-sidecar-{:016x}", rand::random::<u64>()),
        stop: stop.clone(),
    });
    members.resolve().await;
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(listener) = probes {
        let probes =
            Probes { members: Arc::clone(&members), metrics, replica: replica.clone(), stop: stop.clone() };
        tasks.spawn(http::serve(listener, probes));
    }
    tasks.spawn(files.watch(Arc::clone(&identity), stop.clone()));
    tasks.spawn(contact::watch(dialer()));
    if let Some(replica) = replica {
        tasks.spawn(link(args, followed, Arc::clone(&replica), identity.subscribe()).run());
        let every = Duration::from_millis((args.max_staleness_ms / BEATS).min(MAX_BEAT_MS));
        tasks.spawn(pulse::beat(dialer(), replica, every));
    }
    let watched = Arc::clone(&members);
    let until = stop.clone();
    tasks.spawn(async move { watched.watch(until).await });
    tracing::info!(listen = ?args.listen, "serving the application");
    let grace = Duration::from_millis(args.grace_ms);
    server::serve(listeners, shared, args.max_clients, grace).await;
    tasks.shutdown().await;
    if let Some(path) = &args.unix_socket {
        // The next process removes it if this one cannot.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn link(
    args: &SidecarArgs,
    followed: Vec<HostPort>,
    replica: Arc<Replica>,
    identity: watch::Receiver<Arc<Identity>>,
) -> Link {
    let cut_off_after = Duration::from_millis(args.cut_off_after_ms);
    Link {
        replica,
        members: Arc::new(Members::new(followed, cut_off_after)),
        identity,
        server_name: args.tls_server_name.clone(),
        prefixes: args.prefix.iter().map(|prefix| prefix.clone().into()).collect(),
        limit_bytes: args.replica_memory_bytes,
    }
}

fn stop_on_signals(stop: &CancellationToken) -> Result<(), ConfigError> {
    let failed = |error| ConfigError(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}
