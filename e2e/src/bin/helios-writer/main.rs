//! Load generator: writes at a steady rate to a Redis server, remembers every acknowledged write, and at the
//! end reads all of them back. Beside the load a few witness clients check linearizability. Runs as a pod
//! beside a cluster, or anywhere else. It knows nothing of HeliosDB.

mod check;
mod control;
mod link;
mod load;
mod tally;
mod witness;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser};
use helios_e2e::report::{EXIT_LOST, Report};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::link::{Link, Server};
use crate::load::Load;
use crate::tally::Tally;
use crate::witness::witness;

/// Writes to a Redis server and reports the fate of every write.
#[derive(Parser)]
#[command(name = "helios-writer", version)]
enum Command {
    /// Write until SIGTERM, SIGINT or POST /stop; then read back every acknowledged write and print a report
    ///
    /// Exit code 0: all were read back. 3: one was missing, wrong or unreadable, or the answers are not
    /// linearizable.
    Run(RunArgs),
    /// Set one key, get it back, and fail when it is not the same
    SetGet(SetGetArgs),
}

#[derive(Args)]
struct Login {
    /// Password that the server requires; the variable is the same as redis-cli's
    #[arg(long, env = "REDISCLI_AUTH", hide_env_values = true)]
    password: Option<String>,
}

#[derive(Args)]
struct RunArgs {
    /// Server, as HOST:PORT
    #[arg(long)]
    addr: Server,
    #[command(flatten)]
    login: Login,
    /// Connections that write at the same time, each one write after another
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Writes per second of all workers together; 0 for as many as the server takes
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Time for which a write is retried before it counts as failed, e.g. 1s or 500ms
    #[arg(long, default_value = "1s", value_parser = duration)]
    retry_for: Duration,
    /// Prefix of every key; must differ between writers to the same server
    #[arg(long, default_value = "writer")]
    prefix: String,
    /// Listener of GET /report, POST /mark, POST /await/WRITES and POST /stop, as HOST:PORT
    #[arg(long)]
    control: Option<SocketAddr>,
}

#[derive(Args)]
struct SetGetArgs {
    /// Server, as HOST:PORT
    #[arg(long)]
    addr: Server,
    #[command(flatten)]
    login: Login,
    /// Time for which to retry, e.g. 10s
    #[arg(long, default_value = "10s", value_parser = duration)]
    retry_for: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Duration::try_from(span).map_err(|_| "write a time above zero, e.g. 1s".to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Run(args) => run(args).await,
        Command::SetGet(args) => set_get(args).await,
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let tally = Arc::new(Tally::default());
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    if let Some(address) = args.control {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        eprintln!("control on {}", listener.local_addr()?);
        tokio::spawn(control::serve(listener, Arc::clone(&tally), stop.clone()));
    }
    let server = args.addr.with_password(args.login.password);
    let load = Load { server, prefix: args.prefix, rate: args.rate, retry_for: args.retry_for };
    let (written, witnessed) = tokio::join!(
        load.run(args.workers, &tally, &stop),
        witness(load.server.clone(), &load.prefix, &stop)
    );
    let finding = check::read_back(Link::new(load.server), &load.prefix, &written).await;
    let report = Report {
        window: tally.total(),
        missing: finding.missing,
        wrong: finding.wrong,
        unread: finding.unread,
        examples: finding.examples,
        witnessed,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(if report.is_intact() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_LOST) })
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot listen for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}

async fn set_get(args: SetGetArgs) -> anyhow::Result<ExitCode> {
    let server = args.addr.to_string();
    let key = format!("set-get:{:016x}", rand::random::<u64>());
    let value = format!("{:016x}", rand::random::<u64>());
    let mut link = Link::new(args.addr.with_password(args.login.password));
    let deadline = tokio::time::Instant::now() + args.retry_for;
    link.persist::<()>(&link::set(&key, &value, Some(Duration::from_secs(60))), deadline)
        .await
        .with_context(|| format!("SET through {server}"))?;
    let got: Option<String> = link
        .persist(redis::cmd("GET").arg(&key), deadline)
        .await
        .with_context(|| format!("GET through {server}"))?;
    ensure!(
        got.as_deref() == Some(value.as_str()),
        "{server} was given {value} for {key} and returned {got:?}"
    );
    println!("{server} returned what it was given");
    Ok(ExitCode::SUCCESS)
}
