//! `heliosd sidecar` as a process, before real members, with the clients of an application.

mod failures;
mod levels;
mod protocol;
mod replica;
mod secrets;

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{
    Cluster, Mounted, Node, PATIENCE, Ports, connect, eventually, free_standing, http, temporary_directory,
};

/// SHA-256 of the password `secret`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// Limit of one reply.
const LIMIT: Duration = Duration::from_secs(15);

/// A running sidecar.
pub struct Sidecar {
    pub process: Node,
    _ports: Ports,
    _dir: TempDir,
}

impl Sidecar {
    /// Starts a sidecar of `cluster` and waits until it is ready.
    pub async fn of(cluster: &Cluster, arguments: &[&str]) -> Self {
        let sidecar = Self::started(&addresses(cluster), arguments);
        sidecar.wait_ready().await;
        sidecar
    }

    pub fn started(cluster: &str, arguments: &[&str]) -> Self {
        let (dir, ports) = (temporary_directory(), Ports::take());
        let own = ports.node(0);
        let listen = format!("127.0.0.1:{}", own.client);
        let metrics = format!("127.0.0.1:{}", own.metrics);
        let given = ["sidecar", "--cluster", cluster, "--listen", &listen, "--metrics-listen", &metrics];
        let mut process = Node::started_by(dir.path(), "sidecar", own, &[&given, arguments].concat(), &[]);
        process.start();
        Self { process, _ports: ports, _dir: dir }
    }

    pub fn port(&self) -> u16 {
        self.process.ports.client
    }

    pub async fn readiness(&self) -> Option<(u16, String)> {
        http(self.process.ports.metrics, "GET", "/readyz", "").await
    }

    pub async fn wait_ready(&self) {
        eventually("the sidecar is ready", async || self.readiness().await.filter(|(code, _)| *code == 200))
            .await;
    }

    pub async fn redis(&self) -> MultiplexedConnection {
        connect(self.port(), LIMIT).await.unwrap()
    }

    pub async fn raw(&self) -> Raw {
        Raw::connect(self.port()).await
    }

    /// Returns the value of a metric; 0 if it has none yet.
    pub async fn metric(&self, name: &str) -> u64 {
        self.process.metric(&format!("helios_sidecar_{name}")).await.unwrap_or_default()
    }
}

/// The user `app` with the prefix `app:`, and the admin `boss`; the password of both is `secret`.
pub struct Limited {
    users: Mounted,
    password: String,
    _dir: TempDir,
}

impl Limited {
    pub fn new() -> Self {
        let dir = temporary_directory();
        let mut users = Mounted::new(&dir.path().join("users"));
        let list = format!(
            "users:\n- {{name: app, password_sha256: {SECRET}, role: read-write, prefixes: ['app:']}}\n\
             - {{name: boss, password_sha256: {SECRET}, role: admin}}\n"
        );
        users.put(&[("users.yaml", &list)]);
        let password = dir.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        Self { users, password: password.display().to_string(), _dir: dir }
    }

    /// Returns the section of a member's configuration.
    pub fn config(&self) -> String {
        format!("auth: {{users_file: '{}'}}\n", self.users.file("users.yaml"))
    }

    /// Returns the flags of a sidecar of `app`.
    pub fn flags(&self) -> [&str; 4] {
        ["--user", "app", "--password-file", &self.password]
    }
}

pub fn addresses(cluster: &Cluster) -> String {
    let addresses = cluster.client_ports().into_iter().map(|port| format!("127.0.0.1:{port}"));
    addresses.collect::<Vec<_>>().join(",")
}

/// A connection on which bytes are written and read as they are.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until the bytes end with `end`; returns them.
    pub async fn until(&mut self, end: &str) -> String {
        let mut found = Vec::new();
        let reading = async {
            while !found.ends_with(end.as_bytes()) {
                assert!(self.0.read_buf(&mut found).await.unwrap() > 0, "closed");
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
        let text = String::from_utf8_lossy(&found).into_owned();
        assert!(in_time, "no {end:?} after {text:?}");
        text
    }

    /// Sends a line and reads the reply, which ends with `end`.
    pub async fn ask(&mut self, line: &str, end: &str) -> String {
        self.send(&format!("{line}\r\n")).await;
        self.until(end).await
    }

    /// Reads until the end; returns the bytes.
    pub async fn rest(&mut self) -> String {
        let mut found = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut found)).await;
        // A reset is an end, too.
        let _ = read.expect("the connection ends");
        String::from_utf8_lossy(&found).into_owned()
    }
}

/// Runs `heliosd sidecar` with arguments that it refuses; returns the exit code and the error.
async fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = free_standing(Path::new("/"));
    command.arg("sidecar").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn sidecar_refuses_unusable_settings_with_one_line() {
    let ports = Ports::take();
    let taken = std::net::TcpListener::bind(("127.0.0.1", ports.node(0).client)).unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["--cluster", "a:1", "--listen", "0.0.0.0:6379"], "--trust-every-client"),
        (&[], "--cluster: name the members"),
        (&["--cluster", "a:b"], "write HOST:PORT"),
        (&["--cluster", "a:1", "--password-file", "/no/such"], "/no/such"),
        (&["--cluster", "a:1", "--listen", &listen], "another process"),
    ];
    for (arguments, expected) in cases {
        let (code, error) = refused(arguments).await;
        assert_eq!(code, Some(78), "{arguments:?}: {error}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn sidecar_stops_after_commands_in_flight_are_answered() {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    // The name has an address at which nothing listens, too, where the host has IPv6.
    let mut sidecar = Sidecar::started(&format!("localhost:{}", cluster[0].ports.client), &[]);
    sidecar.wait_ready().await;
    let (mut waiting, mut idle) = (sidecar.raw().await, sidecar.raw().await);
    assert_eq!(idle.ask("PING", "PONG\r\n").await, "+PONG\r\n");
    waiting.send("BLPOP empty 1\r\n").await;
    eventually("the command waits", async || {
        let mut client = cluster[0].redis().await;
        let info: String = redis::cmd("INFO").arg("clients").query_async(&mut client).await.unwrap();
        info.contains("blocked_clients:1").then_some(())
    })
    .await;
    let (ended, answered) = tokio::join!(sidecar.process.terminate(), waiting.rest());
    assert_eq!((ended.code(), &*answered, &*idle.rest().await), (Some(0), "*-1\r\n", ""));
}

#[tokio::test]
async fn sidecar_listens_on_a_unix_socket_and_limits_its_clients() {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    let path = cluster[0].directory().join("redis.sock");
    let arguments = ["--unix-socket", &path.display().to_string(), "--max-clients", "2"];
    let mut sidecar = Sidecar::of(&cluster, &arguments).await;
    let mut unix = tokio::net::UnixStream::connect(&path).await.unwrap();
    unix.write_all(b"SET k v\r\n").await.unwrap();
    let mut reply = [0; 5];
    unix.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"+OK\r\n");
    let mut second = sidecar.raw().await;
    assert_eq!(second.ask("GET k", "v\r\n").await, "$1\r\nv\r\n");
    assert_eq!(sidecar.raw().await.rest().await, "-ERR max number of clients reached\r\n");
    assert_eq!(sidecar.metric("connections").await, 2);
    drop(second);
    eventually("a slot is free", async || (sidecar.metric("connections").await == 1).then_some(())).await;
    // The socket of a killed process does not prevent the next start.
    sidecar.process.kill();
    sidecar.process.start();
    sidecar.wait_ready().await;
    assert!(tokio::net::UnixStream::connect(&path).await.is_ok());
}
