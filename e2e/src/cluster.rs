//! A HeliosCluster as a user handles it, and the status that its members report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use helios_crds::{CLUSTER_LABEL, HeliosCluster};
use helios_proto::tls::{self, ClientTls};
use helios_proto::v1::TransferRequest;
use helios_proto::v1::cluster_client::ClusterClient;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::forward::Forward;
use crate::kubectl::Kubectl;
use crate::pods::{self, PodWatch};

const CLIENT_PORT: u16 = 6379;
const PEER_PORT: u16 = 7000;
const METRICS_PORT: u16 = 9090;

/// Longest wait of a story, longer than anything takes on a slow machine; a story that waits for so long has
/// failed.
pub const PATIENCE: Duration = Duration::from_secs(180);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which all members learn of a decision.
const SOON: Duration = Duration::from_secs(10);

/// Returns the name of the Secret with the clients' password of `cluster`.
pub fn auth_secret(cluster: &str) -> String {
    format!("{cluster}-auth")
}

pub struct Cluster {
    pub name: String,
    kubectl: Kubectl,
}

/// A member's view of Raft, from its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raft {
    pub term: u64,
    pub is_leader: bool,
    pub members: u64,
}

impl Cluster {
    /// Applies a HeliosCluster with `spec` and waits until it is ready.
    ///
    /// # Errors
    /// When the API server refuses it, or it does not become ready.
    pub fn create(kubectl: &Kubectl, name: &str, spec: Value) -> anyhow::Result<Self> {
        let cluster = Self::named(kubectl, name);
        kubectl.apply(&cluster.manifest(spec))?;
        cluster.await_ready()?;
        Ok(cluster)
    }

    /// Returns a cluster that exists or will be created later.
    pub fn named(kubectl: &Kubectl, name: &str) -> Self {
        Self { name: name.to_owned(), kubectl: kubectl.clone() }
    }

    pub fn manifest(&self, spec: Value) -> Value {
        json!({
            "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosCluster",
            "metadata": {"name": self.name}, "spec": spec,
        })
    }

