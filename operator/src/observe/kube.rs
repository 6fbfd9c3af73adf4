//! Reads everything of a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use helios_crds::{HeliosCluster, IN_SERVICE_LABEL, READS_LABEL, ROLE_LABEL};
use helios_proto::tls::ClientTls;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{self, ContainerStatus, PersistentVolumeClaim, PodCondition};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};

use super::backup::{BackupObjects, backup};
use super::owned::{owned, taken_claims};
use super::secrets::{self, Secrets};
use super::volumes::{backings, requested, volume_of};
use super::{Failure, Homes, Owned, Pod, Seen, Snapshot, Volume, Workload, members};
use crate::build::CONFIG_HASH;
use crate::error::Error;
use crate::names;
use crate::ownership::{self, Taken};
use crate::security::Security;
use crate::validate::{ValidatedCluster, spec_in_force};

/// Everything that a reconcile reads.
pub struct Observed {
    pub cluster: HeliosCluster,
    pub owned: Owned,
    pub secrets: Secrets,
    /// The operator's identity at members; absent without TLS, and without a usable certificate.
    pub tls: Option<ClientTls>,
    pub homes: Option<Arc<Homes>>,
    /// Foreign objects in the way; complete after [`Observed::add_problems`].
    pub taken: Vec<Taken>,
    taken_secrets: Vec<Taken>,
    /// The part that is planned from.
    pub snapshot: Snapshot,
    pub backup: BackupObjects,
}

impl Observed {
    /// Adds the problems that depend on the validated spec: the order decides which one is reported.
    pub fn add_problems(&mut self, cluster: &ValidatedCluster) {
        let runs = self.owned.stateful_set().is_some();
        let mut taken = self.owned.taken(cluster);
        let security = &mut self.snapshot.security;
        if runs || taken.is_empty() {
            taken.append(&mut self.taken_secrets);
            security.problem = security.problem.take().or(cluster.problem.clone());
        } else {
            // Where nothing runs yet and nothing can be created, Secrets are not created either.
            *security = Security::default();
        }
        taken.append(&mut self.taken);
        taken.extend(self.backup.taken(cluster));
        self.taken = taken;
        if let Some(problem) = ownership::problem(&self.taken, &cluster.owner, runs) {
            security.add_problem(problem);
        }
    }
}

/// Reads the objects, Secrets and members of `cluster`, which must itself be freshly read.
///
/// # Errors
/// When the API server does not answer a read. A member that does not answer is merely absent.
pub async fn observe(
    client: &Client,
    cluster: HeliosCluster,
    hosts: Option<Seen>,
    now: Timestamp,
) -> Result<Observed, Error> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().ok_or(Error::Incomplete("namespace"))?);
    let owner = cluster.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
    // Objects first: the StatefulSet says what the cluster was created with, and so which Secrets it needs.
    let owned = owned(client, &namespace, &name, &owner).await?;
    let (spec, _) = spec_in_force(&cluster, owned.stateful_set());
    // Secrets before members, which are asked with the certificate in them.
    let secrets::SecretsRead { secrets, security, tls, taken: taken_secrets } =
        secrets::secrets(client, &cluster, &spec, &owner, now).await?;
    let pods = pods(client, &namespace, &name).await?;
    let nodes = members::statuses(&name, &namespace, &pods, tls.as_ref()).await;
    let homes = hosts.as_ref().map(|hosts| hosts.homes.clone());
    let (volumes, taken) = volumes(client, &cluster, &namespace, &pods, homes.as_deref()).await?;
    let (backup, backup_seen) = backup(client, &cluster, &namespace, &owner).await?;
    let snapshot = Snapshot {
        now,
        created: cluster.creation_timestamp().map_or(now, |time| time.0),
        generation: cluster.metadata.generation.unwrap_or_default(),
        status: cluster.status.clone().unwrap_or_default(),
        security,
        workload: owned.stateful_set().map(workload_of),
        volumes,
        hosts: hosts.map(|hosts| hosts.by_name),
        pods,
        nodes,
        backup: backup_seen,
    };
    Ok(Observed { cluster, owned, secrets, tls, homes, taken, taken_secrets, snapshot, backup })
}

