//! Changes in Kubernetes, as the names of the clusters that they are about. Of the objects of a cluster only metadata is
//! watched: a reconcile reads what it decides from.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use helios_crds::{CLUSTER_LABEL, HeliosBackupStore, HeliosCluster, HeliosClusterSpec};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::idle_cache::IdleCache;
use crate::names::Key;

/// A HeliosCluster, or why it cannot be read: one of another version must not end the watch of all others.
pub type Watched = DeserializeGuard<HeliosCluster>;

/// A list is read in pages of this many objects, so that 500 clusters never are in memory as text.
const PAGE: u32 = 50;

/// All clusters of `namespace`, kept up to date; of all namespaces when `None`. The stream has those whose
/// desired state changed, or that were deleted: a status that the operator has written requests no reconcile.
pub fn clusters(
    client: &Client,
    namespace: Option<&str>,
) -> (Store<Watched>, impl Stream<Item = Result<Watched, watcher::Error>> + Send + 'static) {
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().page_size(PAGE);
    let stream = watcher::watcher(scoped::<Watched>(client, namespace), config)
        .default_backoff()
        // Field ownership is half of an object, and nothing here uses it.
        .modify(|cluster| cluster.meta_mut().managed_fields = None)
        .reflect(writer);
    let mut desired = DesiredStates::default();
    let stream = stream.filter(move |event| {
        let is_new = event.as_ref().map_or(true, |event| desired.is_new(event));
        futures::future::ready(is_new)
    });
    (reader, stream.touched_objects())
}

/// Desired states of the clusters that exist, as far as a reconcile depends on them.
#[derive(Default)]
struct DesiredStates {
    known: HashMap<Key, DesiredState>,
    /// Clusters of the list that the watch starts with.
    listed: HashSet<Key>,
}

#[derive(Clone, PartialEq, Eq)]
struct DesiredState {
    uid: Option<String>,
    /// Counts the changes of the spec.
    generation: Option<i64>,
    /// Checksum of the annotations.
    annotations: u32,
    is_deleted: bool,
}

impl DesiredStates {
    /// Notes the event. What a watch lists when it begins again is new only if it differs from what was known.
    fn is_new<K: Resource<DynamicType = ()>>(&mut self, event: &Event<K>) -> bool {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.known.retain(|cluster, _| listed.contains(cluster));
            }
            Event::InitApply(cluster) => {
                self.listed.insert(key(cluster));
                return self.differs(cluster);
            }
            Event::Apply(cluster) => return self.differs(cluster),
            Event::Delete(cluster) => drop(self.known.remove(&key(cluster))),
        }
        true
    }

    fn differs<K: Resource<DynamicType = ()>>(&mut self, cluster: &K) -> bool {
        let state = DesiredState::of(cluster);
        self.known.insert(key(cluster), state.clone()) != Some(state)
    }
}

impl DesiredState {
    fn of<K: Resource<DynamicType = ()>>(cluster: &K) -> Self {
        let metadata = cluster.meta();
        let annotations = cluster.annotations().iter();
        let checksum = annotations.fold(0, |sum, (name, value)| {
            crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), value.as_bytes())
        });
        Self {
            uid: metadata.uid.clone(),
            generation: metadata.generation,
            annotations: checksum,
            is_deleted: metadata.deletion_timestamp.is_some(),
        }
    }
}

fn key<K: Resource<DynamicType = ()>>(cluster: &K) -> Key {
    Key { namespace: cluster.namespace().unwrap_or_default(), name: cluster.name_any() }
}

/// The cluster of each object that changes or goes. `idle_cache` is invalidated first, so that the reconcile that follows
/// reads it.
pub fn changes<T: Send + Sync + 'static>(
    client: &Client,
    namespace: Option<&str>,
    idle_cache: &Arc<IdleCache<T>>,
) -> impl Stream<Item = ObjectRef<Watched>> + Send + 'static {
    let idle_cache = idle_cache.clone();
    let objects = [
        watch::<StatefulSet>(client, namespace),
        watch::<Pod>(client, namespace),
        watch::<PersistentVolumeClaim>(client, namespace),
        watch::<ConfigMap>(client, namespace),
        watch::<Service>(client, namespace),
        watch::<ServiceAccount>(client, namespace),
        watch::<PodDisruptionBudget>(client, namespace),
        watch::<NetworkPolicy>(client, namespace),
        watch::<Secret>(client, namespace),
        watch::<Deployment>(client, namespace),
        watch::<Job>(client, namespace),
    ];
    stream::select_all(objects).flat_map(move |change| {
        let touched = match change {
            Change::Of(cluster) => {
                idle_cache.invalidate(&cluster);
                vec![cluster]
            }
            Change::Unknown => idle_cache.invalidate_all(),
        };
        stream::iter(touched.into_iter().map(|key| ObjectRef::new(&key.name).within(&key.namespace)))
    })
}

