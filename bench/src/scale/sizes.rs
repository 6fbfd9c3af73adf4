//! Memory and disk use of the members.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::report::Table;
use crate::server::Memory;

/// Time for which the disk use does not change in a settled cluster.
const UNCHANGED: Duration = Duration::from_secs(10);
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// Time over which the CPU use of an idle cluster is measured.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// Share of one core that the members of an idle cluster use at most.
const IDLE_SHARE: f64 = 0.2;
const IDLE_PATIENCE: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(250);

/// Sizes of one member, bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub memory: Memory,
    pub state: u64,
    pub wal: u64,
    pub snapshots: u64,
    /// All files, the text log included.
    pub disk: u64,
}

/// Sizes of each member.
pub fn of(cluster: &Cluster) -> Result<Vec<Sizes>> {
    let each = cluster.members.iter().map(|member| {
        let server = &member.server;
        Ok(Sizes {
            memory: server.memory().with_context(|| format!("{} does not run", server.name))?,
            state: server.disk_below("data/state"),
            wal: server.disk_below("data/wal"),
            snapshots: server.disk_below("data/snapshots"),
            disk: server.disk(),
        })
    });
    each.collect()
}

fn disk(cluster: &Cluster) -> u64 {
    cluster.members.iter().map(|member| member.server.disk()).sum()
}

/// Waits until the disk use has not changed for [`UNCHANGED`]; returns the time until its last change, or `None` if it
/// still changes after [`SETTLE_PATIENCE`].
pub async fn settled(cluster: &mut Cluster) -> Result<Option<Duration>> {
    let started = Instant::now();
    let (mut size, mut changed) = (disk(cluster), started);
    while started.elapsed() < SETTLE_PATIENCE {
        sleep(POLL_PAUSE).await;
        cluster.ensure_alive()?;
        let now = disk(cluster);
        if now != size {
            (size, changed) = (now, Instant::now());
        } else if changed.elapsed() >= UNCHANGED {
            return Ok(Some(changed - started));
        }
    }
    Ok(None)
}

/// Waits until the members use almost no CPU time, at most for [`IDLE_PATIENCE`]: background work of one measurement
/// is not charged to the next.
pub async fn idle(cluster: &Cluster) {
    let deadline = Instant::now() + IDLE_PATIENCE;
    while Instant::now() < deadline {
        let (before, started) = (cluster.cpu(), Instant::now());
        sleep(IDLE_PERIOD).await;
        let used = cluster.cpu().saturating_sub(before).as_secs_f64();
        if used < IDLE_SHARE * started.elapsed().as_secs_f64() {
            return;
        }
    }
}

/// Table of the sizes of each member at each moment, MB.
pub fn table(cluster: &Cluster, moments: &[(&str, &[Sizes])]) -> Table<8> {
    let mut table =
        Table::new(["MB", "member", "resident", "anonymous", "state", "log", "snapshots", "all files"]);
    for (moment, sizes) in moments {
        for (member, sizes) in cluster.members.iter().zip(*sizes) {
            let Sizes { memory, state, wal, snapshots, disk } = *sizes;
            let [resident, anonymous, state, wal, snapshots, disk] =
                [memory.resident, memory.anonymous, state, wal, snapshots, disk]
                    .map(|bytes| format!("{:.0}", bytes as f64 / 1e6));
            let (moment, name) = ((*moment).to_owned(), member.server.name.clone());
            table.row([moment, name, resident, anonymous, state, wal, snapshots, disk]);
        }
    }
    table
}
