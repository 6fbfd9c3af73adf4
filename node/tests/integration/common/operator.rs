//! Membership changes through the Cluster service, as the operator or a user's tool makes them.

use helios_proto::detail_of;
use helios_proto::v1::{
    AddLearnerRequest, InitializeRequest, Membership, PromoteRequest, RemoveRequest, Role,
};

use super::{Cluster, Node, eventually};

pub const CLUSTER_ID: &str = "the-cluster";

/// Client that changes the membership of a cluster through its leader.
pub struct Operator;

impl Operator {
    pub async fn initialize(node: &Node) -> Membership {
        let disk_id = node.status().await.disk_id;
        let request =
            InitializeRequest { cluster_id: CLUSTER_ID.into(), expected_disk_id: disk_id, fencing_token: 0 };
        let membership = node.cluster().initialize(request).await.unwrap().into_inner().membership.unwrap();
        eventually("the first member is the leader", async || {
            node.has_role(Role::Leader).await.then_some(())
        })
        .await;
        membership
    }

    pub async fn add_request(node: &Node) -> AddLearnerRequest {
        AddLearnerRequest {
            name: node.name.clone(),
            peer_addr: node.peer_addr(),
            client_addr: format!("127.0.0.1:{}", node.ports.client),
            disk_id: node.status().await.disk_id,
            ..Default::default()
        }
    }

    /// Adds `node` as a learner; returns its member id.
    pub async fn add(leader: &Node, node: &Node) -> u64 {
        let request = Self::add_request(node).await;
        let membership =
            leader.cluster().add_learner(request).await.unwrap().into_inner().membership.unwrap();
        membership.members.iter().find(|member| member.name == node.name).unwrap().id
    }

    /// Promotes member `id`; retries while it lags.
    pub async fn promote(leader: &Node, id: u64) {
        eventually("the learner has caught up and is promoted", async || {
            let request = PromoteRequest { id, max_lag_entries: 10, ..Default::default() };
            leader.cluster().promote(request).await.ok()
        })
        .await;
    }

    /// Removes member `id`; retries while a new leader refuses for the moment.
    pub async fn remove(leader: &Node, id: u64) -> Membership {
        let request = RemoveRequest { id, ..Default::default() };
        let answer =
            eventually("the member is removed", async || match leader.cluster().remove(request).await {
                Err(status) if detail_of(&status).retryable => None,
                answer => Some(answer.unwrap()),
            })
            .await;
        answer.into_inner().membership.unwrap()
    }

    /// Forms one cluster of all nodes, initialized by the first, which stays the leader.
    pub async fn form(cluster: &Cluster) {
        let (first, rest) = cluster.nodes().split_first().unwrap();
        Self::initialize(first).await;
        for node in rest {
            let id = Self::add(first, node).await;
            Self::promote(first, id).await;
        }
        cluster.wait_ready().await;
    }
}
