//! The phases follower and all: restarts after SIGKILL.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::START_PATIENCE;
use super::figures::{Figures, seconds};
use super::management::Management;
use crate::client::{Protocol, Resp};
use crate::cluster::Cluster;
use crate::load::{key, value};
use crate::wait_for;

const RESTARTS: usize = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(5);

pub async fn follower(cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    let (mut ready, mut caught_up) = (Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        let leader = cluster.leader().await?;
        let mut leads = Management::new(&cluster.members[leader])?;
        let follower = (leader + 1) % cluster.members.len();
        let member = &mut cluster.members[follower];
        let mut follows = Management::new(member)?;
        member.server.end(Signal::KILL).await?;
        let started = Instant::now();
        member.server.start()?;
        wait_for(START_PATIENCE, "a restarted follower that is ready", async || {
            member.server.ensure_alive()?;
            Ok(member.is_ready().await.then_some(()))
        })
        .await?;
        ready.push(started.elapsed());
        wait_for(START_PATIENCE, "the leader's applied index at the follower", async || {
            member.server.ensure_alive()?;
            let (Some(leader), Some(follower)) = (leads.status().await, follows.status().await) else {
                return Ok(None);
            };
            Ok((follower.applied_index >= leader.applied_index).then_some(()))
        })
        .await?;
        caught_up.push(started.elapsed());
    }
    let goal = "<= 1.0 s; 20 M keys: <= 1.5 s";
    figures.push("restart of a follower, to /readyz", seconds(&ready), goal);
    figures.push("restart of a follower, to the leader's applied index", seconds(&caught_up), goal);
    Ok(())
}

pub async fn all(cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..RESTARTS {
        cluster.kill().await?;
        let started = Instant::now();
        for member in &mut cluster.members {
            member.server.start()?;
        }
        first_write(cluster).await?;
        times.push(started.elapsed());
        cluster.settle_within(START_PATIENCE).await?;
    }
    let goal = "<= 2.0 s; 20 M keys: <= 2.5 s";
    figures.push("restart of all three, to the first acknowledged write", seconds(&times), goal);
    Ok(())
}

/// Waits until one of the members acknowledges a write.
async fn first_write(cluster: &mut Cluster) -> Result<()> {
    let mut writers = JoinSet::new();
    for member in &cluster.members {
        writers.spawn(write(member.port(Protocol::Redis)?));
    }
    wait_for(START_PATIENCE, "an acknowledged write", async || {
        cluster.ensure_alive()?;
        Ok(writers.try_join_next())
    })
    .await??;
    Ok(())
}

/// Writes until a write is acknowledged, each time on a new connection.
async fn write(port: u16) {
    let value = value();
    loop {
        if let Ok(mut client) = Resp::connect(port).await
            && client.set(&key(0), &value).await.is_ok()
        {
            return;
        }
        sleep(RETRY_PAUSE).await;
    }
}
