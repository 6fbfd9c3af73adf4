//! Costs of backups: what an archiver takes from the writers, how old the last archived write is, and how long a base and a
//! restore take. The store is a directory on the disk of the members.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Operation, Protocol, Resp};
use crate::cluster::{Cluster, HeliosdOptions, Member, Programs};
use crate::load::{key, many_clients, user_bytes};
use crate::pipeline::{Order, Writers, write_all};
use crate::ports::Ports;
use crate::scale::figures::{Figures, gb, ms};
use crate::scale::sizes;
use crate::server::Server;
use crate::stats::{Spread, short};
use crate::{http, say, wait_for};

const USER_BYTES: u64 = 1 << 30;
/// Seconds between two writes of the archiver to the store.
const FLUSH_SECS: u64 = 5;
/// Clients that write while the age of the archive is measured.
const CLIENTS: usize = 16;
/// Longest base, restore, or time until all is archived.
const PATIENCE: Duration = Duration::from_secs(1_800);
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
const SENT: &str = "helios_archive_sent_bytes_total";
const SENT_AS_LEADER: &str = "helios_archive_sent_as_leader_bytes_total";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Backup")]
#[group(skip)]
pub struct Options {
    /// Writes after the base, which a restore replays
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    entries: u64,
    /// Rounds of writes with and without an archiver, by turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    backup_rounds: u64,
    /// Seconds of each round, and of the measurement of the archive's age
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    backup_secs: u64,
}

struct Setup<'a> {
    options: &'a Options,
    keys: u64,
    programs: &'a Programs,
    dir: PathBuf,
    store: String,
}

pub async fn measure(
    options: &Options,
    keys: Option<u64>,
    programs: &Programs,
    dir: &Path,
    ports: &mut Ports,
) -> Result<String> {
    let keys = keys.unwrap_or(USER_BYTES / user_bytes(1));
    let dir = dir.join("backup");
    let store = format!("file://{}", dir.join("store").display());
    let setup = Setup { options, keys, programs, dir, store };
    let mut figures = Figures::default();
    let result = run(&setup, ports, &mut figures).await;
    figures.end_phase("backup", result);
    Ok(format!(
        "## Costs of backups at {keys} keys\n\n\
         Keys and values are {}, and the values do not compress. The store is a directory on the disk of the three members. An \
         archiver runs beside them, and flushes every {FLUSH_SECS} s. GB and MB are decimal.\n\n{figures}",
        gb(user_bytes(keys) as f64)
    ))
}

async fn run(setup: &Setup<'_>, ports: &mut Ports, figures: &mut Figures) -> Result<()> {
    say(&format!("backup: loads {} keys", setup.keys));
    let heliosd = HeliosdOptions::default();
    let mut cluster = Cluster::heliosd(setup.programs, &setup.dir.join("members"), ports, &heliosd).await?;
    write_all(&cluster, setup.keys).await?;
    sizes::settled(&mut cluster).await?;
    let [port] = ports.take()?;
    let mut archiver = Archiver::new(setup, &cluster, port)?;
    base(setup, &mut archiver, figures).await?;
    throughput(setup, &cluster, &mut archiver, figures).await?;
    age(setup, &cluster, &mut archiver, figures).await?;
    let last = entries(setup, &cluster, &mut archiver, figures).await?;
    archiver.server.end(Signal::TERM).await?;
    let (mut all, mut as_leader) = (0.0, 0.0);
    for member in &cluster.members {
        all += member.metric(SENT).await.context("bytes sent to archivers")?;
        as_leader += member.metric(SENT_AS_LEADER).await.context("bytes sent to archivers as the leader")?;
    }
    figures.push(
        "sent to archivers by members while they led",
        format!(
            "{} of the {} that all members sent; each member counts by its role at the time",
            gb(as_leader),
            gb(all)
        ),
        "0 with a follower",
    );
    cluster.ensure_alive()?;
    drop(cluster);
    restore(setup, ports, figures, last).await
}

struct Archiver {
    server: Server,
    port: u16,
}

impl Archiver {
    fn new(setup: &Setup<'_>, cluster: &Cluster, port: u16) -> Result<Self> {
        let members = member_list(cluster)?;
        let (listen, flush) = (format!("127.0.0.1:{port}"), format!("{FLUSH_SECS}s"));
        let options = [
            ("--store", &setup.store[..]),
            ("--members", &members),
            ("--name", "bench"),
            ("--listen", &listen),
            ("--flush-interval", &flush),
            ("--base-interval", "0"),
        ];
        let arguments =
            ["archive"].into_iter().chain(options.into_iter().flat_map(|(name, value)| [name, value]));
        let arguments = arguments.map(str::to_owned).collect();
        Ok(Self { server: Server::new(&setup.dir, "archiver", &setup.programs.heliosd, arguments)?, port })
    }

