//! Reads a cluster's objects.

use std::collections::BTreeMap;

use helios_crds::{HeliosCluster, IN_SERVICE_LABEL, READS_LABEL, ROLE_LABEL};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{self, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::{Pod, Snapshot, Volume, Workload, members};
use crate::error::Error;
use crate::names;
use crate::validate;

/// A snapshot, and the live StatefulSet it was made from.
pub struct Live {
    pub snapshot: Snapshot,
    pub stateful_set: Option<StatefulSet>,
}

/// Reads everything about `cluster`, which must itself be freshly read.
///
/// # Errors
/// When the API server does not answer a read. A node that does not answer is merely absent.
pub async fn look(client: &Client, cluster: &HeliosCluster, now: Timestamp) -> Result<Live, Error> {
    let name = cluster.name_any();
    let namespace = cluster.namespace().ok_or(Error::Incomplete("namespace"))?;
    let mine = ListParams::default().labels(&names::selector_text(&name));
    let stateful_sets = Api::<StatefulSet>::namespaced(client.clone(), &namespace);
    let pods = Api::<v1::Pod>::namespaced(client.clone(), &namespace);
    let volumes = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);

    let stateful_set = stateful_sets.get_opt(&name).await.map_err(Error::kube("read StatefulSet", &name))?;
    let pods = pods.list(&mine).await.map_err(Error::kube("list pods of", &name))?;
    let volumes = volumes.list(&mine).await.map_err(Error::kube("list volumes of", &name))?;

    let pods: BTreeMap<u32, Pod> =
        pods.iter().filter_map(|pod| Some((names::ordinal(&name, &pod.name_any())?, pod_of(pod)))).collect();
    let nodes = members::statuses(&name, &namespace, &pods).await;
    let snapshot = Snapshot {
        now,
        created: cluster.creation_timestamp().map_or(now, |time| time.0),
        generation: cluster.metadata.generation.unwrap_or_default(),
        status: cluster.status.clone().unwrap_or_default(),
        workload: stateful_set.as_ref().map(workload_of),
        volumes: volumes.iter().filter_map(|volume| volume_of(&name, volume)).collect(),
        pods,
        nodes,
    };
    Ok(Live { snapshot, stateful_set })
}

fn workload_of(set: &StatefulSet) -> Workload {
    let status = set.status.as_ref();
    let current = status.and_then(|s| s.observed_generation) >= set.metadata.generation;
    Workload {
        replicas: set.spec.replicas.unwrap_or_default().unsigned_abs(),
        update_revision: status.filter(|_| current).and_then(|s| s.update_revision.clone()),
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
    let trouble = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.clone());
    Pod {
        uid: pod.uid().unwrap_or_default(),
        revision: label("controller-revision-hash").unwrap_or_default(),
        ip: status.and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()),
        ready: condition(status, "Ready"),
        running: state.is_some_and(|s| s.running.is_some()),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        trouble: trouble.filter(|reason| reason != "ContainerCreating").or_else(|| unschedulable(status)),
        role_label: label(ROLE_LABEL),
        reads_label: label(READS_LABEL),
        in_service: label(IN_SERVICE_LABEL).is_none_or(|value| value == "true"),
    }
}

fn condition(status: Option<&v1::PodStatus>, type_: &str) -> bool {
    status
        .and_then(|s| s.conditions.as_deref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == type_ && c.status == "True"))
}

fn unschedulable(status: Option<&v1::PodStatus>) -> Option<String> {
    let all = status?.conditions.as_deref()?;
    all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?.reason.clone()
}

fn volume_of(cluster: &str, claim: &PersistentVolumeClaim) -> Option<(u32, Volume)> {
    let name = claim.name_any();
    let ordinal = names::ordinal(cluster, name.strip_prefix(names::VOLUME)?.strip_prefix('-')?)?;
    // A size in a unit that we never write was asked for by someone else: never grow over it.
    let requested_bytes =
        requested(claim).and_then(|text| validate::quantity("", &text).ok()).unwrap_or(u64::MAX);
    let volume = Volume {
        uid: claim.uid()?,
        created: claim.creation_timestamp()?.0,
        requested_bytes,
        terminating: claim.metadata.deletion_timestamp.is_some(),
    };
    Some((ordinal, volume))
}

fn requested(claim: &PersistentVolumeClaim) -> Option<String> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage").map(|quantity| quantity.0.clone())
}
