//! A cluster of one system: its members on loopback, each with its own directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::client::Protocol;
use crate::http;
use crate::ports::Ports;
use crate::server::Server;
use crate::wait_for;

const MEMBERS: usize = 3;
/// Longest start of a cluster: it includes an election, on a disk that other processes use, too.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// Paths of the programs.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    #[arg(long, env = "HELIOS_BENCH_HELIOSD", hide = true)]
    pub heliosd: PathBuf,
    /// Program whose first argument may be `etcd`.
    #[arg(long, env = "HELIOS_BENCH_ETCD", hide = true)]
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
    pub async fn heliosd(programs: &Programs, dir: &Path, ports: &mut Ports, preset: &str) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..MEMBERS {
            all.push(ports.take::<5>()?);
        }
        let list: Vec<_> = (1..=MEMBERS)
            .zip(&all)
            .map(|(number, ports)| format!("{{name: node-{number}, address: '127.0.0.1:{}'}}", ports[1]))
            .collect();
        let list = list.join(", ");
        let mut members = Vec::new();
        for (number, [client, peer, grpc, metrics, gateway]) in (1..=MEMBERS).zip(all) {
            let name = format!("node-{number}");
            let arguments = vec!["--config".to_owned(), "node.yaml".to_owned()];
            let server = Server::new(dir, &name, &programs.heliosd, arguments)?;
            let config = format!(
                "node: {{name: {name}, data_dir: data, initial_members: [{list}]}}\n\
                 listen: {{client: '127.0.0.1:{client}', peer: '127.0.0.1:{peer}', grpc: '127.0.0.1:{grpc}', \
                 metrics: '127.0.0.1:{metrics}', gateway: '127.0.0.1:{gateway}'}}\n\
                 raft: {{preset: {preset}}}\nlog: {{level: warn}}\n"
            );
            std::fs::write(server.dir.join("node.yaml"), config)?;
            let ports = vec![(Protocol::Redis, client), (Protocol::HeliosGrpc, grpc)];
            members.push(Member { server, ports, health: Some(metrics) });
        }
        let names = MetricNames {
            is_leader: "helios_raft_is_leader",
            fsyncs: "helios_wal_fsync_duration_seconds_count",
        };
        Self { members, names: Some(names) }.started().await
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
            members.push(Member { server, ports: vec![(Protocol::Etcd, client)], health: Some(metrics) });
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
        let member = Member { server, ports: vec![(Protocol::Redis, port)], health: None };
        Self { members: vec![member], names: None }.started().await
    }

    async fn started(mut self) -> Result<Self> {
        self.settle().await?;
        Ok(self)
    }

    /// Starts the stopped members, and waits until all are ready and know a leader.
    pub async fn settle(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.server.start()?;
        }
        wait_for(SETTLE_PATIENCE, "a cluster that is ready", async || {
            for member in &mut self.members {
                member.server.ensure_alive()?;
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

    async fn metric(&self, name: &str) -> Option<f64> {
        http::metric(&http::get(self.health?, "/metrics").await?, name)
    }
}
