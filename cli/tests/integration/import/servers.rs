//! A real Redis as the source, and three real members as the target.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use redis::{Connection, Value};

use crate::dev::{free_ports, heliosd};
use crate::process::{Process, eventually};

/// Returns whether there is a redis-server; without one the test is skipped or fails.
pub fn have_redis() -> bool {
    let found = Command::new("redis-server").arg("--version").output().is_ok();
    if !found {
        helios_testing::skip_or_fail("redis-server", "install the Debian package redis-server");
    }
    found
}

/// Returns the server of Valkey; without one the test is skipped or fails.
pub fn valkey_server() -> Option<PathBuf> {
    // Version in scripts/tools.sh.
    let found = helios_testing::cache().map(|cache| cache.join("valkey-9.1.2.post2/bin/valkey-server"));
    let found = found.filter(|path| path.exists());
    if found.is_none() {
        helios_testing::skip_or_fail("valkey", "`make test` installs it");
    }
    found
}

pub fn connect(address: &str) -> Option<Connection> {
    redis::Client::open(format!("redis://{address}/")).ok()?.get_connection().ok()
}

pub fn ask<T: redis::FromRedisValue>(connection: &mut Connection, line: &str) -> T {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query(connection).unwrap_or_else(|error| panic!("{line}: {error}"))
}

pub struct Redis {
    pub process: Process,
    pub address: String,
    /// `:PASSWORD@` of the default user, if it has one.
    login: &'static str,
    /// A port that is free for TLS.
    pub tls_port: u16,
    pub dir: tempfile::TempDir,
    _ports: File,
}

impl Redis {
    pub fn start(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&word| word.to_owned()).collect();
        Self::start_with(Path::new("redis-server"), "", |_| settings)
    }

    /// Starts `program`, whose default user has the `login`, with the settings for a port for TLS.
    pub fn start_with(
        program: &Path,
        login: &'static str,
        settings: impl FnOnce(u16) -> Vec<String>,
    ) -> Self {
        let (dir, (offset, ports)) = (tempfile::tempdir().unwrap(), free_ports());
        let (port, tls_port) = ((6379 + offset).to_string(), 7000 + offset);
        let mut command = Command::new(program);
        command.args(["--port", &port, "--save", "", "--repl-diskless-sync-delay", "0"]);
        command.args(settings(tls_port));
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let server = Self {
            process: Process::start(&mut command),
            address: format!("127.0.0.1:{port}"),
            login,
            tls_port,
            dir,
            _ports: ports,
        };
        server.connection();
        server
    }

    pub fn connection(&self) -> Connection {
        eventually("redis-server answers", || {
            let mut connection = connect(&format!("{}{}", self.login, self.address))?;
            redis::cmd("PING").query::<String>(&mut connection).ok().map(|_| connection)
        })
    }

    /// Writes the RDB file and returns its path.
    pub fn save(&self) -> PathBuf {
        ask::<()>(&mut self.connection(), "SAVE");
        self.dir.path().join("dump.rdb")
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

/// Three members in processes that can be killed.
pub struct Cluster {
    pub members: Vec<Process>,
    pub clients: Vec<String>,
    dir: tempfile::TempDir,
    _ports: File,
}

impl Cluster {
    pub fn start() -> Self {
        let (dir, (offset, ports)) = (tempfile::tempdir().unwrap(), free_ports());
        let port = |base: u16, n: u16| format!("127.0.0.1:{}", base + offset + n);
        let peers: Vec<_> = (0..3).map(|n| format!("node-{n}:{}", port(7000, n))).collect();
        let peers = peers.join(",");
        let start = |n: u16| start_member(dir.path(), n, &peers, &port(6379, n), &port(7000, n));
        let members = (0..3).map(start).collect();
        let clients: Vec<_> = (0..3).map(|n| port(6379, n)).collect();
        let cluster = Self { members, clients, dir, _ports: ports };
        cluster.connection();
        cluster
    }

    pub fn addresses(&self) -> String {
        self.clients.join(",")
    }

    /// A connection to a member that serves.
    pub fn connection(&self) -> Connection {
        eventually("the cluster serves", || {
            self.clients.iter().find_map(|address| {
                let mut connection = connect(address)?;
                redis::cmd("DBSIZE").query::<u64>(&mut connection).ok().map(|_| connection)
            })
        })
    }

    /// Kills the leader.
    pub fn kill_leader(&mut self) {
        let leader = eventually("a leader", || {
            self.clients.iter().position(|address| {
                let role = connect(address)
                    .and_then(|mut connection| redis::cmd("ROLE").query::<Vec<Value>>(&mut connection).ok());
                matches!(role.as_deref(), Some([Value::BulkString(role), ..]) if role == b"master")
            })
        });
        self.members[leader].0.kill().unwrap();
        self.members[leader].0.wait().unwrap();
        assert!(self.dir.path().exists());
    }
}

fn start_member(dir: &Path, n: u16, peers: &str, client: &str, peer: &str) -> Process {
    let name = format!("node-{n}");
    let mut command = Command::new(heliosd());
    command.args(["-data-dir", &name, "-listen", client, "-raft-node-id", &name, "-raft-addr", peer]);
    command.current_dir(dir).env_clear().env("HELIOS_RAFT_PEERS", peers);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Process::start(&mut command)
}

/// Type, value in an order that both servers have, and expiry.
pub type Entry = (String, Vec<Vec<u8>>, i64);

/// All keys with their values.
pub fn content(connection: &mut Connection) -> BTreeMap<Vec<u8>, Entry> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let scan = redis::cmd("SCAN").arg(&cursor).arg("COUNT").arg(5000).query(connection);
        let (next, page): (String, Vec<Vec<u8>>) = scan.unwrap();
        names.extend(page);
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    names.into_iter().map(|name| (name.clone(), entry(connection, &name))).collect()
}

