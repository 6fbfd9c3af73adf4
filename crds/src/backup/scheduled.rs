//! HeliosScheduledBackup: HeliosBackups, and drills of their restore, by a schedule.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackupFrom, DrillSpec, DrillsStatus};

/// HeliosBackups by a schedule, one at a time.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "heliosdb.io",
    version = "v1alpha1",
    kind = "HeliosScheduledBackup",
    plural = "heliosscheduledbackups",
    singular = "heliosscheduledbackup",
    shortname = "hsb",
    namespaced,
    status = "HeliosScheduledBackupStatus",
    derive = "PartialEq",
    cel,
    doc = "HeliosBackups by a schedule, one at a time.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.backup.cluster"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastScheduleTime"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextScheduleTime"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.conditions[?(@.type=='RestoreVerified')].status", description = "The last drill passed"),
    printcolumn(name = "Drill", type_ = "date", json_path = ".status.drill.last.finishedAt", description = "Age of the last drill", priority = 1),
    printcolumn(name = "Restore", type_ = "string", json_path = ".status.drill.lastPassed.took", description = "Duration of the last restore that was verified", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 39 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: write at most 39 lower-case letters, digits and '-'; its HeliosBackups are named after it")
)]
#[serde(rename_all = "camelCase")]
pub struct HeliosScheduledBackupSpec {
    /// Times of the backups as five fields of cron: minute, hour, day of month, month, day of week, e.g. `0 3 * * *`.
    #[schemars(length(min = 9, max = 128), regex(pattern = r"^\S+( \S+){4}$"))]
    pub schedule: String,

    /// Time zone of the schedule by its IANA name, e.g. `Europe/Berlin`. Default UTC.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,

    /// Starts no backup; one that is running continues. Default false.
    #[serde(default)]
    pub suspend: bool,

    /// Longest delay after which a backup that was missed, as no operator ran or another one was running, is still started, in `s`, `m` or `h`. Default 1h.
    #[serde(default = "one_hour")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,5}(s|m|h)$"))]
    pub starting_deadline: String,

    /// Number of finished HeliosBackups that are kept as objects; data in the store is kept by the retention of the store. Default 7.
    #[serde(default = "seven")]
    #[schemars(range(min = 1, max = 1000))]
    pub history: i64,

    /// Each of the HeliosBackups.
    pub backup: BackupTemplateSpec,

    /// Regular restores into a temporary HeliosCluster, which is checked and deleted. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillSpec>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackupTemplateSpec {
    /// HeliosCluster in the same namespace; it has to have spec.backup.
    #[schemars(length(min = 1, max = 40))]
    pub cluster: String,

    /// HeliosBackupStore in the same namespace. Default: spec.backup.store of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub store: Option<String>,

    /// Member that a backup is read from: `Follower`, if there is one in service, or `Any`. Default Follower.
    #[serde(default)]
    pub from: BackupFrom,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeliosScheduledBackupStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Time of the schedule that was handled last: its backup was started, or was missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,

    /// Next time of the schedule; absent while it is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,

    /// HeliosBackup that was created last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,

    /// Number of times of the schedule without a backup.
    #[serde(default)]
    pub missed: i64,

    /// The last of these times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_missed_time: Option<Time>,

    /// Drills; absent without spec.drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillsStatus>,

    /// Ready; with spec.drill also RestoreVerified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn one_hour() -> String {
    "1h".to_owned()
}

fn seven() -> i64 {
    7
}
