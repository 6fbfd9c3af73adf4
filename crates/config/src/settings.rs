//! Conversion of a written configuration into checked settings: presets, defaults, durations, checks. Pure.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use helios_state::{EngineKind, EventFilter, Limits};

use super::byte_limits::{
    MAX_LOG_BYTES, MAX_OVERLAY_BYTES, MIN_CACHE_BYTES, MIN_LOG_BYTES, MIN_OVERLAY_BYTES,
    SCRUB_BYTES_PER_SECOND, at_least, bandwidth, segment_bytes,
};
use super::security::{self, ManagementIdentity, TlsFiles};

use super::security::MAX_AUTH_DELAY;
use super::{Ack, ClientSection, Config, ConfigError, InitialMember, MemoryLimits, Secret, events, lease};

/// Way in which a node that belongs to no cluster joins or bootstraps one (C7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bootstrap {
    /// Waits for Initialize or AddLearner, from the operator or from a user through the API.
    Operator,
    /// Bootstraps one cluster of all these members; sorted by name, this node included.
    Static(Vec<InitialMember>),
    /// Bootstraps a single-node cluster.
    Single,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub name: String,
    pub data_dir: PathBuf,
    pub wal_dir: PathBuf,
    pub bootstrap: Bootstrap,
    pub advertise_addr: String,
    pub advertise_client_addr: String,
    pub listen_client: Option<SocketAddr>,
    pub listen_peer: SocketAddr,
    pub listen_grpc: Option<SocketAddr>,
    pub listen_metrics: Option<SocketAddr>,
    pub listen_gateway: Option<SocketAddr>,
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// Priority for leadership; the higher one is preferred.
    pub priority: u32,
    pub snapshot_entries: u64,
    pub snapshot_interval: Duration,
    pub trailing_entries: u64,
    pub snapshot_bytes_per_second: Option<NonZeroU64>,
    pub segment_bytes: u64,
    pub max_log_bytes: u64,
    /// `None`: [`crate::MAX_RETAINED_LOG_BYTES`], or a tenth of the volume if that is less.
    pub max_retained_log_bytes: Option<u64>,
    pub max_overlay_bytes: u64,
    /// `None`: sled with [`Bootstrap::Operator`]; else that of the volume, and `runs` for a new one.
    pub engine: Option<EngineKind>,
    /// `None`: by the memory that the process may use.
    pub cache_bytes: Option<u64>,
    /// Bandwidth of the scrub; `None`: no scrub.
    pub scrub_bytes_per_second: Option<NonZeroU64>,
    pub request_timeout: Duration,
    pub shutdown_delay: Duration,
    pub max_connections: usize,
    /// Idle limit of Redis connections; `None`: no limit.
    pub idle_timeout: Option<Duration>,
    /// Time for a Redis connection to authenticate and to complete its first command.
    pub auth_timeout: Duration,
    pub client_memory: MemoryLimits,
    pub keyspace_events: EventFilter,
    /// Whether a member that forwards writes is reported to Redis clients as a master.
    pub reports_writable: bool,
    pub lease: Option<Duration>,
    pub read_limits: Limits,
    pub ack: Ack,
    pub strict_acks: bool,
    /// Whether a follower forwards writes to the leader (docs/design/product.md, C5).
    pub forwards_writes: bool,
    /// Limit of the log that is kept for archivers, bytes.
    pub archive_hold_bytes: u64,
    pub password: Option<String>,
    pub gateway_token: Option<Secret>,
    pub gateway_token_file: Option<PathBuf>,
    pub gateway_prefix: String,
    pub peer_tls: Option<TlsFiles>,
    pub client_tls: Option<TlsFiles>,
    pub management_identity: ManagementIdentity,
    pub users_file: Option<PathBuf>,
    /// Longest delay after wrong passwords; zero: no delay.
    pub max_auth_delay: Duration,
    /// Whether clients of other hosts are refused while no users are configured.
    pub protected_mode: bool,
    pub log_level: String,
    pub log_json: bool,
    /// Log file in addition to standard error.
    pub log_file: Option<PathBuf>,
    /// Warnings to log once logging has started.
    pub warnings: Vec<String>,
    /// CRC-32C of the written configuration without password and token, as `Status` reports it.
    pub config_hash: String,
    /// CRC-32C of the text of the configuration file; empty without one.
    pub file_hash: String,
    /// The configuration as written, secrets included.
    pub written: Config,
}

