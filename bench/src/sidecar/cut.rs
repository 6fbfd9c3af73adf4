//! A sidecar that is cut off from all members while they are written to.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::followers::Stamps;
use super::wire::Wire;
use super::{Setup, Sidecar, WRITES, is_current, member_ports};
use crate::cluster::Cluster;
use crate::ports::Ports;
use crate::scale::figures::{Figures, ms};
use crate::wait_for;

/// Longest time until the sidecar has caught up.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn measure(
    setup: &Setup<'_>,
    cluster: &Cluster,
    ports: &mut Ports,
    figures: &mut Figures,
) -> Result<()> {
    let (open, is_open) = watch::channel(true);
    let (mut wires, mut members) = (Vec::new(), Vec::new());
    for (redis, grpc) in member_ports(cluster)? {
        let [to_redis, to_grpc] = ports.take()?;
        for (listen, target) in [(to_redis, redis), (to_grpc, grpc)] {
            wires.push(Wire::start(listen, target, is_open.clone()).await?);
        }
        members.push((to_redis, to_grpc));
    }
    let sidecar = Sidecar::start(setup, ports, &members).await?;
    let resyncs = sidecar.metric("helios_sidecar_resyncs_total").await?;
    let stamps = Stamps::start(setup, cluster).await?;
    open.send_replace(false);
    sleep(Duration::from_secs(setup.options.cut_secs)).await;
    let text = sidecar.metrics().await.unwrap_or_default();
    ensure!(!is_current(&text), "the sidecar was not cut off");
    let opened = Instant::now();
    open.send_replace(true);
    let caught_up = wait_for(PATIENCE, "a current replica", async || {
        let text = sidecar.metrics().await.unwrap_or_default();
        Ok(is_current(&text).then(|| opened.elapsed()))
    })
    .await;
    let written = stamps.finish().await?;
    let snapshots = sidecar.metric("helios_sidecar_resyncs_total").await? - resyncs;
    figures.push(
        format!("cut off for {} s at {WRITES} writes/s: until reads are local again", setup.options.cut_secs),
        format!("{}; {written} writes meanwhile, {snapshots} snapshots", ms(caught_up?)),
        "<= 2 s",
    );
    drop(wires);
    Ok(())
}
