//! The phase memory: members with a memory limit that is a fraction of their data.

use std::time::Duration;

use anyhow::{Context, Result};

use super::figures::{Figures, gb, gb_spread};
use super::{Setup, sizes};
use crate::client::Operation;
use crate::cluster::{Cluster, HeliosdOptions};
use crate::load::many_clients;
use crate::pipeline::write_all;
use crate::ports::Ports;
use crate::stats::short;

const CLIENTS: usize = 64;
const HOT_KEYS: u64 = 10_000;
const PERIOD: Duration = Duration::from_secs(10);
/// Least limit without the option: a member holds a part of its log and of the last writes in memory.
const LEAST_LIMIT: u64 = 128 << 20;
pub async fn measure(setup: &Setup<'_>, ports: &mut Ports, figures: &mut Figures) -> Result<()> {
    let in_memory = without_limit(setup, ports).await?;
    let limit = setup.options.limit_memory.unwrap_or_else(|| (setup.user_bytes() / 4).max(LEAST_LIMIT));
    let heliosd = HeliosdOptions { memory_bytes: Some(limit), ..setup.heliosd.clone() };
    let mut cluster = Cluster::heliosd(setup.programs, &setup.dir.join("limited"), ports, &heliosd).await?;
    let measured = under_limit(setup, &mut cluster, figures, limit, in_memory).await;
    let measured = match measured {
        Ok(()) => cluster.ensure_alive(),
        Err(error) => Err(cluster.explained(error).await),
    };
    let kills: Vec<_> = cluster
        .members
        .iter()
        .map(|member| format!("{} {}", member.server.name, member.server.out_of_memory_kills()))
        .collect();
    figures.push("memory limit: processes killed by the kernel (OOM)", kills.join(", "), "none, serves");
    measured
}

/// Returns the GETs per second of the hot keys in a cluster that holds nothing else and has no limit.
async fn without_limit(setup: &Setup<'_>, ports: &mut Ports) -> Result<f64> {
    let cluster =
        Cluster::heliosd(setup.programs, &setup.dir.join("unlimited"), ports, &setup.heliosd).await?;
    write_all(&cluster, HOT_KEYS).await?;
    sizes::idle(&cluster).await;
    Ok(many_clients(&cluster, Operation::Read, CLIENTS, HOT_KEYS, PERIOD).await?.throughput)
}

async fn under_limit(
    setup: &Setup<'_>,
    cluster: &mut Cluster,
    figures: &mut Figures,
    limit: u64,
    in_memory: f64,
) -> Result<()> {
    let times = short(setup.user_bytes() as f64 / limit as f64);
    figures.push(
        "memory limit of a member",
        format!("{}; keys and values are {times} times as much", gb(limit as f64)),
        "4 times",
    );
    let loaded = write_all(cluster, setup.keys).await.context("load")?;
    figures.push("memory limit: load", format!("{} k/s", short(loaded.throughput() / 1e3)), "");
    sizes::idle(cluster).await;
    let hot_keys = HOT_KEYS.min(setup.keys);
    // Brings the hot keys into the cache.
    many_clients(cluster, Operation::Read, CLIENTS, hot_keys, PERIOD).await.context("GET of hot keys")?;
    let hot =
        many_clients(cluster, Operation::Read, CLIENTS, hot_keys, PERIOD).await.context("GET of hot keys")?;
    figures.push(
        format!("memory limit: GET of {hot_keys} hot keys"),
        format!(
            "{} k/s, {} of the {} k/s without a limit and other keys; {} errors",
            short(hot.throughput / 1e3),
            short(hot.throughput / in_memory),
            short(in_memory / 1e3),
            hot.errors
        ),
        "at in-memory speed",
    );
    let leader = cluster.leader().await?;
    let read = |cluster: &Cluster| cluster.members[leader].server.read_bytes();
    let before = read(cluster).context("disk use of the leader")?;
    let cold = many_clients(cluster, Operation::Read, CLIENTS, setup.keys, PERIOD)
        .await
        .context("GET of all keys")?;
    let bytes = read(cluster).context("disk use of the leader")?.saturating_sub(before);
    figures.push(
        "memory limit: GET of random keys",
        format!(
            "{} k/s; {:.0} bytes read from the disk per GET; {} errors",
            short(cold.throughput / 1e3),
            bytes as f64 / cold.operations as f64,
            cold.errors
        ),
        "one disk read",
    );
    let resident = gb_spread(sizes::of(cluster)?.iter().map(|sizes| sizes.memory.resident));
    figures.push("memory limit: resident memory of a member", resident, "");
    Ok(())
}
