//! Executes the one step of a plan. Every step may be repeated, and names its target by member id, disk or UID, so that a
//! step planned from an old observation fails instead of hitting another target.

mod quarantine;
mod restore;
pub mod secrets;

use std::time::Duration;

use helios_proto::detail_of;
use helios_proto::tls::ClientTls;
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::{
    AddLearnerRequest, ErrorCode, ForceNewRequest, InitializeRequest, PromoteRequest, RemoveRequest,
    TransferRequest,
};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tonic::transport::Channel;

use crate::apply::is_gone;
use crate::error::Error;
use crate::names::{self, CLIENT_PORT, PEER_PORT};
use crate::observe::{Observed, Snapshot, host_of, members};
use crate::plan::Step;
use crate::security::Problem;
use crate::validate::ValidatedCluster;

/// A membership change waits for the commit of one log entry.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The node writes its mark to the disk and answers before it restarts; within the deadline of a reconcile.
const FORCE_NEW_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Nothing is wrong; the step is executed again later.
    NotYet(String),
    /// The API server rejects the write of a Secret until a user acts.
    Refused(Problem),
}

/// Executes steps of a plan that was made from `observed`. Members refuse a step if they have seen a higher fencing token.
pub struct Executor<'a> {
    pub client: &'a Client,
    pub cluster: &'a ValidatedCluster,
    pub observed: &'a Observed,
    pub fencing_token: u64,
}

impl Executor<'_> {
    /// Executes `step`.
    ///
    /// # Errors
    /// When a retry alone does not help, or the target is unreachable.
    pub async fn execute(&self, step: &Step) -> Result<Outcome, Error> {
        let Self { client, cluster, observed, fencing_token } = self;
        let (seen, fencing_token) = (&observed.snapshot, *fencing_token);
        let kubernetes = Kubernetes { client, cluster };
        let members = Members { cluster, seen, tls: observed.tls.as_ref(), fencing_token };
        match step {
            Step::Secret(step) => {
                let refused = secrets::write(client, cluster, seen, &observed.secrets, *step).await?;
                Ok(refused.map_or(Outcome::Done, Outcome::Refused))
            }
            Step::Initialize { ordinal, cluster_id, disk_id } => {
                members.initialize(*ordinal, cluster_id, disk_id).await
            }
            Step::Restore { cluster_id, disk_id, .. } => {
                restore::create(client, cluster, observed, cluster_id, disk_id, fencing_token).await
            }
            Step::AddLearner { leader, ordinal, disk_id, membership } => {
                members.add_learner(*leader, *ordinal, disk_id, *membership).await
            }
            Step::Promote { leader, id, max_lag, membership } => {
                members.promote(*leader, *id, *max_lag, *membership).await
            }
            Step::Remove { leader, id, membership } => members.remove(*leader, *id, *membership).await,
            Step::Transfer { leader, target_id, timeout } => {
                members.transfer(*leader, *target_id, *timeout).await
            }
            Step::Evict { ordinal, uid } => kubernetes.evict(*ordinal, uid).await,
            Step::DeletePod { ordinal, uid } => kubernetes.delete_pod(*ordinal, uid).await,
            Step::DeleteVolume { ordinal, uid } => kubernetes.delete_volume(*ordinal, uid).await,
            Step::GrowVolume { ordinal, uid, size } => kubernetes.grow_volume(*ordinal, uid, size).await,
            Step::ForceDeletePod { ordinal, uid } => {
                let host = seen.pods.get(ordinal).and_then(|pod| pod.host.as_deref());
                kubernetes.force_delete_pod(*ordinal, uid, host).await
            }
            Step::Recycle { ordinal, volume_uid, pod_uid, keep } => {
                if let Some(reason) = keep {
                    quarantine::keep(client, cluster, *ordinal, volume_uid, reason, seen.now).await?;
                }
                // In this order: the volume stays until its pod is gone, and the pod that follows gets a new one.
                kubernetes.delete_volume(*ordinal, volume_uid).await?;
                match pod_uid {
                    Some(uid) => kubernetes.delete_pod(*ordinal, uid).await,
                    None => Ok(Outcome::Done),
                }
            }
            Step::ForceNew { ordinal, cluster_id, disk_id, last_term, last_index } => {
                let request = ForceNewRequest {
                    cluster_id: cluster_id.clone(),
                    expected_disk_id: disk_id.clone(),
                    expected_term: *last_term,
                    expected_last_index: *last_index,
                    fencing_token,
                };
                members.force_new(*ordinal, request).await
            }
        }
    }
}

