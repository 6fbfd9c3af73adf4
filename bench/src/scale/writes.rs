//! The phases load, overwrite and set.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Setup;
use super::figures::{Figures, gb, gb_spread, ms};
use super::sizes::{self, Sizes};
use crate::client::{Operation, Protocol};
use crate::cluster::Cluster;
use crate::load::{many_clients, user_bytes};
use crate::machine;
use crate::pipeline::{Answers, Order, Writers, write_all};
use crate::ports::Ports;
use crate::say;
use crate::stats::{Spread, short};

const CLIENTS: usize = 256;
/// Number of keys of the cluster that the phase set compares with.
const FEW_KEYS: u64 = 100_000;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(10);

pub async fn load(
    setup: &Setup<'_>,
    ports: &mut Ports,
    figures: &mut Figures,
    tables: &mut String,
) -> Result<Cluster> {
    let dir = setup.dir.join("loaded");
    let mut cluster = Cluster::heliosd(setup.programs, &dir, ports, &setup.heliosd).await?;
    let answers = match write_all(&cluster, setup.keys).await {
        Ok(answers) => answers,
        Err(error) => return Err(cluster.explained(error).await),
    };
    figures.push("load, pipelined", throughput(&answers), "");
    let loaded = sizes::of(&cluster)?;
    push_sizes(setup, figures, "after the load", &loaded);
    let settled_in = sizes::settled(&mut cluster).await?;
    say(&settled_in.map_or_else(
        || "load: the disk use still changes".to_owned(),
        |time| format!("load: the disk use last changed after {time:.1?}"),
    ));
    let moment = if settled_in.is_some() { "settled" } else { "2 minutes later, not settled" };
    let settled = sizes::of(&cluster)?;
    push_sizes(setup, figures, moment, &settled);
    *tables = format!("\n{}", sizes::table(&cluster, &[("after the load", &loaded), (moment, &settled)]));
    Ok(cluster)
}

fn throughput(answers: &Answers) -> String {
    let retries = match answers.retries {
        0 => String::new(),
        count => format!("; {count} pipelines sent again, because a write was refused"),
    };
    format!("{} k/s{retries}", short(answers.throughput() / 1e3))
}

fn push_sizes(setup: &Setup, figures: &mut Figures, moment: &str, members: &[Sizes]) {
    let resident = gb_spread(members.iter().map(|sizes| sizes.memory.resident));
    let anonymous = gb_spread(members.iter().map(|sizes| sizes.memory.anonymous));
    figures.push(
        format!("resident memory of a member, {moment}"),
        format!("{resident}; anonymous {anonymous}"),
        "<= 0.45 GB at a 128 MiB cache",
    );
    let disk = gb_spread(members.iter().map(|sizes| sizes.disk));
    let goal = setup.user_bytes() as f64 * 1.3 + f64::from(256 << 20);
    let goal = format!("<= 1.3 x user data + 256 MiB of log: {}", gb(goal));
    let goal = if moment == "after the load" { "" } else { &goal };
    figures.push(format!("disk of a member, {moment}"), disk, goal);
}

pub async fn overwrite(setup: &Setup<'_>, cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    let leader = cluster.leader().await?;
    let port = cluster.members[leader].port(Protocol::Redis)?;
    let before = machine::written_bytes(&setup.dir);
    let mut writers = Writers::start(port, setup.keys, Order::Random).await?;
    let period = Duration::from_secs(setup.options.overwrite_secs);
    writers.run("overwrite", Some(period)).await?;
    let mut answers = writers.finish().await?;
    let after = machine::written_bytes(&setup.dir);
    let [p50, p99, p999, most] = answers.latencies().map(ms);
    let moved = if cluster.leader().await? == leader { "" } else { "; the leader changed" };
    figures.push(
        "random overwrite, pipelined",
        format!(
            "{}; time of a pipeline: p50 {p50}, p99 {p99}, p99.9 {p999}, most {most}{moved}",
            throughput(&answers)
        ),
        ">= 40 k/s, p99 <= 60 ms",
    );
    let longest =
        answers.stalls.iter().max().map_or(String::new(), |time| format!(", longest {}", ms(*time)));
    figures.push(
        format!("stalls in {} s of it", setup.options.overwrite_secs),
        format!("{}{longest}", answers.stalls.len()),
        "none above 100 ms in 10 minutes",
    );
    let user = user_bytes(answers.acknowledged) as f64;
    let ratio = match before.zip(after) {
        Some((before, after)) => {
            format!("{:.1}", after.saturating_sub(before) as f64 / user / cluster.members.len() as f64)
        }
        None => "the device has no statistics".to_owned(),
    };
    figures.push("device bytes per user byte of it, of a member", ratio, "<= 8");
    Ok(())
}

/// Compares SET at all keys with SET at [`FEW_KEYS`], in rounds by turns.
pub async fn set_ratio(
    setup: &Setup<'_>,
    cluster: &mut Cluster,
    ports: &mut Ports,
    figures: &mut Figures,
) -> Result<()> {
    let dir = setup.dir.join("few");
    let few = Cluster::heliosd(setup.programs, &dir, ports, &setup.heliosd).await?;
    write_all(&few, FEW_KEYS).await?;
    let (mut at_all, mut at_few) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (cluster, keys, rounds) in [(&*cluster, setup.keys, &mut at_all), (&few, FEW_KEYS, &mut at_few)] {
            // Neither cluster does work of its last round while the other is measured.
            sizes::idle(cluster).await;
            rounds.push(many_clients(cluster, Operation::Write, CLIENTS, keys, ROUND).await?.throughput);
            sizes::idle(cluster).await;
        }
    }
    let ratios = Spread::of(at_all.iter().zip(&at_few).map(|(all, few)| all / few)).context("no round")?;
    let (at_all, at_few) = (Spread::of(at_all).context("no round")?, Spread::of(at_few).context("no round")?);
    figures.push(
        format!("SET by {CLIENTS} clients, {} keys against {FEW_KEYS}", setup.keys),
        format!("{ratios}: {} k/s against {} k/s", short(at_all.median / 1e3), short(at_few.median / 1e3)),
        ">= 0.95",
    );
    Ok(())
}
