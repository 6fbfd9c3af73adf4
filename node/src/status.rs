//! Status of a node: the value from which gRPC, HTTP, INFO and readiness are derived.

use std::sync::atomic::Ordering;
use std::time::Instant;

use helios_proto::v1::{self as proto, Failover, StateReport, StatusResponse, state_report};
use helios_service::time::whole_ms;

use crate::health;
use crate::memory;
use crate::metrics::{Observed, ObservedMember, ScrubReport};
use crate::node::Node;
use crate::raft::format::FORMAT;
use crate::raft::{Cause, RaftStatus, Role, membership};
use crate::state::EngineKind;

/// Limit of a ready node's lag behind its known commit index, in entries.
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
        config_file_hash: settings.file_hash.clone(),
        users_file_digest: inner.access.get().map(|access| access.users_digest()).unwrap_or_default(),
        role: proto::Role::Uninitialized.into(),
        format: FORMAT,
        peer_tls: inner.certificates.peer.is_some(),
        client_tls: inner.certificates.client.is_some(),
        peer_certificate_expires_at: inner.certificates.peer.as_ref().map_or(0, |side| side.expires_at()),
        sessions: Some(proto::Sessions {
            client: inner.sessions.client.count(),
            grpc: inner.sessions.grpc.count(),
            gateway: inner.sessions.gateway.count(),
        }),
        client_certificate_expires_at: inner.certificates.client.as_ref().map_or(0, |side| side.expires_at()),
        ..StatusResponse::default()
    };
    if let Some(newest) = node.newest_snapshot() {
        response.snapshot_size_bytes = newest.size_bytes;
        response.snapshot_age_seconds = newest.written_at.elapsed().map_or(0, |age| age.as_secs());
    }
    response.state = Some(state(node));
    response.archivers = inner.archivers.all(Instant::now());
    let reason = match node.member() {
        Some(member) => {
            let status = member.raft.status();
            let applied = member.raft.applied_index();
            response.cluster_id = member.cluster_id.clone();
            response.member_id = member.id;
            response.incarnation = member.incarnation;
            describe(&mut response, &status, applied);
            let heard = inner.metrics.contacts.heard_of();
            response.health = health::of_peers(&status, member.id, &heard, settings.election_min);
            response.failover = Some(failover(&status));
            unready(&status, applied)
        }
        None => match (node.repairing(), node.restoring()) {
            (Some(repair), _) => {
                response.cluster_id = repair.belonging.cluster_id.clone();
                response.member_id = repair.belonging.member_id;
                response.incarnation = repair.belonging.incarnation;
                response.role = proto::Role::Follower.into();
                Some(repair.describe())
            }
            (None, Some(restoring)) => Some(restoring.describe()),
            (None, None) => Some("belongs to no cluster yet".to_owned()),
        },
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

/// Returns the values that the metrics read from a node, in addition to their own counters.
pub fn observed(node: &Node) -> Observed {
    let inner = node.inner();
    let member = node.member().map(|member| {
        let (status, applied_index) = (member.raft.status(), member.raft.applied_index());
        let response = of(node);
        ObservedMember {
            status,
            applied_index,
            snapshot_size_bytes: response.snapshot_size_bytes,
            snapshot_age_seconds: response.snapshot_age_seconds,
            has_quorum: has_quorum(&response),
            healthy_members: healthy_members(&response).unwrap_or(0),
        }
    });
    Observed {
        keys: inner.store.key_count(),
        state_bytes: inner.store.bytes(),
        engine: inner.store.engine_stats(),
        state_rebuilds: inner.store.rebuilds(),
        slow_listeners_cut: inner.broker.cuts(),
        disk_free_bytes: node.free_bytes(),
        disk_size_bytes: node.volume_bytes(),
        memory_used_bytes: memory::used_bytes(),
        memory_limit_bytes: memory::limit_bytes(),
        member,
    }
}

fn state(node: &Node) -> StateReport {
    let (inner, settings) = (node.inner(), node.settings());
    let status = node.member().map(|member| member.raft.status()).unwrap_or_default();
    let volume = node.volume_bytes().zip(node.free_bytes());
    let scrubs = inner.store.engine() == EngineKind::Runs && settings.scrub_bytes_per_second.is_some();
    StateReport {
        engine: inner.store.engine().name().to_owned(),
        size_bytes: inner.store.engine_stats().bytes,
        log_bytes: status.log_bytes,
        log_memory_bytes: status.log_memory_bytes,
        durable_index: status.covered_index,
        checkpoint_age_seconds: inner.metrics.checkpoint_age().map(|age| age.as_secs()),
        scrub: scrubs.then(|| scrub(inner.metrics.scrub.report())),
        memory: memory::used_bytes().map(|used_bytes| state_report::Memory {
            limit_bytes: memory::limit_bytes().unwrap_or(0),
            used_bytes,
        }),
        volume: volume.map(|(size_bytes, free_bytes)| state_report::Volume { size_bytes, free_bytes }),
    }
}

fn scrub(report: ScrubReport) -> state_report::Scrub {
    let ScrubReport { since_complete, running, damaged_files, .. } = report;
    let progress = running.unwrap_or_default();
    state_report::Scrub {
        last_complete_seconds_ago: since_complete.map(|age| age.as_secs()),
        running: running.is_some(),
        done_bytes: progress.done_bytes,
        total_bytes: progress.total_bytes,
        damaged_files,
    }
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
    response.snapshot_failures = status.snapshot_failures;
    response.first_index = status.first_index;
    response.membership = Some((*status.membership).clone());
    response.progress = status.progress.clone();
    response.lowest_format = status.lowest_format;
    response.last_skipped_index = status.last_skipped;
    response.entry_unappliable = status.unappliable.as_ref().map(|held| proto::EntryUnappliable {
        index: held.index,
        command: held.command.clone(),
        size_bytes: held.bytes,
        crc: held.crc,
    });
}

fn failover(status: &RaftStatus) -> Failover {
    Failover {
        may_lead: status.may_lead.clone(),
        transfer_target: status.transfer_target.unwrap_or(0),
        last_election: status.last_election.map(|election| proto::Election {
            cause: match election.cause {
                Cause::Timeout => proto::election::Cause::Timeout,
                Cause::LeaderLost => proto::election::Cause::LeaderLost,
                Cause::Handover => proto::election::Cause::Handover,
            }
            .into(),
            ago_ms: whole_ms(election.began.elapsed()),
            took_ms: election.took.map(whole_ms),
        }),
    }
}

/// Returns why a node is not ready; `None` if it can serve or forward requests and has applied almost all of what it
/// knows to be committed.
fn unready(status: &RaftStatus, applied: u64) -> Option<String> {
    if status.leader_id == 0 {
        return Some("knows no leader".to_owned());
    }
    if status.membership.members.is_empty() {
        return Some("is waiting for its first snapshot".to_owned());
    }
    if let Some(held) = &status.unappliable {
        return Some(held.reason());
    }
    let lag = status.commit_index.saturating_sub(applied);
    (lag > MAX_READY_LAG).then(|| format!("is {lag} entries behind"))
}

/// Returns the number of members that this leader has heard from recently, itself included; `None` if this member is
/// not the leader, as only the leader knows.
pub fn healthy_members(status: &StatusResponse) -> Option<u64> {
    let heard = status.progress.iter().filter(|progress| progress.active).count() as u64;
    (status.role() == proto::Role::Leader).then_some(heard + 1)
}

/// Whether the cluster has a quorum. On the leader: it hears a majority of the voters, and of the outgoing voters of a
/// joint configuration. Elsewhere: a leader is known, which had a majority at its last heartbeat.
pub fn has_quorum(status: &StatusResponse) -> bool {
    if status.role() != proto::Role::Leader {
        return status.leader_id != 0;
    }
    let away = |id: &&u64| status.progress.iter().any(|progress| progress.id == **id && !progress.active);
    let Some(membership) = &status.membership else { return false };
    [&membership.voters, &membership.voters_outgoing]
        .iter()
        .all(|voters| voters.is_empty() || 2 * voters.iter().filter(away).count() < voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(voters: &[u64], outgoing: &[u64], away: &[u64]) -> StatusResponse {
        let membership = proto::Membership {
            voters: voters.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            ..Default::default()
        };
        let others = voters.iter().chain(outgoing).filter(|id| **id != 1);
        let progress =
            others.map(|id| proto::Progress { id: *id, active: !away.contains(id), ..Default::default() });
        StatusResponse {
            role: proto::Role::Leader.into(),
            leader_id: 1,
            progress: progress.collect(),
            membership: Some(membership),
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_quorum_is_a_majority_of_the_voters_and_of_the_outgoing_voters() {
        assert!(has_quorum(&leader(&[1], &[], &[])));
        assert!(has_quorum(&leader(&[1, 2, 3], &[], &[2])));
        assert!(!has_quorum(&leader(&[1, 2, 3], &[], &[2, 3])));
        assert!(!has_quorum(&leader(&[1, 2, 3, 4], &[], &[2, 3])));
        assert!(!has_quorum(&leader(&[1, 2, 3], &[1, 4, 5], &[4, 5])));
        assert_eq!(healthy_members(&leader(&[1, 2, 3], &[], &[2])), Some(2));
        let follower = StatusResponse { leader_id: 1, ..StatusResponse::default() };
        assert_eq!((has_quorum(&follower), healthy_members(&follower)), (true, None));
        assert!(!has_quorum(&StatusResponse::default()));
    }
}
