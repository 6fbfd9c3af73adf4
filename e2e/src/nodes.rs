//! Kubernetes nodes that go, and come back whatever became of the story: drained, cut from the network, killed.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::kubectl::{self, Kubectl};
use crate::operator::Operator;
use crate::pods;
use crate::writer::{self, Writer};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes/cluster.sh");
/// No drain may be stuck for longer.
const DRAIN_TIMEOUT: &str = "--timeout=60s";
/// A node that is silent counts as gone after 20 s, and the kubelet of one that is back may be waiting for its next try.
const PATIENCE: Duration = Duration::from_secs(90);

/// The nodes of the local cluster. Those of any other are not ours to break.
pub struct Nodes {
    kubectl: Kubectl,
}

impl Nodes {
    /// `None` when KUBECONFIG names another cluster than the local one.
    ///
    /// # Errors
    /// When the local cluster's script cannot be run.
    pub fn of_local_cluster(kubectl: &Kubectl) -> anyhow::Result<Option<Self>> {
        let local = kubectl::run(SCRIPT, &["kubeconfig"])?;
        let ours = std::env::var("KUBECONFIG").is_ok_and(|used| used == local.trim());
        Ok(ours.then(|| Self { kubectl: kubectl.clone() }))
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let nodes: Vec<Value> = self.kubectl.list("nodes", "")?;
        Ok(nodes.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// Runs `story` while `node` is drained of everything but the load.
    ///
    /// # Errors
    /// Those of `story`, when the drain is stuck, and when the node cannot be used again.
    pub fn while_drained<T>(
        &self,
        node: &str,
        story: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let spared = format!("--pod-selector={}!={}", writer::LABEL.0, writer::LABEL.1);
        let how = ["--ignore-daemonsets", "--delete-emptydir-data", &spared, DRAIN_TIMEOUT];
        let drained = self.kubectl.run(&[&["drain", node], &how[..]].concat());
        let told = drained.map_err(anyhow::Error::from).and_then(|_| story());
        self.kubectl.run(&["uncordon", node])?;
        told
    }

    /// Runs `story` while nothing reaches `node` and nothing leaves it; what runs there runs on.
    ///
    /// # Errors
    /// Those of `story`, and when the node cannot be cut off or does not come back.
    pub fn while_cut_off<T>(
        &self,
        node: &str,
        story: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        kubectl::run(SCRIPT, &["cut", node])?;
        let told = story();
        kubectl::run(SCRIPT, &["mend", node])?;
        self.await_ready(node)?;
        told
    }

    /// Runs `story` while `node` is gone: all its processes at once, and its last word with them. It comes back
    /// with its disks.
    ///
    /// # Errors
    /// Those of `story`, and when the node cannot be killed or does not come back.
    pub fn while_dead<T>(&self, node: &str, story: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        kubectl::run(SCRIPT, &["kill", node])?;
        let told = story();
        kubectl::run(SCRIPT, &["up"])?;
        self.await_ready(node)?;
        told
    }

    /// Deletes the Node object: its user says that the machine will not come back.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn forget(&self, node: &str) -> anyhow::Result<()> {
        self.kubectl.run(&["delete", "node", node])?;
        Ok(())
    }

    /// Waits until Kubernetes has found out that it hears nothing of `node`.
    ///
    /// # Errors
    /// When it does not.
    pub fn await_unknown(&self, node: &str) -> anyhow::Result<()> {
        Ok(self.kubectl.wait(&format!("node/{node}"), "condition=Ready=Unknown", PATIENCE)?)
    }

    fn await_ready(&self, node: &str) -> anyhow::Result<()> {
        Ok(self.kubectl.wait(&format!("node/{node}"), "condition=Ready", PATIENCE)?)
    }
}

/// A member, and its node, on which neither the load nor the operator runs: they are not what is to break.
///
/// # Errors
/// When there is none.
pub fn member_by_itself(cluster: &Cluster, writer: &Writer) -> anyhow::Result<(String, String)> {
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
