//! Write gap: the time without an acknowledged write after the leader ends, and the number of acknowledged
//! writes lost.

mod writers;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::client::Protocol;
use crate::cluster::{Cluster, EtcdTiming, HeliosdOptions, Programs};
use crate::ports::Ports;
use crate::report::Table;
use crate::stats::{Spread, short};
use writers::{Writers, Written};

/// Time for which all members run before a leader is ended, beyond the minimum election timeout: for that
/// timeout after its start a member neither votes nor campaigns.
const SETTLED: Duration = Duration::from_millis(200);
/// Number of writes to be acknowledged before the leader ends, and again after its process is gone. Each
/// takes about a second, so that a second gap is seen, too.
const WRITES: usize = 800;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Gap")]
#[group(skip)]
pub struct Options {
    /// Timing presets of heliosd
    #[arg(long, value_delimiter = ',', default_value = "fast,lan,wan", value_parser = ["fast", "lan", "wan"])]
    presets: Vec<String>,
    /// Timings of etcd: default (100/1000 ms), tuned (25/150 ms); none to leave it out
    #[arg(long, value_delimiter = ',', default_value = "default")]
    etcd_timings: Vec<EtcdChoice>,
    /// Number of times the leader of heliosd is ended by each signal
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    gap_rounds: u32,
    /// gap-rounds for etcd; by default the same number
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    etcd_gap_rounds: Option<u32>,
}

/// A cluster, with its name in the report.
struct Subject {
    name: String,
    cluster: Cluster,
    protocol: Protocol,
    /// Minimum election timeout.
    election: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EtcdChoice {
    Default,
    Tuned,
    None,
}

/// Runs of one cluster with one signal.
struct Results {
    name: String,
    signal: &'static str,
    runs: Vec<Run>,
}

struct Run {
    /// Longest time between two acknowledged writes, the later one after the signal.
    gap: Duration,
    /// Longest such time before the signal: the noise of the machine and the disk.
    calm: Duration,
    acknowledged: usize,
    lost: usize,
}

pub async fn measure(
    options: &Options,
    programs: &Programs,
    dir: &Path,
    ports: &mut Ports,
) -> Result<String> {
    let dir = dir.join("gap");
    let mut results = Vec::new();
    for preset in &options.presets {
        let name = format!("heliosd {preset}");
        let heliosd = HeliosdOptions { preset: preset.clone(), ..HeliosdOptions::default() };
        let cluster = Cluster::heliosd(programs, &dir.join(preset), ports, &heliosd).await?;
        let election = match &**preset {
            "fast" => 150,
            "lan" => 300,
            _ => 2_500,
        };
        let election = Duration::from_millis(election);
        let subject = Subject { name, cluster, protocol: Protocol::Redis, election };
        results.extend(end_leaders(subject, options.gap_rounds).await?);
    }
    let rounds = options.etcd_gap_rounds.unwrap_or(options.gap_rounds);
    for choice in &options.etcd_timings {
        let timing = match choice {
            EtcdChoice::Default => EtcdTiming::DEFAULT,
            EtcdChoice::Tuned => EtcdTiming::TUNED,
            EtcdChoice::None => continue,
        };
        let name = format!("etcd {}/{}", timing.heartbeat_ms, timing.election_ms);
        let cluster = Cluster::etcd(programs, &dir.join(name.replace('/', "-")), ports, timing).await?;
        let election = Duration::from_millis(timing.election_ms.into());
        let subject = Subject { name, cluster, protocol: Protocol::Etcd, election };
        results.extend(end_leaders(subject, rounds).await?);
    }
    Ok(section(&results))
}

async fn end_leaders(mut subject: Subject, rounds: u32) -> Result<Vec<Results>> {
    let mut results = Vec::new();
    for (signal, signal_name) in [(Signal::KILL, "SIGKILL"), (Signal::TERM, "SIGTERM")] {
        let name = subject.name.clone();
        eprintln!("{name}, {signal_name} to the leader, {rounds} times");
        let mut runs = Vec::new();
        for number in 0..rounds {
            runs.push(subject.end_leader(signal, &format!("{signal_name}:{number}")).await?);
        }
        results.push(Results { name, signal: signal_name, runs });
    }
    Ok(results)
}

impl Subject {
    /// Ends the leader under load once; keys begin with `prefix`.
    async fn end_leader(&mut self, signal: Signal, prefix: &str) -> Result<Run> {
        let cluster = &mut self.cluster;
        cluster.settle().await?;
        let ports: Vec<u16> =
            cluster.members.iter().map(|member| member.port(self.protocol)).collect::<Result<_>>()?;
        let writers = Writers::start(self.protocol, &ports, prefix);
        tokio::time::sleep(self.election + SETTLED).await;
        writers.wait_for(WRITES).await?;
        let leader = cluster.leader().await?;
        let signalled = Instant::now();
        cluster.members[leader].server.end(signal).await?;
        writers.wait_for(WRITES).await?;
        let written = writers.finish().await?;
        cluster.settle().await?;
        let lost = written.missing(self.protocol, &ports).await?;
        run(&written, signalled, lost)
    }
}

fn run(written: &Written, signalled: Instant, lost: usize) -> Result<Run> {
    let times = written.times();
    let longest = |is_after: bool| {
        let pairs = times.windows(2).filter(|pair| (pair[1] >= signalled) == is_after);
        pairs.map(|pair| pair[1] - pair[0]).max()
    };
    let (calm, gap) = (longest(false), longest(true));
    ensure!(calm.is_some() && gap.is_some(), "no write before or after the signal");
    Ok(Run { gap: gap.unwrap_or_default(), calm: calm.unwrap_or_default(), acknowledged: times.len(), lost })
}

/// Returns median and maximum as text, in milliseconds.
fn middle_and_max(runs: &[Run], time: fn(&Run) -> Duration) -> (String, String) {
    let ms = runs.iter().map(|run| time(run).as_secs_f64() * 1e3);
    Spread::of(ms).map_or_else(Default::default, |spread| (short(spread.median), short(spread.max)))
}

fn section(results: &[Results]) -> String {
    let mut text = format!(
        "## The write gap\n\n\
         {} writers, spread over the three members, each with a new write every {} ms; one that is not answered within {} ms is given up \
         and the next goes to another member. The leader is ended under them: the longest time between two acknowledged writes, ms. \
         `calm` is the same before the signal: the noise of machine and disk. Then the member is started again, and every \
         acknowledged write is read back by a linearizable read.\n\n",
        writers::COUNT,
        writers::PACE.as_millis(),
        writers::PATIENCE.as_millis(),
    );
    let mut table = Table::new([
        "system",
        "signal",
        "times",
        "gap median",
        "gap max",
        "calm median",
        "calm max",
        "acknowledged",
        "lost",
    ]);
    for Results { name, signal, runs } in results {
        let (gap, calm) = (middle_and_max(runs, |run| run.gap), middle_and_max(runs, |run| run.calm));
        table.row([
            name.clone(),
            (*signal).to_owned(),
            runs.len().to_string(),
            gap.0,
            gap.1,
            calm.0,
            calm.1,
            runs.iter().map(|run| run.acknowledged).sum::<usize>().to_string(),
            runs.iter().map(|run| run.lost).sum::<usize>().to_string(),
        ]);
    }
    text += &table.to_string();
    text
}
