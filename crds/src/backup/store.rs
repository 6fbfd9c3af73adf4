//! HeliosBackupStore: a place in an object store or on a volume, and the credentials and keys to use it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Place that backups of HeliosClusters in this namespace are written to.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "heliosdb.io",
    version = "v1alpha1",
    kind = "HeliosBackupStore",
    plural = "heliosbackupstores",
    singular = "heliosbackupstore",
    shortname = "hbs",
    namespaced,
    status = "HeliosBackupStoreStatus",
    derive = "PartialEq",
    cel,
    doc = "A place that backups of the HeliosClusters in its namespace are written to.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Encrypted", type_ = "string", json_path = ".status.conditions[?(@.type=='Encrypted')].status"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name: write at most 63 characters")
)]
#[x_kube(
    validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure), has(self.volume)].filter(given, given).size() == 1")
        .message("spec: write exactly one of s3, gcs, azure and volume"),
    validation = Rule::new("!(has(self.credentials) && has(self.serviceAccountName))")
        .message("spec: write credentials, or serviceAccountName for workload identity, not both"),
    validation = Rule::new("!has(self.volume) || !has(self.credentials)")
        .message("spec.credentials: leave it out with a volume, which needs none")
)]
#[serde(rename_all = "camelCase")]
pub struct HeliosBackupStoreSpec {
    /// Bucket of Amazon S3 or of a compatible store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,

    /// Bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsSpec>,

    /// Container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureSpec>,

    /// Directory of a volume that archiver and restores can mount at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<BackupVolumeSpec>,

    /// Access by a Secret. Default: by the identity of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSpec>,

    /// ServiceAccount of the archiver and of Jobs, for workload identity (IRSA, GKE, Azure). No token of Kubernetes is mounted. Default: that of the HeliosCluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// Encryption of backups before they leave the archiver. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,

    /// Age at which backups are removed.
    #[serde(default)]
    pub retention: RetentionSpec,

    /// Limit of the rate at which a base is read from a member and written, bytes per second. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65536, max = 1_000_000_000_000_i64))]
    pub max_bytes_per_second: Option<i64>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.endpoint) || (self.endpoint.matches('^https?://[^/?#@]+$'))")
        .message("spec.s3.endpoint: write http:// or https://, a host, and perhaps a port, without a path and without a password"),
    validation = Rule::new("!has(self.caSecret) || has(self.endpoint)")
        .message("spec.s3.caSecret: write it together with the endpoint that has a certificate of this CA")
)]
#[serde(rename_all = "camelCase")]
pub struct S3Spec {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][-.a-z0-9]*$"))]
    pub bucket: String,

    /// Prefix of all objects. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[-_.a-zA-Z0-9]+(/[-_.a-zA-Z0-9]+)*$"))]
    pub prefix: Option<String>,

    /// URL of a compatible store, e.g. `https://minio.example.com:9000`. Default: that of Amazon S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub endpoint: Option<String>,

    /// Region of the bucket. Default: us-east-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[-a-z0-9]+$"))]
    pub region: Option<String>,

    /// Names the bucket in the path of requests and not in the host, as most compatible stores need. Default false, and true with an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,

    /// Secret with ca.crt (PEM), the CA of the endpoint's certificate. Default: the CAs of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GcsSpec {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 222), regex(pattern = r"^[a-z0-9][-_.a-z0-9]*$"))]
    pub bucket: String,

    /// Prefix of all objects. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[-_.a-zA-Z0-9]+(/[-_.a-zA-Z0-9]+)*$"))]
    pub prefix: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AzureSpec {
    /// Name of the container.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][-a-z0-9]*$"))]
    pub container: String,

    /// Name of the storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: String,

    /// Prefix of all objects. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[-_.a-zA-Z0-9]+(/[-_.a-zA-Z0-9]+)*$"))]
    pub prefix: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackupVolumeSpec {
    /// PersistentVolumeClaim in the same namespace. With access mode ReadWriteOnce, the archiver and all Jobs have to run on one host.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,

    /// Directory in the volume. Default: its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^[-_a-zA-Z0-9][-_.a-zA-Z0-9]*(/[-_a-zA-Z0-9][-_.a-zA-Z0-9]*)*$")
    )]
    pub sub_path: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSpec {
    /// Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (s3, reloaded when it changes), GOOGLE_SERVICE_ACCOUNT_KEY (gcs) or AZURE_STORAGE_ACCOUNT_KEY (azure).
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionSpec {
    /// Secret with a key in each entry, 64 hexadecimal digits under its key id, and the id of the key for new backups in `current`. Backups whose key is lost are lost.
    #[schemars(length(min = 1, max = 253))]
    pub key_secret: String,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// Age at which a base is removed, in `h` or `d`. Default 30d.
    #[serde(default = "thirty_days")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,4}(h|d)$"))]
    pub keep_for: String,

    /// Number of bases that are kept whatever their age. Default 7.
    #[serde(default = "seven")]
    #[schemars(range(min = 1, max = 10000))]
    pub keep_last: i64,

    /// Age up to which every moment can be restored, in `h` or `d`; older ones only at bases. Default 14d.
    #[serde(default = "fourteen_days")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,4}(h|d)$"))]
    pub log: String,
}

impl Default for RetentionSpec {
    fn default() -> Self {
        Self { keep_for: thirty_days(), keep_last: seven(), log: fourteen_days() }
    }
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeliosBackupStoreStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// URL of the store, as `heliosctl backup` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// The last use of the store succeeded; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,

    /// Clusters that can be restored, as far as archivers report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoverable: Vec<RecoverableCluster>,

    /// When old backups were last removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_gc: Option<Time>,

    /// Ready and Encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoverableCluster {
    /// Id of the replicated data.
    pub cluster_id: String,

    /// Name of the HeliosCluster.
    pub cluster: String,

    /// First moment that can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,

    /// Last moment that can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,

    /// Number of bases.
    #[serde(default)]
    pub bases: i64,

    /// Size in the store, bytes.
    #[serde(default)]
    pub bytes: i64,
}

fn thirty_days() -> String {
    "30d".to_owned()
}

fn fourteen_days() -> String {
    "14d".to_owned()
}

fn seven() -> i64 {
    7
}
