//! Backups of a real cluster in a directory: create, list, verify, restore; the archiver under writes, killed at random
//! moments, and restores to random moments, which are compared with what the test wrote.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use helios_proto::v1::PutRequest;
use helios_proto::v1::kv_client::KvClient;
use serde_json::Value;
use tonic::transport::Channel;

use crate::dev::{Dev, ctl, free_ports, heliosd};
use crate::process::{PATIENCE, Process, eventually};

const KEYS: u64 = 40;
/// Restores by time, and as many by index; another number in `HELIOS_TEST_RESTORES`.
const RESTORES: u64 = 3;

fn start(dir: &Path, args: &[&str]) -> Process {
    let mut command = Command::new(heliosd());
    command.args(args).current_dir(dir).env_clear().stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Process::start(&mut command)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// One write: its index in the log, and the wall clock when it was acknowledged.
pub struct Write {
    pub index: u64,
    after_ms: u64,
    key: u64,
    value: String,
}

/// The keys after the writes that `counts` says.
pub fn model(writes: &[Write], counts: impl Fn(&Write) -> bool) -> BTreeMap<u64, String> {
    writes.iter().filter(|write| counts(write)).map(|write| (write.key, write.value.clone())).collect()
}

fn key(number: u64) -> String {
    format!("key:{number:03}")
}

pub struct Writer {
    client: KvClient<Channel>,
    runtime: tokio::runtime::Runtime,
    pub writes: Vec<Write>,
}

impl Writer {
    pub fn new(dev: &Dev) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let address = format!("http://{}", dev.members().split(',').next().unwrap());
        let client = eventually("a connection", || runtime.block_on(KvClient::connect(address.clone())).ok());
        Self { client, runtime, writes: Vec::new() }
    }

    pub fn write(&mut self) {
        let number = self.writes.len() as u64;
        let (key_number, value) =
            (number * 7 % KEYS, format!("{number} {}", "x".repeat(number as usize % 300)));
        let request = || PutRequest {
            key: key(key_number).into(),
            value: value.clone().into(),
            ..PutRequest::default()
        };
        let index = eventually("a write", || {
            let answer = self.runtime.block_on(self.client.put(request()));
            answer.ok().map(|answer| answer.into_inner().revision)
        });
        // The log's clock has milliseconds: the next write has a later one.
        let after_ms = now_ms();
        while now_ms() <= after_ms + 1 {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.writes.push(Write { index, after_ms, key: key_number, value });
    }
}

/// A blank node, into which a backup is restored.
pub struct Blank {
    _process: Process,
    peer: String,
    client: String,
    _ports: File,
    _dir: tempfile::TempDir,
}

impl Blank {
    pub fn start() -> Self {
        let (offset, ports) = free_ports();
        let dir = tempfile::tempdir().unwrap();
        let port = |base: u16| format!("127.0.0.1:{}", base + offset);
        let (client, peer) = (port(6379), port(7000));
        let args =
            ["--raft-node-id", "restored", "--listen", &client, "--raft-addr", &peer, "--data-dir", "data"];
        let mut process = start(dir.path(), &args);
        eventually("the blank node listens", || {
            assert!(process.0.try_wait().unwrap().is_none(), "the blank node ended");
            TcpStream::connect(&peer).ok()
        });
        Self { _process: process, peer, client, _ports: ports, _dir: dir }
    }

    /// Flags of `heliosctl backup restore` that name the node and its new cluster.
    pub fn flags(&self) -> [String; 2] {
        let port = self.peer.rsplit(':').next().unwrap();
        [format!("--to={}", self.peer), format!("--new-cluster-id=restored-{port}")]
    }

    pub fn restore(&self, store: &str, words: &[&str]) -> Output {
        let [to, id] = self.flags();
        let fixed = ["backup", "restore", "--store", store, &to, &id];
        ctl(&[&fixed, words, &["--output", "json"]].concat())
    }

    /// All keys of the restored cluster.
    pub fn keys(&self) -> BTreeMap<u64, String> {
        let client = redis::Client::open(format!("redis://{}/", self.client)).unwrap();
        eventually("the restored cluster serves", || {
            let mut connection = client.get_connection().ok()?;
            let count: u64 = redis::cmd("DBSIZE").query(&mut connection).ok()?;
            let keys: Vec<String> = (0..KEYS).map(key).collect();
            let values: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query(&mut connection).ok()?;
            let found: BTreeMap<_, _> =
                (0..KEYS).zip(values).filter_map(|(number, value)| Some((number, value?))).collect();
            assert_eq!(found.len() as u64, count, "there are other keys");
            Some(found)
        })
    }
}

pub fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn store_in(dir: &tempfile::TempDir) -> String {
    format!("file://{}", dir.path().join("store").display())
}

/// Number of reports of drills and verifications below `folder`.
fn drills(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_report = |path: &Path| path.parent().is_some_and(|folder| folder.ends_with("drills"));
    entries.map(|path| if path.is_dir() { drills(&path) } else { usize::from(is_report(&path)) }).sum()
}

#[test]
fn backup_is_created_listed_verified_and_restored_into_a_blank_node() {
    let dev = Dev::start();
    let mut writer = Writer::new(&dev);
    (0..60).for_each(|_| writer.write());
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = (store_in(&dir), dir.path().join("report"));
    let backup =
        |words: &[&str]| ctl(&[&["backup"], words, &["--store", &store, "--output", "json"]].concat());
    let members = dev.members();
    let report_flag = ["--report-file", report.to_str().unwrap()];
    let created =
        backup(&[&["create", "--members", &members, "--name", "orders"], &report_flag[..]].concat());
    let created = json(&created);
    let written: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(written, created);
    let (index, term) = (created["index"].as_u64().unwrap(), created["term"].as_u64().unwrap());
    assert!(index >= writer.writes.last().unwrap().index && created["keys"] == KEYS, "{created}");
    assert_eq!(created["stateDigest"].as_str().map(str::len), Some(16), "{created}");

    let list = json(&backup(&["list"]));
    assert_eq!(list["histories"][0]["name"], "orders");
    assert_eq!(list["histories"][0]["bases"][0]["base"], format!("{index}-{term}"));
    assert_eq!(json(&backup(&["verify", "--cluster", "orders", "--record"]))["intact"], true);
    assert_eq!(json(&backup(&["list"]))["histories"][0]["bases"][0]["verified"], true);

    let dry = json(&backup(&["restore", "--cluster", "orders", "--dry-run"]));
    assert_eq!((&dry["dryRun"], &dry["index"]), (&Value::Bool(true), &created["index"]));
    let beyond = (index + 1).to_string();
    let refused = backup(
        &[&["restore", "--cluster", "orders", "--dry-run", "--index", &beyond], &report_flag[..]].concat(),
    );
    let reason = failure(&refused);
    assert!(reason.contains(&format!("index {index}, time 2")) && reason.contains('Z'), "{reason}");
    let written: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(written["error"]["reason"], "RecoveryImpossible");

    let node = Blank::start();
    let restored = json(&node.restore(&store, &["--cluster", "orders", "--record"]));
    assert_eq!((&restored["digestMatches"], &restored["keys"]), (&Value::Bool(true), &Value::from(KEYS)));
    assert_eq!((&restored["baseKeys"], &restored["baseIndex"]), (&Value::from(KEYS), &created["index"]));
    assert_eq!(drills(dir.path()), 2, "the verification and the restore are recorded");
    assert_eq!(node.keys(), model(&writer.writes, |_| true));
    // A repeated call has the same answer, as after a lost one.
    let again = json(&node.restore(&store, &["--cluster", "orders"]));
    assert_eq!(again["index"], restored["index"]);

    members_report_the_backups(&dev, &dir, &created["index"]);

    let deleted = json(&backup(&["delete", &format!("{index}-{term}"), "--cluster", "orders"]));
    assert_eq!(deleted["deleted"], true);
    assert!(failure(&backup(&["restore", "--cluster", "orders", "--dry-run"])).contains("no complete base"));
}

/// The status of the members has what the archiver reports to them, also the restore that was recorded before it started.
fn members_report_the_backups(dev: &Dev, dir: &tempfile::TempDir, index: &Value) {
    let (offset, _ports) = free_ports();
    let archiver = Archiver::start(dir, &dev.members(), 9090 + offset);
    let backup = eventually("the members have the report", || {
        let view = json(&dev.ctl(&["status", "--output", "json"]));
        Some(view["backup"].clone()).filter(|backup| backup["archiver"]["state"] == "Archiving")
    });
    assert_eq!(backup["archiver"]["name"], "archiver /orders", "{backup}");
    assert_eq!((&backup["lastBackup"]["index"], &backup["lastVerifiedRestore"]["index"]), (index, index));
    let text = dev.done(&["status"]);
    assert!(text.contains("\nBackups by archiver /orders (Archiving, reported "), "{text}");
    let shown = until(&dev.gateway(), "the status page has the report", |page| {
        page["archivers"][0]["state"] == "Archiving"
    })["archivers"][0]
        .clone();
    let indexes = (&shown["last_base"]["index"], &shown["last_verified_restore"]["index"]);
    assert_eq!(indexes, (index, index), "{shown}");
    archiver.stop();
}

pub struct Archiver {
    process: Process,
    status: String,
}

impl Archiver {
    pub fn start(dir: &tempfile::TempDir, members: &str, port: u16) -> Self {
        let (store, status) = (store_in(dir), format!("127.0.0.1:{port}"));
        let args = [
            "archive",
            "--store",
            &store,
            "--members",
            members,
            "--name",
            "orders",
            "--flush-interval",
            "100ms",
            "--listen",
            &status,
            "--base-interval",
            "0",
        ];
        Self { process: start(dir.path(), &args), status }
    }

    pub fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until(&self.status, what, is_so)
    }

    pub fn stop(mut self) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.process.0.wait().unwrap().code(), Some(0));
    }
}

