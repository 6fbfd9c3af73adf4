//! Three hosts on one network: three network namespaces on one bridge, each with its own address and heliosd,
//! started with the README's flags.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use helios_proto::v1::kv_client::KvClient;
use helios_proto::v1::{ErrorCode, GetRequest};
use redis::aio::MultiplexedConnection;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{PATIENCE, error_code, eventually, info_field, temporary_directory};

const HOSTS: usize = 3;
/// Network prefix; it is visible only in the namespaces of one test, whose names are unique.
const NETWORK: &str = "10.213.77";

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn must(arguments: &str) {
    assert!(ip(arguments), "ip {arguments}");
}

/// The hosts. The bridge and the clients are in a namespace, too, so that firewall rules of this machine do
/// not interfere.
struct Hosts {
    name: String,
    dir: TempDir,
    nodes: Vec<Option<Child>>,
}

impl Hosts {
    /// Returns `None` where network namespaces cannot be created.
    fn new(purpose: &str) -> Option<Self> {
        let name = format!("helios-{purpose}-{}", std::process::id());
        if !ip(&format!("netns add {name}")) {
            return None;
        }
        // From here on, dropping `hosts` removes what was created.
        let hosts = Self { name, dir: temporary_directory(), nodes: (0..HOSTS).map(|_| None).collect() };
        let lan = &hosts.name;
        must(&format!("-n {lan} link add lan type bridge"));
        must(&format!("-n {lan} address add {NETWORK}.254/24 dev lan"));
        must(&format!("-n {lan} link set lan up"));
        for index in 0..HOSTS {
            let (host, port) = (hosts.host(index), format!("port{index}"));
            must(&format!("netns add {host}"));
            must(&format!("-n {lan} link add {port} type veth peer name eth0 netns {host}"));
            must(&format!("-n {lan} link set {port} master lan up"));
            must(&format!("-n {host} address add {}/24 dev eth0", address(index)));
            must(&format!("-n {host} link set lo up"));
            must(&format!("-n {host} link set eth0 up"));
        }
        Some(hosts)
    }

    fn host(&self, index: usize) -> String {
        format!("{}-{}", self.name, index + 1)
    }

    fn start(&mut self, index: usize) {
        let peers: Vec<_> = (0..HOSTS).map(|at| format!("node-{}:{}:7000", at + 1, address(at))).collect();
        let (name, address) = (format!("node-{}", index + 1), address(index));
        let log = File::create(self.dir.path().join(format!("{name}.log"))).unwrap();
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.host(index), env!("CARGO_BIN_EXE_heliosd")])
            .args(["-data-dir", &name, "-listen", &format!("{address}:6379")])
            .args(["-raft-node-id", &name, "-raft-addr", &format!("{address}:7000")])
            .env("HELIOS_RAFT_PEERS", peers.join(","))
            .env("HELIOS_PROTECTED_MODE", "false")
            .current_dir(self.dir.path())
            .stdout(Stdio::null())
            .stderr(log);
        self.nodes[index] = Some(command.spawn().unwrap());
    }

    /// Takes the host off the network without closing its connections.
    fn unplug(&self, index: usize) {
        must(&format!("-n {} link set eth0 down", self.host(index)));
    }

    fn plug(&self, index: usize) {
        must(&format!("-n {} link set eth0 up", self.host(index)));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(mut node) = node.take() {
                // `ip netns exec` is replaced by the process that it starts.
                drop(node.kill());
                drop(node.wait());
            }
            if std::thread::panicking() {
                let log = std::fs::read_to_string(self.dir.path().join(format!("node-{}.log", index + 1)));
                eprintln!("--- node-{} said:\n{}", index + 1, log.unwrap_or_default());
            }
        }
        for index in 0..HOSTS {
            ip(&format!("netns delete {}", self.host(index)));
        }
        ip(&format!("netns delete {}", self.name));
    }
}

fn address(index: usize) -> String {
    format!("{NETWORK}.{}", index + 1)
}

async fn client(index: usize) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{}/", address(index))).unwrap();
    eventually(&format!("host {} takes clients", index + 1), async || {
        client.get_multiplexed_async_connection().await.ok()
    })
    .await
}

