//! Leadership and snapshots, requested of the members' management service.

use std::time::Duration;

use helios_crds::HeliosCluster;
use helios_proto::v1::{Role, StatusResponse, StepDownRequest, TransferRequest};
use kube::ResourceExt;

use super::change::await_status;
use super::find::{CLIENT_PORT, Finder, PEER_PORT};
use super::observe::is_ready;
use crate::direct;
use crate::error::Error;
use crate::persist::persist;
use crate::place::Place;

/// Time that a leader waits for its successor, in milliseconds, unless the spec says otherwise.
const TRANSFER_LIMIT_MS: u32 = 5_000;

/// Transfers leadership to the member `name`, and waits until the cluster's status shows it.
///
/// # Errors
/// When there is no such member or no leader, when the leader refuses, and when the operator does not
/// report it within `limit`.
pub async fn transfer(finder: &Finder, name: &str, limit: Duration) -> Result<String, Error> {
    let cluster = finder.of_member(name).await?;
    let said = persist(finder.limit, async || try_transfer(finder, &cluster, name).await).await?;
    await_leader(finder, &cluster, name, limit).await?;
    Ok(said)
}

async fn try_transfer(finder: &Finder, cluster: &HeliosCluster, name: &str) -> Result<String, Error> {
    let (place, leader) = leader(finder, cluster).await?;
    if leader.name == name {
        return Ok(format!("{name} leads already, in term {}", leader.term));
    }
    let target_id = direct::find(&leader.membership.unwrap_or_default(), name)?.id;
    let mut client = place.cluster(finder.limit).await?;
    let request = TransferRequest { target_id, timeout_ms: TRANSFER_LIMIT_MS, ..TransferRequest::default() };
    let done = client.transfer_leadership(request).await;
    let done = done.map_err(Error::refused(&leader.name, format!("hand leadership to {name}")))?;
    Ok(format!("{name} leads in term {} (before: {})", done.into_inner().term, leader.name))
}

/// Makes the leader step down, and waits until the cluster's status shows the next leader.
///
/// # Errors
/// As [`transfer`].
pub async fn step_down(finder: &Finder, cluster: &HeliosCluster, limit: Duration) -> Result<String, Error> {
    let (next, said) = persist(finder.limit, async || try_step_down(finder, cluster).await).await?;
    await_leader(finder, cluster, &next, limit).await?;
    Ok(said)
}

async fn try_step_down(finder: &Finder, cluster: &HeliosCluster) -> Result<(String, String), Error> {
    let (place, leader) = leader(finder, cluster).await?;
    let mut client = place.cluster(finder.limit).await?;
    let done = client
        .step_down(StepDownRequest { timeout_ms: TRANSFER_LIMIT_MS, ..StepDownRequest::default() })
        .await;
    let done = done.map_err(Error::refused(&leader.name, "step down"))?.into_inner();
    let members = leader.membership.unwrap_or_default().members;
    let next = members.into_iter().find(|member| member.id == done.leader_id).map(|member| member.name);
    let next = next.ok_or_else(|| {
        Error::Output(format!("the new leader is member {}, whose name is unknown", done.leader_id))
    })?;
    let said = format!("{next} leads in term {} (before: {})", done.term, leader.name);
    Ok((next, said))
}

/// Waits until the cluster's status names `name` as the leader.
pub async fn await_leader(
    finder: &Finder,
    cluster: &HeliosCluster,
    name: &str,
    limit: Duration,
) -> Result<(), Error> {
    await_status(finder, &cluster.name_any(), limit, |seen| {
        let leader = seen.status.as_ref().and_then(|status| status.leader.as_deref());
        match leader == Some(name) {
            true => Ok(()),
            false => Err(format!(
                "{name} leads, and the operator still reports {}; heliosctl doctor checks whether it runs",
                leader.unwrap_or("nobody")
            )),
        }
    })
    .await
}

/// Makes a member write a snapshot.
///
/// # Errors
/// When there is no such member, or it fails to write the snapshot.
pub async fn snapshot(finder: &Finder, name: &str) -> Result<String, Error> {
    let cluster = finder.of_member(name).await?;
    let lock = finder.lock(&cluster).await?;
    direct::snapshot_at(&finder.place(&cluster.name_any(), name, PEER_PORT, &lock), name).await
}

/// Returns the client port of a ready member.
///
/// # Errors
/// When no member is ready, or the ready one does not answer.
pub async fn client_place(finder: &Finder, cluster: &HeliosCluster) -> Result<Place, Error> {
    let name = cluster.name_any();
    let pods = finder.pods_of(&name).await?;
    let ready = pods.iter().find(|pod| is_ready(pod)).ok_or_else(|| {
        Error::Impossible(format!("no member of {name} is ready; heliosctl status {name} says why"))
    })?;
    let (pod, lock) = (ready.name_any(), finder.lock(cluster).await?);
    let status = finder.place(&name, &pod, PEER_PORT, &lock).status(finder.limit).await?;
    let place = finder.place(&name, &pod, CLIENT_PORT, &lock);
    Ok(if status.client_tls { place } else { place.unlocked() })
}

/// Returns the leader, confirmed by its own status. The cluster's status may be a moment old, so a member
/// that is no longer the leader is asked once who is.
async fn leader(finder: &Finder, cluster: &HeliosCluster) -> Result<(Place, StatusResponse), Error> {
    let name = cluster.name_any();
    let reported = cluster.status.as_ref().and_then(|status| status.leader.clone());
    let mut next = reported.ok_or_else(|| {
        Error::Impossible(format!("{name} has no leader; heliosctl status {name} says why"))
    })?;
    let lock = finder.lock(cluster).await?;
    for _ in 0..2 {
        let place = finder.place(&name, &next, PEER_PORT, &lock);
        let status = place.status(finder.limit).await?;
        if status.role() == Role::Leader {
            return Ok((place, status));
        }
        if status.leader_name.is_empty() {
            break;
        }
        next = status.leader_name;
    }
    Err(Error::Impossible(format!("{name} is electing a leader; try again")))
}