/// Answer to GET /status of an archiver or a gateway.
fn status(address: &str) -> Option<Value> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

/// Waits for an answer to GET /status of an archiver or a gateway.
pub fn until(address: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        last = status(address).unwrap_or(last);
        if is_so(&last) {
            return last;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not in time: {what}: {last:#}");
}

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn archive_restores_exactly_to_random_times_and_indexes_after_kills_and_a_failed_store() {
    let dev = Dev::start();
    let members = dev.members();
    let (offset, _ports) = free_ports();
    let port = 9090 + offset;
    let dir = tempfile::tempdir().unwrap();
    let (folder, store) = (dir.path().join("store"), store_in(&dir));
    let mut random = Random(0x5eed_0017);
    let mut writer = Writer::new(&dev);
    (0..10).for_each(|_| writer.write());
    let archiver = Archiver::start(&dir, &members, port);
    archiver.until("the first base", |status| !status["lastBase"].is_null());
    let begin = writer.writes.len();
    drop(archiver);

    for _ in 0..6 {
        let archiver = Archiver::start(&dir, &members, port);
        (0..random.below(90)).for_each(|_| writer.write());
        std::thread::sleep(Duration::from_millis(random.below(400)));
        // SIGKILL.
        drop(archiver);
        (0..random.below(20)).for_each(|_| writer.write());
    }
    let archiver = Archiver::start(&dir, &members, port);
    let last = |writer: &Writer| writer.writes.last().unwrap().index;
    let reached = last(&writer);
    archiver.until("all is archived", |status| status["archivedIndex"].as_u64() >= Some(reached));

    let aside = dir.path().join("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "no directory").unwrap();
    (0..30).for_each(|_| writer.write());
    archiver.until("the state is reported", |status| status["state"] == "StoreUnavailable");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    let reached = last(&writer);
    let status = archiver.until("the archiver recovers", |status| {
        status["archivedIndex"].as_u64() >= Some(reached) && status["state"] == "Archiving"
    });
    assert_eq!(status["gaps"], Value::Array(Vec::new()), "{status:#}");
    assert_eq!(status["recoverable"].as_array().map(Vec::len), Some(1), "{status:#}");
    writer.write();
    let reached = last(&writer);
    archiver.until("the last write", |status| status["archivedIndex"].as_u64() >= Some(reached));
    archiver.stop();
    let verified = ctl(&["backup", "verify", "--store", &store, "--output", "json"]);
    assert_eq!(json(&verified)["intact"], true);

    let writes = &writer.writes;
    let mut targets = Vec::new();
    let restores = std::env::var("HELIOS_TEST_RESTORES").map_or(RESTORES, |count| count.parse().unwrap());
    for _ in 0..restores {
        let write = &writes[begin + random.below((writes.len() - begin) as u64) as usize];
        targets.push((
            ["--index".to_owned(), write.index.to_string()],
            model(writes, |one| one.index <= write.index),
        ));
        let write = &writes[begin + random.below((writes.len() - begin - 1) as u64) as usize];
        let time = jiff::Timestamp::from_millisecond(write.after_ms as i64).unwrap();
        targets.push((
            ["--time".to_owned(), time.to_string()],
            model(writes, |one| one.after_ms <= write.after_ms),
        ));
    }
    targets.push((["--cluster".to_owned(), "orders".to_owned()], model(writes, |_| true)));
    for (target, expected) in targets {
        let node = Blank::start();
        let words: Vec<&str> = target.iter().map(String::as_str).chain(["--cluster", "orders"]).collect();
        let words = if target[0] == "--cluster" { &words[..2] } else { &words[..] };
        let restored = json(&node.restore(&store, words));
        assert_eq!(restored["digestMatches"], true, "{restored}");
        assert_eq!(node.keys(), expected, "{target:?}");
    }
    damage_is_refused(&folder, &store);
}

/// A flipped byte in any object of the restore is found before the node is begun with.
fn damage_is_refused(folder: &Path, store: &str) {
    let log = eventually("the log's folder", || {
        let find = Command::new("find").arg(folder).args(["-name", "*.seg"]).output().unwrap();
        String::from_utf8(find.stdout).unwrap().lines().max().map(str::to_owned)
    });
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let node = Blank::start();
    let refused = failure(&node.restore(store, &["--cluster", "orders"]));
    assert!(refused.contains("is damaged"), "{refused}");
    let status = ctl(&["status", "--endpoint", &node.peer, "--output", "json"]);
    let view: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(
        view.to_string().to_lowercase().contains("uninitialized") || !status.status.success(),
        "{view:#}"
    );
}
