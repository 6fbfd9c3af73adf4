//! The Deployment that archives the log of a cluster.

use helios_crds::HeliosBackupStore;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{Container, ContainerPort, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::Parts;
use super::{STATUS_PORT, metadata};
use crate::names;
use crate::validate::ValidatedCluster;

const COMPONENT: &str = "archiver";

/// `None` without `spec.backup`, or when it archives nothing. At most one pod at a time: two would only be in each
/// other's way.
pub fn archiver(cluster: &ValidatedCluster, store: &HeliosBackupStore, replicas: i32) -> Option<Deployment> {
    let backup = cluster.spec.backup.as_ref().filter(|backup| backup.archive)?;
    let retention = &store.spec.retention;
    let mut parts = Parts::new(&["archive"], cluster, store);
    parts.members(cluster);
    parts.arg("--name", &cluster.name);
    parts.arg("--namespace", &cluster.namespace);
    parts.arg("--flush-interval", &backup.flush_interval);
    parts.arg("--base-interval", &backup.base_interval);
    parts.arg("--listen", format!("0.0.0.0:{STATUS_PORT}"));
    parts.arg("--keep-for", &retention.keep_for);
    parts.arg("--keep-last", retention.keep_last.to_string());
    parts.arg("--keep-log", &retention.log);
    if let Some(limit) = store.spec.max_bytes_per_second {
        parts.arg("--max-bytes-per-second", limit.to_string());
    }
    let container = Container {
        ports: Some(vec![ContainerPort {
            name: Some("metrics".to_owned()),
            container_port: STATUS_PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(healthy(10, 6)),
        readiness_probe: Some(healthy(5, 3)),
        ..Container::default()
    };
    Some(Deployment {
        metadata: metadata(cluster, names::archiver(&cluster.name), COMPONENT),
        spec: DeploymentSpec {
            replicas: Some(replicas),
            revision_history_limit: Some(1),
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                ..DeploymentStrategy::default()
            }),
            selector: selector(cluster),
            template: parts.template(cluster, COMPONENT, None, container),
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    })
}

fn selector(cluster: &ValidatedCluster) -> LabelSelector {
    let labels = names::worker_selector(&cluster.name, COMPONENT);
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

fn healthy(period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz".to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}