    async fn status(&mut self) -> Result<Option<Value>> {
        self.server.ensure_alive()?;
        let text = http::get(self.port, "/status").await;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Waits for a status from which `find` returns a value.
    async fn wait<T>(&mut self, what: &str, find: impl Fn(&Value) -> Option<T>) -> Result<T> {
        wait_for(PATIENCE, what, async || {
            let found = self.status().await?.as_ref().and_then(&find);
            if found.is_none() {
                sleep(STATUS_INTERVAL).await;
            }
            Ok(found)
        })
        .await
    }

    fn peak(&self) -> String {
        self.server.memory().map_or_else(String::new, |memory| gb(memory.most_resident as f64))
    }
}

fn number(status: &Value, name: &str) -> Option<u64> {
    status[name].as_u64()
}

/// Measures the first base, beside a copy of as many bytes into the store's directory.
async fn base(setup: &Setup<'_>, archiver: &mut Archiver, figures: &mut Figures) -> Result<()> {
    archiver.server.start()?;
    let is_there = |status: &Value| Some(status["lastBase"].clone()).filter(|base| !base.is_null());
    let base = archiver.wait("the first base", is_there).await?;
    let get = |name: &str| number(&base, name).with_context(|| format!("{name} of the base: {base}"));
    let (bytes, stored) = (get("bytes")? as f64, get("storedBytes")? as f64);
    let took = (get("finishedMs")? - get("startedMs")?).max(1) as f64 / 1e3;
    let dir = setup.dir.clone();
    let copy = tokio::task::spawn_blocking(move || write_speed(&dir, stored as u64)).await??;
    figures.push(
        "first base",
        format!(
            "{} in {} s, {}/s; stored {}; the disk writes {}/s, so the share is {}",
            gb(bytes),
            short(took),
            gb(bytes / took),
            gb(stored),
            gb(copy),
            short(bytes / took / copy)
        ),
        ">= 0.8 x min(disk, store)",
    );
    figures.push("resident memory of the archiver, at most in the base", archiver.peak(), "<= 128 MiB");
    Ok(())
}

/// Returns the bytes per second at which the disk takes a file that is synced at its end.
fn write_speed(dir: &Path, bytes: u64) -> Result<f64> {
    let path = dir.join("copy");
    let block = vec![0x5a; 1 << 20];
    let started = std::time::Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..bytes.div_ceil(block.len() as u64) {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let took = started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(bytes as f64 / took)
}

/// Compares the throughput of pipelined overwrites with and without the archiver, by turns.
async fn throughput(
    setup: &Setup<'_>,
    cluster: &Cluster,
    archiver: &mut Archiver,
    figures: &mut Figures,
) -> Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..2 * setup.options.backup_rounds {
        let archives = round % 2 == 0;
        if archives {
            archiver.server.start()?;
            caught_up(cluster, archiver).await?;
        } else {
            archiver.server.end(Signal::TERM).await?;
        }
        sizes::idle(cluster).await;
        let rate = overwrite(setup, cluster).await?;
        if archives { with.push(rate) } else { without.push(rate) }
    }
    let ratios = Spread::of(with.iter().zip(&without).map(|(with, without)| with / without));
    let median = |rates: Vec<f64>| Spread::of(rates).map(|spread| short(spread.median / 1e3));
    figures.push(
        "overwrites, pipelined, with an archiver against without",
        format!(
            "{}: {} k/s against {} k/s",
            ratios.context("no round")?,
            median(with).unwrap_or_default(),
            median(without).unwrap_or_default()
        ),
        ">= 0.97",
    );
    archiver.server.start()?;
    caught_up(cluster, archiver).await.map(drop)
}

async fn overwrite(setup: &Setup<'_>, cluster: &Cluster) -> Result<f64> {
    let port = cluster.members[cluster.leader().await?].port(Protocol::Redis)?;
    let mut writers = Writers::start(port, setup.keys, Order::Random).await?;
    writers.run("overwrite", Some(Duration::from_secs(setup.options.backup_secs))).await?;
    Ok(writers.finish().await?.throughput())
}

/// Waits until all that the leader has applied is archived; returns its index.
async fn caught_up(cluster: &Cluster, archiver: &mut Archiver) -> Result<u64> {
    let leader = &cluster.members[cluster.leader().await?];
    let applied =
        leader.metric("helios_raft_proposals_applied_total").await.context("the applied index")? as u64;
    archiver
        .wait("all is archived", |status| number(status, "archivedIndex").filter(|index| *index >= applied))
        .await
}

/// Measures the age of the oldest write that is not archived, while clients write.
async fn age(
    setup: &Setup<'_>,
    cluster: &Cluster,
    archiver: &mut Archiver,
    figures: &mut Figures,
) -> Result<()> {
    let period = Duration::from_secs(3 * setup.options.backup_secs);
    let end = Instant::now() + period;
    let sample = async {
        let mut ages = Vec::new();
        while Instant::now() < end {
            if let Some(status) = archiver.status().await? {
                ages.push(status["lagSeconds"].as_f64().context("lagSeconds")?);
            }
            sleep(STATUS_INTERVAL).await;
        }
        anyhow::Ok(ages)
    };
    let load = many_clients(cluster, Operation::Write, CLIENTS, setup.keys, period);
    let (ages, load) = tokio::join!(sample, load);
    let (mut ages, load) = (ages?, load?);
    ensure!(!ages.is_empty(), "the archiver has no status");
    ages.sort_by(f64::total_cmp);
    let at = |share: f64| ages[((ages.len() - 1) as f64 * share) as usize];
    figures.push(
        format!("age of the oldest write that is not archived, at {} writes/s", load.throughput.round()),
        format!(
            "p50 {} s, p99 {} s, most {} s of {}",
            short(at(0.5)),
            short(at(0.99)),
            short(at(1.0)),
            ages.len()
        ),
        "p99 <= 6 s",
    );
    Ok(())
}

/// Takes a base, and archives so many writes after it; returns the last index.
async fn entries(
    setup: &Setup<'_>,
    cluster: &Cluster,
    archiver: &mut Archiver,
    figures: &mut Figures,
) -> Result<u64> {
    archiver.server.end(Signal::TERM).await?;
    let members = member_list(cluster)?;
    run_program(setup, &["backup", "create", "--store", &setup.store, "--members", &members]).await?;
    archiver.server.start()?;
    let started = Instant::now();
    let mut writes = 0;
    let port = cluster.members[cluster.leader().await?].port(Protocol::Redis)?;
    let mut writers = Writers::start(port, setup.keys, Order::Random).await?;
    while writes < setup.options.entries {
        writers.run("entries", Some(Duration::from_millis(100))).await?;
        writes = writers.acknowledged();
    }
    drop(writers.finish().await?);
    let written = started.elapsed();
    let last = caught_up(cluster, archiver).await?;
    figures.push(
        format!("{writes} writes, until all are archived"),
        format!("{} after {} of writes", ms(started.elapsed() - written), ms(written)),
        "",
    );
    figures.push("resident memory of the archiver, at most", archiver.peak(), "<= 128 MiB");
    Ok(last)
}

fn member_list(cluster: &Cluster) -> Result<String> {
    let ports = cluster.members.iter().map(|member| member.port(Protocol::HeliosGrpc));
    let members = ports.map(|port| Ok(format!("127.0.0.1:{}", port?))).collect::<Result<Vec<_>>>()?;
    Ok(members.join(","))
}

/// Restores all into a blank node, until it takes a write.
async fn restore(setup: &Setup<'_>, ports: &mut Ports, figures: &mut Figures, last: u64) -> Result<()> {
    // The engine of the members. Without a setting it is sled for a node that waits for an operator, and the restore writes each
    // record of the base to it.
    let heliosd = HeliosdOptions { state: "engine: runs".to_owned(), ..HeliosdOptions::default() };
    let blank = Cluster::blank(setup.programs, &setup.dir, ports, &heliosd)?;
    wait_for(PATIENCE, "a blank node that listens", async || {
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", blank.peer_port()?)).await.ok())
    })
    .await?;
    let (to, started) = (format!("127.0.0.1:{}", blank.peer_port()?), Instant::now());
    let arguments = [
        "backup",
        "restore",
        "--store",
        &setup.store,
        "--cluster",
        "bench",
        "--to",
        &to,
        "--new-cluster-id",
        "restored",
    ];
    let restored = run_program(setup, &arguments).await?;
    first_write(&blank).await?;
    let took = started.elapsed();
    ensure!(number(&restored, "index") >= Some(last), "{last} is the last index: {restored}");
    ensure!(restored["digestMatches"] == true, "the digest differs: {restored}");
    let base = number(&restored, "baseIndex").unwrap_or_default();
    figures.push(
        "restore into a blank node with the engine runs, until its first write",
        format!(
            "{} s, of which {} to check all objects; {} keys and {} entries after the base; the digest matches",
            short(took.as_secs_f64()),
            ms(Duration::from_millis(number(&restored, "checkMs").unwrap_or_default())),
            number(&restored, "keys").unwrap_or_default(),
            number(&restored, "index").unwrap_or_default().saturating_sub(base)
        ),
        "<= 60 s",
    );
    Ok(())
}

async fn first_write(member: &Member) -> Result<()> {
    let port = member.port(Protocol::Redis)?;
    wait_for(PATIENCE, "a write", async || {
        let Ok(mut client) = Resp::connect(port).await else { return Ok(None) };
        Ok(client.set(&key(0), b"first").await.ok())
    })
    .await
}

/// Runs heliosd with these arguments; returns its document.
async fn run_program(setup: &Setup<'_>, arguments: &[&str]) -> Result<Value> {
    let mut command = tokio::process::Command::new(&setup.programs.heliosd);
    command.args(arguments).args(["--output", "json"]).kill_on_drop(true);
    let output = command.output().await.context("heliosd")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "heliosd {}: {errors}", arguments.join(" "));
    Ok(serde_json::from_slice(&output.stdout)?)
}
