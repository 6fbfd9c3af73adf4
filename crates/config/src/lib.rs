//! Configuration: one YAML file, then environment `HELIOS__A__B`, then flags (docs/design/product.md, C10). [`Config`]
//! is the configuration as written; [`Settings`] is the checked result.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have the machine's clock and disk"))]

mod ack;
mod byte_limits;
mod changes;
mod compat;
mod events;
mod flags;
mod keys;
mod lease;
mod memory_limits;
mod plain;
pub mod reference;
mod secret;
mod security;
mod settings;
#[allow(clippy::disallowed_methods, reason = "reads the configuration file")]
mod sources;
mod sparse;

pub use ack::Ack;
pub use byte_limits::{
    ARCHIVE_HOLD_BYTES, MAX_LOG_BYTES, MAX_OVERLAY_BYTES, MAX_RETAINED_LOG_BYTES, SCRUB_BYTES_PER_SECOND,
};
pub use changes::{Difference, differences, redacted, reloaded};
pub use flags::{Cli, CommandLine, ConfigAction, DevArgs, RunArgs, VerifyArgs};
pub use keys::{Change, paths as key_paths};
pub use lease::{Lease, TICK, longest_lease};
pub use memory_limits::MemoryLimits;
pub use secret::Secret;
pub use security::{AuthSection, MAX_AUTH_DELAY, ManagementIdentity, TlsFiles, TlsFilesSection, TlsSection};
pub use settings::{Bootstrap, Settings};
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
    pub archive: ArchiveSection,
    pub gateway: GatewaySection,
    pub tls: security::TlsSection,
    pub auth: security::AuthSection,
    pub log: LogSection,
    /// Warnings about a file that can be used nevertheless.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// CRC-32C of the file's text; empty without a file.
    #[serde(skip)]
    pub file_hash: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Name of the node: short, stable, unique in the cluster.
    pub name: String,
    pub data_dir: String,
    /// Directory of the write-ahead log; `<data_dir>/wal` when empty. A dedicated disk improves write latency.
    pub wal_dir: String,
    /// `operator` (wait for Initialize or AddLearner), `static` (with `initial_members`) or `single`.
    pub bootstrap: Option<String>,
    /// host:port at which peers reach this node; `listen.peer` when empty.
    pub advertise_addr: String,
    /// host:port at which clients reach this node; `listen.client` when empty.
    pub advertise_client_addr: String,
    /// Members of a static cluster, the same list on every node; a node may omit itself.
    pub initial_members: Vec<InitialMember>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InitialMember {
    pub name: String,
    /// host:port of the peer service.
    pub address: String,
}