/// Client port that the default ports of gRPC, metrics and gateway are relative to.
const CLIENT_PORT: u16 = 6379;
/// Port to which default ports above 65535 wrap around.
const FIRST_PORT: i32 = 1024;

/// Presets: name; heartbeat, election minimum, election maximum in ms (docs/design/product.md, C1).
const PRESETS: [(&str, [u64; 3]); 3] =
    [("fast", [30, 150, 300]), ("lan", [100, 300, 600]), ("wan", [500, 2_500, 5_000])];

impl TryFrom<Config> for Settings {
    type Error = ConfigError;

    fn try_from(config: Config) -> Result<Self, ConfigError> {
        let (config_hash, written) = (hash(&config), config.clone());
        let Config {
            node,
            listen,
            raft,
            state,
            client,
            reads,
            writes,
            archive,
            gateway,
            tls,
            auth,
            log,
            warnings,
            file_hash,
        } = config;
        if node.name.is_empty() {
            return Err(ConfigError(
                "node.name is missing: give the node a short, unique name, for instance -raft-node-id node-1"
                    .into(),
            ));
        }
        let timing = timing(&raft)?;
        let listen_peer = address("listen.peer", &listen.peer)?
            .ok_or_else(|| ConfigError("listen.peer is empty: members need it to reach each other".into()))?;
        let advertise_addr = advertised("node.advertise_addr", &node.advertise_addr, &listen.peer)?;
        let listen_client = address("listen.client", &listen.client)?;
        let near = |field: &str, text: &Option<String>, port: u16| match text {
            Some(text) => address(field, text),
            None => Ok(Some(SocketAddr::from(([127, 0, 0, 1], beside(listen_client, port))))),
        };
        let listen_gateway = near("listen.gateway", &listen.gateway, 8443)?;
        let gateway_token = gateway.token.filter(|token| !token.is_empty()).map(Secret::new);
        let gateway_token_file = security::some_path(gateway.token_file);
        let users_file = security::some_path(auth.users_file);
        if gateway_token.is_some() && gateway_token_file.is_some() {
            return Err(ConfigError("gateway.token and gateway.token_file: write one of them".into()));
        }
        let has_auth = gateway_token.is_some() || gateway_token_file.is_some() || users_file.is_some();
        check_gateway(listen_gateway, has_auth)?;
        let bootstrap =
            bootstrap(node.bootstrap.as_deref(), &node.name, &advertise_addr, node.initial_members)?;
        let data_dir = PathBuf::from(&node.data_dir);
        let log_file =
            (!log.dir.is_empty()).then(|| PathBuf::from(log.dir).join(format!("{}.log", node.name)));
        Ok(Self {
            wal_dir: if node.wal_dir.is_empty() { data_dir.join("wal") } else { node.wal_dir.into() },
            data_dir,
            bootstrap,
            advertise_client_addr: advertised(
                "node.advertise_client_addr",
                &node.advertise_client_addr,
                &listen.client,
            )?,
            advertise_addr,
            name: node.name,
            listen_client,
            listen_peer,
            listen_grpc: near("listen.grpc", &listen.grpc, 50051)?,
            listen_metrics: near("listen.metrics", &listen.metrics, 9090)?,
            listen_gateway,
            heartbeat: timing[0],
            election_min: timing[1],
            election_max: timing[2],
            priority: priority(raft.priority)?,
            snapshot_entries: positive("raft.snapshot_entries", raft.snapshot_entries.unwrap_or(10_000))?,
            snapshot_interval: raft
                .snapshot_interval
                .as_deref()
                .map_or(Ok(Duration::from_secs(300)), |text| duration("raft.snapshot_interval", text))?,
            trailing_entries: raft.trailing_entries.unwrap_or(1_000),
            snapshot_bytes_per_second: bandwidth(
                "raft.snapshot_bytes_per_second",
                raft.snapshot_bytes_per_second,
                0,
                "no limit",
            )?,
            segment_bytes: segment_bytes(raft.segment_bytes)?,
            max_log_bytes: at_least("raft.max_log_bytes", raft.max_log_bytes, MAX_LOG_BYTES, MIN_LOG_BYTES)?,
            max_retained_log_bytes: raft.max_retained_log_bytes,
            max_overlay_bytes: at_least(
                "state.max_overlay_bytes",
                state.max_overlay_bytes,
                MAX_OVERLAY_BYTES,
                MIN_OVERLAY_BYTES,
            )?,
            engine: state.engine.as_deref().map(engine).transpose()?,
            cache_bytes: state
                .cache_bytes
                .map(|bytes| at_least("state.cache_bytes", Some(bytes), MIN_CACHE_BYTES, MIN_CACHE_BYTES))
                .transpose()?,
            scrub_bytes_per_second: bandwidth(
                "state.scrub_bytes_per_second",
                state.scrub_bytes_per_second,
                SCRUB_BYTES_PER_SECOND,
                "no scrub",
            )?,
            request_timeout: duration("client.request_timeout", &client.request_timeout)?,
            shutdown_delay: duration_or_none("client.shutdown_delay", &client.shutdown_delay)?,
            max_connections: positive("client.max_connections", client.max_connections as u64)? as usize,
            idle_timeout: Some(duration_or_none("client.idle_timeout", &client.idle_timeout)?)
                .filter(|limit| !limit.is_zero()),
            auth_timeout: duration("client.auth_timeout", &client.auth_timeout)?,
            client_memory: client_memory(&client)?,
            keyspace_events: events::filter(&client.notify_keyspace_events)?,
            reports_writable: match client.reported_role.as_str() {
                "writable" => true,
                "raft" => false,
                other => {
                    return Err(ConfigError(format!("client.reported_role {other:?}: write writable or raft")));
                }
            },
            lease: lease::length(&reads.lease, timing[1])?,
            read_limits: Limits {
                elements: positive("reads.max_elements", reads.max_elements as u64)?,
                bytes: positive("reads.max_bytes", reads.max_bytes.unwrap_or(Limits::DEFAULT_READ.bytes))?,
                ..Limits::DEFAULT_READ
            },
            ack: Ack::parse(&writes.ack).ok_or_else(|| {
                ConfigError(format!(
                    "writes.ack {:?}: write majority or all; fewer than a majority could lose what was acknowledged",
                    writes.ack
                ))
            })?,
            strict_acks: writes.strict,
            forwards_writes: match writes.on_follower.as_str() {
                "forward" => true,
                "redirect" => false,
                other => {
                    return Err(ConfigError(format!(
                        "writes.on_follower {other:?}: write forward or redirect"
                    )));
                }
            },
            archive_hold_bytes: archive.hold,
            password: client.password.filter(|password| !password.is_empty()),
            gateway_token,
            gateway_token_file,
            gateway_prefix: prefix(gateway.prefix)?,
            peer_tls: security::peer_files(tls.peer)?,
            client_tls: security::client_files("client", tls.client)?,
            management_identity: tls.management,
            users_file,
            max_auth_delay: max_auth_delay(&auth.max_delay)?,
            protected_mode: client.protected_mode,
            log_level: log.level,
            log_file,
            log_json: match log.format.as_str() {
                "json" => true,
                "text" => false,
                other => return Err(ConfigError(format!("log.format {other:?}: write text or json"))),
            },
            warnings,
            config_hash,
            file_hash,
            written,
        })
    }
}

