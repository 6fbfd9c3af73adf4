//! Evicts pods that ask for a sidecar and were created without one, as while the webhook was not installed or its
//! configuration was deleted. The owner of the pod creates another one, which is injected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use helios_crds::INJECT_LABEL;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{EvictParams, ListParams};
use kube::{Api, Client, ResourceExt};

use super::patch::has_sidecar;
use crate::metrics::Metrics;

/// Interval between two looks, and between two evictions of pods of one owner.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pods are listed in pages of this number.
const PAGE: u32 = 500;
/// Evictions of one look; the rest is for the next one.
const MAX_EVICTIONS: usize = 20;

/// UID of the controller of a pod.
type Owner = String;

/// Time of the last eviction of a pod of each owner.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<Owner, Timestamp>);

/// Findings of one look.
#[derive(Debug, Default)]
pub struct Findings {
    /// Pods to evict, one of each owner: its key and the owner.
    evict: Vec<(Key, Owner)>,
    /// Pods that an eviction does not help: nothing creates them again, or the pod that was created instead has no sidecar
    /// either.
    stuck: Vec<Key>,
    seen: BTreeSet<Owner>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: String,
    name: String,
}

impl Memory {
    /// Adds what is to be done about `pod`.
    fn consider(&self, pod: &Pod, findings: &mut Findings) {
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        if let Some(owner) = owner {
            findings.seen.insert(owner.uid.clone());
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_over =
            matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some();
        if is_over || pod.spec.as_ref().is_none_or(has_sidecar) {
            return;
        }
        let key = Key { namespace: pod.namespace().unwrap_or_default(), name: pod.name_any() };
        let Some(owner) = owner else { return findings.stuck.push(key) };
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        match self.0.get(&owner.uid) {
            // Whole seconds: the API server writes no others.
            Some(evicted) if created.is_some_and(|at| at.as_second() > evicted.as_second()) => {
                findings.stuck.push(key);
            }
            _ if findings.evict.len() >= MAX_EVICTIONS => {}
            _ if findings.evict.iter().any(|(_, other)| *other == owner.uid) => {}
            _ => findings.evict.push((key, owner.uid.clone())),
        }
    }

    fn evicted(&mut self, owner: Owner, now: Timestamp) {
        self.0.insert(owner, now);
    }

    /// Forgets the owners that have no pod any more.
    fn forget_all_but(&mut self, seen: &BTreeSet<Owner>) {
        self.0.retain(|owner, _| seen.contains(owner));
    }
}

/// Looks once a minute at the pods of `namespaces`, all if there are none, until dropped.
pub async fn run(client: Client, namespaces: Vec<String>, metrics: Metrics) {
    let apis: Vec<Api<Pod>> = match namespaces.as_slice() {
        [] => vec![Api::all(client.clone())],
        some => some.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
    };
    let mut memory = Memory::default();
    let mut reported = BTreeSet::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match findings(&apis, &memory).await {
            Ok(findings) => {
                let stuck: BTreeSet<Key> = findings.stuck.into_iter().collect();
                for key in stuck.difference(&reported) {
                    tracing::warn!(
                        namespace = key.namespace,
                        pod = key.name,
                        "the pod has label {INJECT_LABEL} and no sidecar, and an eviction would not give it one; \
                         check that injection is on (helm value injection.mode), then delete the pod"
                    );
                }
                metrics.set_pods_without_sidecar(stuck.len() + findings.evict.len());
                reported = stuck;
                memory.forget_all_but(&findings.seen);
                for (key, owner) in findings.evict {
                    if evict(&client, &key).await {
                        metrics.sidecar_eviction();
                        memory.evicted(owner, Timestamp::now());
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "pods without a sidecar are not looked for"),
        }
    }
}

async fn findings(apis: &[Api<Pod>], memory: &Memory) -> kube::Result<Findings> {
    let mut findings = Findings::default();
    for api in apis {
        let mut params = ListParams::default().labels(INJECT_LABEL).limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            for pod in &page.items {
                memory.consider(pod, &mut findings);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(findings)
}

/// Evicts a pod within the disruption budgets. Returns false if it was not evicted; the next look tries again.
async fn evict(client: &Client, key: &Key) -> bool {
    let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
    match api.evict(&key.name, &EvictParams::default()).await {
        Ok(_) => {
            tracing::info!(
                namespace = key.namespace,
                pod = key.name,
                "evicted: it was created without its sidecar"
            );
            true
        }
        Err(error) => {
            tracing::info!(namespace = key.namespace, pod = key.name, %error, "not evicted");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn pod(name: &str, owner: &str, created: i64) -> Pod {
        let owners = match owner {
            "" => json!([]),
            uid => {
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true}])
            }
        };
        let metadata = json!({
            "name": name, "namespace": "shop", "creationTimestamp": at(created).to_string(), "ownerReferences": owners,
        });
        serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": [{"name": "app"}]}}))
            .unwrap()
    }

    fn with(mut pod: Pod, change: Value) -> Pod {
        let mut value = serde_json::to_value(&pod).unwrap();
        json_patch::merge(&mut value, &change);
        pod = serde_json::from_value(value).unwrap();
        pod
    }

    /// Names of the pods to evict, and of the stuck ones.
    fn look(memory: &Memory, pods: &[Pod]) -> (Vec<String>, Vec<String>) {
        let mut findings = Findings::default();
        pods.iter().for_each(|pod| memory.consider(pod, &mut findings));
        let evict = findings.evict.into_iter().map(|(key, _)| key.name).collect();
        (evict, findings.stuck.into_iter().map(|key| key.name).collect())
    }

    #[test]
    fn one_pod_of_each_owner_is_evicted_in_a_look() {
        let pods = [pod("a-1", "a", NOW), pod("a-2", "a", NOW), pod("b-1", "b", NOW)];
        let (evict, stuck) = look(&Memory::default(), &pods);
        assert_eq!((evict, stuck), (vec!["a-1".to_owned(), "b-1".to_owned()], vec![]));
        let many: Vec<Pod> = (0..50).map(|n| pod(&format!("p-{n}"), &format!("o-{n}"), NOW)).collect();
        assert_eq!(look(&Memory::default(), &many).0.len(), MAX_EVICTIONS);
    }

    #[test]
    fn eviction_is_not_repeated_where_it_does_not_help() {
        let mut memory = Memory::default();
        memory.evicted("a".to_owned(), at(NOW));
        let (old, new) = (pod("old", "a", NOW - 60), pod("new", "a", NOW + 1));
        assert_eq!(look(&memory, &[old, new]), (vec!["old".to_owned()], vec!["new".to_owned()]));
        assert_eq!(
            look(&memory, &[pod("bare", "", NOW)]),
            (vec![], vec!["bare".to_owned()]),
            "it has no owner"
        );
        memory.forget_all_but(&BTreeSet::new());
        assert_eq!(look(&memory, &[pod("new", "a", NOW + 1)]).0, ["new"], "its owner was gone");
    }

    #[test]
    fn pods_with_a_sidecar_and_those_that_end_stay() {
        let pods = [
            with(
                pod("injected", "a", NOW),
                json!({"spec": {"initContainers": [{"name": "helios-sidecar"}]}}),
            ),
            with(pod("done", "b", NOW), json!({"status": {"phase": "Succeeded"}})),
            with(pod("deleted", "c", NOW), json!({"metadata": {"deletionTimestamp": at(NOW).to_string()}})),
        ];
        assert_eq!(look(&Memory::default(), &pods), (vec![], vec![]));
    }
}