/// Addresses to listen on; an empty one turns its service off. The last three default to loopback ports as far from
/// 50051, 9090 and 8443 as the client port is from 6379, so that several nodes on one host need no more than a client
/// and a peer address each (docs/design/product.md, "Ports").
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
    /// Preset of the timings: `fast`, `lan` (default) or `wan`.
    pub preset: Option<String>,
    pub heartbeat_interval: Option<String>,
    /// Shorthand `X` for a minimum of X and a maximum of 2X.
    pub election_timeout: Option<String>,
    pub election_timeout_min: Option<String>,
    pub election_timeout_max: Option<String>,
    /// Priority of this member, default 0: a leader transfers leadership to a voter with a higher one.
    #[serde(deserialize_with = "plain::some_number")]
    pub priority: Option<u64>,
    #[serde(deserialize_with = "plain::some_number")]
    pub snapshot_entries: Option<u64>,
    pub snapshot_interval: Option<String>,
    #[serde(deserialize_with = "plain::some_number")]
    pub trailing_entries: Option<u64>,
    /// Bandwidth limit of all snapshots that a member sends, bytes per second; 0 or none: no limit.
    #[serde(deserialize_with = "plain::some_number")]
    pub snapshot_bytes_per_second: Option<u64>,
    /// Limit of the log in memory, bytes.
    #[serde(deserialize_with = "plain::some_number")]
    pub max_log_bytes: Option<u64>,
    /// Limit of the log that a leader keeps on disk for members that lag, bytes.
    #[serde(deserialize_with = "plain::some_number")]
    pub max_retained_log_bytes: Option<u64>,
    /// Size of a WAL segment, bytes; at least three are kept. The limit of an entry is a quarter of it.
    #[serde(deserialize_with = "plain::some_number")]
    pub segment_bytes: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateSection {
    /// Engine of the applied state on disk: `runs`, `sled` or `redb`. Default: `sled` with `bootstrap: operator`, since
    /// operators leave it out; else that of the volume, and `runs` for a new one. After a change the next start converts the state.
    pub engine: Option<String>,
    /// Limit of the engine's cache, bytes.
    #[serde(deserialize_with = "plain::some_number")]
    pub cache_bytes: Option<u64>,
    /// Limit of the overlay (applied state that is in memory only), bytes.
    #[serde(deserialize_with = "plain::some_number")]
    pub max_overlay_bytes: Option<u64>,
    /// Bandwidth of the scrub, bytes per second; 0: no scrub.
    #[serde(deserialize_with = "plain::some_number")]
    pub scrub_bytes_per_second: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSection {
    /// Deadline of a request, elections included.
    pub request_timeout: String,
    #[serde(deserialize_with = "plain::number")]
    pub max_connections: usize,
    /// Time for which a stopping node still serves and is not ready, so that load balancers and Services stop sending
    /// clients before it closes its ports.
    pub shutdown_delay: String,
    /// Time without a request after which a Redis connection is closed; 0: never.
    pub idle_timeout: String,
    /// Time for a Redis connection to authenticate and to complete its first command.
    pub auth_timeout: String,
    /// Time in which a client with waiting replies has to read some of them; 0: no limit.
    pub write_timeout: String,
    /// Limit of one reply, and of all unsent replies of a connection, bytes.
    #[serde(deserialize_with = "plain::some_number")]
    pub output_buffer_limit: Option<u64>,
    /// Limit of unsent replies that a connection may exceed for `output_buffer_soft_seconds`, bytes; 0: no such limit.
    #[serde(deserialize_with = "plain::number")]
    pub output_buffer_soft_limit: usize,
    #[serde(deserialize_with = "plain::number")]
    pub output_buffer_soft_seconds: u64,
    /// Limit of unread messages of one subscriber, bytes.
    #[serde(deserialize_with = "plain::number")]
    pub pubsub_output_buffer_limit: usize,
    /// Limit of what all Redis connections hold together, bytes.
    #[serde(deserialize_with = "plain::some_number")]
    pub maxmemory_clients: Option<u64>,
    /// Letters of Redis's setting `notify-keyspace-events`.
    pub notify_keyspace_events: String,
    /// Role that `INFO`, `ROLE` and `HELLO` report for a member that forwards writes: `writable` (master) or `raft`.
    pub reported_role: String,
    /// Password of the user `default`; none when unset.
    pub password: Option<String>,
    /// Whether clients of other hosts are refused while authentication is off.
    #[serde(deserialize_with = "plain::switch")]
    pub protected_mode: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadsSection {
    /// Lease reads: `off`, `on` or the length of the lease.
    pub lease: lease::Lease,
    /// Limit of elements that one read visits.
    #[serde(deserialize_with = "plain::number")]
    pub max_elements: usize,
    /// Limit of what one read visits and answers, bytes.
    #[serde(deserialize_with = "plain::some_number")]
    pub max_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WritesSection {
    /// Voters that have to hold a write on disk before it is acknowledged: `majority` or `all`.
    pub ack: String,
    /// Whether writes with `all` are refused while a voter is down, instead of being committed without acknowledgement.
    #[serde(deserialize_with = "plain::switch")]
    pub strict: bool,
    /// Handling of writes on a follower: `forward` or `redirect`.
    pub on_follower: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveSection {
    /// Limit of the log that a member keeps for archivers, bytes.
    #[serde(deserialize_with = "plain::number")]
    pub hold: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySection {
    /// Token that HTTP clients have to send as `Authorization: Bearer`. Without one the gateway may listen on loopback
    /// only.
    pub token: Option<String>,
    /// A file with the token, instead of `token`; reloaded when it changes.
    pub token_file: String,
    /// Path prefix of all routes, for instance `/helios`; none when empty.
    pub prefix: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// A tracing filter: `info`, `debug`, `helios=debug,warn` ...
    pub level: String,
    /// Format of log lines: `text` or `json`.
    pub format: String,
    /// Directory of a log file named after the node, in addition to standard error; none when empty.
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
            output_buffer_limit: None,
            output_buffer_soft_limit: MemoryLimits::DEFAULT.soft_output_bytes,
            output_buffer_soft_seconds: 60,
            pubsub_output_buffer_limit: MemoryLimits::DEFAULT.pubsub_bytes,
            maxmemory_clients: None,
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
        let max_elements = Limits::DEFAULT_READ.elements as usize;
        Self { lease: lease::Lease::default(), max_elements, max_bytes: None }
    }
}

impl Default for WritesSection {
    fn default() -> Self {
        Self { ack: "majority".into(), strict: true, on_follower: "forward".into() }
    }
}

impl Default for ArchiveSection {
    fn default() -> Self {
        Self { hold: ARCHIVE_HOLD_BYTES }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".into(), format: "text".into(), dir: String::new() }
    }
}
