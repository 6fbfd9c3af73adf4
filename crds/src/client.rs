//! HeliosClient: a user of a HeliosCluster for an application, and the field of a HeliosCluster that grants it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sidecar::{SidecarMode, SidecarOffline, SidecarReads, SidecarSettings};

/// Label on the Secret of a HeliosClient; its value is the name of that one.
pub const CLIENT_LABEL: &str = "heliosdb.io/client";
/// Label on the Secret `<cluster>-auth` while its list of users has those of HeliosClients.
pub const HAS_CLIENTS_LABEL: &str = "heliosdb.io/has-clients";

/// A user of a HeliosCluster for an application.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "heliosdb.io",
    version = "v1alpha1",
    kind = "HeliosClient",
    plural = "heliosclients",
    singular = "heliosclient",
    shortname = "hcl",
    namespaced,
    status = "HeliosClientStatus",
    derive = "PartialEq",
    cel,
    doc = "A user of a HeliosCluster for an application: the operator makes it and its password, and writes both into Secret `<name>-helios`.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster.name"),
    printcolumn(name = "User", type_ = "string", json_path = ".status.user"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", priority = 1),
    printcolumn(name = "Rotated", type_ = "date", json_path = ".status.rotatedAt", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: write at most 63 lower-case letters, digits and '-'; its user and its Secret are named after it")
)]
#[x_kube(
    validation = Rule::new("self.cluster == oldSelf.cluster")
        .message("spec.cluster: cannot change; create another HeliosClient for the other cluster"),
    validation = Rule::new("!has(self.prefixes) || size(self.prefixes) == 0 || self.role in ['read-only', 'read-write']")
        .message("spec.prefixes: the roles backup and admin are for all keys; leave prefixes out, or write role: read-only or read-write"),
    validation = Rule::new("!has(self.memory) || self.memory.matches('^[1-9][0-9]{0,4}(Mi|Gi)$') && quantity(self.memory).compareTo(quantity('8Mi')) >= 0 && quantity(self.memory).compareTo(quantity('64Gi')) <= 0")
        .message("spec.memory: write a number with Mi or Gi, from 8Mi to 64Gi, as 256Mi"),
    validation = Rule::new("!has(self.maxStaleness) || self.maxStaleness.matches('^[1-9][0-9]{0,5}(ms|s)$') && duration(self.maxStaleness) >= duration('100ms') && duration(self.maxStaleness) <= duration('600s')")
        .message("spec.maxStaleness: write a time in ms or s, from 100ms to 600s, as 500ms")
)]
#[serde(rename_all = "camelCase")]
pub struct HeliosClientSpec {
    /// HeliosCluster that the application uses; fixed at creation.
    pub cluster: ClusterReference,

    /// Commands that the application may run: `read-only`, `read-write`, `backup` or `admin`. Default read-write.
    #[serde(default)]
    pub role: ClientRole,

    /// Prefixes of the keys and channels that the application may use, at most 16. Default: all that the cluster grants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub prefixes: Vec<String>,

    /// Mode of the sidecars: `Proxy` forwards every command to a member, `Replica` also answers reads of keys from memory. Pods that exist keep their mode. Default Proxy.
    #[serde(default)]
    pub mode: SidecarMode,

    /// Memory for the keys that a sidecar of mode Replica holds, in `Mi` or `Gi`; if they need more, every command is forwarded. The memory limit of the container is five quarters of it and 128Mi. Default 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 7))]
    pub memory: Option<String>,

    /// Age above which a sidecar of mode Replica does not answer from memory, in `ms` or `s`. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub max_staleness: Option<String>,

    /// Level of reads from memory, unless a connection chooses it by `HELIOS.READ`: `Session` sees all that the process has read or written, `Bounded` all that its connection has, both in a state of at most `maxStaleness`; `Linearizable` all that was acknowledged before it; `Any` all that its connection has, however old the rest is. Default Session.
    #[serde(default)]
    pub reads: SidecarReads,

    /// Reply to a read of `Session` or `Bounded` while no member answers and the state is too old: `Refuse` an error, `ServeStale` the old value, unless its connection has written or read something later. Default Refuse.
    #[serde(default)]
    pub offline: SidecarOffline,

    /// Change of the password.
    #[serde(default)]
    pub password_rotation: PasswordRotationSpec,
}

impl HeliosClientSpec {
    /// Returns the settings of the sidecars.
    ///
    /// # Errors
    /// The field and what to write, for a value that the rules of the resource refuse: an older definition has no such
    /// rules.
    pub fn sidecar(&self) -> Result<SidecarSettings, String> {
        let settings = SidecarSettings::new(self.mode, self.memory.as_deref(), self.max_staleness.as_deref());
        settings.map(|settings| settings.reading(self.reads, self.offline))
    }
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReference {
    /// Name of the HeliosCluster.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,

    /// Its namespace. Default: that of the HeliosClient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// Role of a user, as in the users file of a member.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ClientRole {
    ReadOnly,
    #[default]
    ReadWrite,
    Backup,
    Admin,
}

impl ClientRole {
    /// Name in the users file.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::Backup => "backup",
            Self::Admin => "admin",
        }
    }

    /// Whether a grant up to `self` includes the role `other`.
    pub fn includes(self, other: Self) -> bool {
        self == Self::Admin || other == self || other == Self::ReadOnly
    }
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PasswordRotationSpec {
    /// Time after which the password is replaced, in `m`, `h` or `d`; `0` for never. Default 30d.
    #[serde(default = "thirty_days")]
    #[schemars(length(max = 7), regex(pattern = r"^(0|[1-9][0-9]{0,5}(m|h|d))$"))]
    pub interval: String,

    /// Time for which the previous password stays valid, in `m`, `h` or `d`. Default 24h.
    #[serde(default = "one_day")]
    #[schemars(length(max = 7), regex(pattern = r"^[1-9][0-9]{0,5}(m|h|d)$"))]
    pub overlap: String,
}

impl Default for PasswordRotationSpec {
    fn default() -> Self {
        Self { interval: thirty_days(), overlap: one_day() }
    }
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeliosClientStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Name of the user: `<namespace>.<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,

    /// Secret with uri, host, port, user, password, follow and, if the client ports have TLS, ca.crt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,

    /// When the present password was written to the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<Time>,

    /// When it will be replaced; absent without a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,

    /// Ready and Granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientsSpec {
    /// Namespaces whose HeliosClients get a user, each with the keys and the role that they may have; without an entry only those of this namespace do, up to role read-write. Default: none. Restarts members: no.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub allow: Vec<ClientGrant>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    cel,
    validation = Rule::new("has(self.namespaces) != has(self.namespaceSelector)")
        .message("spec.clients.allow: write either namespaces or namespaceSelector in each entry; an empty namespaceSelector selects all namespaces")
)]
#[serde(rename_all = "camelCase")]
pub struct ClientGrant {
    /// Namespaces by name. Default: none. Restarts members: no.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,

    /// Namespaces by their labels; `{}` for all. Default: none. Restarts members: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,

    /// Prefixes of the keys and channels that they may use, at most 16. Default: all keys. Restarts members: no.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub prefixes: Vec<String>,

    /// The most that they may do: `read-only`, `read-write`, `backup` or `admin`. Default read-write. Restarts members: no.
    #[serde(default)]
    pub max_role: ClientRole,
}

fn thirty_days() -> String {
    "30d".to_owned()
}

fn one_day() -> String {
    "24h".to_owned()
}
