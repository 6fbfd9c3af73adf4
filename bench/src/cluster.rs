//! A cluster of one system: its members on loopback, each with its own directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use rustix::process::Signal;

use crate::cgroup::Group;
use crate::client::Protocol;
use crate::http;
use crate::ports::Ports;
use crate::server::Server;
use crate::wait_for;

const MEMBERS: usize = 3;
/// Longest start of a cluster: it includes an election, on a disk that other processes use, too.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);
/// Time from the end of a process's connections to the end of the process.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Paths of the programs.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    #[arg(long, env = "HELIOS_BENCH_HELIOSD", hide = true)]
    pub heliosd: PathBuf,
    /// Program whose first argument may be `etcd`.
    #[arg(long, env = "HELIOS_BENCH_ETCD", hide = true, default_value = "kube")]
    pub etcd: PathBuf,
    #[arg(long, env = "HELIOS_BENCH_REDIS", hide = true, default_value = "redis-server")]
    pub redis: PathBuf,
}

pub struct Cluster {
    pub members: Vec<Member>,
    names: Option<MetricNames>,
}

pub struct Member {
    pub server: Server,
    /// Client ports by protocol.
    ports: Vec<(Protocol, u16)>,
    health: Option<u16>,
    /// Ports of heliosd.
    heliosd: Option<HeliosdPorts>,
}

#[derive(Debug, Clone, Copy)]
struct HeliosdPorts {
    client: u16,
    peer: u16,
    grpc: u16,
    metrics: u16,
    gateway: u16,
}

/// Settings of the members of heliosd.
#[derive(Debug, Clone)]
pub struct HeliosdOptions {
    /// Timing preset, `raft.preset`.
    pub preset: String,
    /// Further settings of the section `raft`, each `, key: value`.
    pub raft: String,
    /// Settings of the section `state`, as `key: value` with commas between.
    pub state: String,
    /// Limit of the memory of each member, bytes.
    pub memory_bytes: Option<u64>,
}

impl Default for HeliosdOptions {
    fn default() -> Self {
        Self { preset: "lan".to_owned(), raft: String::new(), state: String::new(), memory_bytes: None }
    }
}

impl HeliosdOptions {
    /// Returns the configuration of a member; `cluster` is how it comes to belong to a cluster.
    fn config(&self, name: &str, ports: HeliosdPorts, cluster: &str) -> String {
        let Self { preset, raft, state, .. } = self;
        let HeliosdPorts { client, peer, grpc, metrics, gateway } = ports;
        format!(
            "node: {{name: {name}, data_dir: data, {cluster}}}\n\
             listen: {{client: '127.0.0.1:{client}', peer: '127.0.0.1:{peer}', grpc: '127.0.0.1:{grpc}', \
             metrics: '127.0.0.1:{metrics}', gateway: '127.0.0.1:{gateway}'}}\n\
             raft: {{preset: {preset}{raft}}}\nstate: {{{state}}}\nlog: {{level: warn}}\n"
        )
    }
}

/// Names of the same metrics in heliosd and etcd.
#[derive(Clone, Copy)]
struct MetricNames {
    is_leader: &'static str,
    fsyncs: &'static str,
}

/// Counter values at one moment; two are subtracted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Number of fsyncs of the leader's log.
    pub leader_fsyncs: f64,
    /// Number of ReadIndex rounds of the leader; only heliosd reports it.
    pub read_rounds: f64,
}

/// Heartbeat interval and election timeout of etcd, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EtcdTiming {
    pub heartbeat_ms: u32,
    pub election_ms: u32,
}

impl EtcdTiming {
    pub const DEFAULT: Self = Self { heartbeat_ms: 100, election_ms: 1_000 };
    pub const TUNED: Self = Self { heartbeat_ms: 25, election_ms: 150 };
}

