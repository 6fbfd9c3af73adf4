//! Backups in a real S3 server of a cluster with TLS on all ports and with users, while the server is killed and while two
//! archivers run.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use helios_backup::members::Connection;
use helios_proto::v1::kv_client::KvClient;
use helios_proto::v1::{PutRequest, RangeRequest};
use helios_testing::weed::{SECRET, Weed};
use serde_json::Value;
use tonic::transport::Channel;

use crate::backup::{failure, json, until};
use crate::dev::{free_ports, heliosd};
use crate::process::{Process, eventually};
use crate::site::Site;

/// `app:secret` and the scheme.
const APP: &str = "Basic YXBwOnNlY3JldA==";
const BATCH: u64 = 40;

impl Site {
    /// A client of these gRPC ports.
    pub fn client(&self, members: &[String]) -> Client {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let tls = Connection { ca_file: Some(PathBuf::from(self.path("ca.crt"))), ..Connection::default() };
        let client = |address: &String| KvClient::new(tls.channel(address).unwrap());
        // A channel spawns a task.
        let members = runtime.block_on(async { members.iter().map(client).collect() });
        Client { members, runtime, written: 0 }
    }

    fn archiver(&self, store: &str, members: &str) -> Archiver {
        let (offset, ports) = free_ports();
        let status = format!("127.0.0.1:{}", 9090 + offset);
        let mut command = Command::new(heliosd());
        command.args(["archive", "--store", store, "--members", members, "--name", "orders"]);
        command.args(["--flush-interval", "100ms", "--base-interval", "0", "--listen", &status]);
        command.args(["--user", "archiver", "--password-file", &self.path("password")]);
        command.args(["--tls-ca-file", &self.path("ca.crt")]).env_clear().envs(Weed::environment(SECRET));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        Archiver { process: Process::start(&mut command), status, _ports: ports }
    }
}

/// Writes keys, each once, and reads them back.
pub struct Client {
    members: Vec<KvClient<Channel>>,
    runtime: tokio::runtime::Runtime,
    written: u64,
}

fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", APP.parse().unwrap());
    request
}

fn entry(number: u64) -> (String, String) {
    (format!("key:{number:05}"), format!("{number} {}", "x".repeat(number as usize % 300)))
}

impl Client {
    /// Writes [`BATCH`] new keys; returns the index of the last write.
    fn write(&mut self) -> u64 {
        let mut index = 0;
        for _ in 0..BATCH {
            let (key, value) = entry(self.written);
            index = eventually("a write", || {
                self.members.iter_mut().find_map(|member| {
                    let put = PutRequest {
                        key: key.clone().into(),
                        value: value.clone().into(),
                        ..PutRequest::default()
                    };
                    let answer = self.runtime.block_on(member.put(request(put)));
                    answer.ok().map(|answer| answer.into_inner().revision)
                })
            });
            self.written += 1;
        }
        index
    }

    /// All entries of the first member.
    pub fn entries(&mut self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let answer = eventually("a read", || {
            let range = RangeRequest { limit: 10_000, ..RangeRequest::default() };
            self.runtime.block_on(self.members[0].range(request(range))).ok()
        });
        answer.into_inner().entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
    }
}

struct Archiver {
    process: Process,
    status: String,
    _ports: File,
}

impl Archiver {
    /// Waits until the archive covers `index`, without a gap and without a problem.
    fn covers(&self, index: u64) {
        let status = until(&self.status, "the archive covers the writes", |status| {
            status["archivedIndex"].as_u64() >= Some(index) && status["state"] == "Archiving"
        });
        assert_eq!(status["gaps"], Value::Array(Vec::new()), "{status:#}");
        assert_eq!(status["recoverable"].as_array().map(Vec::len), Some(1), "{status:#}");
    }

    fn stop(mut self) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.process.0.wait().unwrap().code(), Some(0));
    }
}

/// Runs `heliosctl backup` with the credentials of the store in its environment.
fn backup(secret: &str, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliosctl"));
    command.arg("backup").args(words).args(["--output", "json"]);
    command.env_clear().envs(Weed::environment(secret)).stdin(Stdio::null()).output().unwrap()
}

/// The one line of a command that failed.
fn failure_line(output: &Output) -> String {
    let text = failure(output);
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text
}

