//! Changes requested of the leader. Each call of its management service is idempotent.

use std::time::{Duration, Instant};

use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{
    AddLearnerRequest, Member, Membership, PromoteRequest, RemoveRequest, Role, SnapshotRequest,
    StatusResponse, StepDownRequest, TransferRequest,
};
use tonic::transport::Channel;

use super::survey::{Answer, Endpoints, leader, newest_membership, survey};
use crate::error::Error;
use crate::persist::persist;
use crate::place::Place;

/// Timeout of a snapshot: the longest time that the member itself allows for writing its whole state.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(65);

/// Pause between two polls of a fact that no member announces.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// The leader, its connection and the membership.
struct Led {
    name: String,
    term: u64,
    client: ClusterClient<Channel>,
    membership: Membership,
}

impl Led {
    async fn find(endpoints: &Endpoints, limit: Duration) -> Result<Self, Error> {
        let answers = survey(endpoints, limit).await;
        let status = leader(&answers).ok_or_else(|| no_leader(&answers))?;
        let address = answers
            .iter()
            .find(|answer| answer.status().is_some_and(|other| other.member_id == status.member_id))
            .map(|answer| answer.address.clone())
            .ok_or_else(|| no_leader(&answers))?;
        Ok(Self {
            client: endpoints.place(address).cluster(limit).await?,
            name: status.name.clone(),
            term: status.term,
            membership: status.membership.clone().unwrap_or_default(),
        })
    }
}

pub(super) fn no_leader(answers: &[Answer]) -> Error {
    let answering = answers.iter().filter(|answer| answer.status.is_ok()).count();
    Error::Impossible(format!(
        "no leader among {answering} of {} addresses that answer; heliosctl doctor looks for the reason",
        answers.len()
    ))
}

/// Returns the member `name`, or an error with the names of the members.
pub fn find<'a>(membership: &'a Membership, name: &str) -> Result<&'a Member, Error> {
    membership.members.iter().find(|member| member.name == name).ok_or_else(|| {
        let names: Vec<_> = membership.members.iter().map(|member| member.name.as_str()).collect();
        Error::Impossible(format!("there is no member {name:?}; the members are {}", names.join(", ")))
    })
}

/// Transfers leadership to `name`; returns when `name` is the leader.
///
/// # Errors
/// When there is no leader or no such voter, and when the leader refuses, e.g. because the target lags.
pub async fn transfer(endpoints: &Endpoints, name: &str, limit: Duration) -> Result<String, Error> {
    persist(limit, async || try_transfer(endpoints, name, limit).await).await
}

async fn try_transfer(endpoints: &Endpoints, name: &str, limit: Duration) -> Result<String, Error> {
    let mut led = Led::find(endpoints, limit).await?;
    if led.name == name {
        return Ok(format!("{name} leads already, in term {}", led.term));
    }
    let target_id = find(&led.membership, name)?.id;
    let request =
        TransferRequest { target_id, timeout_ms: milliseconds(limit), ..TransferRequest::default() };
    let done = led.client.transfer_leadership(request).await;
    let done = done.map_err(Error::refused(&led.name, format!("hand leadership to {name}")))?.into_inner();
    Ok(format!("{name} leads in term {} (before: {})", done.term, led.name))
}

/// Makes the leader step down in favour of the most caught-up voter.
///
/// # Errors
/// As [`transfer`].
pub async fn step_down(endpoints: &Endpoints, limit: Duration) -> Result<String, Error> {
    persist(limit, async || try_step_down(endpoints, limit).await).await
}

async fn try_step_down(endpoints: &Endpoints, limit: Duration) -> Result<String, Error> {
    let mut led = Led::find(endpoints, limit).await?;
    let done = led
        .client
        .step_down(StepDownRequest { timeout_ms: milliseconds(limit), ..StepDownRequest::default() })
        .await;
    let done = done.map_err(Error::refused(&led.name, "step down"))?.into_inner();
    let next = led.membership.members.iter().find(|member| member.id == done.leader_id);
    let next = next.map_or("another member", |member| member.name.as_str());
    Ok(format!("{next} leads in term {} (before: {})", done.term, led.name))
}

/// Adds the blank node at `address` as a learner.
///
/// # Errors
/// When the node does not answer or belongs to a cluster, and when the leader refuses.
pub async fn add_learner(endpoints: &Endpoints, address: &str, limit: Duration) -> Result<String, Error> {
    let StatusResponse { name, disk_id, cluster_id, role, .. } =
        endpoints.place(address.to_owned()).status(limit).await?;
    if role != i32::from(Role::Uninitialized) {
        return Err(Error::Impossible(format!(
            "{name} at {address} belongs to cluster {cluster_id} already; start it with an empty data directory"
        )));
    }
    let mut led = Led::find(endpoints, limit).await?;
    let request = AddLearnerRequest {
        name: name.clone(),
        peer_addr: address.to_owned(),
        client_addr: String::new(),
        disk_id,
        expected_membership_index: led.membership.index,
        ..AddLearnerRequest::default()
    };
    let done =
        led.client.add_learner(request).await.map_err(Error::refused(&led.name, format!("add {name}")))?;
    let members = done.into_inner().membership.map_or(0, |membership| membership.members.len());
    Ok(format!("{name} is a learner, one of {members} members; next: heliosctl promote {name}"))
}