/// The clusters that use a HeliosBackupStore which changes or goes, of those in `clusters`.
pub fn stores<T: Send + Sync + 'static>(
    client: &Client,
    namespace: Option<&str>,
    clusters: Store<Watched>,
    idle_cache: &Arc<IdleCache<T>>,
) -> impl Stream<Item = ObjectRef<Watched>> + Send + 'static {
    let idle_cache = idle_cache.clone();
    let config = watcher::Config::default().page_size(PAGE);
    let mut desired = DesiredStates::default();
    watcher::watcher(scoped::<HeliosBackupStore>(client, namespace), config)
        .default_backoff()
        .filter_map(move |event| {
            let store = match event {
                Ok(event) if desired.is_new(&event) => match event {
                    Event::InitApply(store) | Event::Apply(store) | Event::Delete(store) => Some(key(&store)),
                    Event::Init | Event::InitDone => None,
                },
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(%error, "the watch of HeliosBackupStores failed and is begun again");
                    None
                }
            };
            futures::future::ready(store)
        })
        .flat_map(move |store| {
            let users = clusters.state().into_iter().filter(|cluster| uses(cluster, &store));
            let users: Vec<_> = users.map(|cluster| key(&*cluster)).collect();
            users.iter().for_each(|cluster| idle_cache.invalidate(cluster));
            stream::iter(users.into_iter().map(|key| ObjectRef::new(&key.name).within(&key.namespace)))
        })
}

/// The clusters of `namespace` that another controller reports. `idle_cache` is invalidated as by a change.
pub fn reports<T: Send + Sync + 'static>(
    reports: broadcast::Receiver<Key>,
    namespace: Option<&str>,
    idle_cache: &Arc<IdleCache<T>>,
) -> impl Stream<Item = ObjectRef<Watched>> + Send + 'static {
    let (idle_cache, own) = (idle_cache.clone(), namespace.map(str::to_owned));
    let reports = stream::unfold(reports, |mut reports| async {
        loop {
            match reports.recv().await {
                Ok(key) => return Some((key, reports)),
                // The clusters of those that are dropped are read within an hour.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    reports.filter_map(move |key| {
        let is_here = own.as_ref().is_none_or(|own| *own == key.namespace);
        if is_here {
            idle_cache.invalidate(&key);
        }
        futures::future::ready(is_here.then(|| ObjectRef::new(&key.name).within(&key.namespace)))
    })
}

fn uses(cluster: &Watched, store: &Key) -> bool {
    let names = |spec: &HeliosClusterSpec| {
        let recovery = spec.bootstrap.as_ref().and_then(|bootstrap| bootstrap.recovery.as_ref());
        spec.backup.as_ref().is_some_and(|backup| backup.store == store.name)
            || recovery.is_some_and(|recovery| recovery.store == store.name)
    };
    cluster.namespace().as_ref() == Some(&store.namespace)
        && cluster.0.as_ref().is_ok_and(|cluster| names(&cluster.spec))
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Of(Key),
    /// A watch starts here, for the first time or again: earlier changes are unknown.
    Unknown,
}

fn watch<K>(client: &Client, namespace: Option<&str>) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let config = watcher::Config::default().labels(CLUSTER_LABEL).page_size(PAGE);
    watcher::watcher(scoped::<PartialObjectMeta<K>>(client, namespace), config)
        .default_backoff()
        .filter_map(|event| async {
            match event {
                Ok(event) => change(&event),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "a watch failed and is begun again");
                    None
                }
            }
        })
        .boxed()
}

