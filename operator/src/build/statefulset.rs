//! The StatefulSet. Its pods are replaced by the operator alone (`OnDelete`), and all may start at
//! once (`Parallel`): membership is decided by Raft, not by the order of ordinals.

use std::collections::BTreeMap;

use helios_crds::{DRILL_LABEL, IN_SERVICE_LABEL, TlsMode};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, SecretVolumeSource, TopologySpreadConstraint, Volume,
    VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::restricted;
use super::{CONFIG_FILE, CONFIG_HASH, Shape, metadata};
use crate::names::{self, CLIENT_PORT, CONTAINER, GATEWAY_PORT, GRPC_PORT, METRICS_PORT, PEER_PORT, VOLUME};
use crate::security::certificates::{AUTHORITY, CERTIFICATE, KEY};
use crate::security::users::{TOKEN, USERS};
use crate::validate::ValidatedCluster;

/// Annotation on the StatefulSet: the spec declines passwords. Without it and without a password, the StatefulSet predates
/// passwords.
const AUTH: &str = "heliosdb.io/auth";
const DECLINED: &str = "declined";
const AUTH_VOLUME: &str = "auth";
const RESTARTED_AT: &str = "heliosdb.io/restarted-at";
const CONFIG_DIR: &str = "/etc/helios";
const TLS_VOLUME: &str = "tls";
pub const TLS_DIR: &str = "/etc/helios-tls";
pub const AUTH_DIR: &str = "/etc/helios-auth";
/// For the group that the process runs as.
pub(super) const OWNER_AND_GROUP_READ: i32 = 0o440;
/// Enough to hand leadership over, finish requests and write the last log entries.
const GRACE_SECONDS: i64 = 60;
/// A start replays the log, which may be long; ten minutes of it is not a failure.
const STARTUP_SECONDS: i32 = 600;

pub fn stateful_set(cluster: &ValidatedCluster, shape: &Shape, config_hash: &str) -> StatefulSet {
    let when_deleted = if cluster.volume.retain { "Retain" } else { "Delete" };
    let annotations =
        cluster.declines_password.then(|| BTreeMap::from([(AUTH.to_owned(), DECLINED.to_owned())]));
    StatefulSet {
        metadata: ObjectMeta { annotations, ..metadata(cluster, cluster.name.clone()) },
        spec: StatefulSetSpec {
            replicas: Some(shape.replicas.cast_signed()),
            service_name: Some(names::peers_service(&cluster.name)),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            selector: selector(cluster),
            template: template(cluster, config_hash),
            volume_claim_templates: Some(vec![claim(cluster, shape)]),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.to_owned()),
                // The operator deletes a removed member's volume itself, after the removal is committed.
                when_scaled: Some("Retain".to_owned()),
            }),
            ..StatefulSetSpec::default()
        },
        ..StatefulSet::default()
    }
}

fn selector(cluster: &ValidatedCluster) -> LabelSelector {
    LabelSelector { match_labels: Some(names::selector(&cluster.name)), ..LabelSelector::default() }
}

fn template(cluster: &ValidatedCluster, config_hash: &str) -> PodTemplateSpec {
    let mut annotations = BTreeMap::from([(CONFIG_HASH.to_owned(), config_hash.to_owned())]);
    if let Some(time) = &cluster.spec.restart_at {
        annotations.insert(RESTARTED_AT.to_owned(), time.clone());
    }
    // From the template, so that a pod made while no operator runs is in service too.
    let mut labels = names::labels(&cluster.name);
    labels.insert(IN_SERVICE_LABEL.to_owned(), "true".to_owned());
    if cluster.is_drill {
        labels.insert(DRILL_LABEL.to_owned(), "true".to_owned());
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(cluster)),
    }
}

fn pod(cluster: &ValidatedCluster) -> PodSpec {
    let spec = &cluster.spec;
    PodSpec {
        service_account_name: Some(cluster.name.clone()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(restricted::pod()),
        node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
        tolerations: (!spec.tolerations.is_empty()).then(|| spec.tolerations.clone()),
        affinity: spec.affinity.clone(),
        topology_spread_constraints: Some(spread(cluster)),
        containers: vec![container(cluster)],
        volumes: Some(volumes(cluster)),
        ..PodSpec::default()
    }
}

fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    let mut volumes = vec![
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: cluster.name.clone(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "tmp".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        },
    ];
    volumes.extend(secrets(cluster).map(|(volume, _, secret, files)| Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(OWNER_AND_GROUP_READ),
            items: Some(files.iter().map(|file| item(file)).collect()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }));
    volumes
}

/// Name of the volume, its mount path, the Secret, and the entries that the members need.
type Mounted = (&'static str, &'static str, String, &'static [&'static str]);