/// The members' volumes, and claims of their names that are foreign.
async fn volumes(
    client: &Client,
    cluster: &HeliosCluster,
    namespace: &str,
    pods: &BTreeMap<u32, Pod>,
    homes: Option<&Homes>,
) -> Result<(BTreeMap<u32, Volume>, Vec<Taken>), Error> {
    let name = cluster.name_any();
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let mine = ListParams::default().labels(&names::selector_text(&name));
    let mut claims = api.list(&mine).await.map_err(Error::kube("list volumes of", &name))?.items;
    claims.retain(|claim| ownership::of_another_workload(&claim.metadata, &name).is_none());
    let recovery = cluster.status.as_ref().and_then(|status| status.recovery.as_ref());
    let recovering = recovery.is_some_and(|recovery| recovery.chosen.is_some());
    let is_doubtful = |ordinal: &u32| recovering || !pods.get(ordinal).is_some_and(|pod| pod.ready);
    let doubtful =
        claims.iter().filter(|claim| volume_of(&name, claim).is_some_and(|(o, _)| is_doubtful(&o)));
    let mut behind = if cluster.spec.hibernate {
        BTreeMap::new()
    } else {
        backings(client, &name, doubtful.collect(), homes).await?
    };
    let found = claims.iter().filter_map(|claim| {
        let (ordinal, volume) = volume_of(&name, claim)?;
        let backing = behind.remove(&ordinal).unwrap_or_default();
        Some((ordinal, Volume { backing, ..volume }))
    });
    let found: BTreeMap<u32, Volume> = found.collect();
    let wanted = 0..u32::try_from(cluster.spec.replicas).unwrap_or_default();
    let missing = wanted.filter(|ordinal| !found.contains_key(ordinal));
    let taken = taken_claims(&api, &name, missing).await?;
    Ok((found, taken))
}

/// The members' pods.
///
/// # Errors
/// When the API server does not answer.
pub async fn pods(client: &Client, namespace: &str, cluster: &str) -> Result<BTreeMap<u32, Pod>, Error> {
    let mine = ListParams::default().labels(&names::selector_text(cluster));
    let api = Api::<v1::Pod>::namespaced(client.clone(), namespace);
    let pods = api.list(&mine).await.map_err(Error::kube("list pods of", cluster))?;
    let ours = pods.iter().filter(|pod| ownership::of_another_workload(&pod.metadata, cluster).is_none());
    Ok(ours.filter_map(|pod| Some((names::ordinal(cluster, &pod.name_any())?, pod_of(pod)))).collect())
}

fn workload_of(set: &StatefulSet) -> Workload {
    let status = set.status.as_ref();
    let current = status.and_then(|s| s.observed_generation) >= set.metadata.generation;
    Workload {
        replicas: set.spec.replicas.unwrap_or_default().unsigned_abs(),
        update_revision: status.filter(|_| current).and_then(|s| s.update_revision.clone()),
        config: set
            .spec
            .template
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.annotations.as_ref()?.get(CONFIG_HASH).cloned()),
        volume_size: set
            .spec
            .volume_claim_templates
            .as_deref()
            .and_then(|claims| claims.first())
            .and_then(requested),
    }
}

