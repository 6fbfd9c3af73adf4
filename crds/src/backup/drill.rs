//! Drills of a HeliosScheduledBackup: restores into a temporary HeliosCluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::open::Open;

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrillSpec {
    /// Times of the drills as five fields of cron in the zone of spec.timeZone, e.g. `0 5 * * *`. A drill that was missed is started within spec.startingDeadline.
    #[schemars(length(min = 9, max = 128), regex(pattern = r"^\S+( \S+){4}$"))]
    pub schedule: String,

    /// Moment that is restored. Default: the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<DrillTargetSpec>,

    /// Container that checks the restored cluster. Default: none; number of keys and digest are compared in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<DrillJobSpec>,

    /// Keeps the HeliosCluster of a drill that failed until the next drill starts. Default false.
    #[serde(default)]
    pub keep_on_failure: bool,

    /// Longest duration of a drill with its Job, in `m` or `h`; then it has failed. Default 1h.
    #[serde(default = "one_hour")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,3}(m|h)$"))]
    pub deadline: String,

    /// Volume of the HeliosCluster. Default: as that of the members of the cluster that was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<DrillStorageSpec>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrillTargetSpec {
    /// Age of the state that is restored, in `m`, `h` or `d`, e.g. `12h`. Default: the latest state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,4}(m|h|d)$"))]
    pub age: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrillJobSpec {
    /// Image of the container. It runs once, as an unprivileged user, without a token of Kubernetes, with a read-only root and a writable /tmp. REDIS_URL and HELIOS_URL have the address of the restored cluster with user and password.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// Program, e.g. `[sh, -c, "redis-cli -u $REDIS_URL exists orders:last"]`; exit code 0 passes. Default: that of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,

    /// Arguments of the program. Default: those of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub args: Vec<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrillStorageSpec {
    /// Size of the volume, a text of digits and `Mi`, `Gi` or `Ti`; it has to hold the restored data. Default: that of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]*(Mi|Gi|Ti)$"))]
    pub size: Option<String>,

    /// StorageClass of the volume. Default: that of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrillsStatus {
    /// Time up to which the schedule was handled: drills were started, or were missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,

    /// Next time of the schedule; absent while it is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,

    /// Number of drills that were started; names of their HeliosClusters end in it.
    #[serde(default)]
    pub started: i64,

    /// Number of times of the schedule without a drill.
    #[serde(default)]
    pub missed: i64,

    /// The last of these times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_missed_time: Option<Time>,

    /// The drill in progress, fixed before anything is created for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningDrill>,

    /// Result of the last drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<DrillResult>,

    /// Result of the last drill that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_passed: Option<DrillResult>,

    /// HeliosCluster of a failed drill that is kept until the next one starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// Step of a drill.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrillPhase {
    /// Its HeliosCluster is to be created.
    #[default]
    Starting,
    /// Its HeliosCluster exists and is not ready yet.
    Restoring,
    /// The restored state is the one of the backup; the Job is to be created.
    Restored,
    /// The Job exists.
    Checking,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunningDrill {
    /// Name of its HeliosCluster.
    pub cluster: String,

    /// Starting, Restoring, Restored or Checking.
    #[serde(default)]
    #[schemars(with = "String")]
    pub phase: Open<DrillPhase>,

    /// When it started.
    pub started_at: Time,

    /// When it has failed unless it has ended.
    pub deadline: Time,

    /// Moment that is restored; absent for the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Time>,

    /// When the restored cluster was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<Time>,

    /// Message about what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrillResult {
    /// The backup was restored and is what was backed up, and the Job ended with exit code 0.
    pub passed: bool,

    /// Machine-readable reason of a failure, such as RestoreFailed, DigestDiffers, MembersDiffer, KeysDiffer, JobFailed or Overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Message about the failure, or the comparison with another base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Name of its HeliosCluster.
    pub cluster: String,

    /// When it started.
    pub started_at: Time,

    /// When it ended.
    pub finished_at: Time,

    /// Time from the start until the restored cluster was ready, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_seconds: Option<i64>,

    /// The same for readers, e.g. `1m12s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<String>,

    /// Base that the restore began with, as `INDEX-TERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,

    /// Last index that was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,

    /// Time of the entry at that index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,

    /// Number of restored keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,

    /// The restored base has the digest that was recorded with the backup; absent when none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_matches: Option<bool>,
}

fn one_hour() -> String {
    "1h".to_owned()
}