/// Hashes the configuration without its secrets, as anyone may read the hash.
fn hash(config: &Config) -> String {
    let mut public = config.clone();
    public.client.password = None;
    public.gateway.token = None;
    public.file_hash.clear();
    format!("{:08x}", crc32c::crc32c(format!("{public:?}").as_bytes()))
}

/// Parses `auth.max_delay`: with a delay above [`MAX_AUTH_DELAY`] every second attempt would be refused.
fn max_auth_delay(text: &str) -> Result<Duration, ConfigError> {
    let delay = duration_or_none("auth.max_delay", text)?;
    if delay > MAX_AUTH_DELAY {
        return Err(ConfigError(format!("auth.max_delay {text}: write a duration up to {MAX_AUTH_DELAY:?}")));
    }
    Ok(delay)
}

/// Checks that a gateway off loopback requires authentication (M-14).
fn check_gateway(listen: Option<SocketAddr>, has_auth: bool) -> Result<(), ConfigError> {
    if let Some(listen) = listen
        && !listen.ip().is_loopback()
        && !has_auth
    {
        return Err(ConfigError(format!(
            "listen.gateway {listen} is not a loopback address: set gateway.token (HELIOS__GATEWAY__TOKEN), \
             gateway.token_file or auth.users_file, write 127.0.0.1:{}, or leave it empty to turn the gateway off",
            listen.port()
        )));
    }
    Ok(())
}

