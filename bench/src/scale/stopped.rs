//! The phase stopped: a follower is stopped under full load and has to catch up while the load continues.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::Setup;
use super::figures::Figures;
use super::management::Management;
use crate::client::Protocol;
use crate::cluster::Cluster;
use crate::pipeline::{Order, Writers};
use crate::say;
use crate::stats::short;

/// Entries that a member that has caught up may be behind, unless the follower that was not stopped is further behind: under full
/// load each of them has that much to apply at times.
const CAUGHT_UP: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_PAUSE: Duration = Duration::from_millis(50);
const PROGRESS: Duration = Duration::from_secs(10);

/// Lag of the follower after it resumed, entries.
struct Lag {
    first: Option<u64>,
    last: Option<u64>,
    /// Time until it was at most [`CAUGHT_UP`].
    caught_up: Option<Duration>,
}

pub async fn measure(setup: &Setup<'_>, cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    let leader = cluster.leader().await?;
    let follower = (leader + 1) % cluster.members.len();
    let mut statuses = Vec::new();
    for index in [follower, leader, (leader + 2) % cluster.members.len()] {
        statuses.push(Management::new(&cluster.members[index])?);
    }
    let port = cluster.members[leader].port(Protocol::Redis)?;
    let mut writers = Writers::start(port, setup.keys, Order::Random).await?;
    cluster.members[follower].server.signal(Signal::STOP)?;
    let stopped_for = Duration::from_secs(setup.options.stopped_secs);
    let loaded = writers.run("stopped", Some(stopped_for)).await;
    cluster.members[follower].server.signal(Signal::CONT)?;
    loaded?;
    let lag = catch_up(cluster, &mut writers, &mut statuses).await?;
    let answers = writers.finish().await?;
    let entries = |lag: Option<u64>| lag.map_or("unknown".to_owned(), |lag| format!("{lag} entries"));
    let measured = match lag.caught_up {
        Some(time) => format!("{} s after SIGCONT", short(time.as_secs_f64())),
        None => format!("never in {} s: still {} behind", PATIENCE.as_secs(), entries(lag.last)),
    };
    figures.push(
        format!(
            "a follower stopped for {} s under full load: at most {CAUGHT_UP} entries, or no more than the other follower, behind",
            stopped_for.as_secs()
        ),
        format!(
            "{measured}; {} behind at the first status; {} k/s were written meanwhile",
            entries(lag.first),
            short(answers.throughput() / 1e3)
        ),
        "<= 30 s after, while the load continues",
    );
    Ok(())
}

/// Polls the lag until the follower, the first in `statuses`, has caught up or [`PATIENCE`] is over.
async fn catch_up(cluster: &mut Cluster, writers: &mut Writers, statuses: &mut [Management]) -> Result<Lag> {
    let resumed = Instant::now();
    let mut lag = Lag { first: None, last: None, caught_up: None };
    let mut progress = resumed + PROGRESS;
    while resumed.elapsed() < PATIENCE {
        cluster.ensure_alive()?;
        writers.ensure_running()?;
        if let Some((now, other)) = behind(statuses).await {
            lag.first.get_or_insert(now);
            lag.last = Some(now);
            if now <= CAUGHT_UP.max(other) {
                lag.caught_up = Some(resumed.elapsed());
                break;
            }
        }
        if Instant::now() >= progress {
            progress += PROGRESS;
            say(&format!("stopped: {:?} entries behind", lag.last));
        }
        sleep(POLL_PAUSE).await;
    }
    Ok(lag)
}

/// Returns how many entries the states of the first and of the last member are behind what is known as committed.
async fn behind(statuses: &mut [Management]) -> Option<(u64, u64)> {
    let [follower, leader, other] = statuses else { return None };
    let (follower, leader, other) = tokio::join!(follower.status(), leader.status(), other.status());
    let (leader, other) = (leader?, other?);
    let committed = leader.commit_index.max(other.commit_index);
    let behind = |applied: u64| committed.saturating_sub(applied);
    Some((behind(follower?.applied_index), behind(other.applied_index)))
}
