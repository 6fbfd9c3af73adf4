//! What a coordinator tells of the cluster.

use helios_proto::v1::Progress;

use super::{ClusterCoordinator, leader_of};
use crate::raft::{RaftStatus, Role, membership};
use crate::state::StateMachine;

/// Entries from which on a member that answers is called degraded.
const DEGRADED_LAG: u64 = 1_000;

/// The cluster as this member sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterState {
    pub leader: Option<String>,
    pub term: u64,
    pub commit_index: u64,
    pub nodes: Vec<NodeInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub node_id: String,
    /// host:port of its peer service.
    pub address: String,
    pub is_voter: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterMetrics {
    pub consensus_metrics: ConsensusMetrics,
    pub health_metrics: HealthMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsensusMetrics {
    /// Index of the last entry of the log here.
    pub log_entries_appended: u64,
    pub log_entries_committed: u64,
    pub last_applied_index: u64,
    /// Elections that this member began since it started.
    pub election_count: u64,
}

/// What the leader knows of the others; empty elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthMetrics {
    pub peers: Vec<PeerHealth>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHealth {
    pub node_id: String,
    pub status: NodeStatus,
    /// Entries that it lacks of the leader's log.
    pub lag: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    Healthy,
    /// It answers, and is more than 1 000 entries behind or receives a snapshot.
    Degraded,
    /// Not heard of for two election timeouts.
    Unreachable,
}

impl<M: StateMachine> ClusterCoordinator<M> {
    /// Empty before the node belongs to a cluster.
    pub async fn get_state(&self) -> ClusterState {
        let Ok(member) = self.member() else { return ClusterState::default() };
        let status = member.raft.status();
        let node = |member: &helios_proto::v1::Member| NodeInfo {
            node_id: member.name.clone(),
            address: member.peer_addr.clone(),
            is_voter: status.membership.voters.contains(&member.id),
        };
        ClusterState {
            leader: leader_of(&status),
            term: status.term,
            commit_index: status.commit_index,
            nodes: status.membership.members.iter().map(node).collect(),
        }
    }

    /// Empty before the node belongs to a cluster.
    pub fn get_metrics(&self) -> ClusterMetrics {
        let Ok(member) = self.member() else { return ClusterMetrics::default() };
        let status = member.raft.status();
        let consensus_metrics = ConsensusMetrics {
            log_entries_appended: status.last_index,
            log_entries_committed: status.commit_index,
            last_applied_index: member.raft.applied_index(),
            election_count: status.elections,
        };
        let is_leader = status.role == Role::Leader;
        let peers = status.progress.iter().filter(|_| is_leader).map(|progress| health(&status, progress));
        ClusterMetrics { consensus_metrics, health_metrics: HealthMetrics { peers: peers.collect() } }
    }
}

fn health(status: &RaftStatus, progress: &Progress) -> PeerHealth {
    let lag = status.last_index.saturating_sub(progress.match_index);
    PeerHealth {
        node_id: membership::name_of(&status.membership, progress.id).unwrap_or_default(),
        status: match progress {
            Progress { active: false, .. } => NodeStatus::Unreachable,
            Progress { snapshotting: true, .. } => NodeStatus::Degraded,
            _ if lag > DEGRADED_LAG => NodeStatus::Degraded,
            _ => NodeStatus::Healthy,
        },
        lag,
    }
}
