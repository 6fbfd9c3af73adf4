//! Commands and configuration files of the user's earlier documents, unchanged (docs/checklist.md, section
//! 5).

use std::path::Path;

use crate::common::{Cluster, Node, NodePorts, Ports, info_field};

pub async fn assert_one_cluster(cluster: &mut Cluster) {
    cluster.start_all();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;
    let mut client = cluster[leader].redis().await;
    let () = redis::cmd("SET").arg("mykey").arg("hello cluster").query_async(&mut client).await.unwrap();
    for (index, node) in cluster.nodes().iter().enumerate() {
        let mut client = node.redis().await;
        let found: String = redis::cmd("GET").arg("mykey").query_async(&mut client).await.unwrap();
        assert_eq!(found, "hello cluster");
        let info: String = redis::cmd("INFO").query_async(&mut client).await.unwrap();
        assert_eq!(info_field(&info, "raft_enabled"), "1");
        assert_eq!(info_field(&info, "raft_state"), if index == leader { "Leader" } else { "Follower" });
        assert_eq!(info_field(&info, "raft_leader"), format!("node-{}", leader + 1));
    }
    // Stop the leader: another member is elected, writes continue, and the old leader comes back under its
    // name.
    cluster[leader].terminate().await;
    let next = cluster.leader().await;
    let mut client = cluster[next].redis().await;
    let () = redis::cmd("SET").arg("mykey").arg("still here").query_async(&mut client).await.unwrap();
    cluster[leader].start();
    cluster[leader].wait_ready().await;
    assert_eq!(cluster.agreed_data().await[0].value, "still here");
}

fn peers_but(own: usize, peer_port: impl Fn(usize) -> u16) -> String {
    let others = (0..3).filter(|index| *index != own);
    others
        .map(|index| format!("node-{}:127.0.0.1:{}", index + 1, peer_port(index)))
        .collect::<Vec<_>>()
        .join(",")
}

fn documented(dir: &Path, index: usize, ports: NodePorts, peers: &str) -> Node {
    let name = format!("node-{}", index + 1);
    let (data, listen, raft) = (
        format!("./data/node{}", index + 1),
        format!(":{}", ports.client),
        format!("127.0.0.1:{}", ports.peer),
    );
    let dir = dir.join(&name);
    std::fs::create_dir_all(&dir).unwrap();
    let arguments =
        ["-data-dir", &data, "-listen", &listen, "-raft=true", "-raft-node-id", &name, "-raft-addr", &raft];
    Node::started_by(&dir, &name, ports, &arguments, &[("HELIOS_RAFT_PEERS", peers)])
}

#[tokio::test]
async fn three_processes_with_the_documented_flags_form_one_cluster() {
    let ports = Ports::near_default();
    let peer_ports = [0, 1, 2].map(|index| ports.node(index).peer);
    let mut cluster = Cluster::made_by(ports, |dir, index, ports| {
        documented(dir, index, ports, &peers_but(index, |other| peer_ports[other]))
    });
    assert_one_cluster(&mut cluster).await;
}

/// Returns one of the three files with its ports shifted by the distance of `ports` from the default.
fn moved(file: &str, ports: NodePorts, first: NodePorts) -> String {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/config").join(file));
    let mut text = text.unwrap();
    for index in 0..3 {
        text = text.replace(&format!(":{}\"", 7000 + index), &format!(":{}\"", first.peer + index));
    }
    let own = ports.client - first.client;
    text.replace(&format!(":{}\"", 8443 + own), &format!(":{}\"", ports.gateway))
        .replace(&format!(":{}\"", 9090 + own), &format!(":{}\"", ports.metrics))
}

#[tokio::test]
async fn three_processes_with_the_documented_files_form_one_cluster() {
    let ports = Ports::near_default();
    let first = ports.node(0);
    let mut cluster = Cluster::made_by(ports, |dir, index, ports| {
        let name = format!("node-{}", index + 1);
        let dir = dir.join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let file = format!("cluster-node{}.yaml", index + 1);
        std::fs::write(dir.join(&file), moved(&file, ports, first)).unwrap();
        Node::started_by(&dir, &name, ports, &[], &[("CONFIG_PATH", &file)])
    });
    assert_one_cluster(&mut cluster).await;
    assert!(
        cluster[0].log().contains("the gateway listens on 127.0.0.1"),
        "no warning that the gateway is not open to all:\n{}",
        cluster[0].log()
    );
    let (code, _) = crate::common::http(cluster[1].ports.gateway, "GET", "/status", "").await.unwrap();
    assert_eq!(code, 200);
}