    /// Waits for `condition=Ready` of the present spec.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn await_ready(&self) -> anyhow::Result<()> {
        Ok(self.kubectl.wait(&self.object(), "condition=Ready", PATIENCE)?)
    }

    /// Waits until the status reports `members` members in service, and until the cluster is ready.
    ///
    /// # Errors
    /// When that does not happen within [`PATIENCE`].
    pub fn await_members(&self, members: usize) -> anyhow::Result<()> {
        self.await_status(&format!("{{.status.ready}}={members}/{members}"))?;
        self.await_ready()
    }

    /// Waits until a part of the status has a value, as in `{.status.phase}=Healthy`.
    ///
    /// # Errors
    /// When that does not happen within [`PATIENCE`].
    pub fn await_status(&self, jsonpath: &str) -> anyhow::Result<()> {
        Ok(self.kubectl.wait(&self.object(), &format!("jsonpath={jsonpath}"), PATIENCE)?)
    }

    /// `kubectl scale`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn scale(&self, replicas: usize) -> anyhow::Result<()> {
        self.kubectl.run(&["scale", &self.object(), &format!("--replicas={replicas}")])?;
        Ok(())
    }

    /// `kubectl patch` of the spec.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn change(&self, spec: Value) -> anyhow::Result<()> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl.run(&["patch", &self.object(), "--type=merge", "--patch", &patch])?;
        Ok(())
    }

    /// # Errors
    /// When the resource does not exist.
    pub fn resource(&self) -> anyhow::Result<HeliosCluster> {
        Ok(self.kubectl.get(&self.object())?)
    }

    pub fn object(&self) -> String {
        format!("hc/{}", self.name)
    }

    pub fn selector(&self) -> String {
        format!("{CLUSTER_LABEL}={}", self.name)
    }

    /// # Errors
    /// When the API server does not answer.
    pub fn pods(&self) -> anyhow::Result<BTreeMap<String, Pod>> {
        let list: Vec<Pod> = self.kubectl.list("pods", &self.selector())?;
        Ok(list.into_iter().map(|pod| (pods::name(&pod), pod)).collect())
    }

    /// Returns the volume claims of the members, including those of former members.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn volumes(&self) -> anyhow::Result<BTreeMap<String, PersistentVolumeClaim>> {
        let list: Vec<PersistentVolumeClaim> = self.kubectl.list("pvc", &self.selector())?;
        Ok(list.into_iter().map(|claim| (claim.metadata.name.clone().unwrap_or_default(), claim)).collect())
    }

    /// # Errors
    /// As [`PodWatch::start`].
    pub fn watch(&self) -> anyhow::Result<PodWatch> {
        PodWatch::start(&self.kubectl, &self.selector())
    }

    /// Waits until the status has a condition `type_` that `holds`, and returns its message.
    ///
    /// # Errors
    /// When it does not come to hold; the error has the condition's last state.
    pub fn await_condition(&self, type_: &str, holds: impl Fn(&Condition) -> bool) -> anyhow::Result<String> {
        eventually(PATIENCE, || {
            let status = self.resource()?.status.unwrap_or_default();
            let condition = status.conditions.into_iter().find(|condition| condition.type_ == type_);
            let condition = condition.with_context(|| format!("no condition {type_}"))?;
            ensure!(
                holds(&condition),
                "{type_} is {}, {}: {}",
                condition.status,
                condition.reason,
                condition.message
            );
            Ok(condition.message)
        })
    }

    /// Returns the id of the member on the pod `name`, by the operator's status; `None` before it has joined.
    ///
    /// # Errors
    /// When the resource does not exist.
    pub fn member_id(&self, name: &str) -> anyhow::Result<Option<i64>> {
        let status = self.resource()?.status.unwrap_or_default();
        let member = status.members.into_iter().find(|member| member.name == name);
        Ok(member.map(|member| member.member_id).filter(|id| *id != 0))
    }

    /// Returns the ids of all members in ascending order, by the operator's status.
    ///
    /// # Errors
    /// When the resource does not exist.
    pub fn member_ids(&self) -> anyhow::Result<Vec<i64>> {
        let status = self.resource()?.status.unwrap_or_default();
        let mut ids: Vec<i64> = status.members.iter().map(|member| member.member_id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Returns the Raft view of each member.
    ///
    /// # Errors
    /// When a member does not answer.
    pub fn raft(&self) -> anyhow::Result<BTreeMap<String, Raft>> {
        self.raft_of(self.pods()?.into_keys())
    }

    fn raft_of(&self, names: impl IntoIterator<Item = String>) -> anyhow::Result<BTreeMap<String, Raft>> {
        names
            .into_iter()
            .map(|name| {
                let metrics = self.kubectl.http_get(&name, METRICS_PORT, "metrics")?;
                let raft = Raft::from_metrics(&metrics).with_context(|| format!("the metrics of {name}"))?;
                Ok((name, raft))
            })
            .collect()
    }

    /// Returns the one leader and its term; waits until all members agree on it.
    ///
    /// # Errors
    /// When they do not agree in time.
    pub fn leader(&self) -> anyhow::Result<(String, u64)> {
        self.leader_of(self.pods()?.into_keys().collect())
    }

    /// As [`Self::leader`], but only among the members on the pods `names`.
    ///
    /// # Errors
    /// As [`Self::leader`].
    pub fn leader_of(&self, names: Vec<String>) -> anyhow::Result<(String, u64)> {
        eventually(SOON, || {
            let raft = self.raft_of(names.clone())?;
            let mut leaders = raft.iter().filter(|(_, raft)| raft.is_leader);
            let (name, leader) = leaders.next().with_context(|| format!("no leader: {raft:?}"))?;
            ensure!(leaders.next().is_none(), "several leaders: {raft:?}");
            ensure!(raft.values().all(|member| member.term == leader.term), "terms differ: {raft:?}");
            Ok((name.clone(), leader.term))
        })
    }

    /// Waits until there are exactly `members` members, and each of them reports that number.
    ///
    /// # Errors
    /// When they do not agree in time.
    pub fn await_agreement_on(&self, members: usize) -> anyhow::Result<()> {
        eventually(SOON, || {
            let raft = self.raft()?;
            let agreed =
                raft.len() == members && raft.values().all(|member| member.members == members as u64);
            ensure!(agreed, "not {members} members: {raft:?}");
            Ok(())
        })
    }

    /// Waits until one of the members reports at least `members` members.
    ///
    /// # Errors
    /// When none does in time.
    pub fn await_member_count(&self, members: u64) -> anyhow::Result<()> {
        eventually(PATIENCE, || {
            let raft = self.raft()?;
            ensure!(raft.values().any(|member| member.members >= members), "not {members} members: {raft:?}");
            Ok(())
        })
    }

    /// Transfers leadership to the pod `target`.
    ///
    /// # Errors
    /// When the leader refuses, or `target` is not the leader in time.
    pub fn transfer_leadership(&self, target: &str) -> anyhow::Result<()> {
        let status = self.resource()?.status.unwrap_or_default();
        let member = status.members.iter().find(|member| member.name == target);
        let target_id = member.with_context(|| format!("no member {target}"))?.member_id.try_into()?;
        let (leader, _) = self.leader()?;
        if leader != target {
            let forward = Forward::to(&self.kubectl, &format!("pod/{leader}"), PEER_PORT)?;
            let identity = self.identity()?;
            let name = format!("{leader}.{}-peers.{}.svc", self.name, self.kubectl.namespace);
            let request = TransferRequest { target_id, timeout_ms: 5000, ..Default::default() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let address = forward.address();
                let channel =
                    tls::connect(&address, &name, identity.as_ref(), CONNECT_TIMEOUT, CALL_TIMEOUT).await?;
                let answer = ClusterClient::new(channel).transfer_leadership(request).await;
                answer.map_err(anyhow::Error::from)
            })?;
        }
        ensure!(self.leader()?.0 == target, "leadership did not go to {target}");
        Ok(())
    }

    /// Forwards the client port of one pod, with the cluster's password.
    ///
    /// # Errors
    /// As [`Forward::to`].
    pub fn connect(&self, pod: &str) -> anyhow::Result<Forward> {
        let password = self.secret(&auth_secret(&self.name))?.remove("password");
        Ok(Forward::to(&self.kubectl, &format!("pod/{pod}"), CLIENT_PORT)?.with_password(password))
    }

    /// Returns the data of the Secret `name` as text; empty when there is none.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn secret(&self, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let all: Vec<Secret> = self.kubectl.list("secrets", &self.selector())?;
        let found = all.into_iter().find(|secret| secret.metadata.name.as_deref() == Some(name));
        let data = found.and_then(|secret| secret.data).unwrap_or_default();
        data.into_iter().map(|(key, value)| Ok((key, String::from_utf8(value.0)?))).collect()
    }

    /// Returns the admin identity that the peer port accepts; `None` for a cluster without TLS.
    ///
    /// # Errors
    /// When the API server does not answer, or the Secret cannot be used.
    pub fn identity(&self) -> anyhow::Result<Option<ClientTls>> {
        let secret = self.secret(&format!("{}-peer-tls", self.name))?;
        let part = |key: &str| secret.get(key).map(String::as_bytes);
        let (Some(ca), Some(certificate), Some(key)) = (part("ca.crt"), part("admin.crt"), part("admin.key"))
        else {
            return Ok(None);
        };
        Ok(Some(ClientTls::from_pem(ca, Some((certificate, key)))?))
    }
}

/// Polls a state for which there is no `kubectl wait`, until `ask` succeeds.
///
/// # Errors
/// The last error of `ask`, after `limit`.
pub fn eventually<T>(limit: Duration, mut ask: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    const PAUSE: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}

impl Raft {
    fn from_metrics(text: &str) -> Option<Self> {
        let value = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        };
        Some(Self {
            term: value("helios_raft_term")?,
            is_leader: value("helios_raft_is_leader")? == 1,
            members: value("helios_members")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Raft;

    #[test]
    fn metrics_are_matched_by_their_whole_name() {
        let text = "# TYPE helios_raft_term gauge\nhelios_raft_term_x 9\nhelios_raft_term 4\n\
                    helios_raft_is_leader 1\nhelios_members 3\n";
        assert_eq!(Raft::from_metrics(text), Some(Raft { term: 4, is_leader: true, members: 3 }));
        assert_eq!(Raft::from_metrics("helios_raft_term 4\n"), None);
    }
}
