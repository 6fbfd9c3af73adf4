//! What a coordinator tells of the cluster.

use std::time::Duration;

use super::{ClusterCoordinator, leader_of};
use crate::health;
use crate::raft::RaftStatus;
use crate::raft::membership::name_of;
use crate::state::StateMachine;

pub use crate::raft::Cause;
use helios_proto::v1::{Health, PeerHealth as Told};

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
    pub failover_metrics: FailoverMetrics,
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

/// The leader tells of all others, the others of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthMetrics {
    pub peers: Vec<PeerHealth>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHealth {
    pub node_id: String,
    pub status: NodeStatus,
    /// Since a message of it arrived: of the leader to the others, of any to the leader.
    pub last_contact: Option<Duration>,
    /// Attempts to connect to it that failed since the last one that did not.
    pub consecutive_errors: u64,
    /// Entries that it lacks of the leader's log; known to the leader only.
    pub lag: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    Healthy,
    /// Silent for one election timeout, more than 1 000 entries behind, or receiving a snapshot.
    Degraded,
    /// Silent for two election timeouts.
    Unreachable,
}

/// Who may take over, and how it went the last time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailoverMetrics {
    /// Voters that could lead at once; known to the leader only.
    pub may_lead: Vec<String>,
    /// Whom leadership is being handed to.
    pub transfer_to: Option<String>,
    /// The last election that this member stood in since it started.
    pub last_election: Option<LastElection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastElection {
    pub cause: Cause,
    /// Since it began.
    pub ago: Duration,
    /// Until a leader was known; `None` while it goes on.
    pub took: Option<Duration>,
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
        let heard = self.node.get().map(|node| node.inner().metrics.contacts.heard_of()).unwrap_or_default();
        let election_min = self.settings.election_min;
        let told = health::of_peers(&status, member.id, &heard, election_min);
        let peers = told.iter().filter_map(|told| peer(&status, told)).collect();
        ClusterMetrics {
            consensus_metrics,
            health_metrics: HealthMetrics { peers },
            failover_metrics: failover(&status),
        }
    }
}

/// `None`: not for this member to say.
fn peer(status: &RaftStatus, told: &Told) -> Option<PeerHealth> {
    Some(PeerHealth {
        node_id: name_of(&status.membership, told.id).unwrap_or_default(),
        status: match told.health() {
            Health::Unknown => return None,
            Health::Healthy => NodeStatus::Healthy,
            Health::Degraded => NodeStatus::Degraded,
            Health::Unreachable => NodeStatus::Unreachable,
        },
        last_contact: told.last_contact_ms.map(Duration::from_millis),
        consecutive_errors: told.consecutive_errors,
        lag: told.lag_entries,
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
