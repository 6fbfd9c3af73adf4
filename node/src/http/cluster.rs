//! Routes of the cluster: its status as JSON, and S3's calls that change it.

use helios_proto::v1::{
    self as proto, ErrorCode, Membership, Role, StatusResponse, StepDownRequest, TransferRequest,
    TransferResponse,
};
use helios_service::database::Database;
use helios_service::time::wall_ms;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use warp::http::StatusCode;
use warp::reply::Response;

use super::answer::{failed, ok, with_status};
use super::parts;
use super::request::{Request, Whole};
use crate::error::Error;
use crate::management::Management;
use crate::status::{has_quorum, healthy_members};

type Handled = Result<Response, Box<Response>>;

/// A member by name (S3) or id (S2).
#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    Id(Whole<u64>),
    Name(String),
}

impl Wanted {
    fn find(&self, membership: &Membership) -> Result<u64, Error> {
        let (field, found) = match self {
            Self::Name(name) if name.is_empty() => return Err(Error::invalid("the member's name is empty")),
            Self::Id(Whole(id)) => {
                (id.to_string(), membership.members.iter().find(|member| member.id == *id))
            }
            Self::Name(name) => (name.clone(), membership.members.iter().find(|member| member.name == *name)),
        };
        found.map(|member| member.id).ok_or_else(|| {
            let names: Vec<_> = membership.members.iter().map(|member| member.name.as_str()).collect();
            let message = format!("there is no member {field}; the members are {}", names.join(", "));
            Error::new(ErrorCode::NodeNotFound, message)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferBody {
    #[serde(alias = "node_id")]
    target_node_id: Wanted,
    #[serde(default)]
    timeout_ms: Whole<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepDownBody {
    #[serde(default)]
    timeout_ms: Whole<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    node_id: String,
    /// Host of the node's peer service, or host:port.
    address: String,
    port: Option<Whole<u16>>,
    /// Whether to promote the node once it has caught up; otherwise it stays a learner.
    #[serde(default = "yes")]
    vote: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberBody {
    node_id: Wanted,
}

pub async fn transfer(request: &Request, management: &Management) -> Handled {
    let TransferBody { target_node_id, timeout_ms: Whole(timeout_ms) } = request.json()?;
    let membership = management.node().store().membership();
    let done = async {
        let target_id = target_node_id.find(&membership)?;
        management.transfer(TransferRequest { target_id, timeout_ms, ..TransferRequest::default() }).await
    };
    Ok(transferred(done.await, management))
}

pub async fn step_down(request: &Request, management: &Management) -> Handled {
    let StepDownBody { timeout_ms: Whole(timeout_ms) } = request.json_or_default()?;
    let done = management.step_down(StepDownRequest { timeout_ms, ..StepDownRequest::default() }).await;
    Ok(transferred(done, management))
}

fn transferred(done: Result<TransferResponse, Error>, management: &Management) -> Response {
    done.map_or_else(
        |error| failed(&error),
        |TransferResponse { leader_id, term }| {
            let membership = management.node().store().membership();
            let leader = membership.members.iter().find(|member| member.id == leader_id);
            ok(&json!({
                "leader": leader.map(|leader| leader.name.as_str()),
                "leader_id": leader_id,
                "term": term,
            }))
        },
    )
}

pub async fn snapshot(management: &Management) -> Response {
    let taken = management.snapshot().await;
    taken
        .map_or_else(|error| failed(&error), |taken| ok(&json!({ "index": taken.index, "term": taken.term })))
}

pub async fn add(request: &Request, management: &Management) -> Handled {
    let AddBody { node_id, address, port, vote } = request.json()?;
    let added = async {
        if node_id.is_empty() || address.is_empty() {
            return Err(Error::invalid("node_id and address: name the node and where its peers reach it"));
        }
        let peer_addr = match port.map(|Whole(port)| port) {
            Some(port) if address.contains(':') && !address.starts_with('[') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
            None => address,
        };
        management.add_from_anywhere(&node_id, &peer_addr, vote).await
    };
    Ok(changed(added.await))
}

pub async fn remove(request: &Request, management: &Management) -> Handled {
    let MemberBody { node_id } = request.json()?;
    let removed = async {
        let id = node_id.find(&management.node().store().membership())?;
        management.remove_from_anywhere(id).await
    };
    Ok(changed(removed.await))
}

pub async fn promote(request: &Request, management: &Management) -> Handled {
    let MemberBody { node_id } = request.json()?;
    let promoted = async {
        let id = node_id.find(&management.node().store().membership())?;
        management.promote_from_anywhere(id).await
    };
    Ok(changed(promoted.await))
}

fn changed(outcome: Result<Membership, Error>) -> Response {
    outcome.map_or_else(|error| failed(&error), |membership| ok(&changed_membership(&membership)))
}

pub fn changed_membership(membership: &Membership) -> Json {
    let nodes: Vec<_> = membership.members.iter().map(|member| member_of(membership, member)).collect();
    json!({ "nodes": nodes, "membership_index": membership.index })
}

pub fn healthy(status: &StatusResponse, detailed: bool) -> Response {
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({ "healthy": status.ready, "reason": status.not_ready_reason });
    if detailed {
        body["cluster"] = describe(status);
    }
    with_status(&body, code)
}

pub fn leader(status: &StatusResponse) -> Response {
    if status.leader_id == 0 {
        return failed(&Error::new(ErrorCode::NoLeader, "no leader is known; try again"));
    }
    let membership = status.membership.as_ref();
    let leader = membership.and_then(|known| known.members.iter().find(|one| one.id == status.leader_id));
    ok(&json!({
        "leader": status.leader_name,
        "leader_id": status.leader_id,
        "address": leader.map(|leader| leader.peer_addr.as_str()),
        "client_address": leader.map(|leader| leader.client_addr.as_str()),
        "term": status.term,
    }))
}

pub fn describe(status: &StatusResponse) -> Json {
    json!({
        "name": status.name,
        "cluster_id": status.cluster_id,
        "member_id": status.member_id,
        "role": role_name(status.role()),
        "term": status.term,
        "leader": status.leader_name,
        "last_index": status.last_index,
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "snapshot_index": status.snapshot_index,
        "keys": status.keys,
        "uptime_seconds": status.uptime_seconds,
        "version": status.version,
        "tls": { "peer": status.peer_tls, "client": status.client_tls },
        "ready": status.ready,
        "not_ready_reason": status.not_ready_reason,
        "cluster_size": status.membership.as_ref().map_or(0, |membership| membership.members.len()),
        "healthy_nodes": healthy_members(status),
        "has_quorum": has_quorum(status),
        "sessions": parts::sessions(status),
        "snapshot": parts::snapshot(status),
        "state": parts::state(status),
        "archivers": parts::archivers(status, wall_ms()),
        "entry_unappliable": parts::unappliable(status),
        "last_skipped_index": status.last_skipped_index,
        "parts": parts::describe(status),
        "nodes": members(status),
    })
}

pub fn members(status: &StatusResponse) -> Json {
    let membership = status.membership.clone().unwrap_or_default();
    let one = |member: &proto::Member| {
        let progress = status.progress.iter().find(|progress| progress.id == member.id);
        let mut described = member_of(&membership, member);
        described["leader"] = json!(member.id == status.leader_id);
        described["match_index"] = json!(progress.map(|progress| progress.match_index));
        described["active"] = json!(progress.map(|progress| progress.active));
        described
    };
    membership.members.iter().map(one).collect()
}

fn member_of(membership: &Membership, member: &proto::Member) -> Json {
    json!({
        "id": member.id,
        "name": member.name,
        "address": member.peer_addr,
        "client_address": member.client_addr,
        "voter": membership.voters.contains(&member.id),
    })
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Uninitialized => "uninitialized",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Learner => "learner",
        Role::Removed => "removed",
    }
}
