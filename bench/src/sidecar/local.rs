//! Reads of one sidecar beside those of the members, and its memory.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Setup, Sidecar, member_ports};
use crate::client::{Client, Operation, Protocol, Resp};
use crate::cluster::Cluster;
use crate::load::{key, percentile, round, value};
use crate::ports::Ports;
use crate::scale::figures::{Figures, gb, ms};
use crate::stats::{Spread, short};

const CONNECTIONS: u64 = 4;
const PIPELINE: usize = 128;
/// Memory of a sidecar without keys, bytes: that of the goal.
const BASE_BYTES: f64 = 12e6;

pub async fn measure(
    setup: &Setup<'_>,
    cluster: &Cluster,
    ports: &mut Ports,
    figures: &mut Figures,
) -> Result<()> {
    let members = member_ports(cluster)?;
    let sidecar = Sidecar::start(setup, ports, &members).await?;
    let memory = sidecar.server.memory().context("memory of the sidecar")?;
    let (resident, user) = (memory.resident as f64, setup.user_bytes() as f64);
    figures.push(
        "resident memory of the sidecar",
        format!("{}: 12 MB and {} x keys and values", gb(resident), short((resident - BASE_BYTES) / user)),
        "<= 12 MB + 1.5 x keys and values",
    );
    let reads = async || sidecar.metric("helios_sidecar_local_reads_total").await;
    let before = reads().await?;
    let asked = one_by_one(setup, cluster, &sidecar, figures).await?;
    let share = (reads().await? - before) / asked as f64;
    figures.push("part of these reads that was local", short(share), "");
    pipelined(setup, &sidecar, &members, figures).await?;
    own_writes(setup, &sidecar, figures).await
}

/// Compares the time of a GET; returns the number of GETs through the sidecar.
async fn one_by_one(
    setup: &Setup<'_>,
    cluster: &Cluster,
    sidecar: &Sidecar,
    figures: &mut Figures,
) -> Result<usize> {
    let leader = cluster.leader().await?;
    let members = member_ports(cluster)?;
    let (mut local, mut remote, mut ratios, mut asked) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let get = async |port: u16| -> Result<(Duration, usize)> {
        let client = Client::connect(Protocol::Redis, port).await?;
        let round = round(cluster, leader, vec![client], Operation::Read, setup.keys, setup.period()).await?;
        Ok((round.p50, round.operations))
    };
    for _ in 0..setup.options.sidecar_rounds {
        let (time, count) = get(sidecar.port).await?;
        asked += count;
        // The Service sends a connection to any member.
        let mut times = Vec::new();
        for (port, _) in &members {
            times.push(get(*port).await?.0.as_secs_f64());
        }
        let at_members = times.iter().sum::<f64>() / times.len() as f64;
        ratios.push(time.as_secs_f64() / at_members);
        local.push(time.as_secs_f64() * 1e6);
        remote.push(at_members * 1e6);
    }
    let spread = |figures: Vec<f64>| Spread::of(figures).context("no round");
    figures.push(
        "GET by one client, p50: from the sidecar's memory, against the mean of the members",
        format!("{} us against {} us: {}", spread(local)?, spread(remote)?, spread(ratios)?),
        "<= 25 us, <= 0.15",
    );
    Ok(asked)
}

async fn pipelined(
    setup: &Setup<'_>,
    sidecar: &Sidecar,
    members: &[(u16, u16)],
    figures: &mut Figures,
) -> Result<()> {
    let local = gets(sidecar.port, setup.keys, setup.period()).await?;
    let mut remote = Vec::new();
    for (port, _) in members {
        remote.push(gets(*port, setup.keys, setup.period()).await?);
    }
    let remote = Spread::of(remote).context("no member")?;
    figures.push(
        format!("GET, {CONNECTIONS} connections with {PIPELINE} in each pipeline"),
        format!("{} k/s; at a member {} k/s", short(local / 1e3), short(remote.median / 1e3)),
        ">= 150 k/s",
    );
    Ok(())
}

/// Returns the GETs per second of pipelined clients at a port.
async fn gets(port: u16, keys: u64, period: Duration) -> Result<f64> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for seed in 0..CONNECTIONS {
        let mut client = Resp::connect(port).await?;
        tasks.spawn(async move {
            let (mut rng, mut count) = (StdRng::seed_from_u64(seed), 0);
            while started.elapsed() < period {
                let keys: Vec<_> = (0..PIPELINE).map(|_| key(rng.random_range(0..keys))).collect();
                client.get_each(&keys).await?;
                count += keys.len();
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(ended) = tasks.join_next().await {
        count += ended??;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// Compares SET and then GET of the key with SET alone, on one connection.
async fn own_writes(setup: &Setup<'_>, sidecar: &Sidecar, figures: &mut Figures) -> Result<()> {
    let mut client = Resp::connect(sidecar.port).await?;
    let mut rng = StdRng::seed_from_u64(1);
    let value = value();
    let (mut both, mut alone) = (Vec::new(), Vec::new());
    let end = Instant::now() + setup.period();
    while Instant::now() < end {
        let key = key(rng.random_range(0..setup.keys));
        let started = Instant::now();
        client.set(&key, &value).await?;
        alone.push(started.elapsed());
        let started = Instant::now();
        client.set(&key, &value).await?;
        client.get(&key).await?;
        both.push(started.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        percentile(&times, 500)
    };
    let (both, alone) = (median(both), median(alone));
    figures.push(
        "SET and then GET of its key on one connection, against SET alone, p50",
        format!("{}: {} against {}", short(both.as_secs_f64() / alone.as_secs_f64()), ms(both), ms(alone)),
        "<= 1.2",
    );
    Ok(())
}
