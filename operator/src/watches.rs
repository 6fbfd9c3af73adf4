//! What changes in Kubernetes, told as the names of the clusters it is about. Of what a cluster consists
//! of, only metadata is watched: a pass reads for itself what it decides from.

use std::fmt::Debug;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use helios_crds::{CLUSTER_LABEL, HeliosCluster};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::names::Key;
use crate::quiet::Quiet;

/// A HeliosCluster, or why it cannot be read: one of another version must not end the watch of all others.
pub type Watched = DeserializeGuard<HeliosCluster>;

/// A list is read in pages of this many objects, so that 500 clusters never are in memory as text.
const PAGE: u32 = 50;

/// All clusters of `namespace`, kept up to date; of all namespaces when `None`.
pub fn clusters(
    client: &Client,
    namespace: Option<&str>,
) -> (Store<Watched>, impl Stream<Item = Result<Watched, watcher::Error>> + Send + 'static) {
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().page_size(PAGE);
    let stream = watcher::watcher(scoped::<Watched>(client, namespace), config)
        .default_backoff()
        // Who owns which field is half of an object, and nobody asks.
        .modify(|cluster| cluster.meta_mut().managed_fields = None)
        .reflect(writer)
        .touched_objects();
    (reader, stream)
}

/// The cluster of each object that changes or goes. `quiet` is told first, so that the pass that follows
/// reads it.
pub fn changes<T: Send + Sync + 'static>(
    client: &Client,
    namespace: Option<&str>,
    quiet: &Arc<Quiet<T>>,
) -> impl Stream<Item = ObjectRef<Watched>> + Send + 'static {
    let quiet = quiet.clone();
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
    ];
    stream::select_all(objects).flat_map(move |change| {
        let touched = match change {
            Change::Of(cluster) => {
                quiet.touch(&cluster);
                vec![cluster]
            }
            Change::Unknown => quiet.touch_all(),
        };
        stream::iter(touched.into_iter().map(|key| ObjectRef::new(&key.name).within(&key.namespace)))
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Of(Key),
    /// A watch begins from here, for the first time or again: what came and went before, nobody tells.
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
    fn a_pod_that_comes_changes_or_goes_is_told_as_its_cluster() {
        let ours = || pod(BTreeMap::from([(CLUSTER_LABEL.to_owned(), "demo".to_owned())]));
        let demo = || Some(Change::Of(Key { namespace: "team".to_owned(), name: "demo".to_owned() }));
        assert_eq!(change(&Event::Apply(ours())), demo());
        assert_eq!(change(&Event::Delete(ours())), demo());
        assert_eq!(change(&Event::Apply(pod(BTreeMap::new()))), None);
    }

    #[test]
    fn a_watch_that_begins_again_knows_of_nothing_that_went() {
        assert_eq!(change::<Pod>(&Event::InitDone), Some(Change::Unknown));
    }

    /// A HeliosCluster of a version with other fields is an entry that says so, not the end of the watch.
    #[test]
    fn a_cluster_that_cannot_be_read_keeps_its_name() {
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
