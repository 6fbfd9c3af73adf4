//! Invalid configurations: one clear line, the exit code for configuration errors, and nothing changed on
//! disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Cluster, Operator, Ports, eventually, free_standing, temporary_directory};

const EX_CONFIG: i32 = 78;

/// Waits until the process ends; returns the exit code and standard error.
async fn refused(command: &mut Command) -> (i32, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let status = eventually("the node refuses to start", async || child.try_wait().unwrap()).await;
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    (status.code().unwrap(), said)
}

/// Panics unless `command` ends with one line that contains each of `words` and leaves `dir` unchanged.
async fn assert_refused(command: &mut Command, dir: &Path, words: &[&str]) {
    let before = content(dir);
    let (code, said) = refused(command).await;
    assert_eq!(code, EX_CONFIG, "{said}");
    assert_eq!(said.lines().count(), 1, "more than a line:\n{said}");
    assert!(said.starts_with("heliosd: "), "{said}");
    for word in words {
        assert!(said.contains(word), "no word of {word:?}: {said}");
    }
    assert!(content(dir) == before, "something on disk was changed");
}

fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

#[tokio::test]
async fn invalid_configuration_is_rejected_with_its_key_and_leaves_the_disk_unchanged() {
    let dir = temporary_directory();
    let cases: [(&str, &[&str]); 10] = [
        ("node: {name: a}\nraft: {election_timout: 1s}\n", &["election_timout", "election_timeout"]),
        ("nod: {name: a}\n", &["nod", "node"]),
        ("node: {name: a}\nraft: {heartbeat_interval: 400ms}\n", &["400ms", "300ms"]),
        ("node: {name: a}\nraft: {election_timeout_min: 900ms}\n", &["900ms", "600ms"]),
        ("node: {name: a}\nraft: {preset: lann}\n", &["lann", "fast, lan or wan"]),
        ("node: {name: a}\nraft: {heartbeat_interval: 100}\n", &["raft.heartbeat_interval", "100"]),
        ("node: {data_dir: ./data}\n", &["node.name"]),
        ("node: {name: a}\nlisten: {gateway: '0.0.0.0:8443'}\n", &["0.0.0.0:8443", "127.0.0.1:8443"]),
        ("node: {name: a\n", &["node.yaml"]),
        ("atlas: {data_dirr: ./data, raft: {node_id: a}}\n", &["data_dirr"]),
    ];
    for (text, words) in cases {
        fs::write(dir.path().join("node.yaml"), text).unwrap();
        let mut command = free_standing(dir.path());
        println!("{text}");
        assert_refused(command.args(["--config", "node.yaml"]), dir.path(), words).await;
    }
    let mut missing = free_standing(dir.path());
    assert_refused(missing.args(["--config", "nowhere.yaml"]), dir.path(), &["nowhere.yaml"]).await;
    let mut peers = free_standing(dir.path());
    peers.args(["-raft-node-id", "a"]).env("HELIOS_RAFT_PEERS", "node-2");
    assert_refused(&mut peers, dir.path(), &["HELIOS_RAFT_PEERS", "id:host:port"]).await;
}

#[tokio::test]
async fn disk_of_another_node_or_cluster_is_rejected_and_left_unchanged() {
    let mut cluster = Cluster::of_three().await;
    let mut client = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut client).await.unwrap();
    cluster.agreed_data().await;
    cluster[0].terminate().await;
    let disk = cluster[0].data_dir();
    let config = cluster[0].config_mut().clone();

    *cluster[0].config_mut() = config.replace("name: node-1,", "name: node-9,");
    assert_refused(&mut cluster[0].command(), &disk, &["node-1", "node-9", "data_dir"]).await;
    *cluster[0].config_mut() = config.replace("{name: node-3,", "{name: node-4,");
    assert_refused(&mut cluster[0].command(), &disk, &["belongs to cluster", "data_dir"]).await;
    let marker = fs::read(disk.join("node.json")).unwrap();
    *cluster[0].config_mut() = config;
    fs::write(disk.join("node.json"), &marker[..marker.len() / 2]).unwrap();
    assert_refused(&mut cluster[0].command(), &disk, &["node.json", "nothing was changed"]).await;

    fs::write(disk.join("node.json"), marker).unwrap();
    cluster[0].start();
    cluster[0].wait_ready().await;
    assert_eq!(cluster.agreed_data().await.len(), 1);
}

#[tokio::test]
async fn second_process_on_the_same_disk_or_port_is_rejected() {
    let mut cluster = Cluster::blank(1);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    let (code, said) = refused(&mut cluster[0].command()).await;
    assert_eq!(code, EX_CONFIG);
    assert_eq!(said.lines().count(), 1, "{said}");
    let port = cluster[0].ports.peer.to_string();
    assert!(said.contains(&port) && said.contains("another process"), "{said}");

    let other = Ports::take().node(0);
    let mut command = cluster[0].command();
    command.env("HELIOS__LISTEN__PEER", format!("127.0.0.1:{}", other.peer));
    for service in ["CLIENT", "GRPC", "METRICS", "GATEWAY"] {
        command.env(format!("HELIOS__LISTEN__{service}"), "");
    }
    let (code, said) = refused(&mut command).await;
    assert_ne!(code, 0);
    // The process waits for the lock, logs that, and then gives up.
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.lines().last().is_some_and(|line| line.contains("in use by another heliosd process")),
        "{said}"
    );
    assert!(cluster[0].status().await.ready, "the first was disturbed");
}