/// Promotes a learner to a voter.
///
/// # Errors
/// When there is no such member, and when the leader refuses until `limit` has passed: the message has the
/// learner's lag.
pub async fn promote(
    endpoints: &Endpoints,
    name: &str,
    max_lag_entries: u64,
    limit: Duration,
) -> Result<String, Error> {
    persist(limit, async || try_promote(endpoints, name, max_lag_entries, limit).await).await
}

async fn try_promote(
    endpoints: &Endpoints,
    name: &str,
    max_lag_entries: u64,
    limit: Duration,
) -> Result<String, Error> {
    let mut led = Led::find(endpoints, limit).await?;
    let id = find(&led.membership, name)?.id;
    if led.membership.voters.contains(&id) {
        return Ok(format!("{name} is a voter already; heliosctl transfer {name} makes it the leader"));
    }
    let request = PromoteRequest {
        id,
        max_lag_entries,
        expected_membership_index: led.membership.index,
        ..PromoteRequest::default()
    };
    let done =
        led.client.promote(request).await.map_err(Error::refused(&led.name, format!("promote {name}")))?;
    let voters = done.into_inner().membership.map_or(0, |membership| membership.voters.len());
    Ok(format!("{name} is a voter, one of {voters} voters"))
}

/// Removes a member; a leader that is to be removed steps down first, and the next leader removes it.
///
/// # Errors
/// When there is no such member, and when the leader refuses.
pub async fn remove(endpoints: &Endpoints, name: &str, limit: Duration) -> Result<String, Error> {
    persist(limit, async || try_remove(endpoints, name, limit).await).await
}

async fn try_remove(endpoints: &Endpoints, name: &str, limit: Duration) -> Result<String, Error> {
    let mut led = Led::find(endpoints, limit).await?;
    let id = find(&led.membership, name)?.id;
    if led.name == name && led.membership.voters.len() > 1 {
        try_step_down(endpoints, limit).await?;
        led = Led::find(endpoints, limit).await?;
    }
    let request =
        RemoveRequest { id, expected_membership_index: led.membership.index, ..RemoveRequest::default() };
    let done =
        led.client.remove(request).await.map_err(Error::refused(&led.name, format!("remove {name}")))?;
    let members = done.into_inner().membership.map_or(0, |membership| membership.members.len());
    Ok(format!("{name} is removed, {members} members stay; its process may be stopped now"))
}

/// Makes the member `name` write a snapshot.
///
/// # Errors
/// When there is no such member, or it fails to write the snapshot.
pub async fn snapshot(endpoints: &Endpoints, name: &str, limit: Duration) -> Result<String, Error> {
    let answers = survey(endpoints, limit).await;
    let membership = newest_membership(&answers).ok_or_else(|| no_leader(&answers))?;
    let address = find(membership, name)?.peer_addr.clone();
    snapshot_at(&endpoints.place(address), name).await
}

/// Makes the member at `place` write a snapshot.
///
/// # Errors
/// When the member cannot be reached or fails to write the snapshot.
pub async fn snapshot_at(place: &Place, name: &str) -> Result<String, Error> {
    let mut client = place.cluster(SNAPSHOT_LIMIT).await?;
    let done = client.snapshot(SnapshotRequest {}).await.map_err(Error::refused(name, "take a snapshot"))?;
    let done = done.into_inner();
    Ok(format!("{name} has a snapshot at index {} of term {}", done.index, done.term))
}

/// Returns the client address of one of the members. A member registers its client address with the cluster a
/// moment after it is ready for the first time, so this waits for it.
///
/// # Errors
/// When no ready member with a client address answers within `limit`.
pub async fn client_place(endpoints: &Endpoints, limit: Duration) -> Result<Place, Error> {
    let deadline = Instant::now() + limit;
    loop {
        let answers = survey(endpoints, limit).await;
        if let Some((address, has_tls)) = client_address(&answers) {
            let place = endpoints.place(address);
            return Ok(if has_tls { place } else { place.unlocked() });
        }
        let ready = answers.iter().filter_map(Answer::status).any(|status| status.ready);
        if !ready || Instant::now() > deadline {
            return Err(Error::Impossible(
                "no member that answers is ready and has a client address; heliosctl doctor looks for the reason".into(),
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// Returns the client address of a ready member, and whether that port speaks TLS.
fn client_address(answers: &[Answer]) -> Option<(String, bool)> {
    answers.iter().filter_map(Answer::status).filter(|status| status.ready).find_map(|status| {
        let members = status.membership.iter().flat_map(|membership| &membership.members);
        let own = members.into_iter().find(|member| member.id == status.member_id)?;
        (!own.client_addr.is_empty()).then(|| (own.client_addr.clone(), status.client_tls))
    })
}

pub fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
