//! `make bench`: compares heliosd, etcd and Redis, on one disk, by the same client, in turns. `make bench-scale`:
//! measures the costs of heliosd at a number of keys; the part `backup` those of backups, the part `sidecar` those of
//! replicas outside of the cluster.

mod backup;
mod cgroup;
mod client;
mod cluster;
mod gap;
mod http;
mod load;
mod machine;
mod million;
mod pipeline;
mod ports;
mod report;
mod scale;
mod server;
mod sidecar;
mod speed;
mod stats;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cluster::Programs;
use crate::ports::Ports;
use crate::report::Report;

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    programs: Programs,
    /// Parts to measure: speed, gap, million, scale, backup, sidecar
    #[arg(long, value_delimiter = ',', default_value = "speed,gap")]
    parts: Vec<Part>,
    #[command(flatten)]
    speed: speed::Options,
    #[command(flatten)]
    gap: gap::Options,
    #[command(flatten)]
    million: million::Options,
    #[command(flatten)]
    scale: scale::Options,
    #[command(flatten)]
    backup: backup::Options,
    #[command(flatten)]
    sidecar: sidecar::Options,
    /// Number of keys of the parts speed, scale, backup and sidecar; by default 100000, 5000000, 1 GiB and 10 MB of keys and values. All exist before the first measurement
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    /// Directory for the members' data during the run; not in memory
    #[arg(long, env = "HELIOS_BENCH_DIR", default_value = ".", hide_env = true)]
    dir: PathBuf,
    /// Write the report to this file, too
    #[arg(long)]
    report: Option<PathBuf>,
    /// Line for the report: other load on the machine
    #[arg(long)]
    note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Throughput and latency
    Speed,
    /// Time without an acknowledged write when the leader ends
    Gap,
    /// A million keys: memory, disk, restart
    Million,
    /// Costs of heliosd at a number of keys
    Scale,
    /// Costs of backups: for writers, in age, in time
    Backup,
    /// The sidecar in Replica mode: local reads, a cut, many of them at once
    Sidecar,
}

impl Part {
    fn has_peers(self) -> bool {
        matches!(self, Self::Speed | Self::Gap)
    }
}

/// The client has one thread, because the members need the cores.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = tokio::select! {
        result = run(&args) => result,
        () = stop_signal() => Err(anyhow::anyhow!("stopped by a signal")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("helios-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("helios-bench-")
        .tempdir_in(&args.dir)
        .with_context(|| format!("a directory in {}", args.dir.display()))?;
    let mut ports = Ports::new();
    // The report is created before the measurement, so that an unwritable path does not cost the figures.
    let mut file = args.report.as_deref().map(create).transpose()?;
    let has_peers = args.parts.iter().any(|part| part.has_peers());
    let machine = machine::description(&args.programs, dir.path(), has_peers)?;
    let mut report = Report::new(has_peers, machine, args.note.as_deref());
    for part in &args.parts {
        let section = match part {
            Part::Speed => {
                speed::measure(&args.speed, args.keys, &args.programs, dir.path(), &mut ports).await?
            }
            Part::Gap => gap::measure(&args.gap, &args.programs, dir.path(), &mut ports).await?,
            Part::Million => million::measure(&args.million, &args.programs, dir.path(), &mut ports).await?,
            Part::Scale => {
                scale::measure(&args.scale, args.keys, &args.programs, dir.path(), &mut ports).await?
            }
            Part::Backup => {
                backup::measure(&args.backup, args.keys, &args.programs, dir.path(), &mut ports).await?
            }
            Part::Sidecar => {
                sidecar::measure(&args.sidecar, args.keys, &args.programs, dir.path(), &mut ports).await?
            }
        };
        println!("{section}");
        report.push(section);
    }
    if let Some(file) = &mut file {
        file.write_all(report.text().as_bytes()).context("cannot write the report")?;
    }
    Ok(())
}

fn create(report: &Path) -> Result<File> {
    let parent = report.parent().unwrap_or(report);
    fs::create_dir_all(parent).with_context(|| format!("directory {}", parent.display()))?;
    File::create(report).with_context(|| format!("report {}", report.display()))
}

/// Waits for SIGINT or SIGTERM. The members are child processes that end when their values are dropped; an
/// unhandled signal would skip that.
async fn stop_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Prints a line of progress with the time of day.
fn say(line: &str) {
    eprintln!("{} {line}", jiff::Zoned::now().strftime("%H:%M:%S%.3f"));
}

/// Polls until `poll` returns a value; an error when that takes longer than `patience`.
async fn wait_for<T>(
    patience: Duration,
    what: &str,
    mut poll: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    const POLL_PAUSE: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = poll().await? {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Args;

    #[test]
    fn options_of_the_parts_do_not_contradict_each_other() {
        Args::command().debug_assert();
    }
}
