//! A million keys in heliosd: their memory and disk use, and the time of a restart.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::cluster::{Cluster, HeliosdOptions, Programs};
use crate::load::user_bytes;
use crate::pipeline::{CONNECTIONS, PIPELINE, write_all};
use crate::ports::Ports;
use crate::report::Table;
use crate::stats::{Spread, short};
use crate::wait_for;

const READY_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Million")]
#[group(skip)]
pub struct Options {
    /// Number of keys to load
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    million: u64,
    /// Number of measurements of each kind of restart
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    restarts: u32,
}

pub async fn measure(
    options: &Options,
    programs: &Programs,
    dir: &Path,
    ports: &mut Ports,
) -> Result<String> {
    let heliosd = HeliosdOptions::default();
    let mut cluster = Cluster::heliosd(programs, &dir.join("million"), ports, &heliosd).await?;
    eprintln!("loading {} keys", options.million);
    let started = Instant::now();
    write_all(&cluster, options.million).await?;
    let loaded_in = started.elapsed();
    let after_load = memory_and_disk(&cluster)?;
    let mut restarts = Table::new(["restart", "median s", "max s"]);
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::KILL, "SIGKILL")] {
        eprintln!("restarting followers after {name}");
        let mut times = Vec::new();
        for _ in 0..options.restarts {
            times.push(restart_follower(&mut cluster, signal).await?.as_secs_f64());
        }
        restarts.row(timed(format!("a follower, after {name}"), times));
    }
    eprintln!("restarting all");
    let mut times = Vec::new();
    for _ in 0..options.restarts {
        cluster.kill().await?;
        let started = Instant::now();
        cluster.settle().await?;
        times.push(started.elapsed().as_secs_f64());
    }
    restarts.row(timed("all three, after SIGKILL; with the election".to_owned(), times));
    let after_restart = memory_and_disk(&cluster)?;
    let user_bytes = user_bytes(options.million);
    Ok(format!(
        "## {} keys in heliosd\n\n\
         Keys and values are {} MiB. {CONNECTIONS} connections with {PIPELINE} SETs in each pipeline loaded them in {} s ({} a second). \
         MiB of each member, the leader among them:\n\n{}\n\
         From the start of the process to `/readyz`:\n\n{restarts}",
        options.million,
        user_bytes >> 20,
        short(loaded_in.as_secs_f64()),
        short(options.million as f64 / loaded_in.as_secs_f64()),
        sizes(&[("after the load", after_load), ("after all were restarted", after_restart)]),
    ))
}

async fn restart_follower(cluster: &mut Cluster, signal: Signal) -> Result<Duration> {
    let follower = (cluster.leader().await? + 1) % cluster.members.len();
    let member = &mut cluster.members[follower];
    member.server.end(signal).await?;
    let started = Instant::now();
    member.server.start()?;
    wait_for(READY_PATIENCE, "a restarted member that is ready", async || {
        member.server.ensure_alive()?;
        Ok(member.is_ready().await.then_some(()))
    })
    .await?;
    Ok(started.elapsed())
}

/// Sizes of each member, in bytes.
struct Sizes {
    resident: Vec<f64>,
    most_resident: Vec<f64>,
    disk: Vec<f64>,
}

fn memory_and_disk(cluster: &Cluster) -> Result<Sizes> {
    let mut sizes = Sizes { resident: Vec::new(), most_resident: Vec::new(), disk: Vec::new() };
    for member in &cluster.members {
        let memory = member.server.memory().context("memory of a member")?;
        sizes.resident.push(memory.resident as f64);
        sizes.most_resident.push(memory.most_resident as f64);
        sizes.disk.push(member.server.disk() as f64);
    }
    Ok(sizes)
}

fn sizes(moments: &[(&str, Sizes)]) -> Table<4> {
    let mut table = Table::new(["", "resident", "most resident", "disk"]);
    for (moment, Sizes { resident, most_resident, disk }) in moments {
        let text = |bytes: &[f64]| {
            let mib = bytes.iter().map(|bytes| bytes / f64::from(1 << 20));
            Spread::of(mib).map_or_else(String::new, |spread| spread.to_string())
        };
        table.row([(*moment).to_owned(), text(resident), text(most_resident), text(disk)]);
    }
    table
}

fn timed(what: String, seconds: Vec<f64>) -> [String; 3] {
    let spread = Spread::of(seconds);
    let text = |figure: fn(Spread) -> f64| spread.map_or_else(String::new, |spread| short(figure(spread)));
    [what, text(|spread| spread.median), text(|spread| spread.max)]
}
