//! Objects of a drill: the HeliosCluster that a backup is restored into, and the user's Job that checks it.

use std::collections::BTreeMap;

use helios_crds::{
    BootstrapRecoverySpec, BootstrapSpec, DRILL_LABEL, DrillJobSpec, HeliosCluster, HeliosClusterSpec,
    HeliosScheduledBackup, RecoveryTargetSpec, RunningDrill, StorageSpec,
};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, PodSpec, PodTemplateSpec, SecretKeySelector,
    Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use super::metadata;
use super::pod::mount;
use crate::build::restricted;
use crate::names;
use crate::validate::ValidatedCluster;

const CONTAINER: &str = "check";
const COMPONENT: &str = "drill";
/// Variables with the address of the restored cluster, its user and password.
const VARIABLES: [&str; 2] = ["HELIOS_URL", "REDIS_URL"];
/// Entry of the Secret with the password of clients.
const URI: &str = "uri";

/// The HeliosCluster of a drill of `scheduled`, which `owner` refers to. It has one member, made as those of `source`, from which
/// the backups in `store` are. It has no backups itself, its volume is deleted with it, and its ports are open to its Job only.
pub fn drill_cluster(
    scheduled: &HeliosScheduledBackup,
    owner: OwnerReference,
    source: &HeliosCluster,
    store: &str,
    drill: &RunningDrill,
) -> HeliosCluster {
    let storage = scheduled.spec.drill.as_ref().and_then(|drill| drill.storage.clone()).unwrap_or_default();
    let of_source = &source.spec;
    let target = drill
        .target
        .as_ref()
        .map(|time| RecoveryTargetSpec { time: Some(time.0.to_string()), ..RecoveryTargetSpec::default() });
    // By its id: another cluster of this name may have backups in the store.
    let cluster_id = source.status.as_ref().and_then(|status| status.cluster_id.clone());
    let recovery = BootstrapRecoverySpec {
        store: store.to_owned(),
        cluster: cluster_id.is_none().then(|| source.name_any()),
        cluster_namespace: cluster_id.is_none().then(|| source.namespace()).flatten(),
        cluster_id,
        target,
    };
    let spec = HeliosClusterSpec {
        replicas: 1,
        image: of_source.image.clone(),
        storage: StorageSpec {
            size: storage.size.unwrap_or_else(|| of_source.storage.size.clone()),
            storage_class_name: storage
                .storage_class_name
                .or_else(|| of_source.storage.storage_class_name.clone()),
            engine: of_source.storage.engine,
            retain: false,
        },
        resources: of_source.resources.clone(),
        node_selector: of_source.node_selector.clone(),
        tolerations: of_source.tolerations.clone(),
        bootstrap: Some(BootstrapSpec { recovery: Some(recovery) }),
        ..HeliosClusterSpec::default()
    };
    let labels = BTreeMap::from([
        (DRILL_LABEL.to_owned(), scheduled.name_any()),
        ("app.kubernetes.io/managed-by".to_owned(), names::FIELD_MANAGER.to_owned()),
    ]);
    let metadata = ObjectMeta {
        name: Some(drill.cluster.clone()),
        namespace: scheduled.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    HeliosCluster { metadata, spec, status: None }
}

/// Job that checks `cluster`, the one of a drill. It runs once, for `seconds` at most.
pub fn drill_job(cluster: &ValidatedCluster, job: &DrillJobSpec, seconds: i64) -> Job {
    let variable = |name: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: names::auth_secret(&cluster.name),
                key: URI.to_owned(),
                ..SecretKeySelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let given = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(job.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: given(&job.command),
        args: given(&job.args),
        env: Some(VARIABLES.map(variable).to_vec()),
        // Its last words are the message of a failure.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(restricted::container()),
        volume_mounts: Some(vec![mount("tmp", "/tmp", None)]),
        ..Container::default()
    };
    let tmp = Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let pod = PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(restricted::pod()),
        node_selector: (!cluster.spec.node_selector.is_empty()).then(|| cluster.spec.node_selector.clone()),
        tolerations: (!cluster.spec.tolerations.is_empty()).then(|| cluster.spec.tolerations.clone()),
        volumes: Some(vec![tmp]),
        containers: vec![container],
        ..PodSpec::default()
    };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::worker_labels(&cluster.name, COMPONENT)),
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    };
    Job {
        metadata: metadata(cluster, names::drill_job(&cluster.name), COMPONENT),
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(seconds.max(1)),
            template,
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}
