//! The compose file: its documented properties, and its three services as processes, with its own commands
//! and variables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::common::{Cluster, Node, NodePorts, Ports};

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/compose")
}

fn file() -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(place().join("compose.yaml")).unwrap()).unwrap()
}

fn services() -> Vec<Value> {
    (1..=3).map(|number| file()["services"][format!("helios-node{number}")].clone()).collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn three_services_have_the_documented_ports_a_volume_each_and_one_bridge() {
    let all = file();
    assert_eq!(all["services"].as_object().unwrap().len(), 3);
    assert_eq!(all["networks"]["helios-cluster"]["driver"], "bridge");
    let mut volumes = BTreeSet::new();
    for (index, service) in services().iter().enumerate() {
        assert_eq!(
            texts(&service["ports"]),
            [format!("{}:6379", 6379 + index), format!("{}:7000", 7000 + index)]
        );
        assert_eq!(texts(&service["networks"]), ["helios-cluster"]);
        assert!(service["healthcheck"]["test"].is_array(), "a service without a health check");
        let dockerfile = service["build"]["dockerfile"].as_str().unwrap();
        assert!(place().join("../..").join(dockerfile).exists(), "{dockerfile}");
        let volume = texts(&service["volumes"]).remove(0);
        let (volume, target) = volume.split_once(':').unwrap();
        assert!(all["volumes"].as_object().unwrap().contains_key(volume));
        assert_eq!(target, "/data");
        volumes.insert(volume.to_owned());
    }
    assert_eq!(volumes.len(), 3);
}

fn docker_compose() -> Command {
    let mut command = Command::new("docker");
    command.arg("compose").current_dir(place());
    command
}

/// Returns a command that validates `files` together: docker's, or docker's own library, which scripts/tools.sh
/// builds.
fn reader(files: &[&str]) -> Option<Command> {
    if docker_compose().arg("version").output().is_ok_and(|output| output.status.success()) {
        let mut command = docker_compose();
        command.args(files.iter().flat_map(|file| ["-f", file])).args(["config", "--quiet"]);
        return Some(command);
    }
    let built = std::fs::read_dir(helios_testing::cache()?.join("compose-go")).ok()?.next()?.ok()?;
    let mut command = Command::new(built.path());
    command.args(files).current_dir(place());
    Some(command)
}

/// Validates the file by docker's own parser, which needs no engine.
#[test]
fn docker_compose_accepts_the_file_alone_and_with_the_archiver() {
    for files in [&["compose.yaml"][..], &["compose.yaml", "backup.yaml"]] {
        let Some(mut reader) = reader(files) else {
            return helios_testing::skip_or_fail(
                "docker",
                "install docker with compose, or run scripts/test.sh",
            );
        };
        let output = reader.output().unwrap();
        assert!(output.status.success(), "{files:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Starts the services as the README does. CI has no engine; there the test below uses the same commands and
/// variables.
#[test]
#[ignore = "needs a docker engine"]
fn docker_compose_starts_three_services_that_become_healthy() {
    let output = docker_compose().args(["up", "--build", "--wait"]).output().unwrap();
    let stopped = docker_compose().args(["down", "--volumes"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
}

#[tokio::test]
async fn services_of_the_compose_file_form_one_cluster() {
    let ports = Ports::near_default();
    let peer_ports = [0, 1, 2].map(|index| ports.node(index).peer);
    let services = services();
    let mut cluster = Cluster::made_by(ports, |dir, index, ports: NodePorts| {
        let client = ports.client;
        let dir = dir.join(format!("node-{}", index + 1));
        std::fs::create_dir_all(&dir).unwrap();
        // Here all run on one host: names and mapped ports of the file are replaced by ports.
        let local = |text: &str| {
            let mut text = text.replace("=/data", "=./data").replace(":6379", &format!(":{client}"));
            for (other, port) in peer_ports.iter().enumerate() {
                text = text.replace(&format!("helios-node{}:7000", other + 1), &format!("127.0.0.1:{port}"));
            }
            text
        };
        let arguments: Vec<_> = texts(&services[index]["command"]).iter().map(|text| local(text)).collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let peers = local(services[index]["environment"]["HELIOS_RAFT_PEERS"].as_str().unwrap());
        let name = format!("node-{}", index + 1);
        Node::started_by(&dir, &name, ports, &arguments, &[("HELIOS_RAFT_PEERS", &peers)])
    });
    super::earlier_documents::assert_one_cluster(&mut cluster).await;
}