/// Writes through one of the hosts `through`, whichever succeeds.
async fn write(through: &[usize], value: &str) {
    eventually(&format!("{value} is written"), async || {
        for index in through {
            let mut client = client(*index).await;
            if redis::cmd("SET").arg("key").arg(value).exec_async(&mut client).await.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// Returns the index of the host with the leader, once those at `asked` agree.
async fn leader(asked: &[usize]) -> usize {
    eventually("one member is the leader", async || {
        let mut found = Vec::new();
        for index in asked {
            let info: String = redis::cmd("INFO").query_async(&mut client(*index).await).await.ok()?;
            let name = info_field(&info, "raft_leader").to_owned();
            found.push(name.strip_prefix("node-")?.parse::<usize>().ok()? - 1);
        }
        found.iter().all(|leader| *leader == found[0]).then_some(found[0])
    })
    .await
}

async fn lose_and_restore_the_leaders_host(hosts: &mut Hosts) {
    (0..HOSTS).for_each(|index| hosts.start(index));
    write(&[0, 1, 2], "by three").await;
    let lost = leader(&[0, 1, 2]).await;
    hosts.unplug(lost);
    let left: Vec<_> = (0..HOSTS).filter(|index| *index != lost).collect();
    write(&left, "by two").await;
    assert_ne!(leader(&left).await, lost);

    hosts.plug(lost);
    let mut back = client(lost).await;
    // Reads the host's own state, not the leader's.
    let () = redis::cmd("READONLY").query_async(&mut back).await.unwrap();
    eventually("the host that was away has caught up", async || {
        let value: String = redis::cmd("GET").arg("key").query_async(&mut back).await.ok()?;
        (value == "by two").then_some(())
    })
    .await;
    write(&[lost], "by three again").await;
}

const NO_NAMESPACES: &str = "no network namespaces can be made here; install iproute2 and run as root";

/// Checks protected mode with a single member without users on the first host: replies to other hosts and to
/// the host itself.
async fn in_protected_mode(hosts: &mut Hosts) {
    let (name, here) = ("node-1", address(0));
    let log = hosts.dir.path().join(format!("{name}.log"));
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &hosts.host(0), env!("CARGO_BIN_EXE_heliosd")])
        .args(["-data-dir", name, "-listen", "0.0.0.0:6379", "-raft-node-id", name])
        .args(["-raft-addr", &format!("{here}:7000")])
        .env("HELIOS__NODE__BOOTSTRAP", "single")
        .env("HELIOS__LISTEN__GRPC", "0.0.0.0:50051")
        .current_dir(hosts.dir.path())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap());
    hosts.nodes[0] = Some(command.spawn().unwrap());
    let denied = eventually("the other host is answered", async || {
        let mut stream = TcpStream::connect((here.as_str(), 6379)).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut answer = String::new();
        // A connection that is served is not closed.
        tokio::time::timeout(PATIENCE / 4, stream.read_to_string(&mut answer)).await.ok()?.ok()?;
        Some(answer)
    })
    .await;
    assert!(denied.starts_with("-DENIED ") && denied.lines().count() == 1, "{denied}");
    for setting in ["auth.users_file", "client.password", "client.protected_mode: false"] {
        assert!(denied.contains(setting), "{denied}");
    }
    let channel = Endpoint::from_shared(format!("http://{here}:50051")).unwrap().connect_lazy();
    let get = GetRequest { key: "k".into(), ..GetRequest::default() };
    assert_eq!(error_code(KvClient::new(channel.clone()).get(get.clone()).await), ErrorCode::ProtectedMode);
    let check = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(check).await.expect("probes come from other hosts");
    let log = std::fs::read_to_string(&log).unwrap();
    for port in ["listen.client", "listen.grpc"] {
        let warns =
            |line: &&str| line.contains("WARN") && line.contains("protected mode") && line.contains(port);
        assert_eq!(log.lines().filter(warns).count(), 1, "{port}: {log}");
    }

    // The host itself is served.
    let host = File::open(format!("/run/netns/{}", hosts.host(0))).unwrap();
    move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    let client = redis::Client::open("redis://127.0.0.1/").unwrap();
    let mut client = client.get_multiplexed_async_connection().await.unwrap();
    eventually("the host itself writes", async || {
        redis::cmd("SET").arg("k").arg("v").exec_async(&mut client).await.ok()
    })
    .await;
    let mode: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg("protected-mode").query_async(&mut client).await.unwrap();
    assert_eq!(mode, ["protected-mode", "yes"]);
    let channel = Endpoint::from_static("http://127.0.0.1:50051").connect_lazy();
    KvClient::new(channel).get(get).await.unwrap();
}

#[test]
fn protected_mode_denies_other_hosts_and_serves_its_own_host() {
    let Some(mut hosts) = Hosts::new("protected") else {
        return helios_testing::skip_or_fail("netns", NO_NAMESPACES);
    };
    on_the_bridge(&hosts.name.clone(), move |runtime| runtime.block_on(in_protected_mode(&mut hosts)));
}

#[test]
fn three_hosts_keep_writing_after_losing_one_which_rejoins() {
    let Some(mut hosts) = Hosts::new("lan") else {
        return helios_testing::skip_or_fail("netns", NO_NAMESPACES);
    };
    on_the_bridge(&hosts.name.clone(), move |runtime| {
        runtime.block_on(lose_and_restore_the_leaders_host(&mut hosts))
    });
}

/// Runs on a separate thread in that namespace.
fn on_the_bridge(name: &str, run: impl FnOnce(tokio::runtime::Runtime) + Send + 'static) {
    let lan = File::open(format!("/run/netns/{name}")).unwrap();
    let own = std::thread::spawn(move || {
        move_into_link_name_space(lan.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        run(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    });
    if let Err(panic) = own.join() {
        std::panic::resume_unwind(panic);
    }
}