fn change<K>(event: &Event<PartialObjectMeta<K>>) -> Option<Change>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match event {
        Event::Init | Event::InitApply(_) => None,
        Event::InitDone => Some(Change::Unknown),
        Event::Apply(object) | Event::Delete(object) => {
            let name = object.labels().get(CLUSTER_LABEL)?.clone();
            Some(Change::Of(Key { namespace: object.namespace()?, name }))
        }
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(labels: BTreeMap<String, String>) -> PartialObjectMeta<Pod> {
        let metadata =
            ObjectMeta { namespace: Some("team".to_owned()), labels: Some(labels), ..ObjectMeta::default() };
        PartialObjectMeta { metadata, ..PartialObjectMeta::default() }
    }

    #[test]
    fn cluster_is_reported_when_one_of_its_pods_changes() {
        let ours = || pod(BTreeMap::from([(CLUSTER_LABEL.to_owned(), "demo".to_owned())]));
        let demo = || Some(Change::Of(Key { namespace: "team".to_owned(), name: "demo".to_owned() }));
        assert_eq!(change(&Event::Apply(ours())), demo());
        assert_eq!(change(&Event::Delete(ours())), demo());
        assert_eq!(change(&Event::Apply(pod(BTreeMap::new()))), None);
    }

    #[test]
    fn written_status_requests_no_reconcile_and_other_changes_do() {
        let mut desired = DesiredStates::default();
        let cluster = |version: &str, generation, annotations: &[(&str, &str)]| {
            let mut cluster = HeliosCluster::new("demo", Default::default());
            let metadata = cluster.meta_mut();
            metadata.resource_version = Some(version.to_owned());
            (metadata.uid, metadata.generation) = (Some("1".to_owned()), Some(generation));
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            metadata.annotations = Some(annotations.iter().map(pair).collect());
            cluster
        };
        assert!(desired.is_new(&Event::Apply(cluster("1", 1, &[]))));
        assert!(!desired.is_new(&Event::Apply(cluster("2", 1, &[]))), "a status");
        assert!(desired.is_new(&Event::Apply(cluster("3", 2, &[]))), "a spec");
        assert!(desired.is_new(&Event::Apply(cluster("4", 2, &[("renew", "now")]))));
        assert!(!desired.is_new(&Event::InitApply(cluster("5", 2, &[("renew", "now")]))), "a list again");
        let mut deleted = cluster("6", 2, &[("renew", "now")]);
        deleted.meta_mut().deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(desired.is_new(&Event::Apply(deleted.clone())));
        assert!(desired.is_new(&Event::Delete(deleted)));
        assert!(desired.known.is_empty());
        let recreated = HeliosCluster {
            metadata: ObjectMeta { uid: Some("2".to_owned()), ..cluster("7", 2, &[]).metadata },
            ..cluster("7", 2, &[])
        };
        desired.is_new(&Event::Apply(cluster("6", 2, &[])));
        assert!(desired.is_new(&Event::Apply(recreated)), "another one of this name");
        desired.is_new(&Event::<HeliosCluster>::Init);
        desired.is_new(&Event::<HeliosCluster>::InitDone);
        assert!(desired.known.is_empty(), "it was deleted while no watch ran");
    }

    #[test]
    fn clusters_that_use_a_store_are_reported_when_it_changes() {
        let cluster = |spec: serde_json::Value| -> Watched {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosCluster",
                "metadata": {"name": "demo", "namespace": "team"}, "spec": spec,
            }))
            .unwrap()
        };
        let store = |namespace: &str| Key { namespace: namespace.to_owned(), name: "nightly".to_owned() };
        let by_backup = cluster(serde_json::json!({"backup": {"store": "nightly"}}));
        let recovery = serde_json::json!({"store": "nightly", "cluster": "old"});
        let by_recovery = cluster(serde_json::json!({"bootstrap": {"recovery": recovery}}));
        assert!(uses(&by_backup, &store("team")) && uses(&by_recovery, &store("team")));
        assert!(!uses(&by_backup, &store("other")) && !uses(&cluster(serde_json::json!({})), &store("team")));
    }

    #[test]
    fn watch_forgets_deleted_clusters_when_it_restarts() {
        assert_eq!(change::<Pod>(&Event::InitDone), Some(Change::Unknown));
    }

    /// A HeliosCluster of a version with other fields is an entry that says so, not the end of the watch.
    #[test]
    fn unreadable_cluster_keeps_its_name() {
        let broken = serde_json::json!({
            "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosCluster",
            "metadata": {"name": "broken", "namespace": "team"},
            "spec": {"replicas": "three"},
        });
        let broken: Watched = serde_json::from_value(broken).unwrap();
        assert_eq!(broken.name_any(), "broken");
        assert!(broken.0.unwrap_err().error.contains("three"));
    }
}