fn prefix(path: String) -> Result<String, ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if path.is_empty() || (path.starts_with('/') && !path.ends_with('/') && path.bytes().all(is_plain)) {
        return Ok(path);
    }
    Err(ConfigError(format!(
        "gateway.prefix {path:?}: write a path such as /helios, without a slash at its end"
    )))
}

fn engine(wanted: &str) -> Result<EngineKind, ConfigError> {
    match wanted {
        "runs" => Ok(EngineKind::Runs),
        "sled" => Ok(EngineKind::Sled),
        "redb" => Ok(EngineKind::Redb),
        other => Err(ConfigError(format!("state.engine {other:?}: write runs, sled or redb"))),
    }
}

fn priority(wanted: Option<u64>) -> Result<u32, ConfigError> {
    match wanted.map_or(Ok(0), u32::try_from) {
        Ok(priority @ 0..=100) => Ok(priority),
        _ => Err(ConfigError(format!("raft.priority {}: write a number from 0 to 100", wanted.unwrap_or(0)))),
    }
}

fn timing(raft: &super::RaftSection) -> Result<[Duration; 3], ConfigError> {
    let preset = raft.preset.as_deref().unwrap_or("lan");
    let (_, preset_ms) = PRESETS
        .iter()
        .find(|(name, _)| *name == preset)
        .ok_or_else(|| ConfigError(format!("raft.preset {preset:?}: write fast, lan or wan")))?;
    let [mut heartbeat, mut min, mut max] = preset_ms.map(Duration::from_millis);
    if let Some(text) = &raft.election_timeout {
        min = duration("raft.election_timeout", text)?;
        max = 2 * min;
    }
    let fields = [
        (&raft.heartbeat_interval, "raft.heartbeat_interval", &mut heartbeat),
        (&raft.election_timeout_min, "raft.election_timeout_min", &mut min),
        (&raft.election_timeout_max, "raft.election_timeout_max", &mut max),
    ];
    for (text, name, value) in fields {
        if let Some(text) = text {
            *value = duration(name, text)?;
        }
    }
    if heartbeat >= min {
        return Err(ConfigError(format!(
            "raft.heartbeat_interval ({heartbeat:?}) must be below raft.election_timeout_min ({min:?}); \
             3 to 5 heartbeats to an election timeout work well"
        )));
    }
    if min >= max {
        return Err(ConfigError(format!(
            "raft.election_timeout_min ({min:?}) must be below raft.election_timeout_max ({max:?}); \
             twice the minimum works well"
        )));
    }
    if heartbeat < Duration::from_millis(10) {
        return Err(ConfigError(format!("raft.heartbeat_interval ({heartbeat:?}) must be 10ms or more")));
    }
    Ok([heartbeat, min, max])
}

fn bootstrap(
    mode: Option<&str>,
    name: &str,
    advertise_addr: &str,
    initial_members: Vec<InitialMember>,
) -> Result<Bootstrap, ConfigError> {
    let mode = mode.unwrap_or(if initial_members.is_empty() { "operator" } else { "static" });
    match (mode, initial_members.is_empty()) {
        ("operator", true) => Ok(Bootstrap::Operator),
        ("single", true) => Ok(Bootstrap::Single),
        ("static", false) => static_members(name, advertise_addr, initial_members).map(Bootstrap::Static),
        ("static", true) => Err(ConfigError(
            "node.bootstrap: static needs node.initial_members, the same list on every node".into(),
        )),
        ("operator" | "single", false) => Err(ConfigError(format!(
            "node.bootstrap: {mode} and node.initial_members exclude each other; remove one"
        ))),
        (other, _) => Err(ConfigError(format!("node.bootstrap {other:?}: write operator, static or single"))),
    }
}

fn static_members(
    name: &str,
    advertise_addr: &str,
    mut members: Vec<InitialMember>,
) -> Result<Vec<InitialMember>, ConfigError> {
    match members.iter_mut().find(|member| member.name == name) {
        // In its own list a node may name an address other than `node.advertise_addr`.
        Some(_) => {}
        None => members.push(InitialMember { name: name.to_owned(), address: advertise_addr.to_owned() }),
    }
    members.sort();
    for pair in members.windows(2) {
        if pair[0].name == pair[1].name {
            return Err(ConfigError(format!("initial member {} is listed twice", pair[0].name)));
        }
    }
    let mut addresses: Vec<_> = members.iter().map(|member| &member.address).collect();
    addresses.sort();
    if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ConfigError(format!("two initial members share the address {}", pair[0])));
    }
    Ok(members)
}

