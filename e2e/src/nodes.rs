//! Disruption of Kubernetes nodes: drained, cut from the network, killed; they are restored whether the story
//! succeeds or fails.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::kubectl::{self, Kubectl};
use crate::operator::Operator;
use crate::pods;
use crate::writer::{self, Writer};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes/cluster.sh");
/// Longest time of a drain.
const DRAIN_TIMEOUT: &str = "--timeout=60s";
/// Longest wait for a node's state: Kubernetes marks a silent node as unknown after 20 s, and the kubelet of
/// a restored one may be waiting for its next try.
const PATIENCE: Duration = Duration::from_secs(90);

/// The nodes of the local cluster. Nodes of other clusters are never disrupted.
pub struct Nodes {
    kubectl: Kubectl,
}

impl Nodes {
    /// Returns `None` when KUBECONFIG names a cluster other than the local one.
    ///
    /// # Errors
    /// When the local cluster's script cannot be run.
    pub fn of_local_cluster(kubectl: &Kubectl) -> anyhow::Result<Option<Self>> {
        let local = kubectl::run(SCRIPT, &["kubeconfig"])?;
        let ours = std::env::var("KUBECONFIG").is_ok_and(|used| used == local.trim());
        Ok(ours.then(|| Self { kubectl: kubectl.clone() }))
    }

    /// Returns the names of all nodes.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let nodes: Vec<Value> = self.kubectl.list("nodes", "")?;
        Ok(nodes.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// Runs `story` while `node` is drained of all pods except the load generator.
    ///
    /// # Errors
    /// Errors of `story`, and when the drain is stuck or the node cannot be uncordoned.
    pub fn while_drained<T>(
        &self,
        node: &str,
        story: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let spared = format!("--pod-selector={}!={}", writer::LABEL.0, writer::LABEL.1);
        let how = ["--ignore-daemonsets", "--delete-emptydir-data", &spared, DRAIN_TIMEOUT];
        let drained = self.kubectl.run(&[&["drain", node], &how[..]].concat());
        let result = drained.map_err(anyhow::Error::from).and_then(|_| story());
        self.kubectl.run(&["uncordon", node])?;
        result
    }

    /// Runs `story` while `node` is cut from the network in both directions; its processes keep running.
    ///
    /// # Errors
    /// Errors of `story`, and when the node cannot be cut off or does not become ready again.
    pub fn while_cut_off<T>(
        &self,
        node: &str,
        story: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        kubectl::run(SCRIPT, &["cut", node])?;
        let result = story();
        kubectl::run(SCRIPT, &["mend", node])?;
        self.await_ready(node)?;
        result
    }

    /// Runs `story` while all processes of `node` are killed, after its network link is down, so that no
    /// connection is closed. The node comes back with its disks.
    ///
    /// # Errors
    /// Errors of `story`, and when the node cannot be killed or does not become ready again.
    pub fn while_dead<T>(&self, node: &str, story: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        kubectl::run(SCRIPT, &["kill", node])?;
        let result = story();
        kubectl::run(SCRIPT, &["up"])?;
        self.await_ready(node)?;
        result
    }

    /// Deletes the Node object, by which a user declares that the machine will not come back.
    ///
    /// # Errors
    /// When the API server refuses the deletion.
    pub fn forget(&self, node: &str) -> anyhow::Result<()> {
        self.kubectl.run(&["delete", "node", node])?;
        Ok(())
    }

    /// Waits until Kubernetes reports the node's readiness as unknown.
    ///
    /// # Errors
    /// When that takes longer than [`PATIENCE`].
    pub fn await_unknown(&self, node: &str) -> anyhow::Result<()> {
        Ok(self.kubectl.wait(&format!("node/{node}"), "condition=Ready=Unknown", PATIENCE)?)
    }

    fn await_ready(&self, node: &str) -> anyhow::Result<()> {
        Ok(self.kubectl.wait(&format!("node/{node}"), "condition=Ready", PATIENCE)?)
    }
}

/// Returns a member and its node, where neither the load generator nor the operator runs, so that the story
/// does not disrupt these.
///
/// # Errors
/// When there is no such member.
pub fn member_on_undisturbed_node(cluster: &Cluster, writer: &Writer) -> anyhow::Result<(String, String)> {
    let mut busy = Operator::installed()?.nodes()?;
    busy.push(writer.node()?);
    let pods = cluster.pods()?;
    let mut placed = pods.iter().filter_map(|(name, pod)| Some((name, pods::node(pod)?)));
    let (member, node) =
        placed.find(|(_, node)| !busy.iter().any(|other| other == node)).with_context(|| {
            format!("no member runs apart from the load and the operator, which are on {busy:?}")
        })?;
    Ok((member.clone(), node.to_owned()))
}