struct Members<'a> {
    cluster: &'a ValidatedCluster,
    seen: &'a Snapshot,
    tls: Option<&'a ClientTls>,
    fencing_token: u64,
}

impl Members<'_> {
    async fn initialize(&self, ordinal: u32, cluster_id: &str, disk_id: &str) -> Result<Outcome, Error> {
        let mut node = self.connect(ordinal, "begin the cluster", CALL_TIMEOUT).await?;
        let request = InitializeRequest {
            cluster_id: cluster_id.to_owned(),
            expected_disk_id: disk_id.to_owned(),
            fencing_token: self.fencing_token,
        };
        let answer = node.client.initialize(request).await;
        node.outcome(answer)
    }

    async fn add_learner(
        &self,
        leader: u32,
        ordinal: u32,
        disk_id: &str,
        membership: u64,
    ) -> Result<Outcome, Error> {
        let cluster = self.cluster;
        let stable = |port| names::stable_address(&cluster.name, &cluster.namespace, ordinal, port);
        let mut node = self.connect(leader, "add a learner", CALL_TIMEOUT).await?;
        let request = AddLearnerRequest {
            name: names::pod(&cluster.name, ordinal),
            peer_addr: stable(PEER_PORT),
            client_addr: stable(CLIENT_PORT),
            disk_id: disk_id.to_owned(),
            expected_membership_index: membership,
            fencing_token: self.fencing_token,
        };
        let answer = node.client.add_learner(request).await;
        node.outcome(answer)
    }

    async fn promote(&self, leader: u32, id: u64, max_lag: u64, membership: u64) -> Result<Outcome, Error> {
        let mut node = self.connect(leader, "promote a learner", CALL_TIMEOUT).await?;
        let request = PromoteRequest {
            id,
            max_lag_entries: max_lag,
            expected_membership_index: membership,
            fencing_token: self.fencing_token,
        };
        let answer = node.client.promote(request).await;
        node.outcome(answer)
    }

    async fn remove(&self, leader: u32, id: u64, membership: u64) -> Result<Outcome, Error> {
        let mut node = self.connect(leader, "remove a member", CALL_TIMEOUT).await?;
        let request =
            RemoveRequest { id, expected_membership_index: membership, fencing_token: self.fencing_token };
        let answer = node.client.remove(request).await;
        node.outcome(answer)
    }

    async fn transfer(&self, leader: u32, target_id: u64, timeout: Duration) -> Result<Outcome, Error> {
        let mut node = self.connect(leader, "transfer leadership", timeout + Duration::from_secs(1)).await?;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let request = TransferRequest { target_id, timeout_ms, fencing_token: self.fencing_token };
        let answer = node.client.transfer_leadership(request).await;
        node.outcome(answer)
    }

    async fn force_new(&self, ordinal: u32, request: ForceNewRequest) -> Result<Outcome, Error> {
        let mut node = self.connect(ordinal, "become the only member", FORCE_NEW_TIMEOUT).await?;
        let answer = node.client.force_new(request).await;
        node.outcome(answer)
    }

    async fn connect(
        &self,
        ordinal: u32,
        action: &'static str,
        timeout: Duration,
    ) -> Result<MemberClient, Error> {
        let Self { cluster, seen, .. } = self;
        let member = names::pod(&cluster.name, ordinal);
        let place = members::place(&cluster.name, &cluster.namespace, ordinal, seen.pods.get(&ordinal));
        match members::connect(&place, self.tls, timeout).await {
            Ok(client) => Ok(MemberClient { client, name: member, action }),
            Err(message) => Err(Error::Unreachable { member, action, message }),
        }
    }
}