fn entry(connection: &mut Connection, name: &[u8]) -> Entry {
    let kind: String = redis::cmd("TYPE").arg(name).query(connection).unwrap();
    let read = match kind.as_str() {
        "string" => redis::cmd("GET").arg(name).clone(),
        "list" => redis::cmd("LRANGE").arg(name).arg(0).arg(-1).clone(),
        "set" => redis::cmd("SMEMBERS").arg(name).clone(),
        "hash" => redis::cmd("HGETALL").arg(name).clone(),
        "zset" => redis::cmd("ZRANGE").arg(name).arg(0).arg(-1).arg("WITHSCORES").clone(),
        other => panic!("{other}"),
    };
    let mut value: Vec<Vec<u8>> = match read.query::<Value>(connection).unwrap() {
        Value::BulkString(value) => vec![value],
        value => redis::from_redis_value(value).unwrap(),
    };
    if kind == "set" {
        value.sort();
    }
    if kind == "hash" {
        let mut pairs: Vec<_> = value.chunks(2).map(<[_]>::to_vec).collect();
        pairs.sort();
        value = pairs.concat();
    }
    if kind == "zset" {
        for score in value.iter_mut().skip(1).step_by(2) {
            let number: f64 = String::from_utf8_lossy(score).parse().unwrap();
            *score = format!("{number:?}").into_bytes();
        }
    }
    let expiry = redis::cmd("PEXPIRETIME").arg(name).query(connection).unwrap();
    (kind, value, expiry)
}

/// Fails with the first difference.
pub fn assert_same(ours: &BTreeMap<Vec<u8>, Entry>, theirs: &BTreeMap<Vec<u8>, Entry>) {
    for (name, entry) in ours {
        assert_eq!(theirs.get(name), Some(entry), "{:?}", String::from_utf8_lossy(name));
    }
    assert_eq!(ours.len(), theirs.len());
}