impl Cluster {
    pub async fn heliosd(
        programs: &Programs,
        dir: &Path,
        ports: &mut Ports,
        options: &HeliosdOptions,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..MEMBERS {
            let [client, peer, grpc, metrics, gateway] = ports.take()?;
            all.push(HeliosdPorts { client, peer, grpc, metrics, gateway });
        }
        let list: Vec<_> = (1..=MEMBERS)
            .zip(&all)
            .map(|(number, ports)| format!("{{name: node-{number}, address: '127.0.0.1:{}'}}", ports.peer))
            .collect();
        let cluster = format!("initial_members: [{}]", list.join(", "));
        let mut members = Vec::new();
        for (number, ports) in (1..=MEMBERS).zip(all) {
            let name = format!("node-{number}");
            let arguments = vec!["--config".to_owned(), "node.yaml".to_owned()];
            let mut server = Server::new(dir, &name, &programs.heliosd, arguments)?;
            std::fs::write(server.dir.join("node.yaml"), options.config(&name, ports, &cluster))?;
            if let Some(limit) = options.memory_bytes {
                let group = format!("helios-bench-{}-{name}", std::process::id());
                server.limit_memory(Group::new(&group, limit)?);
            }
            members.push(Member {
                server,
                ports: vec![(Protocol::Redis, ports.client), (Protocol::HeliosGrpc, ports.grpc)],
                health: Some(ports.metrics),
                heliosd: Some(ports),
            });
        }
        let names = MetricNames {
            is_leader: "helios_raft_is_leader",
            fsyncs: "helios_wal_fsync_duration_seconds_count",
        };
        Self { members, names: Some(names) }.started().await
    }

    /// Starts a blank node, which waits for a cluster.
    pub fn blank(
        programs: &Programs,
        dir: &Path,
        ports: &mut Ports,
        options: &HeliosdOptions,
    ) -> Result<Member> {
        let [client, peer, grpc, metrics, gateway] = ports.take()?;
        let heliosd = HeliosdPorts { client, peer, grpc, metrics, gateway };
        let arguments = vec!["--config".to_owned(), "node.yaml".to_owned()];
        let mut server = Server::new(dir, "blank", &programs.heliosd, arguments)?;
        let config = options.config("blank", heliosd, "bootstrap: operator");
        std::fs::write(server.dir.join("node.yaml"), config)?;
        server.start()?;
        Ok(Member {
            server,
            ports: vec![(Protocol::Redis, client), (Protocol::HeliosGrpc, grpc)],
            health: Some(metrics),
            heliosd: Some(heliosd),
        })
    }

    pub async fn etcd(
        programs: &Programs,
        dir: &Path,
        ports: &mut Ports,
        timing: EtcdTiming,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..MEMBERS {
            all.push(ports.take::<3>()?);
        }
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let list: Vec<_> = (1..=MEMBERS)
            .zip(&all)
            .map(|(number, ports)| format!("etcd-{number}={}", url(ports[1])))
            .collect();
        let mut members = Vec::new();
        for (number, [client, peer, metrics]) in (1..=MEMBERS).zip(all) {
            let name = format!("etcd-{number}");
            let options = [
                ("name", name.clone()),
                ("data-dir", "data".to_owned()),
                ("listen-client-urls", url(client)),
                ("advertise-client-urls", url(client)),
                ("listen-peer-urls", url(peer)),
                ("initial-advertise-peer-urls", url(peer)),
                ("listen-metrics-urls", url(metrics)),
                ("initial-cluster", list.join(",")),
                ("heartbeat-interval", timing.heartbeat_ms.to_string()),
                ("election-timeout", timing.election_ms.to_string()),
                ("log-level", "warn".to_owned()),
            ];
            let options = options.map(|(option, value)| format!("--{option}={value}"));
            let arguments = ["etcd".to_owned()].into_iter().chain(options).collect();
            let server = Server::new(dir, &name, &programs.etcd, arguments)?;
            members.push(Member {
                server,
                ports: vec![(Protocol::Etcd, client)],
                health: Some(metrics),
                heliosd: None,
            });
        }
        let names = MetricNames {
            is_leader: "etcd_server_is_leader",
            fsyncs: "etcd_disk_wal_fsync_duration_seconds_count",
        };
        Self { members, names: Some(names) }.started().await
    }

    /// Starts one Redis node without replicas, which syncs its log before it replies.
    pub async fn redis(programs: &Programs, dir: &Path, ports: &mut Ports) -> Result<Self> {
        let [port] = ports.take()?;
        let port_text = port.to_string();
        let options =
            ["--bind", "127.0.0.1", "--port", &port_text, "--appendonly", "yes", "--appendfsync", "always"];
        let arguments = options.into_iter().chain(["--save", ""]).map(str::to_owned).collect();
        let server = Server::new(dir, "redis", &programs.redis, arguments)?;
        let member = Member { server, ports: vec![(Protocol::Redis, port)], health: None, heliosd: None };
        Self { members: vec![member], names: None }.started().await
    }

