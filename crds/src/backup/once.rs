//! HeliosBackup: one backup, taken once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One backup of a HeliosCluster, taken once.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "heliosdb.io",
    version = "v1alpha1",
    kind = "HeliosBackup",
    plural = "heliosbackups",
    singular = "heliosbackup",
    shortname = "hbk",
    namespaced,
    status = "HeliosBackupStatus",
    derive = "PartialEq",
    cel,
    doc = "One backup of a HeliosCluster, taken once. Its deletion keeps the data; `heliosctl backup delete` removes it.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Index", type_ = "integer", json_path = ".status.index"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Verified", type_ = "date", json_path = ".status.verified.at", description = "Age of the last drill that restored it"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: write at most 52 lower-case letters, digits and '-'; its Job is named after it")
)]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("spec: a backup cannot change; create another HeliosBackup")
)]
#[serde(rename_all = "camelCase")]
pub struct HeliosBackupSpec {
    /// HeliosCluster in the same namespace; it has to have spec.backup.
    #[schemars(length(min = 1, max = 40))]
    pub cluster: String,

    /// HeliosBackupStore in the same namespace. Default: spec.backup.store of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub store: Option<String>,

    /// Member that the backup is read from: `Follower`, if there is one in service, or `Any`. Default Follower.
    #[serde(default)]
    pub from: BackupFrom,
}

/// Member that a backup is read from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackupFrom {
    #[default]
    Follower,
    Any,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeliosBackupStatus {
    /// Pending, Running, Completed or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// Machine-readable reason of the phase, such as StoreMissing or StoreRefused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Message about the missing object, the running attempt, or the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// HeliosBackupStore that it was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,

    /// Id of the replicated data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// Last index that it contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,

    /// Raft term of that entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,

    /// Time of that entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,

    /// Size of the state, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,

    /// Size in the store, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<i64>,

    /// Size in the store, for readers, e.g. `1.5 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,

    /// Number of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,

    /// Digest of the state, equal on all members at this index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// Key that it is encrypted with; absent without encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,

    /// Member that it was read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,

    /// When its Job was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When it was complete in the store, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,

    /// The last check of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifiedStatus>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedStatus {
    /// When it was checked.
    pub at: Time,

    /// Kind of the check, such as Restore.
    pub kind: String,
}
