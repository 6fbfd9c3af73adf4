//! What a node says of itself; the one value that gRPC, HTTP, INFO and readiness are made from.

use std::sync::atomic::Ordering;

use helios_proto::v1::{self as proto, StatusResponse};

use crate::node::Node;
use crate::raft::format::FORMAT;
use crate::raft::{RaftStatus, Role, membership};

/// Entries a node may be behind what it knows to be committed and still be called ready.
const MAX_READY_LAG: u64 = 1_000;

pub fn of(node: &Node) -> StatusResponse {
    let (inner, settings) = (node.inner(), node.settings());
    let (disk_id, boot_epoch) = node.identity();
    let mut response = StatusResponse {
        name: settings.name.clone(),
        disk_id: disk_id.to_owned(),
        boot_epoch,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys: inner.store.key_count(),
        uptime_seconds: inner.started.elapsed().as_secs(),
        config_hash: settings.config_hash.clone(),
        role: proto::Role::Uninitialized.into(),
        format: FORMAT,
        peer_tls: inner.locks.peer.is_some(),
        client_tls: inner.locks.client.is_some(),
        peer_certificate_expires_at: inner.locks.peer.as_ref().map_or(0, |side| side.expires_at()),
        client_certificate_expires_at: inner.locks.client.as_ref().map_or(0, |side| side.expires_at()),
        ..StatusResponse::default()
    };
    let reason = match node.member() {
        Some(member) => {
            let status = member.raft.status();
            let applied = member.raft.applied_index();
            response.cluster_id = member.cluster_id.clone();
            response.member_id = member.id;
            response.incarnation = member.incarnation;
            describe(&mut response, &status, applied);
            unready(&status, applied)
        }
        None => Some("belongs to no cluster yet".to_owned()),
    };
    let reason = if node.is_removed() {
        response.role = proto::Role::Removed.into();
        Some("was removed from its cluster".to_owned())
    } else if inner.stopping.load(Ordering::SeqCst) {
        Some("is stopping".to_owned())
    } else {
        reason
    };
    response.ready = reason.is_none();
    response.not_ready_reason = reason.unwrap_or_default();
    response
}

fn describe(response: &mut StatusResponse, status: &RaftStatus, applied: u64) {
    response.role = match status.role {
        Role::Leader => proto::Role::Leader,
        Role::Follower => proto::Role::Follower,
        Role::Candidate => proto::Role::Candidate,
        Role::Learner => proto::Role::Learner,
    }
    .into();
    response.term = status.term;
    response.leader_id = status.leader_id;
    response.leader_name = membership::name_of(&status.membership, status.leader_id).unwrap_or_default();
    response.last_index = status.last_index;
    response.last_log_term = status.last_log_term;
    response.commit_index = status.commit_index;
    response.applied_index = applied;
    response.snapshot_index = status.snapshot_index;
    response.first_index = status.first_index;
    response.membership = Some((*status.membership).clone());
    response.progress = status.progress.clone();
    response.lowest_format = status.lowest_format;
}

/// Ready means: can serve or send on, and is caught up with what it knows to be committed.
fn unready(status: &RaftStatus, applied: u64) -> Option<String> {
    if status.leader_id == 0 {
        return Some("knows no leader".to_owned());
    }
    if status.membership.members.is_empty() {
        return Some("is waiting for its first snapshot".to_owned());
    }
    let lag = status.commit_index.saturating_sub(applied);
    (lag > MAX_READY_LAG).then(|| format!("is {lag} entries behind"))
}
