//! The three parts of a node in its status as JSON: consensus manager, health checker, failover coordinator. Pure.

use helios_proto::v1::{ArchiverStatus, Health, PeerHealth, StatusResponse, StoredState, election};
use serde_json::{Value as Json, json};

use super::cluster::role_name;
use crate::raft::membership;

pub fn describe(status: &StatusResponse) -> Json {
    json!({
        "consensus_manager": {
            "role": role_name(status.role()),
            "term": status.term,
            "leader": status.leader_name,
            "last_index": status.last_index,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
        },
        "health_checker": {
            "peers": status.health.iter().map(|peer| peer_of(status, peer)).collect::<Vec<_>>(),
        },
        "failover_coordinator": failover(status),
    })
}

pub fn sessions(status: &StatusResponse) -> Json {
    let sessions = status.sessions.unwrap_or_default();
    json!({ "client": sessions.client, "grpc": sessions.grpc, "gateway": sessions.gateway })
}

/// Returns the newest snapshot; null if this member has none yet.
pub fn snapshot(status: &StatusResponse) -> Json {
    if status.snapshot_size_bytes == 0 {
        return Json::Null;
    }
    json!({
        "index": status.snapshot_index,
        "size_bytes": status.snapshot_size_bytes,
        "age_seconds": status.snapshot_age_seconds,
    })
}

/// Returns state and log on this member's disk, its memory and its volume.
pub fn state(status: &StatusResponse) -> Json {
    let state = status.state.clone().unwrap_or_default();
    let scrub = state.scrub.map(|scrub| {
        json!({
            "last_complete_seconds_ago": scrub.last_complete_seconds_ago,
            "running": scrub.running,
            "done_bytes": scrub.done_bytes,
            "total_bytes": scrub.total_bytes,
            "damaged_files": scrub.damaged_files,
        })
    });
    let memory = state.memory.map(|memory| {
        let limit_bytes = Some(memory.limit_bytes).filter(|bytes| *bytes > 0);
        json!({ "limit_bytes": limit_bytes, "used_bytes": memory.used_bytes })
    });
    let volume = state
        .volume
        .map(|volume| json!({ "size_bytes": volume.size_bytes, "free_bytes": volume.free_bytes }));
    json!({
        "engine": state.engine,
        "size_bytes": state.size_bytes,
        "log_bytes": state.log_bytes,
        "log_memory_bytes": state.log_memory_bytes,
        "durable_index": state.durable_index,
        "checkpoint_age_seconds": state.checkpoint_age_seconds,
        "scrub": scrub,
        "memory": memory,
        "volume": volume,
    })
}

/// Returns the archivers that hold the log of this member, as they reported last.
pub fn archivers(status: &StatusResponse, now_ms: u64) -> Json {
    let stored = |state: Option<StoredState>| {
        state.map(|StoredState { index, at_ms }| {
            json!({ "index": index, "age_seconds": now_ms.saturating_sub(at_ms) / 1000 })
        })
    };
    let one = |archiver: &ArchiverStatus| {
        let report = archiver.report.clone().unwrap_or_default();
        json!({
            "name": archiver.name,
            "reported_seconds_ago": archiver.reported_seconds_ago,
            "state": report.state,
            "archived_index": report.archived_index,
            "lag_seconds": report.lag_ms as f64 / 1000.0,
            "last_base": stored(report.last_base),
            "last_verified_restore": stored(report.last_verified_restore),
        })
    };
    status.archivers.iter().map(one).collect()
}

/// Returns the entry that could not be applied; null if there is none.
pub fn unappliable(status: &StatusResponse) -> Json {
    status.entry_unappliable.as_ref().map_or(Json::Null, |held| {
        json!({
            "index": held.index,
            "command": held.command,
            "size_bytes": held.size_bytes,
            "crc": format!("{:08x}", held.crc),
        })
    })
}

fn peer_of(status: &StatusResponse, peer: &PeerHealth) -> Json {
    let health = match peer.health() {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Unreachable => "unreachable",
    };
    json!({
        "name": name_of(status, peer.id),
        "health": health,
        "last_contact_ms": peer.last_contact_ms,
        "consecutive_errors": peer.consecutive_errors,
        "lag_entries": peer.lag_entries,
    })
}

fn failover(status: &StatusResponse) -> Json {
    let failover = status.failover.clone().unwrap_or_default();
    let election = failover.last_election.map(|last| {
        let cause = match last.cause() {
            election::Cause::Timeout => "timeout",
            election::Cause::LeaderLost => "leader_lost",
            election::Cause::Handover => "handover",
        };
        json!({ "cause": cause, "ago_ms": last.ago_ms, "took_ms": last.took_ms })
    });
    json!({
        "may_lead": failover.may_lead.iter().map(|id| name_of(status, *id)).collect::<Vec<_>>(),
        "transfer_to": name_of(status, failover.transfer_target),
        "last_election": election,
    })
}

/// Returns the name of a member; null if there is no such member.
fn name_of(status: &StatusResponse, id: u64) -> Option<&str> {
    let member = membership::member(status.membership.as_ref()?, id)?;
    Some(member.name.as_str())
}