    async fn started(mut self) -> Result<Self> {
        self.settle().await?;
        Ok(self)
    }

    /// Starts the stopped members, and waits until all are ready and know a leader.
    pub async fn settle(&mut self) -> Result<()> {
        self.settle_within(SETTLE_PATIENCE).await
    }

    pub async fn settle_within(&mut self, patience: Duration) -> Result<()> {
        for member in &mut self.members {
            member.server.start()?;
        }
        wait_for(patience, "a cluster that is ready", async || {
            self.ensure_alive()?;
            for member in &self.members {
                if !member.is_ready().await {
                    return Ok(None);
                }
            }
            Ok(self.find_leader().await)
        })
        .await?;
        Ok(())
    }

    /// Returns the index of the leader in `members`; 0 for a system without replicas.
    pub async fn leader(&self) -> Result<usize> {
        wait_for(SETTLE_PATIENCE, "a leader", async || Ok(self.find_leader().await)).await
    }

    async fn find_leader(&self) -> Option<usize> {
        let Some(names) = self.names else { return Some(0) };
        for (index, member) in self.members.iter().enumerate() {
            if member.metric(names.is_leader).await == Some(1.0) {
                return Some(index);
            }
        }
        None
    }

    pub async fn counters(&self, leader: usize) -> Option<Counters> {
        let names = self.names?;
        let text = http::get(self.members[leader].health?, "/metrics").await?;
        Some(Counters {
            leader_fsyncs: http::metric(&text, names.fsyncs)?,
            read_rounds: http::metric(&text, "helios_raft_read_rounds_total").unwrap_or(0.0),
        })
    }

    /// Returns an error when a member has ended without a request.
    pub fn ensure_alive(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.server.ensure_alive())
    }

    /// Returns the error of a client with the member whose end caused it, if one ends within [`END_PATIENCE`].
    pub async fn explained(&mut self, error: Error) -> Error {
        let ended =
            wait_for(END_PATIENCE, "the end of a member", async || Ok(self.ensure_alive().err())).await;
        match ended {
            Ok(ended) => error.context(format!("{ended:#}")),
            Err(_) => error,
        }
    }

    /// Ends all members by SIGKILL.
    pub async fn kill(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.server.end(Signal::KILL).await?;
        }
        Ok(())
    }

    /// Returns the CPU time of all members since their start.
    pub fn cpu(&self) -> Duration {
        self.members.iter().map(|member| member.server.cpu()).sum()
    }
}

impl Member {
    pub fn port(&self, protocol: Protocol) -> Result<u16> {
        let found = self.ports.iter().find(|(spoken, _)| *spoken == protocol);
        let (_, port) = found.with_context(|| format!("{} does not speak {protocol:?}", self.server.name))?;
        Ok(*port)
    }

    pub async fn is_ready(&self) -> bool {
        match self.health {
            Some(port) => http::get(port, "/readyz").await.is_some(),
            None => tokio::net::TcpStream::connect(("127.0.0.1", self.ports[0].1)).await.is_ok(),
        }
    }

    /// Returns the port for other members and cluster management; heliosd only.
    pub fn peer_port(&self) -> Result<u16> {
        Ok(self.heliosd.with_context(|| format!("{} is not heliosd", self.server.name))?.peer)
    }

    /// Removes the data of the member, which does not run, and makes it a blank node that waits to be added to a
    /// cluster.
    pub fn make_blank(&mut self, options: &HeliosdOptions) -> Result<()> {
        let Server { name, dir, .. } = &self.server;
        let ports = self.heliosd.with_context(|| format!("{name} is not heliosd"))?;
        std::fs::remove_dir_all(dir.join("data")).with_context(|| format!("data of {name}"))?;
        std::fs::write(dir.join("node.yaml"), options.config(name, ports, "bootstrap: operator"))?;
        Ok(())
    }

    pub async fn metric(&self, name: &str) -> Option<f64> {
        http::metric(&http::get(self.health?, "/metrics").await?, name)
    }
}
