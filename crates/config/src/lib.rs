//! The configuration of heliosd: one YAML file, then environment `HELIOS__A__B`, then flags (docs/design/product.md, C10).
//!
//! [`Config`] is the file's content; [`Settings`] are the checked values that a node runs with. Only [`Source`] reads a
//! file; everything else is pure.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have the machine's clock and disk"))]

mod ack;
mod changes;
mod compat;
mod events;
mod flags;
mod keys;
mod lease;
mod locks;
mod memory_limits;
mod plain;
pub mod reference;
mod secret;
mod settings;
#[allow(clippy::disallowed_methods, reason = "reads the configuration file")]
mod sources;
mod sparse;

pub use ack::Ack;
pub use changes::{Difference, differences, redacted, reloaded};
pub use flags::{Cli, CommandLine, ConfigAction, DevArgs, RunArgs, VerifyArgs};
pub use keys::{Change, paths as key_paths};
pub use lease::{Lease, TICK, longest_lease};
pub use locks::{AuthSection, MAX_AUTH_DELAY, ManagementIdentity, TlsFiles, TlsFilesSection, TlsSection};
pub use memory_limits::MemoryLimits;
pub use secret::Secret;
pub use settings::{Bootstrap, MAX_LOG_BYTES, MAX_OVERLAY_BYTES, Settings};
pub use sources::Source;
pub use sparse::sparse_yaml;

use helios_state::Limits;
use serde::{Deserialize, Serialize};

/// A configuration that cannot be used. The process ends with exit code 78 (EX_CONFIG).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The configuration file. Every section and field may be left out but `node.name`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub node: NodeSection,
    pub listen: ListenSection,
    pub raft: RaftSection,
    pub state: StateSection,
    pub client: ClientSection,
    pub reads: ReadsSection,
    pub writes: WritesSection,
    pub gateway: GatewaySection,
    pub tls: locks::TlsSection,
    pub auth: locks::AuthSection,
    pub log: LogSection,
    /// Warnings about a file that can be used.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// CRC-32C of the file's text; empty without a file.
    #[serde(skip)]
    pub file_hash: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Short, stable, unique in the cluster.
    pub name: String,
    pub data_dir: String,
    /// Directory of the write-ahead log; `<data_dir>/wal` when empty. A separate disk pays off.
    pub wal_dir: String,
    /// `operator` (wait for the operator), `static` (with `initial_members`) or `single`.
    pub bootstrap: Option<String>,
    /// host:port at which peers reach this node; `listen.peer` when empty.
    pub advertise_addr: String,
    /// host:port at which clients reach this node; `listen.client` when empty.
    pub advertise_client_addr: String,
    /// The same list on every node of a static cluster; this node may leave itself out.
    pub initial_members: Vec<InitialMember>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InitialMember {
    pub name: String,
    /// host:port of the peer service.
    pub address: String,
}

