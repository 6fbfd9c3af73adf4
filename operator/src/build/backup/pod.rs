//! The pod that all work on backups is done in.

use std::collections::BTreeMap;

use helios_crds::{HeliosBackupStore, TlsMode};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvFromSource, PodSpec, PodTemplateSpec, ResourceRequirements,
    SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{CONTAINER, store};
use crate::build::restricted;
use crate::build::statefulset::{AUTH_DIR, OWNER_AND_GROUP_READ, TLS_DIR, item};
use crate::names::{self, GRPC_PORT};
use crate::security::certificates::AUTHORITY;
use crate::security::users::{BACKUP_PASSWORD, BACKUP_USER};
use crate::validate::ValidatedCluster;

/// Parts in which the pods differ.
pub struct Parts {
    pub args: Vec<String>,
    pub env_from: Vec<EnvFromSource>,
    pub volumes: Vec<Volume>,
    pub mounts: Vec<VolumeMount>,
    pub service_account: String,
    pub memory_limit: &'static str,
}

impl Parts {
    /// Parts of the command `command`, which uses `store`.
    pub fn new(command: &[&str], cluster: &ValidatedCluster, store: &HeliosBackupStore) -> Self {
        let tmp = Volume {
            name: "tmp".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        };
        let mut parts = Self {
            args: command.iter().map(|&word| word.to_owned()).collect(),
            env_from: Vec::new(),
            volumes: vec![tmp],
            mounts: vec![mount("tmp", "/tmp", None)],
            service_account: cluster.name.clone(),
            memory_limit: "160Mi",
        };
        store::add(&mut parts, store);
        parts
    }

    pub fn arg(&mut self, flag: &str, value: impl Into<String>) {
        self.args.extend([flag.to_owned(), value.into()]);
    }

    /// Mounts `files` of a Secret; all of them when none is named.
    pub fn secret(&mut self, volume: &str, path: &str, secret: &str, files: &[&str]) {
        self.volumes.push(secret_volume(volume, secret, files));
        self.mounts.push(mount(volume, path, Some(true)));
    }

    /// Access to the members' gRPC port, as a user that may read and not write.
    pub fn members(&mut self, cluster: &ValidatedCluster) {
        let address = |ordinal| names::stable_address(&cluster.name, &cluster.namespace, ordinal, GRPC_PORT);
        let members: Vec<_> = (0..cluster.replicas).map(address).collect();
        self.arg("--members", members.join(","));
        if cluster.spec.auth.enabled {
            self.arg("--user", BACKUP_USER);
            self.arg("--password-file", format!("{AUTH_DIR}/{BACKUP_PASSWORD}"));
            self.secret("auth", AUTH_DIR, &names::auth_secret(&cluster.name), &[BACKUP_PASSWORD]);
        }
        if let (true, Some(secret)) = (cluster.spec.tls.clients, certificate_secret(cluster)) {
            self.arg("--tls-ca-file", format!("{TLS_DIR}/{AUTHORITY}"));
            self.secret("tls", TLS_DIR, &secret, &[AUTHORITY]);
        }
    }

    /// The template of a pod with these parts; `container` has its ports, probes and the like.
    pub fn template(
        self,
        cluster: &ValidatedCluster,
        component: &str,
        restart_policy: Option<&str>,
        container: Container,
    ) -> PodTemplateSpec {
        let spec = &cluster.spec;
        PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(names::worker_labels(&cluster.name, component)),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                service_account_name: Some(self.service_account),
                automount_service_account_token: Some(false),
                enable_service_links: Some(false),
                restart_policy: restart_policy.map(str::to_owned),
                security_context: Some(restricted::pod()),
                node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
                tolerations: (!spec.tolerations.is_empty()).then(|| spec.tolerations.clone()),
                volumes: Some(self.volumes),
                containers: vec![Container {
                    name: CONTAINER.to_owned(),
                    image: Some(cluster.image.clone()),
                    image_pull_policy: Some("IfNotPresent".to_owned()),
                    args: Some(self.args),
                    env_from: (!self.env_from.is_empty()).then_some(self.env_from),
                    resources: Some(resources(self.memory_limit)),
                    security_context: Some(restricted::container()),
                    volume_mounts: Some(self.mounts),
                    ..container
                }],
                ..PodSpec::default()
            }),
        }
    }
}

/// Secret with the certificate that members show; `None` without TLS.
pub fn certificate_secret(cluster: &ValidatedCluster) -> Option<String> {
    match cluster.spec.tls.mode {
        TlsMode::Off => None,
        TlsMode::Auto => Some(names::peer_tls_secret(&cluster.name)),
        TlsMode::Secret => cluster.spec.tls.secret_name.clone(),
    }
}

pub fn mount(name: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), read_only, ..VolumeMount::default() }
}

pub fn secret_volume(name: &str, secret: &str, files: &[&str]) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(OWNER_AND_GROUP_READ),
            items: (!files.is_empty()).then(|| files.iter().map(|file| item(file)).collect()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn resources(memory_limit: &str) -> ResourceRequirements {
    let quantity = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([quantity("cpu", "10m"), quantity("memory", "64Mi")])),
        limits: Some(BTreeMap::from([quantity("memory", memory_limit)])),
        ..ResourceRequirements::default()
    }
}
