//! The spec: the desired state. Every field's first sentence is what `kubectl explain` shows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::{BootstrapSpec, ClusterBackupSpec};
use crate::client::ClientsSpec;
use crate::status::HeliosClusterStatus;

/// A replicated, strongly consistent key-value database that speaks the Redis protocol.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "heliosdb.io",
    version = "v1alpha1",
    kind = "HeliosCluster",
    plural = "heliosclusters",
    singular = "helioscluster",
    shortname = "hc",
    category = "all",
    namespaced,
    status = "HeliosClusterStatus",
    derive = "PartialEq",
    cel,
    doc = "A replicated, strongly consistent key-value database that speaks the Redis protocol.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Members in service of members asked for"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "Member that leads"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Version the members run"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase", description = "What the operator sees or does"),
    printcolumn(name = "Last Backup", type_ = "date", json_path = ".status.backup.lastBackup.finishedAt", description = "Age of the newest base", priority = 1),
    printcolumn(name = "Archived", type_ = "date", json_path = ".status.backup.archivedAt", description = "Age of the newest archived write", priority = 1),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.backup.lagSeconds", description = "Age of the oldest write that is not archived, seconds", priority = 1),
    printcolumn(name = "Verified", type_ = "date", json_path = ".status.backup.lastVerifiedRestore.at", description = "Age of the last verified restore", priority = 1),
    printcolumn(name = "Restore", type_ = "string", json_path = ".status.backup.lastVerifiedRestore.took", description = "Duration of that restore", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: write at most 40 characters, lower-case letters, digits and '-', beginning with a letter; pods and Services are named after it"),
    // Only at creation: a status is dropped there, and one that exists has been seen by an operator, which wrote its
    // generation. `optionalOldSelf` would say so in fewer words, but the oldest API servers do not know it.
    validation = Rule::new("!(self.metadata.name in ['default', 'kubernetes'] || self.metadata.name.matches('-(leader|read|peers|archiver|restore)$')) || (has(self.status) && has(self.status.observedGeneration) && self.status.observedGeneration > 0)")
        .message("metadata.name: choose a name other than default and kubernetes that does not end in -leader, -read, -peers, -archiver or -restore; Kubernetes, or another HeliosCluster, has objects of these names")
)]
#[x_kube(
    validation = Rule::new("self.replicas in [1, 3, 5, 7] || (self.allowEvenReplicas && self.replicas in [2, 4, 6])")
        .message("spec.replicas: write 1, 3, 5 or 7; an even number survives no more failures than the odd one below it (allowEvenReplicas: true permits 2, 4 and 6)"),
    validation = Rule::new("has(self.bootstrap) == has(oldSelf.bootstrap) && (!has(self.bootstrap) || self.bootstrap == oldSelf.bootstrap)")
        .message("spec.bootstrap: cannot change, it is read once, when the cluster is created; write the old value back, or create a second cluster")
)]
#[serde(rename_all = "camelCase")]
pub struct HeliosClusterSpec {
    /// Members that hold all data and vote: 1, 3, 5 or 7. Default 3. Restarts members: no.
    #[serde(default = "three")]
    pub replicas: i32,

    /// Permits 2, 4 or 6 replicas, which survive no more failures than one fewer. Default false. Restarts members: no.
    #[serde(default)]
    pub allow_even_replicas: bool,

    /// Image of the database, e.g. `registry/heliosd:0.1.0`. Default: the image that the operator was installed with. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// The volume of each member.
    #[serde(default)]
    pub storage: StorageSpec,

    /// Timing of consensus.
    #[serde(default)]
    pub raft: RaftSpec,

    /// How reads are served.
    #[serde(default)]
    pub reads: ReadsSpec,

    /// Members that have a write on disk before it is acknowledged: `majority`, or `all`, with which writes wait while any member is down. Default majority. Restarts members: no, they reload it within a minute or two.
    #[serde(default)]
    pub ack: Ack,

    /// CPU and memory of each member. Default: requests of 100m and 256Mi, no limits. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Labels a Kubernetes node must have to run a member. Default: none. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that members tolerate. Default: none. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,

    /// Scheduling affinity of members. Default: none. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// How members spread. Default: evenly over hosts and over zones where that is possible. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// The client Services.
    #[serde(default)]
    pub service: ServiceSpec,

    /// Encryption, and proof of who is a member.
    #[serde(default)]
    pub tls: TlsSpec,

    /// Passwords of clients.
    #[serde(default)]
    pub auth: AuthSpec,

    /// Users of applications. Default: HeliosClients of this namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientsSpec>,

    /// Access to the members' ports.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// Protection against more than one voluntary disruption at a time.
    #[serde(default)]
    pub pod_disruption_budget: PodDisruptionBudgetSpec,

    /// How members are replaced by a changed version of themselves.
    #[serde(default)]
    pub update_strategy: UpdateStrategySpec,

    /// Repair of members that cannot recover.
    #[serde(default)]
    pub repair: RepairSpec,

    /// Stops all members and keeps their volumes; `false` starts them again with all data. Default false. Restarts members: yes, all at once.
    #[serde(default)]
    pub hibernate: bool,

