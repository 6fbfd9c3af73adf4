//! What a program says to embed a node; the rest has the defaults of `heliosd`.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, InitialMember, Settings};

/// One member of a cluster. Every field but `node_id` has a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Short, stable, unique in the cluster.
    pub node_id: String,
    /// host:port where peers are listened to.
    pub listen_addr: String,
    /// The other members that begin the cluster, as `id=host:port`; where the host's name is the member's id,
    /// as `host:port`. Every member must be given the same ones, itself left out. Empty: a cluster of its own.
    pub peer_addrs: Vec<String>,
    /// host:port at which the peers reach this member, as they have it in their own `peer_addrs`. Empty:
    /// `listen_addr`, or the id as host where that names every interface.
    pub advertise_addr: String,
    /// Waits to be added to a cluster that runs; `peer_addrs` stays empty then.
    pub join: bool,
    /// Where log and state are kept. No two members may share it.
    pub data_dir: PathBuf,
    /// The least, ms; the longest is twice that.
    pub election_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
    /// Members that hold a write on disk before it is acknowledged: a majority of those that begin the
    /// cluster, or all of them.
    pub replication_factor: usize,
    /// host:port for Redis clients; empty: none are served.
    pub client_addr: String,
    /// Size of a log segment, bytes; three are kept. A command may have a quarter of it.
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
            "join and peer_addrs exclude each other: a member that joins is told of the others when it is added"
                .into(),
        )),
    }
}

/// Fewer than a majority could lose what was acknowledged; between it and all there is nothing (C2).
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
    fn the_quick_start_makes_the_same_cluster_on_every_node() {
        let begun = |node| Settings::try_from(config(node)).unwrap().bootstrap;
        assert_eq!((begun(1), begun(2)), (begun(2), begun(3)));
        assert!(matches!(begun(1), Bootstrap::Static(members) if members.len() == 3));
    }

    #[test]
    fn the_defaults_are_a_hundred_and_three_hundred_ms_and_a_majority() {
        let settings = Settings::try_from(config(1)).unwrap();
        let timing = [settings.heartbeat, settings.election_min, settings.election_max];
        assert_eq!(timing.map(|time| time.as_millis()), [100, 300, 600]);
        assert_eq!((settings.ack, settings.listen_client), (Ack::Majority, None));
    }

    #[test]
    fn a_replication_factor_is_a_majority_or_all() {
        let of = |factor| ClusterConfig { replication_factor: factor, ..config(1) };
        assert_eq!(Settings::try_from(of(3)).unwrap().ack, Ack::All);
        for factor in [0, 1, 4] {
            assert!(refused(of(factor)).contains("write 2 (a majority of 3) or 3"), "{factor}");
        }
        let alone = ClusterConfig { node_id: "a".into(), ..ClusterConfig::default() };
        assert_eq!(Settings::try_from(alone).unwrap().bootstrap, Bootstrap::Single);
    }

    #[test]
    fn what_cannot_work_is_refused_in_one_line_that_says_what_to_write() {
        assert!(refused(ClusterConfig { join: true, ..config(1) }).contains("exclude"));
        let peers = |peers: &str| ClusterConfig { peer_addrs: vec![peers.into(), "x:1".into()], ..config(1) };
        for bad in ["node2", "=1.2.3.4:5", ":7000", "node2=1.2.3.4"] {
            assert!(refused(peers(bad)).contains("id=host:port"), "{bad}");
        }
        let slow = ClusterConfig { heartbeat_interval_ms: 400, ..config(1) };
        assert!(refused(slow).contains("400ms"), "both values are named");
    }
}
