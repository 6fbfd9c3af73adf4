//! The store of the backups fails for a while: the members serve as before and keep a bounded part of their logs, the conditions
//! report it, and the archive is complete afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_e2e::cluster::Cluster;
use helios_e2e::heliosctl::Heliosctl;
use helios_e2e::story::Story;
use helios_e2e::writer::Writer;
use serde_json::{Value, json};

use super::backup::await_condition;
use super::store::{self, Outage, STORE};

/// Seconds for which the store fails. The conditions are set after a minute.
const DOWN: &str = "HELIOS_STORIES_STORE_DOWN";
const DEFAULT_DOWN: Duration = Duration::from_secs(100);
/// Default of `archive.hold`.
const HOLD_BYTES: u64 = 256 << 20;
const PAUSE: Duration = Duration::from_secs(5);

pub fn run(story: &Story) -> anyhow::Result<()> {
    let down = match std::env::var(DOWN) {
        Ok(seconds) => Duration::from_secs(
            seconds.parse().with_context(|| format!("{DOWN}={seconds} is no number of seconds"))?,
        ),
        Err(_) => DEFAULT_DOWN,
    };
    let cluster = story.cluster(json!({"replicas": 3, "backup": {"store": STORE}}))?;
    store::create(&story.kubectl)?;
    await_condition(&story.kubectl, &cluster, "Archiving")?;
    await_condition(&story.kubectl, &cluster, "BackupHealthy")?;
    let writer = story.writer(&cluster)?;
    let (leader, watch) = (cluster.leader()?, cluster.watch()?);

    let (began, outage) = (Instant::now(), Outage::begin(&store::directory(&story.kubectl)?)?);
    for condition in ["Archiving", "BackupHealthy"] {
        let message = cluster.await_condition(condition, |condition| {
            condition.status == "False" && condition.reason == "StoreUnavailable"
        })?;
        story.say(&format!("{condition} after {:.0} s: {message}", began.elapsed().as_secs_f64()));
    }
    let held = hold_while_down(story, &cluster, down.saturating_sub(began.elapsed()))?;
    ensure!(held > 0, "no member keeps the log for the archiver");
    story.say(&format!("the members kept {held} bytes of the log at most"));
    story.part_without_failure("store down", &writer)?;
    outage.end()?;

    let began = Instant::now();
    await_condition(&story.kubectl, &cluster, "Archiving")?;
    await_condition(&story.kubectl, &cluster, "BackupHealthy")?;
    story.took("archiving after the store is back", began.elapsed());
    story.part_without_failure("store back", &writer)?;
    ensure!(cluster.leader()? == leader, "leader and term were {leader:?}, and are {:?}", cluster.leader()?);
    ensure!(watch.created().is_empty(), "members were restarted: {:?}", watch.created());
    is_complete(story, &cluster, writer)
}

/// Returns the largest part of a log, bytes, that a member keeps for the archiver in this time.
fn hold_while_down(story: &Story, cluster: &Cluster, time: Duration) -> anyhow::Result<u64> {
    let (began, mut largest) = (Instant::now(), 0);
    loop {
        for member in cluster.pods()?.into_keys() {
            let held = store::metric(&story.kubectl, &member, "helios_archive_hold_bytes")?;
            ensure!(held <= HOLD_BYTES, "{member} keeps {held} bytes, more than archive.hold");
            largest = largest.max(held);
        }
        if began.elapsed() >= time {
            return Ok(largest);
        }
        std::thread::sleep(PAUSE.min(time.saturating_sub(began.elapsed())));
    }
}

/// Every write is in the archive, without a gap: all objects are read.
fn is_complete(story: &Story, cluster: &Cluster, writer: Writer) -> anyhow::Result<()> {
    story.nothing_is_lost(writer)?;
    let (leader, _) = cluster.leader()?;
    let written = store::metric(&story.kubectl, &leader, "helios_raft_proposals_applied_total")?;
    let status = store::await_archived(&story.kubectl, cluster, written)?;
    ensure!(status["gaps"] == json!([]), "the log in the store has gaps: {status}");
    for member in cluster.pods()?.into_keys() {
        let dropped = store::metric(&story.kubectl, &member, "helios_archive_hold_dropped_total")?;
        ensure!(dropped == 0, "{member} dropped the log that the archiver needed");
    }
    let store = format!("file://{}", store::directory(&story.kubectl)?.display());
    let words = ["backup", "restore", "--dry-run", "--store", &store, "--cluster", &cluster.name];
    let planned = Heliosctl::new(&story.kubectl)?.done(&[&words[..], &["--output", "json"]].concat())?;
    let planned: Value = serde_json::from_str(&planned).with_context(|| planned)?;
    ensure!(planned["index"].as_u64() >= Some(written), "{planned}, written up to {written}");
    story.say(&format!("all objects up to index {written} are intact: {planned}"));
    Ok(())
}
