//! The Services: one for members among themselves, three for clients.

use std::collections::BTreeMap;

use helios_crds::{IN_SERVICE_LABEL, READS_LABEL, ROLE_LABEL, ServiceType};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::names::{self, CLIENT_PORT, GATEWAY_PORT, GRPC_PORT, PEER_PORT};
use crate::validate::ValidatedCluster;

/// Headless, with names for pods that are not ready: members must find each other to become ready.
pub fn peers(cluster: &ValidatedCluster) -> Service {
    Service {
        metadata: metadata(cluster, names::peers_service(&cluster.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::selector(&cluster.name)),
            ports: Some(vec![port("peer", PEER_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Any ready member; each serves reads and forwards writes.
pub fn client(cluster: &ValidatedCluster) -> Service {
    let [any, ..] = names::client_services(&cluster.name);
    for_clients(cluster, any, BTreeMap::new())
}

/// The leader, by the label that the operator moves.
pub fn leader(cluster: &ValidatedCluster) -> Service {
    let [_, leader, _] = names::client_services(&cluster.name);
    for_clients(cluster, leader, label(ROLE_LABEL, "leader"))
}

/// The followers, or the leader when there is no other member.
pub fn read(cluster: &ValidatedCluster) -> Service {
    let [.., read] = names::client_services(&cluster.name);
    for_clients(cluster, read, label(READS_LABEL, "true"))
}

fn for_clients(cluster: &ValidatedCluster, name: String, also: BTreeMap<String, String>) -> Service {
    let wanted = &cluster.spec.service;
    let mut meta = metadata(cluster, name);
    if !wanted.annotations.is_empty() {
        meta.annotations = Some(wanted.annotations.clone());
    }
    let mut selector = names::selector(&cluster.name);
    selector.extend(label(IN_SERVICE_LABEL, "true"));
    selector.extend(also);
    let mut ports = vec![port("client", CLIENT_PORT), port("grpc", GRPC_PORT)];
    if cluster.spec.auth.enabled {
        ports.push(port("gateway", GATEWAY_PORT));
    }
    Service {
        metadata: meta,
        spec: Some(ServiceSpec {
            type_: Some(type_name(wanted.type_).to_owned()),
            selector: Some(selector),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn type_name(type_: ServiceType) -> &'static str {
    match type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    }
}

fn label(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
