//! Fields of a HeliosCluster about its backups, and about the backup that it is restored from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBackupSpec {
    /// HeliosBackupStore in the same namespace. Restarts members: no.
    #[schemars(length(min = 1, max = 253))]
    pub store: String,

    /// Archives the log continuously, so that any moment can be restored; false: only HeliosBackups are taken. Default true. Restarts members: no.
    #[serde(default = "yes")]
    pub archive: bool,

    /// Longest time until an acknowledged write is in the store, in `ms` or `s`. Default 5s. Restarts members: no.
    #[serde(default = "five_seconds")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,4}(ms|s)$"))]
    pub flush_interval: String,

    /// Longest time between two bases, from which a restore starts, in `m`, `h` or `d`; `0`: only the first one, and one after a gap in the log. Default 24h. Restarts members: no.
    #[serde(default = "one_day")]
    #[schemars(length(max = 9), regex(pattern = r"^(0|[1-9][0-9]{0,4}(m|h|d))$"))]
    pub base_interval: String,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// Restores a backup into this cluster instead of an empty start. Default: none. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<BootstrapRecoverySpec>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.clusterId) != has(self.cluster)")
        .message("spec.bootstrap.recovery: write either cluster, the name of the HeliosCluster that was backed up, or clusterId, as in status.recoverable of the store"),
    validation = Rule::new("!has(self.clusterNamespace) || has(self.cluster)")
        .message("spec.bootstrap.recovery.clusterNamespace: write it together with cluster; a clusterId needs none")
)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapRecoverySpec {
    /// HeliosBackupStore in the same namespace. Restarts members: no.
    #[schemars(length(min = 1, max = 253))]
    pub store: String,

    /// Id of the cluster that was backed up, from status.recoverable of the store. Default: by `cluster`. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub cluster_id: Option<String>,

    /// Name of the HeliosCluster that was backed up; its newest history counts. Default: by `clusterId`. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub cluster: Option<String>,

    /// Namespace of `cluster` when it was backed up. Default: any, if the store has one cluster of that name. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub cluster_namespace: Option<String>,

    /// Moment to restore. Default: the latest. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RecoveryTargetSpec>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("[has(self.time), has(self.index), has(self.backup)].filter(given, given).size() <= 1")
        .message("spec.bootstrap.recovery.target: write at most one of time, index and backup")
)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryTargetSpec {
    /// Last moment that is restored, by the clocks of the leaders, as RFC 3339, e.g. `2026-11-21T08:00:00Z`. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"), length(max = 40))]
    pub time: Option<String>,

    /// Last index of the log that is restored. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub index: Option<i64>,

    /// Base that is restored without the log after it, as `INDEX-TERM`. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 41), regex(pattern = r"^[0-9]{1,20}-[0-9]{1,20}$"))]
    pub backup: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBackupStatus {
    /// HeliosBackupStore that the archiver writes to.
    #[serde(default)]
    pub store: String,

    /// State of the archiver, such as Archiving, TakingBase or StoreRefused; absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,

    /// The newest base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackupStatus>,

    /// The last restore of these backups that a drill verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_restore: Option<VerifiedRestoreStatus>,

    /// Last index in the store; alone it is refreshed once a minute.
    #[serde(default)]
    pub archived_index: i64,

    /// Time of the entry at archivedIndex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Time>,

    /// Age of the oldest write that is not in the store, seconds; alone it is refreshed once a minute.
    #[serde(default)]
    pub lag_seconds: i64,

    /// Entries that no backup has; moments between them cannot be restored. The newest ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<GapStatus>,

    /// Moments that can be restored. The newest ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoverable: Vec<RecoverableRange>,

    /// When old backups were last removed from the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_gc: Option<Time>,

    /// Backups are encrypted before they leave the archiver.
    #[serde(default)]
    pub encrypted: bool,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastBackupStatus {
    /// Last index that it contains.
    pub index: i64,

    /// Raft term of that entry.
    #[serde(default)]
    pub term: i64,

    /// When it was complete in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,

    /// Size of the state, bytes.
    #[serde(default)]
    pub bytes: i64,

    /// Size in the store, bytes.
    #[serde(default)]
    pub stored_bytes: i64,

    /// Number of keys.
    #[serde(default)]
    pub keys: i64,

    /// Digest of the state, equal on all members at this index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// Member that it was read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedRestoreStatus {
    /// When the drill ended.
    pub at: Time,

    /// HeliosScheduledBackup of the drill.
    pub drill: String,

    /// Time until the restored cluster was ready, seconds.
    #[serde(default)]
    pub restore_seconds: i64,

    /// The same for readers, e.g. `1m12s`.
    #[serde(default)]
    pub took: String,

    /// Base that the restore began with, as `INDEX-TERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,

    /// Last index that was restored.
    #[serde(default)]
    pub index: i64,

    /// Time of the entry at that index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,

    /// Number of restored keys.
    #[serde(default)]
    pub keys: i64,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GapStatus {
    /// First missing index.
    pub from: i64,

    /// Last missing index.
    pub to: i64,
}

/// Moments between two indexes, each of which can be restored.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoverableRange {
    /// First index that can be restored.
    #[serde(default)]
    pub from_index: i64,

    /// Last index that can be restored.
    #[serde(default)]
    pub to_index: i64,

    /// Time of the first entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,

    /// Time of the last entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,

    /// Number of bases.
    #[serde(default)]
    pub bases: i64,

    /// Size in the store, bytes.
    #[serde(default)]
    pub bytes: i64,
}

/// The backup that a cluster was restored from, as the restore reported it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoverySourceStatus {
    /// HeliosBackupStore that it is in.
    pub store: String,

    /// Running, Completed or Failed.
    pub phase: String,

    /// Reason of a failure, what can be restored instead; of a drill, its comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Id of the cluster that was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// Base that the restore began with, as `INDEX-TERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,

    /// Number of keys of that base, as it was recorded with the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_keys: Option<i64>,

    /// Last index that was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,

    /// Time of the entry at that index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,

    /// Number of restored keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,

    /// The restored state has the digest that was recorded with the backup; absent when none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_matches: Option<bool>,

    /// Duration of the restore, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_seconds: Option<i64>,
}

fn yes() -> bool {
    true
}

fn five_seconds() -> String {
    "5s".to_owned()
}

fn one_day() -> String {
    "24h".to_owned()
}