    /// Recovers from one member after a majority of disks was lost for good, as status.recovery reports; acts once, and only while that is so. Default: none. Restarts members: yes, all but the survivor join again with blank disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoverySpec>,

    /// Backups of this cluster. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<ClusterBackupSpec>,

    /// How the data of this cluster begins, fixed at creation. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapSpec>,

    /// Stops the operator from changing anything about this cluster; status is still reported. Default false. Restarts members: no.
    #[serde(default)]
    pub paused: bool,

    /// A new time here restarts the members, e.g. `2026-11-21T08:00:00Z`. Default: none. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"), length(max = 40))]
    pub restart_at: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    cel,
    validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0")
        .message("spec.storage.size: a volume cannot shrink; write the old size or a larger one")
        .field_path(".size"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("spec.storage.storageClassName: cannot change on existing volumes; write the old value back, or create a second cluster with the new class")
)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size of each member's volume, a text of digits and `Mi`, `Gi` or `Ti`; may grow, never shrink. Default 10Gi. Restarts members: no.
    #[serde(default = "ten_gibibytes")]
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]*(Mi|Gi|Ti)$"))]
    pub size: String,

    /// StorageClass of the volumes, fixed at creation. Default: the default class of Kubernetes. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,

    /// Engine that keeps the state on disk: `runs`, `sled` or `redb`. After a change each member converts its state while it restarts, which takes about a minute for five million keys. Default runs. Restarts members: yes.
    #[serde(default)]
    pub engine: StateEngine,

    /// Keeps the volumes of removed members and of a deleted cluster; a cluster created again under the same name adopts them. Default true. Restarts members: no.
    #[serde(default = "yes")]
    pub retain: bool,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StateEngine {
    #[default]
    Runs,
    Sled,
    Redb,
}

/// How many members make a write safe.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    #[default]
    Majority,
    All,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReadsSpec {
    /// Lets the leader answer reads by a lease, without a round to the others; relies on clocks that run evenly. Default false. Restarts members: yes, one at a time.
    #[serde(default)]
    pub lease: bool,
}

/// Named timings for consensus.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RaftPreset {
    #[default]
    Lan,
    Fast,
    Wan,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    cel,
    validation = Rule::new("duration(has(self.heartbeatInterval) ? self.heartbeatInterval : self.preset == 'fast' ? '30ms' : self.preset == 'wan' ? '500ms' : '100ms') < duration(has(self.electionTimeoutMin) ? self.electionTimeoutMin : self.preset == 'fast' ? '150ms' : self.preset == 'wan' ? '2500ms' : '300ms')")
        .message("spec.raft: write a heartbeatInterval below electionTimeoutMin (both default by preset: fast 30ms and 150ms, lan 100ms and 300ms, wan 500ms and 2500ms)"),
    validation = Rule::new("!has(self.electionTimeoutMax) || duration(has(self.electionTimeoutMin) ? self.electionTimeoutMin : self.preset == 'fast' ? '150ms' : self.preset == 'wan' ? '2500ms' : '300ms') < duration(self.electionTimeoutMax)")
        .message("spec.raft: write an electionTimeoutMax above electionTimeoutMin (which defaults by preset: fast 150ms, lan 300ms, wan 2500ms)")
)]
#[serde(rename_all = "camelCase")]
pub struct RaftSpec {
    /// Timings for the network between members: `lan`, `fast` (one rack) or `wan` (far zones). Default lan. Restarts members: yes, one at a time.
    #[serde(default)]
    pub preset: RaftPreset,

    /// Time between heartbeats of the leader, in `ms` or `s`. Default: by preset, 100ms for lan. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,5}(ms|s)$"))]
    pub heartbeat_interval: Option<String>,

    /// Least silence of the leader before a follower stands for election, in `ms` or `s`. Default: by preset, 300ms for lan. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,5}(ms|s)$"))]
    pub election_timeout_min: Option<String>,

    /// Most silence of the leader before a follower stands for election, in `ms` or `s`. Default: twice electionTimeoutMin. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,5}(ms|s)$"))]
    pub election_timeout_max: Option<String>,

    /// Log entries between two snapshots. Default 10000. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 100_000_000))]
    pub snapshot_entries: Option<i64>,
}

