//! The sidecar in Replica mode beside the members: reads from its memory, a cut of its network, and many replicas that
//! follow the members at once.

mod cut;
mod followers;
mod local;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::Protocol;
use crate::cluster::{Cluster, HeliosdOptions, Programs};
use crate::load::user_bytes;
use crate::pipeline::write_all;
use crate::ports::Ports;
use crate::scale::figures::{Figures, gb};
use crate::scale::sizes;
use crate::server::Server;
use crate::{http, say, wait_for};

/// Keys and values that a replica holds, bytes.
const USER_BYTES: u64 = 10_000_000;
/// Longest time until a sidecar has loaded the keys.
const PATIENCE: Duration = Duration::from_secs(60);
/// Writes of each second while followers are measured.
const WRITES: u32 = 1_000;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sidecar")]
#[group(skip)]
pub struct Options {
    /// Phases to run
    #[arg(long, value_delimiter = ',', default_value = "local,cut,followers")]
    sidecar_phases: Vec<Phase>,
    /// Replicas that follow the members at once; one number each
    #[arg(long, value_delimiter = ',', default_value = "100,500")]
    followers: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    sidecar_secs: u64,
    /// Rounds of reads through the sidecar and at the members, by turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    sidecar_rounds: u64,
    /// Seconds for which the sidecar is cut off
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    cut_secs: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    /// Reads of one sidecar, and its memory
    Local,
    /// A sidecar that is cut off under writes
    Cut,
    /// Many replicas at once
    Followers,
}

struct Setup<'a> {
    options: &'a Options,
    keys: u64,
    programs: &'a Programs,
    dir: PathBuf,
}

impl Setup<'_> {
    fn period(&self) -> Duration {
        Duration::from_secs(self.options.sidecar_secs)
    }

    /// Returns the bytes of all keys and values.
    fn user_bytes(&self) -> u64 {
        user_bytes(self.keys)
    }
}

pub async fn measure(
    options: &Options,
    keys: Option<u64>,
    programs: &Programs,
    dir: &Path,
    ports: &mut Ports,
) -> Result<String> {
    let keys = keys.unwrap_or(USER_BYTES / user_bytes(1));
    let setup = Setup { options, keys, programs, dir: dir.join("sidecar") };
    let mut figures = Figures::default();
    say(&format!("sidecar: loads {keys} keys"));
    let members = setup.dir.join("members");
    let cluster = Cluster::heliosd(programs, &members, ports, &HeliosdOptions::default()).await?;
    write_all(&cluster, keys).await?;
    sizes::idle(&cluster).await;
    for (phase, name) in [(Phase::Local, "local"), (Phase::Cut, "cut"), (Phase::Followers, "followers")] {
        if !options.sidecar_phases.contains(&phase) {
            figures.not_measured(name, "left out by --sidecar-phases");
            continue;
        }
        say(&format!("{name}: starts"));
        let result = match phase {
            Phase::Local => local::measure(&setup, &cluster, ports, &mut figures).await,
            Phase::Cut => cut::measure(&setup, &cluster, ports, &mut figures).await,
            Phase::Followers => followers::measure(&setup, &cluster, &mut figures).await,
        };
        figures.end_phase(name, result);
    }
    Ok(format!(
        "## The sidecar in Replica mode, with {keys} keys\n\n\
         Keys and values are {}, all of them in each replica. Three members, the sidecars and their clients are on one machine. GB and MB \
         are decimal.\n\n{figures}",
        gb(setup.user_bytes() as f64)
    ))
}

/// A sidecar in Replica mode.
struct Sidecar {
    server: Server,
    port: u16,
    metrics: u16,
}

impl Sidecar {
    /// Starts a sidecar of the members with these ports for Redis and for gRPC, and waits until it holds all keys.
    async fn start(setup: &Setup<'_>, ports: &mut Ports, members: &[(u16, u16)]) -> Result<Self> {
        let [port, metrics] = ports.take()?;
        let list = |port: fn(&(u16, u16)) -> u16| {
            let addresses = members.iter().map(|member| format!("127.0.0.1:{}", port(member)));
            addresses.collect::<Vec<_>>().join(",")
        };
        let (cluster, follow) = (list(|member| member.0), list(|member| member.1));
        let (listen, metrics_listen) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{metrics}"));
        let arguments = [
            "sidecar",
            "--mode",
            "replica",
            "--cluster",
            &cluster,
            "--follow",
            &follow,
            "--listen",
            &listen,
            "--metrics-listen",
            &metrics_listen,
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        let name = format!("sidecar-{port}");
        let server = Server::new(&setup.dir, &name, &setup.programs.heliosd, arguments)?;
        let mut sidecar = Self { server, port, metrics };
        sidecar.server.start()?;
        wait_for(PATIENCE, "a replica with all keys", async || {
            sidecar.server.ensure_alive()?;
            let Some(text) = sidecar.metrics().await else { return Ok(None) };
            let held = http::metric(&text, "helios_sidecar_replica_keys");
            let is_whole = held.is_some_and(|keys| keys as u64 >= setup.keys) && is_current(&text);
            Ok(is_whole.then_some(()))
        })
        .await?;
        Ok(sidecar)
    }

    async fn metrics(&self) -> Option<String> {
        http::get(self.metrics, "/metrics").await
    }

    async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.metrics().await;
        let value = text.and_then(|text| http::metric(&text, name));
        value.with_context(|| format!("the metric {name} of the sidecar"))
    }
}

/// Whether the state that a sidecar's metrics show may be read.
fn is_current(metrics: &str) -> bool {
    /// Limit of the age that counts as current: the sidecar confirms it every 0.2 s.
    const RECENT: std::ops::Range<f64> = 0.0..0.5;
    let age = http::metric(metrics, "helios_sidecar_staleness_seconds");
    age.is_some_and(|seconds| RECENT.contains(&seconds))
}

/// Returns the ports of the members for Redis and for gRPC.
fn member_ports(cluster: &Cluster) -> Result<Vec<(u16, u16)>> {
    let members = cluster.members.iter();
    members.map(|member| Ok((member.port(Protocol::Redis)?, member.port(Protocol::HeliosGrpc)?))).collect()
}
