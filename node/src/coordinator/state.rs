//! Cluster state and metrics as a coordinator reports them.

use std::time::Duration;

use super::{ClusterCoordinator, leader_of};
use crate::health;
use crate::raft::RaftStatus;
use crate::raft::membership::name_of;
use crate::state::StateMachine;

pub use crate::raft::Cause;
use helios_proto::v1::{Health, PeerHealth as Reported};

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
    /// host:port of the member's peer service.
    pub address: String,
    pub is_voter: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterMetrics {
    pub consensus_metrics: ConsensusMetrics,
    pub health_metrics: HealthMetrics,
    pub failover_metrics: FailoverMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsensusMetrics {
    /// Index of the last entry of the local log.
    pub log_entries_appended: u64,
    pub log_entries_committed: u64,
    pub last_applied_index: u64,
    /// Number of elections that this member started since the process started.
    pub election_count: u64,
}

/// Health of peers: on the leader all other members, on a follower the leader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthMetrics {
    pub peers: Vec<PeerHealth>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHealth {
    pub node_id: String,
    pub status: NodeStatus,
    /// Time since the last message from the peer.
    pub last_contact: Option<Duration>,
    /// Failed connection attempts since the last successful one.
    pub consecutive_errors: u64,
    /// Entries of the leader's log that the peer lacks; known to the leader only.
    pub lag: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    Healthy,
    /// The peer was silent for one election timeout, is more than 1 000 entries behind, or receives a snapshot.
    Degraded,
    /// The peer was silent for two election timeouts.
    Unreachable,
}

/// Candidates for leadership, and the last election.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailoverMetrics {
    /// Voters that could take over leadership at once; known to the leader only.
    pub may_lead: Vec<String>,
    /// Target of the leadership transfer in progress.
    pub transfer_to: Option<String>,
    /// The last election in which this member campaigned since the process started.
    pub last_election: Option<LastElection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastElection {
    pub cause: Cause,
    /// Time since the election started.
    pub ago: Duration,
    /// Time until a leader was known; `None` while the election is in progress.
    pub took: Option<Duration>,
}

impl<M: StateMachine> ClusterCoordinator<M> {
    /// Returns the cluster as this member knows it; empty before the node belongs to a cluster.
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

    /// Returns the metrics of this member; empty before the node belongs to a cluster.
    pub fn get_metrics(&self) -> ClusterMetrics {
        let Ok(member) = self.member() else { return ClusterMetrics::default() };
        let status = member.raft.status();
        let consensus_metrics = ConsensusMetrics {
            log_entries_appended: status.last_index,
            log_entries_committed: status.commit_index,
            last_applied_index: member.raft.applied_index(),
            election_count: status.elections,
        };
        let heard = self.node.get().map(|node| node.inner().metrics.contacts.heard_of()).unwrap_or_default();
        let election_min = self.settings.election_min;
        let reported = health::of_peers(&status, member.id, &heard, election_min);
        let peers = reported.iter().filter_map(|reported| peer(&status, reported)).collect();
        ClusterMetrics {
            consensus_metrics,
            health_metrics: HealthMetrics { peers },
            failover_metrics: failover(&status),
        }
    }
}

/// Returns the health of a peer; `None` if this member cannot judge it.
fn peer(status: &RaftStatus, reported: &Reported) -> Option<PeerHealth> {
    Some(PeerHealth {
        node_id: name_of(&status.membership, reported.id).unwrap_or_default(),
        status: match reported.health() {
            Health::Unknown => return None,
            Health::Healthy => NodeStatus::Healthy,
            Health::Degraded => NodeStatus::Degraded,
            Health::Unreachable => NodeStatus::Unreachable,
        },
        last_contact: reported.last_contact_ms.map(Duration::from_millis),
        consecutive_errors: reported.consecutive_errors,
        lag: reported.lag_entries,
    })
}

fn failover(status: &RaftStatus) -> FailoverMetrics {
    let name = |id: u64| name_of(&status.membership, id);
    FailoverMetrics {
        may_lead: status.may_lead.iter().copied().filter_map(name).collect(),
        transfer_to: status.transfer_target.and_then(name),
        last_election: status.last_election.map(|election| LastElection {
            cause: election.cause,
            ago: election.began.elapsed(),
            took: election.took,
        }),
    }
}
