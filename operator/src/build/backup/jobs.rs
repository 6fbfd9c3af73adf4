//! The Jobs of one backup and of a restore. Each leaves its result in the termination message of its container, so that
//! it needs no right in Kubernetes.

use helios_crds::{BackupFrom, BootstrapRecoverySpec, HeliosBackup, HeliosBackupStore, RecoveryTargetSpec};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{Container, EnvVar, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use super::pod::{Parts, certificate_secret};
use super::{CONTAINER, metadata};
use crate::names::{self, PEER_PORT};
use crate::security::certificates::{ADMIN_CERTIFICATE, ADMIN_KEY, AUTHORITY, CERTIFICATE, KEY};
use crate::validate::ValidatedCluster;

/// As a variable and no flag: a cluster whose image is of an earlier release ignores it.
const CROSS_CHECK: (&str, &str) = ("HELIOS_BACKUP_CROSS_CHECK", "alternate");
const REPORT: &str = "/dev/termination-log";
const PEER_TLS_DIR: &str = "/etc/helios-peer-tls";
/// Pods after which a Job has failed; the pause between them grows from 10 s.
const RETRIES: i32 = 4;
/// Exit code of wrong usage, which no retry heals.
const USAGE: i32 = 2;

/// Job of the HeliosBackup `backup`, which `owner` refers to.
pub fn backup_job(
    backup: &HeliosBackup,
    owner: OwnerReference,
    cluster: &ValidatedCluster,
    store: &HeliosBackupStore,
) -> Job {
    let mut parts = Parts::new(&["backup", "create"], cluster, store);
    parts.members(cluster);
    let from = match backup.spec.from {
        BackupFrom::Follower => "follower",
        BackupFrom::Any => "any",
    };
    parts.arg("--from", from);
    parts.arg("--name", &cluster.name);
    parts.arg("--cluster-namespace", &cluster.namespace);
    if let Some(limit) = store.spec.max_bytes_per_second {
        parts.arg("--max-bytes-per-second", limit.to_string());
    }
    let metadata = ObjectMeta {
        owner_references: Some(vec![owner]),
        ..metadata(cluster, names::backup_job(&backup.name_any()), "backup")
    };
    job(metadata, parts.reporting(cluster, "backup"))
}

/// Facts that a restore needs beside the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore<'a> {
    /// Id of the new cluster, which is in the status by then.
    pub cluster_id: &'a str,
    /// Blank disk of the first member.
    pub disk_id: &'a str,
    pub fencing_token: u64,
    /// The Secret of the members' certificate has one for management.
    pub has_admin: bool,
}

/// Job that restores into the first member.
pub fn restore_job(
    cluster: &ValidatedCluster,
    store: &HeliosBackupStore,
    recovery: &BootstrapRecoverySpec,
    restore: &Restore,
) -> Job {
    let mut parts = Parts::new(&["backup", "restore"], cluster, store);
    for (flag, value) in [
        ("--cluster-id", &recovery.cluster_id),
        ("--cluster", &recovery.cluster),
        ("--cluster-namespace", &recovery.cluster_namespace),
    ] {
        if let Some(value) = value {
            parts.arg(flag, value);
        }
    }
    match recovery.target.clone().unwrap_or_default() {
        RecoveryTargetSpec { time: Some(time), .. } => parts.arg("--time", time),
        RecoveryTargetSpec { index: Some(index), .. } => parts.arg("--index", index.to_string()),
        RecoveryTargetSpec { backup: Some(backup), .. } => parts.arg("--backup", backup),
        RecoveryTargetSpec { time: None, index: None, backup: None } => {
            parts.args.push("--latest".to_owned());
        }
    }
    let to = names::stable_address(&cluster.name, &cluster.namespace, 0, PEER_PORT);
    parts.arg("--to", to);
    parts.arg("--new-cluster-id", restore.cluster_id);
    parts.arg("--expected-disk-id", restore.disk_id);
    parts.arg("--fencing-token", restore.fencing_token.to_string());
    if cluster.is_drill {
        // So that retention keeps the base.
        parts.args.push("--record".to_owned());
    }
    if let Some(secret) = certificate_secret(cluster) {
        let (certificate, key) =
            if restore.has_admin { (ADMIN_CERTIFICATE, ADMIN_KEY) } else { (CERTIFICATE, KEY) };
        parts.secret("peer-tls", PEER_TLS_DIR, &secret, &[AUTHORITY, certificate, key]);
        parts.arg("--peer-ca-file", format!("{PEER_TLS_DIR}/{AUTHORITY}"));
        parts.arg("--peer-cert-file", format!("{PEER_TLS_DIR}/{certificate}"));
        parts.arg("--peer-key-file", format!("{PEER_TLS_DIR}/{key}"));
    }
    let metadata = metadata(cluster, names::restore_job(&cluster.name), "restore");
    job(metadata, parts.reporting(cluster, "restore"))
}

impl Parts {
    fn reporting(mut self, cluster: &ValidatedCluster, component: &str) -> PodTemplateSpec {
        self.arg("--output", "json");
        self.arg("--report-file", REPORT);
        self.memory_limit = "256Mi";
        let (name, value) = CROSS_CHECK;
        let cross_check =
            EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() };
        let container = Container {
            env: cluster.is_drill.then(|| vec![cross_check]),
            termination_message_path: Some(REPORT.to_owned()),
            // The last lines of the log, if the process ended before it could report.
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        };
        self.template(cluster, component, Some("Never"), container)
    }
}

fn job(metadata: ObjectMeta, template: PodTemplateSpec) -> Job {
    Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(RETRIES),
            pod_failure_policy: Some(PodFailurePolicy {
                rules: vec![PodFailurePolicyRule {
                    action: "FailJob".to_owned(),
                    on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                        container_name: Some(CONTAINER.to_owned()),
                        operator: "In".to_owned(),
                        values: vec![USAGE],
                    }),
                    ..PodFailurePolicyRule::default()
                }],
            }),
            template,
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}
