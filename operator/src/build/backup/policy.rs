//! Access of the pods of backups to the network: the members and the store, and nothing else.

use std::collections::BTreeMap;

use helios_crds::HeliosBackupStore;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{STATUS_PORT, metadata, store};
use crate::names::{self, CLIENT_PORT, GATEWAY_PORT, GRPC_PORT, PEER_PORT};
use crate::validate::ValidatedCluster;

const DNS_PORT: i32 = 53;
/// Label of Kubernetes on the pods of a Job.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Policy of the archiver; `None` when policies are not wanted.
pub fn archiver_policy(cluster: &ValidatedCluster, store: &HeliosBackupStore) -> Option<NetworkPolicy> {
    let ingress = NetworkPolicyIngressRule { from: None, ports: Some(vec![port(STATUS_PORT, "TCP")]) };
    let metadata = metadata(cluster, names::archiver(&cluster.name), "archiver");
    let selector = names::worker_selector(&cluster.name, "archiver");
    policy(cluster, metadata, selector, vec![ingress], (&[GRPC_PORT], Some(store)))
}

/// Policy of the Job of a HeliosBackup, which `owner` refers to.
pub fn backup_policy(
    backup: &impl ResourceExt,
    owner: OwnerReference,
    cluster: &ValidatedCluster,
    store: &HeliosBackupStore,
) -> Option<NetworkPolicy> {
    let name = names::backup_job(&backup.name_any());
    let mut selector = names::worker_selector(&cluster.name, "backup");
    selector.insert(JOB_NAME.to_owned(), name.clone());
    let metadata = ObjectMeta { owner_references: Some(vec![owner]), ..metadata(cluster, name, "backup") };
    policy(cluster, metadata, selector, Vec::new(), (&[GRPC_PORT], Some(store)))
}

/// Policy of the Job that restores into the first member.
pub fn restore_policy(cluster: &ValidatedCluster, store: &HeliosBackupStore) -> Option<NetworkPolicy> {
    let metadata = metadata(cluster, names::restore_job(&cluster.name), "restore");
    let selector = names::worker_selector(&cluster.name, "restore");
    policy(cluster, metadata, selector, Vec::new(), (&[PEER_PORT], Some(store)))
}

/// Policy of the Job that checks the cluster of a drill: the ports for clients, and no store.
pub fn drill_policy(cluster: &ValidatedCluster) -> Option<NetworkPolicy> {
    let metadata = metadata(cluster, names::drill_job(&cluster.name), "drill");
    let selector = names::worker_selector(&cluster.name, "drill");
    policy(cluster, metadata, selector, Vec::new(), (&[CLIENT_PORT, GRPC_PORT, GATEWAY_PORT], None))
}

/// Permits what is given and names of hosts. The addresses of a store are not known, so its ports are open to all of them.
fn policy(
    cluster: &ValidatedCluster,
    metadata: ObjectMeta,
    selector: BTreeMap<String, String>,
    ingress: Vec<NetworkPolicyIngressRule>,
    (of_members, of_store): (&[i32], Option<&HeliosBackupStore>),
) -> Option<NetworkPolicy> {
    if !cluster.spec.network_policy.enabled {
        return None;
    }
    let members = NetworkPolicyPeer {
        pod_selector: Some(labels(names::selector(&cluster.name))),
        ..NetworkPolicyPeer::default()
    };
    let tcp = |numbers: &[i32]| Some(numbers.iter().map(|number| port(*number, "TCP")).collect());
    let mut egress = vec![
        NetworkPolicyEgressRule { to: None, ports: Some(vec![port(DNS_PORT, "UDP"), port(DNS_PORT, "TCP")]) },
        NetworkPolicyEgressRule { to: Some(vec![members]), ports: tcp(of_members) },
    ];
    let store = of_store.map(store::ports).unwrap_or_default();
    if !store.is_empty() {
        egress.push(NetworkPolicyEgressRule { to: None, ports: tcp(&store) });
    }
    Some(NetworkPolicy {
        metadata,
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels(selector)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    })
}

fn labels(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

fn port(number: i32, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some(protocol.to_owned()),
        ..NetworkPolicyPort::default()
    }
}
