//! Stand-in for kubelets and Kubernetes' own controllers: each StatefulSet gets its pods and volumes, and
//! each pod is ready at once, at the address where [`Nodes`] answers for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use helios_crds::CLUSTER_LABEL;
use helios_operator::{build, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use super::nodes::Nodes;

const AT_ONCE: usize = 8;

/// Serves until the test ends.
pub async fn serve(client: Client, nodes: Nodes) {
    let sets = Api::<StatefulSet>::all(client.clone());
    let ours = watcher::Config::default().labels(CLUSTER_LABEL);
    let mut changes = pin!(watcher(sets, ours).default_backoff().applied_objects());
    let started = Arc::new(Mutex::new(BTreeSet::new()));
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(change) = changes.next().await {
        let Ok(set) = change else { continue };
        let permit = permits.clone().acquire_owned().await.unwrap();
        let workload = Workload { client: client.clone(), nodes: nodes.clone(), started: started.clone() };
        tokio::spawn(async move {
            workload.bring_up(&set).await;
            drop(permit);
        });
    }
}

struct Workload {
    client: Client,
    nodes: Nodes,
    /// Pods by name.
    started: Arc<Mutex<BTreeSet<String>>>,
}

impl Workload {
    async fn bring_up(&self, set: &StatefulSet) {
        let name = set.name_any();
        let replicas = set.spec.replicas.unwrap_or_default();
        for ordinal in 0..replicas.unsigned_abs() {
            if self.started.lock().await.insert(names::pod(&name, ordinal)) {
                let secret = self.certificate(set).await;
                self.nodes.start(&name, ordinal, secret.as_ref()).await;
                self.create::<PersistentVolumeClaim>(&volume(set, ordinal)).await;
                self.create::<Pod>(&pod(set, ordinal)).await;
                self.patch_status::<Pod>(
                    &names::pod(&name, ordinal),
                    &ready(self.nodes.address(&name, ordinal)),
                )
                .await;
            }
        }
        let status = json!({
            "observedGeneration": set.metadata.generation, "replicas": replicas, "readyReplicas": replicas,
            "currentRevision": revision(set), "updateRevision": revision(set),
        });
        let seen = set.status.as_ref().and_then(|status| status.observed_generation);
        if seen != set.metadata.generation {
            self.patch_status::<StatefulSet>(&name, &status).await;
        }
    }

    /// Secrets that the members' pods would mount.
    async fn certificate(&self, set: &StatefulSet) -> Option<BTreeMap<String, Vec<u8>>> {
        if !build::has_certificate(set) {
            return None;
        }
        let secrets = Api::<Secret>::default_namespaced(self.client.clone());
        let secret = secrets.get(&names::peer_tls_secret(&set.name_any())).await.unwrap();
        Some(secret.data.unwrap().into_iter().map(|(key, value)| (key, value.0)).collect())
    }

    async fn create<K>(&self, object: &Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object.clone()).unwrap();
        let api = Api::<K>::default_namespaced(self.client.clone());
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    async fn patch_status<K>(&self, name: &str, status: &Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api = Api::<K>::default_namespaced(self.client.clone());
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }
}

fn revision(set: &StatefulSet) -> String {
    format!("{:x}", crc32c::crc32c(json!(set.spec.template).to_string().as_bytes()))
}

fn volume(set: &StatefulSet, ordinal: u32) -> Value {
    let cluster = set.name_any();
    let claim = &set.spec.volume_claim_templates.as_ref().unwrap()[0];
    json!({
        "metadata": {"name": names::volume(&cluster, ordinal), "labels": names::selector(&cluster)},
        "spec": claim.spec,
    })
}

fn pod(set: &StatefulSet, ordinal: u32) -> Value {
    let cluster = set.name_any();
    let template = &set.spec.template;
    let mut labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap();
    labels.insert("controller-revision-hash".to_owned(), revision(set));
    let mut spec = json!(template.spec);
    let claim = json!({"claimName": names::volume(&cluster, ordinal)});
    let volume = json!({"name": names::VOLUME, "persistentVolumeClaim": claim});
    match &mut spec["volumes"] {
        Value::Array(volumes) => volumes.push(volume),
        none => *none = json!([volume]),
    }
    let owner = set.controller_owner_ref(&());
    json!({
        "metadata": {"name": names::pod(&cluster, ordinal), "labels": labels, "ownerReferences": [owner]},
        "spec": spec,
    })
}

fn ready(address: IpAddr) -> Value {
    let address = address.to_string();
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{
            "name": names::CONTAINER, "ready": true, "started": true, "restartCount": 0,
            "image": "heliosd:test", "imageID": "", "state": {"running": {}},
        }],
    })
}
