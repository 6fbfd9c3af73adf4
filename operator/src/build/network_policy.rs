//! Access to the ports of a member, where the network of Kubernetes enforces it.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::names;
use crate::validate::ValidatedCluster;

/// Kubernetes puts it on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// `None` when it is not wanted. Ports are named, so that one the members do not have is no rule.
pub fn network_policy(cluster: &ValidatedCluster) -> Option<NetworkPolicy> {
    if !cluster.spec.network_policy.enabled {
        return None;
    }
    let members = labels(names::selector(&cluster.name));
    let among_members =
        NetworkPolicyPeer { pod_selector: Some(members.clone()), ..NetworkPolicyPeer::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labels(BTreeMap::from([(
            NAMESPACE_NAME.to_owned(),
            cluster.operator_namespace.clone(),
        )]))),
        pod_selector: Some(labels(names::operator_selector())),
        ..NetworkPolicyPeer::default()
    };
    let recovery = cluster.spec.bootstrap.as_ref().and_then(|bootstrap| bootstrap.recovery.as_ref());
    let restore = recovery.map(|_| NetworkPolicyPeer {
        pod_selector: Some(labels(names::worker_selector(&cluster.name, "restore"))),
        ..NetworkPolicyPeer::default()
    });
    // The data of a drill are those of another cluster, so only its Job may read them.
    let clients = cluster.is_drill.then(|| {
        vec![NetworkPolicyPeer {
            pod_selector: Some(labels(names::worker_selector(&cluster.name, "drill"))),
            ..NetworkPolicyPeer::default()
        }]
    });
    let mut ports = vec!["client", "grpc", "gateway"];
    let metrics = NetworkPolicyIngressRule { from: None, ports: Some(vec![port("metrics")]) };
    if !cluster.is_drill {
        ports.push("metrics");
    }
    Some(NetworkPolicy {
        metadata: metadata(cluster, cluster.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(members),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(
                [
                    NetworkPolicyIngressRule {
                        from: Some([among_members, operator].into_iter().chain(restore).collect()),
                        ports: Some(vec![port("peer")]),
                    },
                    NetworkPolicyIngressRule {
                        from: clients,
                        ports: Some(ports.into_iter().map(port).collect()),
                    },
                ]
                .into_iter()
                .chain(cluster.is_drill.then_some(metrics))
                .collect(),
            ),
            ..NetworkPolicySpec::default()
        }),
    })
}

fn labels(match_labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(match_labels), ..LabelSelector::default() }
}

fn port(name: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    }
}