struct MemberClient {
    client: ClusterClient<Channel>,
    name: String,
    action: &'static str,
}

impl MemberClient {
    fn outcome<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<Outcome, Error> {
        let Err(status) = answer else { return Ok(Outcome::Done) };
        let detail = detail_of(&status);
        let (member, action, message) = (self.name.clone(), self.action, detail.message.clone());
        match detail.code() {
            ErrorCode::PeerUnreachable | ErrorCode::DeadlineExceeded => {
                Err(Error::Unreachable { member, action, message })
            }
            code if code.is_retryable() => Ok(Outcome::NotYet(message)),
            code => Err(Error::Refused { member, action, code, message }),
        }
    }
}

struct Kubernetes<'a> {
    client: &'a Client,
    cluster: &'a ValidatedCluster,
}

impl Kubernetes<'_> {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.cluster.namespace)
    }

    fn volumes(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &self.cluster.namespace)
    }

    async fn evict(&self, ordinal: u32, uid: &str) -> Result<Outcome, Error> {
        let name = names::pod(&self.cluster.name, ordinal);
        let params = EvictParams { delete_options: Some(only(uid)), ..EvictParams::default() };
        match self.pods().evict(&name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 429 => {
                Ok(Outcome::NotYet(format!("the disruption budget holds {name}: {}", status.message)))
            }
            answer => outcome_of(answer.map(drop), "evict pod", name),
        }
    }

    async fn delete_pod(&self, ordinal: u32, uid: &str) -> Result<Outcome, Error> {
        let name = names::pod(&self.cluster.name, ordinal);
        outcome_of(self.pods().delete(&name, &only(uid)).await.map(drop), "delete pod", name)
    }

    /// Reads `host` again: the watch that the plan was made from may not have reported yet that it is back, and a pod that still runs there would share its name and volume with the next one.
    async fn force_delete_pod(&self, ordinal: u32, uid: &str, host: Option<&str>) -> Result<Outcome, Error> {
        let name = names::pod(&self.cluster.name, ordinal);
        if let Some(host) = host {
            let hosts: Api<Node> = Api::all(self.client.clone());
            let found = hosts.get_opt(host).await.map_err(Error::kube("read Node", host))?;
            if found.is_some_and(|node| !host_of(&node).out_of_service) {
                return Ok(Outcome::NotYet(format!("node {host} is back; {name} is not force-deleted")));
            }
        }
        let now = DeleteParams { grace_period_seconds: Some(0), ..only(uid) };
        outcome_of(self.pods().delete(&name, &now).await.map(drop), "force the deletion of pod", name)
    }

    async fn delete_volume(&self, ordinal: u32, uid: &str) -> Result<Outcome, Error> {
        let name = names::volume(&self.cluster.name, ordinal);
        outcome_of(self.volumes().delete(&name, &only(uid)).await.map(drop), "delete volume", name)
    }

    async fn grow_volume(&self, ordinal: u32, uid: &str, size: &str) -> Result<Outcome, Error> {
        let name = names::volume(&self.cluster.name, ordinal);
        // The UID in the patch makes it fail on another volume of this name.
        let patch = json!({
            "metadata": {"uid": uid},
            "spec": {"resources": {"requests": {"storage": size}}},
        });
        let answer = self.volumes().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        outcome_of(answer.map(drop), "grow volume", name)
    }
}

fn only(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// A target that is gone already is done; one that was replaced since the observation is observed again.
fn outcome_of(answer: Result<(), kube::Error>, action: &'static str, what: String) -> Result<Outcome, Error> {
    match answer {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if is_gone(&error) => Ok(Outcome::Done),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::NotYet(status.message.clone())),
        Err(error) => Err(Error::kube(action, what)(error)),
    }
}
