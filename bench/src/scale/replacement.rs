//! The phase disk: a member loses its disk and comes back as a new member, as the log of heliosd advises: the old member
//! is removed, the blank one is added as a learner and promoted.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::figures::{Figures, gb};
use super::loopback;
use super::management::Management;
use super::{START_PATIENCE, Setup};
use crate::cluster::Cluster;
use crate::stats::short;
use crate::wait_for;

const POLL_PAUSE: Duration = Duration::from_millis(20);
/// Longest time until the new member is a voter.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Bytes of the loopback copy: those of the transfer, within these limits.
const COPY_BYTES: std::ops::RangeInclusive<u64> = 64 << 20..=1 << 30;
const RECEIVED: &str = "helios_snapshot_received_bytes_total";
/// Time of the goal beyond the transfer, seconds, and share of the copy's speed that the transfer has.
const GOAL: (f64, f64) = (15.0, 0.6);

/// Transfer of the state.
struct Transfer {
    bytes: f64,
    /// From the first to the last received byte, as far as the polls show.
    took: Duration,
}

pub async fn measure(setup: &Setup<'_>, cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    let leader = cluster.leader().await?;
    let lost = (leader + 1) % cluster.members.len();
    let mut leads = Management::new(&cluster.members[leader])?;
    let mut joins = Management::new(&cluster.members[lost])?;
    let old = joins.status().await.context("the status of the member before it loses its disk")?;
    cluster.members[lost].server.end(Signal::KILL).await?;
    cluster.members[lost].make_blank(&setup.heliosd)?;
    let started = Instant::now();
    cluster.members[lost].server.start()?;
    let blank = wait_for(START_PATIENCE, "the status of the blank member", async || {
        cluster.members[lost].server.ensure_alive()?;
        Ok(joins.status().await)
    })
    .await?;
    leads.remove(old.member_id).await?;
    let id = leads.add_learner(&cluster.members[lost], &blank.disk_id).await?;
    let transfer = promoted(cluster, lost, &mut leads, id).await?;
    let back = started.elapsed();
    wait_for(START_PATIENCE, "a new member that is ready", async || {
        cluster.ensure_alive()?;
        Ok(cluster.members[lost].is_ready().await.then_some(()))
    })
    .await?;
    figures.push(
        "lost disk, from the start of the blank member to voter",
        format!("{} s; ready after {} s", short(back.as_secs_f64()), short(started.elapsed().as_secs_f64())),
        "<= 15 s + the transfer",
    );
    compare_with_a_copy(setup, figures, back, &transfer).await
}

/// Waits until the learner is a voter; returns the transfer of the state to it.
async fn promoted(cluster: &mut Cluster, index: usize, leads: &mut Management, id: u64) -> Result<Transfer> {
    let deadline = Instant::now() + PATIENCE;
    let (mut first, mut last, mut bytes) = (None, Instant::now(), 0.0);
    loop {
        cluster.ensure_alive()?;
        let received = cluster.members[index].metric(RECEIVED).await.unwrap_or(bytes);
        if received > bytes {
            (bytes, last) = (received, Instant::now());
            first.get_or_insert(last);
        }
        if leads.promote(id).await? {
            let took = first.map_or(Duration::ZERO, |first| last - first);
            return Ok(Transfer { bytes, took });
        }
        anyhow::ensure!(Instant::now() < deadline, "the new member was not a voter within {PATIENCE:?}");
        sleep(POLL_PAUSE).await;
    }
}

async fn compare_with_a_copy(
    setup: &Setup<'_>,
    figures: &mut Figures,
    back: Duration,
    transfer: &Transfer,
) -> Result<()> {
    let bytes = (transfer.bytes as u64).clamp(*COPY_BYTES.start(), *COPY_BYTES.end());
    let dir = setup.dir.clone();
    let copy = tokio::task::spawn_blocking(move || loopback::measure(&dir, bytes)).await??;
    let speed = |bytes: f64| format!("{}/s", gb(bytes));
    let measured = if transfer.took.is_zero() {
        format!("{} in less than one poll", gb(transfer.bytes))
    } else {
        let rate = transfer.bytes / transfer.took.as_secs_f64();
        let share = rate / copy.file;
        format!("{} at {}, {} of the copy", gb(transfer.bytes), speed(rate), short(share))
    };
    figures.push(
        "lost disk: transfer of the snapshot",
        measured,
        ">= 0.6 of what `dd` over loopback TCP gives",
    );
    let (beyond, share) = GOAL;
    let limit = beyond + transfer.bytes / (share * copy.file);
    figures.push(
        format!("copy of {} over loopback TCP, file to file with an fsync", gb(bytes as f64)),
        format!(
            "{}; from memory to memory {}. By it the goal is {} s, and it took {} s",
            speed(copy.file),
            speed(copy.memory),
            short(limit),
            short(back.as_secs_f64())
        ),
        "",
    );
    Ok(())
}