/// Without the authority's key, which is in no pod.
fn secrets(cluster: &ValidatedCluster) -> impl Iterator<Item = Mounted> {
    let spec = &cluster.spec;
    let certificate = match spec.tls.mode {
        TlsMode::Off => None,
        TlsMode::Auto => Some(names::peer_tls_secret(&cluster.name)),
        TlsMode::Secret => spec.tls.secret_name.clone(),
    };
    let users = spec.auth.enabled.then(|| names::auth_secret(&cluster.name));
    let certificate: Option<Mounted> =
        certificate.map(|secret| (TLS_VOLUME, TLS_DIR, secret, &[CERTIFICATE, KEY, AUTHORITY][..]));
    certificate.into_iter().chain(users.map(|secret| (AUTH_VOLUME, AUTH_DIR, secret, &[USERS, TOKEN][..])))
}

/// The members have TLS.
pub fn has_certificate(set: &StatefulSet) -> bool {
    has_volume(set, TLS_VOLUME)
}

/// The members require a password.
pub fn has_password(set: &StatefulSet) -> bool {
    has_volume(set, AUTH_VOLUME)
}

pub fn has_declined_password(set: &StatefulSet) -> bool {
    set.metadata.annotations.as_ref().is_some_and(|all| all.get(AUTH).is_some_and(|said| said == DECLINED))
}

fn has_volume(set: &StatefulSet, name: &str) -> bool {
    let pod = set.spec.template.spec.as_ref();
    pod.and_then(|pod| pod.volumes.as_ref()).is_some_and(|all| all.iter().any(|volume| volume.name == name))
}

pub(super) fn item(file: &str) -> KeyToPath {
    KeyToPath { key: file.to_owned(), path: file.to_owned(), ..KeyToPath::default() }
}

fn spread(cluster: &ValidatedCluster) -> Vec<TopologySpreadConstraint> {
    let wanted = &cluster.spec.topology_spread_constraints;
    if !wanted.is_empty() {
        return wanted.clone();
    }
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        .map(|topology_key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: topology_key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector(cluster)),
            ..TopologySpreadConstraint::default()
        })
        .to_vec()
}

fn container(cluster: &ValidatedCluster) -> Container {
    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let mut ports =
        vec![("client", CLIENT_PORT), ("peer", PEER_PORT), ("grpc", GRPC_PORT), ("metrics", METRICS_PORT)];
    if cluster.spec.auth.enabled {
        ports.push(("gateway", GATEWAY_PORT));
    }
    let mut mounts = vec![
        mount(VOLUME, "/data", None),
        mount("config", CONFIG_DIR, Some(true)),
        mount("tmp", "/tmp", None),
    ];
    mounts.extend(secrets(cluster).map(|(volume, path, ..)| mount(volume, path, Some(true))));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["--config".to_owned(), format!("{CONFIG_DIR}/{CONFIG_FILE}")]),
        env: Some(environment(cluster)),
        ports: Some(ports.into_iter().map(|(name, number)| container_port(name, number)).collect()),
        resources: Some(cluster.spec.resources.clone().unwrap_or_else(default_resources)),
        startup_probe: Some(probe("/livez", 1, STARTUP_SECONDS)),
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 1, 3)),
        security_context: Some(restricted::container()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn environment(cluster: &ValidatedCluster) -> Vec<EnvVar> {
    const NAME: &str = "HELIOS__NODE__NAME";
    let domain = format!("{}.{}.svc", names::peers_service(&cluster.name), cluster.namespace);
    let address = |port: i32| Some(format!("$({NAME}).{domain}:{port}"));
    let variable = |name: &str, value| EnvVar { name: name.to_owned(), value, ..EnvVar::default() };
    // A variable that nodes of earlier versions ignore, where they would refuse a key of the file.
    let open =
        (!cluster.spec.auth.enabled).then(|| variable("HELIOS_PROTECTED_MODE", Some("false".to_owned())));
    let own = [
        EnvVar {
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "metadata.name".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
            ..variable(NAME, None)
        },
        variable("HELIOS__NODE__ADVERTISE_ADDR", address(PEER_PORT)),
        variable("HELIOS__NODE__ADVERTISE_CLIENT_ADDR", address(CLIENT_PORT)),
    ];
    own.into_iter().chain(open).collect()
}

fn container_port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn default_resources() -> ResourceRequirements {
    let quantity = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([quantity("cpu", "100m"), quantity("memory", "256Mi")])),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

fn claim(cluster: &ValidatedCluster, shape: &Shape) -> PersistentVolumeClaim {
    let size = shape.template_volume_size.clone().unwrap_or_else(|| cluster.spec.storage.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME.to_owned()),
            labels: Some(names::selector(&cluster.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: cluster.spec.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
