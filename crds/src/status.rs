//! The status: the state that the operator reports. Latched fields are decisions that must outlive the operator's process.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::{ClusterBackupStatus, RecoverySourceStatus};
use crate::open::{MemberRole, Open, OperationKind};

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeliosClusterStatus {
    /// One word for what the operator sees or does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Identity of the replicated data, fixed before the cluster is bootstrapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// Disk that the cluster is bootstrapped on, fixed before the request to its member; no other disk ever is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_disk_id: Option<String>,

    /// The cluster has been seen to exist; it is never bootstrapped again, whatever happens to its disks.
    #[serde(default)]
    pub bootstrapped: bool,

    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Voting members in service.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Members in service of members asked for, e.g. `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// Label selector of the pods, for `kubectl scale` and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Member that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,

    /// Raft term of the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,

    /// Version the members run; the oldest while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// The members by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<MemberStatus>,

    /// When the members' certificate ends; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<Time>,

    /// The operation under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationStatus>,

    /// The member that is being replaced because it cannot recover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<ReplacementStatus>,

    /// After a majority of disks was lost for good: who is left, what to write, and what came of it. And the backup that the cluster was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,

    /// Backups of the cluster, as its archiver reports them; absent without spec.backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<ClusterBackupStatus>,

    /// Ready, Available, Progressing, Degraded, FaultToleranceReduced and NearLimit; with spec.backup also Archiving and BackupHealthy, and RestoreVerified with drills.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of the member and of its pod.
    pub name: String,

    /// Raft id, never used twice; 0 before the pod is a member.
    #[serde(default)]
    pub member_id: i64,

    /// Starts of the member on its present disk.
    #[serde(default)]
    pub incarnation: i64,

    /// Leader, Follower, Candidate, Learner, Joining, Removed or Unknown.
    #[schemars(with = "String")]
    pub role: Open<MemberRole>,

    /// The member serves clients.
    #[serde(default)]
    pub ready: bool,

    /// Last log entry the leader knows to be on the member's disk; refreshed whenever the status changes otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_index: Option<i64>,

    /// Committed entries not yet on the member's disk; refreshed whenever the status changes otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// Version of the running process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Digest of the configuration that the process runs with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,

    /// A snapshot of the leader's state is on its way to the member.
    #[serde(default, skip_serializing_if = "is_false")]
    pub receives_snapshot: bool,

    /// Snapshots of its own state that the process could not write; alone it is refreshed whenever it has doubled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub snapshot_failures: i64,

    /// State, log, memory and volume as the member reported them last; alone they are refreshed when one has changed by an eighth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<MemberUsage>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberUsage {
    /// Size of the state's files, bytes.
    #[serde(default)]
    pub state_bytes: i64,

    /// Size of the log's entries on disk, bytes.
    #[serde(default)]
    pub log_bytes: i64,

    /// Log entry up to which a checkpoint or a snapshot makes the log unnecessary; 0 before the first one of the process.
    #[serde(default)]
    pub durable_index: i64,

    /// When the check of all files of the state in the background was last completed; absent before the first one of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrubbed_at: Option<Time>,

    /// File of the state that is damaged or cannot be read, while no other member can repair it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged_file: Option<String>,

    /// Memory of the process that the kernel cannot take back, bytes.
    #[serde(default)]
    pub memory_bytes: i64,

    /// Memory limit of the container, bytes; 0 without one.
    #[serde(default)]
    pub memory_limit_bytes: i64,

    /// Used bytes of the volume.
    #[serde(default)]
    pub volume_used_bytes: i64,

    /// Size of the volume, bytes; 0 if the member does not know it.
    #[serde(default)]
    pub volume_bytes: i64,

    /// The process uses more than 90 % of its memory limit, until it uses less than 80 % again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub memory_near_limit: bool,

    /// More than 80 % of the volume is used, until less than 75 % is again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub volume_near_limit: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// Bootstrap, AddMember, RemoveMember, ReplaceMember, RollingUpdate, ResizeVolume, MoveLeader, Recovery or ApplySettings.
    #[schemars(with = "String")]
    pub kind: Open<OperationKind>,

    /// Member that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,

    /// Message about the present step.
    pub step: String,

    /// Name of that step, the same however its text changes; absent in a status of an earlier operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<String>,

    /// When work on this target began.
    pub started_at: Time,

    /// When the operation counts as stalled.
    pub deadline: Time,

    /// Since when the target has been healthy and caught up without a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady_since: Option<Time>,
}

/// Fixed before the member is removed, so that another operator knows which volume belonged to the member.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReplacementStatus {
    /// Name of the member and of its pod.
    pub member: String,

    /// Raft id that is removed.
    pub member_id: i64,

    /// Volume that is set aside once the removal is committed.
    pub volume_uid: String,

    /// CrashLoop or HostGone.
    pub reason: String,

    /// Since when it has been so.
    pub since: Time,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// Lost disks, and the writes that a recovery from the best survivor would lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,

    /// Fields to write to recover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how_to: Option<String>,

    /// Members that still have their disk and answer, the one with most data first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub survivors: Vec<SurvivorStatus>,

    /// The recovery under way, fixed before anything is done for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChosenStatus>,

    /// Survivor of the recovery that was done. While spec.recovery stays as it was, it does nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,

    /// The backup that the cluster is restored from, as spec.bootstrap.recovery has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RecoverySourceStatus>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SurvivorStatus {
    /// Name of the pod.
    pub name: String,

    /// Term of its last log entry; a higher one is newer data.
    pub last_term: i64,

    /// Index of its last log entry; within a term, a higher one is newer data.
    pub last_index: i64,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ChosenStatus {
    /// Pod whose data the cluster continues with.
    pub survivor: String,

    /// Its disk.
    pub disk_id: String,

    /// Volumes of the old majority, set aside before the survivor becomes the only member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced_volumes: Vec<String>,
}