/// Addresses to listen on. Empty: that service is off. The last three default to loopback ports
/// as far from 50051, 9090 and 8443 as the client port is from 6379, whatever that is, so that several nodes on one
/// host need no more than a client and a peer address each (docs/design/product.md, "Ports").
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    pub client: String,
    pub peer: String,
    pub grpc: Option<String>,
    pub metrics: Option<String>,
    pub gateway: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSection {
    /// `fast`, `lan` (default) or `wan`.
    pub preset: Option<String>,
    pub heartbeat_interval: Option<String>,
    /// Shorthand: minimum X, maximum 2X.
    pub election_timeout: Option<String>,
    pub election_timeout_min: Option<String>,
    pub election_timeout_max: Option<String>,
    /// A leader hands over to a voter with a higher one; 0 if none.
    #[serde(deserialize_with = "plain::some_number")]
    pub priority: Option<u64>,
    #[serde(deserialize_with = "plain::some_number")]
    pub snapshot_entries: Option<u64>,
    pub snapshot_interval: Option<String>,
    #[serde(deserialize_with = "plain::some_number")]
    pub trailing_entries: Option<u64>,
    /// Bandwidth of all snapshots that a member sends together, bytes per second; 0 or none: no limit.
    #[serde(deserialize_with = "plain::some_number")]
    pub snapshot_bytes_per_second: Option<u64>,
    /// Bytes of the log held in memory.
    #[serde(deserialize_with = "plain::some_number")]
    pub max_log_bytes: Option<u64>,
    /// Size of a write-ahead log segment, bytes; three are kept. An entry may have a quarter of it.
    #[serde(deserialize_with = "plain::some_number")]
    pub segment_bytes: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateSection {
    /// Engine of the applied state on disk: `sled` (default) or `redb`. After a change the next start
    /// rebuilds the state from snapshot and log.
    pub engine: Option<String>,
    /// Bytes of applied state that is in memory and not on disk yet.
    #[serde(deserialize_with = "plain::some_number")]
    pub max_overlay_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSection {
    /// How long a request may take, elections included.
    pub request_timeout: String,
    #[serde(deserialize_with = "plain::number")]
    pub max_connections: usize,
    /// Time in which a stopping node still serves and is not ready, so that load balancers and Services
    /// stop sending clients before it closes its ports.
    pub shutdown_delay: String,
    /// How long a Redis connection may send nothing before it is closed; 0: for ever.
    pub idle_timeout: String,
    /// For a connection to authenticate and to complete its first command.
    pub auth_timeout: String,
    /// How long a client that has replies waiting may take none of them; 0: for ever.
    pub write_timeout: String,
    /// Bytes of one reply, and of all unsent replies of a connection.
    #[serde(deserialize_with = "plain::number")]
    pub output_buffer_limit: usize,
    /// Bytes of unsent replies that a connection may have for `output_buffer_soft_seconds`; 0: no such limit.
    #[serde(deserialize_with = "plain::number")]
    pub output_buffer_soft_limit: usize,
    #[serde(deserialize_with = "plain::number")]
    pub output_buffer_soft_seconds: u64,
    /// Bytes of unread messages of one subscriber.
    #[serde(deserialize_with = "plain::number")]
    pub pubsub_output_buffer_limit: usize,
    /// Bytes that all Redis connections together may hold.
    #[serde(deserialize_with = "plain::number")]
    pub maxmemory_clients: usize,
    /// Letters of Redis's setting of this name.
    pub notify_keyspace_events: String,
    /// `writable` or `raft`: what `INFO`, `ROLE` and `HELLO` say of a member that sends writes on.
    pub reported_role: String,
    /// Password that Redis clients give with AUTH; none when unset.
    pub password: Option<String>,
    /// Without users, refuse clients of other hosts.
    #[serde(deserialize_with = "plain::switch")]
    pub protected_mode: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadsSection {
    /// `off`, `on` or how long the leader may answer by its lease.
    pub lease: lease::Lease,
    /// Elements that one read may visit.
    #[serde(deserialize_with = "plain::number")]
    pub max_elements: usize,
    /// Bytes that one read may visit and answer.
    #[serde(deserialize_with = "plain::number")]
    pub max_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WritesSection {
    /// `majority` or `all`: voters that hold a write on disk before it is acknowledged, at least.
    pub ack: String,
    /// Refuse writes with `all` while a voter is down, instead of letting them commit unacknowledged.
    #[serde(deserialize_with = "plain::switch")]
    pub strict: bool,
    /// `forward` or `redirect`: what a member that does not lead does with a write.
    pub on_follower: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySection {
    /// Token that HTTP clients give as `Authorization: Bearer`. Without one the gateway may listen on
    /// loopback only.
    pub token: Option<String>,
    /// File with the token, instead of `token`; reloaded when it changes.
    pub token_file: String,
    /// Path that all routes begin with, for instance `/helios`; none when empty.
    pub prefix: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// A tracing filter: `info`, `debug`, `helios=debug,warn` ...
    pub level: String,
    /// `text` or `json`.
    pub format: String,
    /// Directory of a log file named after the node, beside standard error; none when empty.
    pub dir: String,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: "./data".into(),
            wal_dir: String::new(),
            bootstrap: None,
            advertise_addr: String::new(),
            advertise_client_addr: String::new(),
            initial_members: Vec::new(),
        }
    }
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            client: "127.0.0.1:6379".into(),
            peer: "127.0.0.1:7000".into(),
            grpc: None,
            metrics: None,
            gateway: None,
        }
    }
}

impl Default for ClientSection {
    fn default() -> Self {
        Self {
            request_timeout: "5s".into(),
            shutdown_delay: "0ms".into(),
            auth_timeout: "30s".into(),
            write_timeout: "60s".into(),
            output_buffer_limit: MemoryLimits::DEFAULT.output_bytes,
            output_buffer_soft_limit: MemoryLimits::DEFAULT.soft_output_bytes,
            output_buffer_soft_seconds: 60,
            pubsub_output_buffer_limit: MemoryLimits::DEFAULT.pubsub_bytes,
            maxmemory_clients: MemoryLimits::DEFAULT.all_bytes,
            notify_keyspace_events: String::new(),
            reported_role: "writable".into(),
            max_connections: 10_000,
            idle_timeout: "0ms".into(),
            password: None,
            protected_mode: true,
        }
    }
}

impl Default for ReadsSection {
    fn default() -> Self {
        let Limits { elements, bytes, .. } = Limits::DEFAULT_READ;
        Self { lease: lease::Lease::default(), max_elements: elements as usize, max_bytes: bytes as usize }
    }
}

impl Default for WritesSection {
    fn default() -> Self {
        Self { ack: "majority".into(), strict: true, on_follower: "forward".into() }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".into(), format: "text".into(), dir: String::new() }
    }
}
