//! The Kubernetes objects of a cluster, one file per kind; pure.

pub mod backup;
mod budget;
mod config;
mod network_policy;
mod restricted;
mod service_account;
mod services;
mod statefulset;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::names;
use crate::validate::ValidatedCluster;

pub use config::{CONFIG_FILE, CONFIG_HASH, file_hash, restart_hash};
pub use statefulset::{has_certificate, has_declined_password, has_password};

#[derive(Debug, thiserror::Error)]
#[error("cannot write the members' configuration: {0}")]
pub struct BuildError(String);

/// Everything a cluster owns, in the order in which it is applied: what pods need before the pods.
pub struct Objects {
    pub service_account: ServiceAccount,
    pub config_map: ConfigMap,
    pub peers: Service,
    pub client: Service,
    pub leader: Service,
    pub read: Service,
    /// `None`: an existing budget is deleted.
    pub budget: Option<PodDisruptionBudget>,
    /// `None`: an existing policy is deleted.
    pub network_policy: Option<NetworkPolicy>,
    pub stateful_set: StatefulSet,
}

/// Values that the live StatefulSet and the plan decide, beside the spec.
pub struct Shape {
    pub replicas: u32,
    /// Size in the live StatefulSet's claim template, which Kubernetes does not let change; volumes
    /// made from it are grown to the spec's size afterwards.
    pub template_volume_size: Option<String>,
}

/// # Errors
/// When the configuration cannot be written as YAML.
pub fn objects(cluster: &ValidatedCluster, shape: &Shape) -> Result<Objects, BuildError> {
    Ok(Objects {
        service_account: service_account::service_account(cluster),
        peers: services::peers(cluster),
        client: services::client(cluster),
        leader: services::leader(cluster),
        read: services::read(cluster),
        budget: budget::budget(cluster),
        network_policy: network_policy::network_policy(cluster),
        stateful_set: statefulset::stateful_set(cluster, shape, &restart_hash(cluster)?),
        config_map: config::config_map(cluster)?,
    })
}

pub(crate) fn metadata(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(names::labels(&cluster.name)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}
