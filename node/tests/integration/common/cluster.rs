//! Several nodes, and queries over all of them.

use std::ops::{Index, IndexMut};
use std::path::Path;

use helios_proto::v1::{Entry, Role, StatusResponse};
use tempfile::TempDir;

use super::network::Station;
use super::{Network, Node, NodePorts, Ports, eventually};

/// Small segments, so that a test fills several and little disk space is needed.
const SMALL: &str = "segment_bytes: 4194304";

/// A cluster of nodes `node-1`, `node-2` ... at index 0, 1 ...
pub struct Cluster {
    nodes: Vec<Node>,
    ports: Ports,
    dir: TempDir,
    raft: String,
}

impl Cluster {
    /// Returns `count` nodes with a common list of initial members, not started yet.
    pub fn fixed(count: usize) -> Self {
        Self::fixed_with(count, "")
    }

    /// As `fixed`, with more settings for the section `raft`.
    pub fn fixed_with(count: usize, raft: &str) -> Self {
        let mut cluster = Self::empty(raft);
        let address = |index| format!("127.0.0.1:{}", cluster.ports.node(index).peer);
        let members: Vec<_> = (0..count)
            .map(|index| format!("{{name: node-{}, address: '{}'}}", index + 1, address(index)))
            .collect();
        let bootstrap = format!("initial_members: [{}]", members.join(", "));
        (0..count).for_each(|_| cluster.push(&bootstrap));
        cluster
    }

    /// Returns a started and ready cluster of three, and the network between them. The request timeout is
    /// short, so that unavailability is reported quickly.
    pub async fn wired_three() -> (Self, Network) {
        Self::wired_three_with("").await
    }

    pub async fn wired_three_with(raft: &str) -> (Self, Network) {
        let mut cluster = Self::empty(raft);
        let proxy = |index: usize| cluster.ports.node(3 + index).peer;
        let address = |index| format!("127.0.0.1:{}", proxy(index));
        let members: Vec<_> = (0..3)
            .map(|index| format!("{{name: node-{}, address: '{}'}}", index + 1, address(index)))
            .collect();
        let bootstraps = [0, 1, 2].map(|index| {
            format!("advertise_addr: '{}', initial_members: [{}]", address(index), members.join(", "))
        });
        for bootstrap in &bootstraps {
            cluster.push(bootstrap);
        }
        let mut stations = Vec::new();
        for (index, node) in cluster.nodes.iter_mut().enumerate() {
            node.config_mut().push_str("client: {request_timeout: 1s}\n");
            let proxy = cluster.ports.node(3 + index).peer;
            stations.push(Station { peer: node.ports.peer, proxy, pid: node.pid() });
        }
        let network = Network::of(stations).await;
        cluster.start_all();
        cluster.wait_ready().await;
        (cluster, network)
    }

    /// Returns a cluster of one node, not started yet, with `config` added to its file.
    pub fn single(config: &str) -> Self {
        Self::single_with("", config)
    }

    pub fn single_with(raft: &str, config: &str) -> Self {
        let mut cluster = Self::empty(raft);
        cluster.push("bootstrap: single");
        cluster.nodes[0].config_mut().push_str(config);
        cluster
    }

    /// Returns `count` nodes that wait for Initialize or AddLearner, not started yet.
    pub fn blank(count: usize) -> Self {
        Self::blank_with(count, "")
    }

    pub fn blank_with(count: usize, raft: &str) -> Self {
        let mut cluster = Self::empty(raft);
        (0..count).for_each(|_| cluster.push("bootstrap: operator"));
        cluster
    }

    /// Returns a started and ready cluster of three.
    pub async fn of_three() -> Self {
        Self::of_three_with("").await
    }

    pub async fn of_three_with(raft: &str) -> Self {
        let mut cluster = Self::fixed_with(3, raft);
        cluster.start_all();
        cluster.wait_ready().await;
        cluster
    }

    /// As [`Self::of_three`], with `config` added to each node's file.
    pub async fn of_three_configured(config: &str) -> Self {
        let mut cluster = Self::fixed(3);
        cluster.nodes.iter_mut().for_each(|node| node.config_mut().push_str(config));
        cluster.start_all();
        cluster.wait_ready().await;
        cluster
    }

    /// Returns three nodes made by `make`, not started yet.
    pub fn made_by(ports: Ports, make: impl Fn(&Path, usize, NodePorts) -> Node) -> Self {
        let dir = temporary_directory();
        let nodes = (0..3).map(|index| make(dir.path(), index, ports.node(index))).collect();
        Self { nodes, ports, dir, raft: String::new() }
    }

    fn empty(raft: &str) -> Self {
        Self { nodes: Vec::new(), ports: Ports::take(), dir: temporary_directory(), raft: raft.to_owned() }
    }

    fn push(&mut self, bootstrap: &str) {
        let index = self.nodes.len();
        let config = format!("raft: {{{SMALL}, {}}}\nlog: {{level: info}}\n", self.raft);
        let name = format!("node-{}", index + 1);
        self.nodes.push(Node::new(self.dir.path(), &name, self.ports.node(index), bootstrap, &config));
    }

    pub fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn client_ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.ports.client).collect()
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    pub async fn wait_ready(&self) {
        for node in self.running() {
            node.wait_ready().await;
        }
    }

    /// Waits until every running node knows every member's disk id, which it needs to reject a foreign node.
    pub async fn wait_registered(&self) {
        for node in self.running() {
            eventually(&format!("{} knows all disks", node.name), async || {
                let membership = node.try_status().await?.membership?;
                membership.members.iter().all(|member| !member.disk_id.is_empty()).then_some(())
            })
            .await;
        }
    }

    /// Returns the index of the leader, once all running nodes follow it.
    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.nodes.len()).collect::<Vec<_>>()).await
    }

    /// As `leader`, asking only the nodes at `indexes`.
    pub async fn leader_among(&self, indexes: &[usize]) -> usize {
        eventually("one node is the leader and the others follow it", async || {
            let mut found = Vec::new();
            for index in indexes.iter().copied().filter(|index| self[*index].is_running()) {
                found.push((index, self[index].try_status().await?));
            }
            let term = found.iter().map(|(_, status)| status.term).max()?;
            let (leader, leading) =
                found.iter().find(|(_, status)| status.role() == Role::Leader && status.term == term)?;
            let agreed = found.iter().all(|(_, status)| status.leader_id == leading.member_id);
            agreed.then_some(*leader)
        })
        .await
    }

    /// Returns the status of every running node.
    pub async fn statuses(&self) -> Vec<StatusResponse> {
        let mut found = Vec::new();
        for node in self.running() {
            found.push(node.status().await);
        }
        found
    }

    /// Waits until all running nodes hold the same data; returns it.
    pub async fn agreed_data(&self) -> Vec<Entry> {
        eventually("all nodes have applied the same index", async || {
            let mut applied = Vec::new();
            for node in self.running() {
                let status = node.try_status().await?;
                applied.push((status.applied_index, status.commit_index));
            }
            let (first, rest) = applied.split_first()?;
            (first.0 == first.1 && rest.iter().all(|other| other == first)).then_some(())
        })
        .await;
        let mut dumps = Vec::new();
        for node in self.running() {
            dumps.push((&node.name, node.dump().await));
        }
        let (first_name, first) = dumps.remove(0);
        for (name, dump) in dumps {
            assert!(dump == first, "{name} and {first_name} hold different data");
        }
        first
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }
}

pub fn temporary_directory() -> TempDir {
    tempfile::Builder::new().prefix("helios-test-").tempdir().unwrap()
}