fn pod_of(pod: &v1::Pod) -> Pod {
    let status = pod.status.as_ref();
    let label = |key: &str| pod.labels().get(key).cloned();
    let container = status
        .and_then(|s| s.container_statuses.as_deref())
        .and_then(|all| all.iter().find(|c| c.name == names::CONTAINER));
    let state = container.and_then(|c| c.state.as_ref());
    let problem = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.clone());
    let ready = condition(status, "Ready");
    Pod {
        host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        failing: container.filter(|_| ready.is_none_or(|ready| ready.status != "True")).and_then(
            |container| {
                failure(container, ready.and_then(|r| r.last_transition_time.as_ref()).map(|time| time.0))
            },
        ),
        uid: pod.uid().unwrap_or_default(),
        revision: label("controller-revision-hash").unwrap_or_default(),
        ip: status.and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()),
        ready: ready.is_some_and(|ready| ready.status == "True"),
        running: state.is_some_and(|s| s.running.is_some()),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        problem: problem.filter(|reason| reason != "ContainerCreating").or_else(|| unschedulable(status)),
        role_label: label(ROLE_LABEL),
        reads_label: label(READS_LABEL),
        in_service: label(IN_SERVICE_LABEL).is_none_or(|value| value == "true"),
    }
}

fn condition<'a>(status: Option<&'a v1::PodStatus>, type_: &str) -> Option<&'a PodCondition> {
    status?.conditions.as_deref()?.iter().find(|c| c.type_ == type_)
}

/// Failure of a process that exited more than once, and was restarted since the pod was last ready: a process that keeps
/// running, cut off from all others, has not failed, however often it exited long ago.
fn failure(container: &ContainerStatus, unready_since: Option<Timestamp>) -> Option<Failure> {
    const ENDS: i32 = 3;
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    let failure = match ended.exit_code {
        exit::CLEAN | exit::CONFIGURATION | exit::KILLED | exit::TERMINATED => return None,
        _ if ended.reason.as_deref() == Some("OOMKilled") => return None,
        exit::DISK => Failure::Disk,
        _ => Failure::Unknown,
    };
    let state = container.state.as_ref()?;
    let backing_off =
        state.waiting.as_ref().is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
    let started = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    let restarted = started.zip(unready_since).is_some_and(|(started, since)| started.0 >= since);
    (container.restart_count >= ENDS && (backing_off || restarted)).then_some(failure)
}

/// Exit codes of heliosd, and of a process that was ended from outside.
mod exit {
    pub const CLEAN: i32 = 0;
    pub const DISK: i32 = 74;
    pub const CONFIGURATION: i32 = 78;
    pub const KILLED: i32 = 137;
    pub const TERMINATED: i32 = 143;
}

fn unschedulable(status: Option<&v1::PodStatus>) -> Option<String> {
    condition(status, "PodScheduled").filter(|c| c.status == "False")?.reason.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(state: Value, last: Value, restarts: i32) -> ContainerStatus {
        serde_json::from_value(json!({
            "name": "heliosd", "image": "", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state, "lastState": last,
        }))
        .unwrap()
    }

    #[test]
    fn process_is_failing_only_when_it_exits_repeatedly() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let unready = at("2026-11-21T10:00:00Z");
        let backing_off = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let running = |since: &str| json!({"running": {"startedAt": since}});
        let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let failing = |state: &Value, last: Value, n| failure(&container(state.clone(), last, n), unready);
        let (disk, ran_on) = (Some(Failure::Disk), running("2026-11-20T10:00:00Z"));
        assert_eq!(failing(&backing_off, ended(74, "Error"), 3), disk);
        assert_eq!(failing(&running("2026-11-21T10:05:00Z"), ended(74, "Error"), 3), disk, "between ends");
        assert_eq!(failing(&ran_on, ended(74, "Error"), 3), None, "cut off, and running all the time");
        assert_eq!(failing(&backing_off, ended(74, "Error"), 1), None, "once is an accident");
        assert_eq!(failing(&backing_off, ended(78, "Error"), 9), None, "its configuration");
        assert_eq!(failing(&backing_off, ended(137, "OOMKilled"), 9), None, "its memory");
        assert_eq!(failing(&backing_off, ended(134, "Error"), 9), Some(Failure::Unknown));
    }
}
