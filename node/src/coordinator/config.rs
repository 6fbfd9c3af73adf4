//! Configuration of an embedded node; all other settings have the defaults of `heliosd`.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, InitialMember, Settings};

/// One member of a cluster. Every field but `node_id` has a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Name of the member: short, stable, unique in the cluster.
    pub node_id: String,
    /// host:port on which to listen for peers.
    pub listen_addr: String,
    /// The other members that bootstrap the cluster, as `id=host:port`, or as `host:port` where the host name is the
    /// member's id. The same set of members on every one of them, without itself. Empty: a single-node cluster.
    pub peer_addrs: Vec<String>,
    /// host:port at which the peers reach this member, the same as in their `peer_addrs`. Empty: `listen_addr`, or, if
    /// that is on every interface, the id as host.
    pub advertise_addr: String,
    /// Whether to wait until the member is added to a running cluster; `peer_addrs` has to be empty then.
    pub join: bool,
    /// Directory of log and state. Members cannot share one.
    pub data_dir: PathBuf,
    /// Minimum election timeout, ms; the maximum is twice that.
    pub election_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
    /// Number of members that have to hold a write on disk before it is acknowledged: a majority of those that
    /// bootstrap the cluster, or all of them.
    pub replication_factor: usize,
    /// host:port for Redis clients; empty: none are served.
    pub client_addr: String,
    /// Size of a WAL segment, bytes; at least three are kept. The limit of a command is a quarter of it.
    pub segment_bytes: u64,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            node_id: String::new(),
            listen_addr: "127.0.0.1:7000".into(),
            peer_addrs: Vec::new(),
            advertise_addr: String::new(),
            join: false,
            data_dir: "./data".into(),
            election_timeout_ms: 300,
            heartbeat_interval_ms: 100,
            replication_factor: 2,
            client_addr: String::new(),
            segment_bytes: 64 << 20,
        }
    }
}

impl TryFrom<ClusterConfig> for Settings {
    type Error = ConfigError;

    fn try_from(given: ClusterConfig) -> Result<Self, ConfigError> {
        let mut config = Config::default();
        config.writes.ack = ack(&given)?.to_owned();
        config.node.advertise_addr = advertised(&given);
        config.node.initial_members =
            given.peer_addrs.iter().map(|peer| member(peer)).collect::<Result<_, _>>()?;
        config.node.bootstrap = Some(bootstrap(&given)?.to_owned());
        config.node.name = given.node_id;
        config.node.data_dir = given.data_dir.display().to_string();
        config.listen.peer = given.listen_addr;
        config.listen.client = given.client_addr;
        config.listen.grpc = Some(String::new());
        config.listen.metrics = Some(String::new());
        config.listen.gateway = Some(String::new());
        config.raft.heartbeat_interval = Some(format!("{}ms", given.heartbeat_interval_ms));
        config.raft.election_timeout = Some(format!("{}ms", given.election_timeout_ms));
        config.raft.segment_bytes = Some(given.segment_bytes);
        config.try_into()
    }
}

fn bootstrap(given: &ClusterConfig) -> Result<&'static str, ConfigError> {
    match (given.join, given.peer_addrs.is_empty()) {
        (true, true) => Ok("operator"),
        (false, true) => Ok("single"),
        (false, false) => Ok("static"),
        (true, false) => Err(ConfigError(
            "join and peer_addrs exclude each other: a joining member learns the others when it is added"
                .into(),
        )),
    }
}

/// Returns the ack level of a replication factor. Fewer than a majority could lose acknowledged writes; there is no
/// level between majority and all (C2).
fn ack(given: &ClusterConfig) -> Result<&'static str, ConfigError> {
    let members = given.peer_addrs.len() + 1;
    let majority = members / 2 + 1;
    match given.replication_factor {
        _ if members == 1 => Ok("majority"),
        factor if factor == majority => Ok("majority"),
        factor if factor == members => Ok("all"),
        factor => Err(ConfigError(format!(
            "replication_factor {factor}: write {majority} (a majority of {members}) or {members} (all of them)"
        ))),
    }
}

fn advertised(given: &ClusterConfig) -> String {
    match given.listen_addr.rsplit_once(':') {
        Some(("" | "0.0.0.0" | "[::]", port)) if given.advertise_addr.is_empty() => {
            format!("{}:{port}", given.node_id)
        }
        _ => given.advertise_addr.clone(),
    }
}

fn member(peer: &str) -> Result<InitialMember, ConfigError> {
    let (name, address) = match peer.split_once('=') {
        Some((name, address)) => (Some(name), address),
        None => (peer.rsplit_once(':').map(|(host, _)| host), peer),
    };
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match name.filter(|name| !name.is_empty() && has_port) {
        Some(name) => Ok(InitialMember { name: name.to_owned(), address: address.to_owned() }),
        None => Err(ConfigError(format!(
            "peer_addrs {peer:?}: write id=host:port, or host:port with the id as host"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bootstrap;
    use helios_service::database::Ack;

    fn config(node: usize) -> ClusterConfig {
        let peers = (1..=3).filter(|other| *other != node).map(|other| format!("node{other}:5432"));
        ClusterConfig {
            node_id: format!("node{node}"),
            listen_addr: "0.0.0.0:5432".into(),
            peer_addrs: peers.collect(),
            ..ClusterConfig::default()
        }
    }

    fn refused(given: ClusterConfig) -> String {
        Settings::try_from(given).unwrap_err().0
    }

    #[test]
    fn peer_addrs_bootstrap_the_same_cluster_on_every_node() {
        let begun = |node| Settings::try_from(config(node)).unwrap().bootstrap;
        assert_eq!((begun(1), begun(2)), (begun(2), begun(3)));
        assert!(matches!(begun(1), Bootstrap::Static(members) if members.len() == 3));
    }

    #[test]
    fn default_timings_are_those_of_the_lan_preset_with_majority_acks() {
        let settings = Settings::try_from(config(1)).unwrap();
        let timing = [settings.heartbeat, settings.election_min, settings.election_max];
        assert_eq!(timing.map(|time| time.as_millis()), [100, 300, 600]);
        assert_eq!((settings.ack, settings.listen_client), (Ack::Majority, None));
    }

    #[test]
    fn a_replication_factor_other_than_majority_or_all_is_rejected() {
        let of = |factor| ClusterConfig { replication_factor: factor, ..config(1) };
        assert_eq!(Settings::try_from(of(3)).unwrap().ack, Ack::All);
        for factor in [0, 1, 4] {
            assert!(refused(of(factor)).contains("write 2 (a majority of 3) or 3"), "{factor}");
        }
        let alone = ClusterConfig { node_id: "a".into(), ..ClusterConfig::default() };
        assert_eq!(Settings::try_from(alone).unwrap().bootstrap, Bootstrap::Single);
    }

    #[test]
    fn invalid_cluster_configurations_are_rejected_with_advice() {
        assert!(refused(ClusterConfig { join: true, ..config(1) }).contains("exclude"));
        let peers = |peers: &str| ClusterConfig { peer_addrs: vec![peers.into(), "x:1".into()], ..config(1) };
        for bad in ["node2", "=1.2.3.4:5", ":7000", "node2=1.2.3.4"] {
            assert!(refused(peers(bad)).contains("id=host:port"), "{bad}");
        }
        let slow = ClusterConfig { heartbeat_interval_ms: 400, ..config(1) };
        assert!(refused(slow).contains("400ms"), "both values are named");
    }
}