/// Returns a port as far from `port` as the client port is from Redis's default port, so that several nodes on one host
/// do not collide. Beyond the last port it wraps around to the first unprivileged one.
fn beside(client: Option<SocketAddr>, port: u16) -> u16 {
    let client = client.map_or(0, |client| client.port());
    if client == 0 {
        // The client port is off, or any free port.
        return port;
    }
    let ports = i32::from(u16::MAX) + 1 - FIRST_PORT;
    let moved = i32::from(port) + i32::from(client) - i32::from(CLIENT_PORT);
    u16::try_from(FIRST_PORT + (moved - FIRST_PORT).rem_euclid(ports)).unwrap_or(port)
}

/// Parses host:port to listen on; `:port` means every interface. Names are resolved.
fn address(field: &str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    use std::net::ToSocketAddrs;
    if text.is_empty() {
        return Ok(None);
    }
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    let resolved = full.to_socket_addrs().map(|mut found| found.next());
    match resolved {
        Ok(Some(found)) => Ok(Some(found)),
        _ => Err(ConfigError(format!("{field} {text:?}: write host:port, for instance 0.0.0.0:6379"))),
    }
}

/// Returns the advertised address; without one, the listen address, or loopback if that is on every interface.
fn advertised(field: &str, text: &str, listen: &str) -> Result<String, ConfigError> {
    if !text.is_empty() {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        return match port {
            Some(_) => Ok(text.to_owned()),
            None => Err(ConfigError(format!("{field} {text:?}: write host:port as others reach it"))),
        };
    }
    Ok(match listen.rsplit_once(':') {
        Some(("" | "0.0.0.0" | "[::]", port)) => format!("127.0.0.1:{port}"),
        _ => listen.to_owned(),
    })
}

fn client_memory(client: &ClientSection) -> Result<MemoryLimits, ConfigError> {
    const LEAST: usize = 1 << 20;
    let least = |field: &str, bytes: usize, least: usize| match bytes >= least {
        true => Ok(bytes),
        false => Err(ConfigError(format!("client.{field} {bytes}: write {least} or more"))),
    };
    let write_timeout = duration_or_none("client.write_timeout", &client.write_timeout)?;
    let or = |bytes: Option<u64>, default| bytes.map_or(default, |bytes| bytes as usize);
    let MemoryLimits { output_bytes, all_bytes, .. } = MemoryLimits::DEFAULT;
    let output_bytes = least("output_buffer_limit", or(client.output_buffer_limit, output_bytes), LEAST)?;
    Ok(MemoryLimits {
        output_bytes,
        soft_output_bytes: client.output_buffer_soft_limit,
        soft_time: Duration::from_secs(client.output_buffer_soft_seconds),
        pubsub_bytes: least("pubsub_output_buffer_limit", client.pubsub_output_buffer_limit, LEAST)?,
        all_bytes: least("maxmemory_clients", or(client.maxmemory_clients, all_bytes), output_bytes)?,
        write_timeout: Some(write_timeout).filter(|limit| !limit.is_zero()),
    })
}

fn positive(field: &str, value: u64) -> Result<u64, ConfigError> {
    if value == 0 { Err(ConfigError(format!("{field} must be above 0"))) } else { Ok(value) }
}

/// Parses a duration above zero: `150ms`, `2s`, `5m`, `1h`.
pub(super) fn duration(field: &str, text: &str) -> Result<Duration, ConfigError> {
    duration_or_none(field, text).and_then(|found| {
        if found.is_zero() { Err(ConfigError(format!("{field} must be above 0"))) } else { Ok(found) }
    })
}

fn duration_or_none(field: &str, text: &str) -> Result<Duration, ConfigError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit_ms = match &text[digits..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let count = text[..digits].parse::<u64>().ok();
    match count.zip(unit_ms).and_then(|(count, unit_ms)| count.checked_mul(unit_ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(ConfigError(format!("{field} {text:?}: write a duration such as 150ms, 2s or 5m"))),
    }
}

#[cfg(test)]
mod tests;