/// How clients outside the cluster reach the Services.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Type of the client Services: `ClusterIP`, `NodePort` or `LoadBalancer`. Default ClusterIP. Restarts members: no.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// Annotations on the client Services. Default: none. Restarts members: no.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Where the members' certificate comes from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    #[default]
    Auto,
    Secret,
    Off,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    cel,
    validation = Rule::new("self.mode == oldSelf.mode")
        .message("spec.tls.mode: cannot change, as members of the old mode and of the new one would refuse each other; write the old value back, or create a second cluster with the new mode and move the data over")
        .field_path(".mode"),
    validation = Rule::new("(self.mode == 'secret') == has(self.secretName)")
        .message("spec.tls.secretName: write the name of your Secret together with mode: secret, and leave it out with auto and off"),
    validation = Rule::new("!self.clients || self.mode != 'off'")
        .message("spec.tls.clients: client ports have TLS only with a certificate; write false, or create the cluster with tls.mode: auto or secret")
)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Certificate of the members, without which nobody uses the peer port: `auto` (made and renewed by the operator), `secret` (your own) or `"off"` (no encryption; YAML wants the quotes); fixed at creation. Default auto. Restarts members: no.
    #[serde(default)]
    pub mode: TlsMode,

    /// Secret with tls.crt, tls.key and ca.crt of your own for mode secret; a renewed certificate in it is reloaded. Default: none. Restarts members: yes, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,

    /// Gives the client ports TLS too, with the members' certificate; clients without TLS are refused from then on. Default false. Restarts members: yes, one at a time.
    #[serde(default)]
    pub clients: bool,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// Asks clients for the password in Secret `<name>-auth`, and serves HTTP on port 8443 with its token; false: every client that reaches a port has all rights. Default true. Restarts members: yes, one at a time.
    #[serde(default = "yes")]
    pub enabled: bool,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Opens the peer port to members and the operator only, and the client, grpc, gateway and metrics ports to all; to narrow those, set this to false and write a NetworkPolicy of your own. Default true. Restarts members: no.
    #[serde(default = "yes")]
    pub enabled: bool,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodDisruptionBudgetSpec {
    /// Lets Kubernetes evict one member at a time only; a cluster of one member never has a budget. Default true. Restarts members: no.
    #[serde(default = "yes")]
    pub enabled: bool,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategySpec {
    /// Log entries a member may be behind to count as caught up. Default 1000. Restarts members: no.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_lag_entries: i64,

    /// Longest wait for a planned change of leader, in `ms` or `s`. Default 5s. Restarts members: no.
    #[serde(default = "five_seconds")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,4}(ms|s)$"))]
    pub leader_transfer_timeout: String,

    /// How long a member must be healthy and caught up before it is promoted, and before the next one is restarted, in `ms` or `s`. Default 2s. Restarts members: no.
    #[serde(default = "two_seconds")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,4}(ms|s)$"))]
    pub stable_for: String,

    /// Holds a rolling change before its next member. Default false. Restarts members: no.
    #[serde(default)]
    pub paused: bool,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RepairSpec {
    /// How long a member must be beyond help - its process fails on its disk again and again, or its volume was on a host that is gone - before it is replaced, in `s` or `m`. Default 10m. Restarts members: no.
    #[serde(default = "ten_minutes")]
    #[schemars(length(max = 9), regex(pattern = r"^[1-9][0-9]{0,5}(s|m)$"))]
    pub after: String,

    /// Lets a replaced volume be deleted where the operator may not keep it for the user, which takes the right to patch PersistentVolumes. Default false. Restarts members: no.
    #[serde(default)]
    pub without_quarantine: bool,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    cel,
    validation = Rule::new("has(self.survivor) == has(self.confirm)")
        .message("spec.recovery: write both survivor and confirm, as in status.recovery.howTo")
)]
#[serde(rename_all = "camelCase")]
pub struct RecoverySpec {
    /// Pod whose data the cluster continues with, from status.recovery.survivors. Restarts members: yes, the others join again with blank disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub survivor: Option<String>,

    /// The cluster's id (status.clusterId), by which you accept the loss in status.recovery. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub confirm: Option<String>,
}

impl Default for RepairSpec {
    fn default() -> Self {
        Self { after: ten_minutes(), without_quarantine: false }
    }
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self { size: ten_gibibytes(), storage_class_name: None, engine: StateEngine::default(), retain: true }
    }
}

impl Default for PodDisruptionBudgetSpec {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for AuthSpec {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for UpdateStrategySpec {
    fn default() -> Self {
        Self {
            max_lag_entries: thousand(),
            leader_transfer_timeout: five_seconds(),
            stable_for: two_seconds(),
            paused: false,
        }
    }
}

impl Default for HeliosClusterSpec {
    fn default() -> Self {
        Self {
            replicas: three(),
            allow_even_replicas: false,
            image: None,
            storage: StorageSpec::default(),
            raft: RaftSpec::default(),
            reads: ReadsSpec::default(),
            ack: Ack::default(),
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: Vec::new(),
            service: ServiceSpec::default(),
            tls: TlsSpec::default(),
            auth: AuthSpec::default(),
            network_policy: NetworkPolicySpec::default(),
            pod_disruption_budget: PodDisruptionBudgetSpec::default(),
            update_strategy: UpdateStrategySpec::default(),
            repair: RepairSpec::default(),
            hibernate: false,
            recovery: None,
            backup: None,
            clients: None,
            bootstrap: None,
            paused: false,
            restart_at: None,
        }
    }
}

fn three() -> i32 {
    3
}

fn thousand() -> i64 {
    1000
}

fn ten_gibibytes() -> String {
    "10Gi".to_owned()
}

fn five_seconds() -> String {
    "5s".to_owned()
}

fn two_seconds() -> String {
    "2s".to_owned()
}

fn ten_minutes() -> String {
    "10m".to_owned()
}

fn yes() -> bool {
    true
}