#[test]
fn archive_on_s3_of_a_cluster_with_tls_and_users_outlives_its_server_and_a_second_archiver() {
    let Some(mut weed) = Weed::start() else { return };
    let mut site = Site::new();
    let members = site.start_cluster();
    let mut client = site.client(&members);
    client.write();

    let by_files = weed.url("team/a", Some(&weed.credentials("right", SECRET)));
    let store = weed.url("team/a", None);
    let members = members.join(",");
    let (ca, password) = (site.path("ca.crt"), site.path("password"));
    let create =
        ["create", "--store", &by_files, "--members", &members, "--name", "orders", "--tls-ca-file", &ca];
    let user = ["--user", "archiver", "--password-file", &password];
    // The server creates the bucket with the first object, some seconds after its start.
    let created = eventually("a base in the store", || {
        let output = backup("of no use", &[&create[..], &user].concat());
        output.status.success().then(|| json(&output))
    });
    assert_eq!(created["keys"], client.written, "{created}");
    refusals_say_what_to_do(&weed, &create, &password);

    let archiver = site.archiver(&store, &members);
    archiver.covers(client.write());

    weed.kill();
    client.write();
    until(&archiver.status, "the state is reported", |status| status["state"] == "StoreUnavailable");
    let index = client.write();
    weed.restart();
    archiver.covers(index);

    // Both write the same entries, cut in other places: equal objects are created once, and none is overwritten.
    let second = site.archiver(&store, &members);
    for _ in 0..3 {
        let index = client.write();
        archiver.covers(index);
        second.covers(index);
    }
    second.stop();
    archiver.covers(client.write());
    archiver.stop();

    let of_cluster = ["--store", &store, "--cluster", "orders"];
    let verified = json(&backup(SECRET, &[&["verify"], &of_cluster[..]].concat()));
    assert_eq!(verified["intact"], true, "{verified}");
    is_restored(&mut site, &of_cluster, client.written);

    let list = json(&backup(SECRET, &["list", "--store", &store]));
    let bases = list["histories"][0]["bases"].as_array().unwrap();
    assert!(!bases.is_empty(), "{list}");
    for base in bases {
        let delete = ["delete", base["base"].as_str().unwrap()];
        let deleted = json(&backup(SECRET, &[&delete[..], &of_cluster].concat()));
        assert_eq!(deleted["deleted"], true, "{deleted}");
    }
    let dry = backup(SECRET, &[&["restore", "--dry-run"], &of_cluster[..]].concat());
    assert!(failure_line(&dry).contains("no complete base"), "{dry:?}");
}

/// Without a user, with a wrong password, and with a wrong secret of the store.
fn refusals_say_what_to_do(weed: &Weed, create: &[&str], password: &str) {
    let anonymous = failure_line(&backup(SECRET, create));
    assert!(anonymous.contains("give --user and --password-file"), "{anonymous}");
    assert!(!anonymous.contains("Authorization"), "{anonymous}");
    let stranger = ["--user", "stranger", "--password-file", password];
    let stranger = failure_line(&backup(SECRET, &[create, &stranger].concat()));
    assert!(stranger.contains("check --user and --password-file"), "{stranger}");

    let store = weed.url("team/a", None);
    for words in
        [["list", "--store", &store].as_slice(), &["verify", "--store", &store, "--cluster", "orders"]]
    {
        let refused = failure_line(&backup("wrong", words));
        assert!(refused.contains("check the credentials and their permissions"), "{refused}");
        assert!(refused.contains("SignatureDoesNotMatch: ") && !refused.contains('<'), "{refused}");
    }
}

/// Restores into a new node with TLS, and reads every key there.
fn is_restored(site: &mut Site, of_cluster: &[&str], keys: u64) {
    let [peer, grpc] = site.start_blank();
    let [ca, certificate, key] = ["ca.crt", "adm.crt", "adm.key"].map(|name| site.path(name));
    let to = ["restore", "--to", &peer, "--new-cluster-id", "orders-restored", "--peer-ca-file", &ca];
    let identity = ["--peer-cert-file", &certificate, "--peer-key-file", &key];
    let restored = json(&backup(SECRET, &[&to[..], &identity, of_cluster].concat()));
    assert_eq!((&restored["digestMatches"], &restored["keys"]), (&Value::Bool(true), &Value::from(keys)));
    let written: Vec<_> = (0..keys).map(entry).collect();
    assert_eq!(site.client(&[grpc]).entries(), written);
}
