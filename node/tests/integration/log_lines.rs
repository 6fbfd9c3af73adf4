//! Log lines that users search for, and separate interfaces for clients and members (docs/checklist.md,
//! S2-12, S4-13, S4-15, S4-25).

use helios_proto::v1::Role;
use tokio::net::TcpStream;

use super::common::{Cluster, connect, eventually, temporary_directory};

#[tokio::test]
async fn election_is_logged_with_term_and_votes_and_replication_with_peer_and_index() {
    let mut cluster = Cluster::fixed_with(3, "");
    for index in 0..3 {
        let config = cluster[index].config_mut();
        *config = config.replace("level: info", "level: debug");
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;
    let term = cluster[leader].status().await.term;
    let line =
        |log: &str, words: &[&str]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    let term = format!("term={term}");
    let name = format!("node={}", cluster[leader].name);
    let log = cluster[leader].log();
    assert!(line(&log, &["starting election", &term]), "{log}");
    let won = ["Became leader: won election, entering leader state", &term, &name];
    assert!(
        line(&log, &[&won[..], &["votes=2"]].concat()) || line(&log, &[&won[..], &["votes=3"]].concat()),
        "{log}"
    );
    eventually("a follower's progress is in the log", async || {
        line(&cluster[leader].log(), &["log replicated to peer", "peer=", "match_index=", &term])
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn repeated_elections_without_a_winner_are_logged_once_with_advice() {
    let mut cluster = Cluster::of_three().await;
    cluster[0].kill();
    cluster[1].kill();
    let advice = "raise raft.election_timeout on all members, for instance to 1s (now from 300ms to 600ms)";
    eventually("the remaining member logs the advice", async || {
        cluster[2].log().contains(advice).then_some(())
    })
    .await;
    cluster[0].start();
    eventually("there is a leader again", async || {
        (cluster[0].has_role(Role::Leader).await || cluster[2].has_role(Role::Leader).await).then_some(())
    })
    .await;
    assert_eq!(cluster[2].log().matches(advice).count(), 1);
}

#[tokio::test]
async fn client_and_peer_ports_listen_on_separate_interfaces() {
    let mut cluster = Cluster::fixed_with(3, "");
    for index in 0..3 {
        let port = cluster[index].ports.client;
        let config = cluster[index].config_mut();
        *config =
            config.replace(&format!("client: '127.0.0.1:{port}'"), &format!("client: '127.0.0.2:{port}'"));
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let port = cluster[0].ports.client;
    assert!(
        connect(port, std::time::Duration::from_secs(2)).await.is_err(),
        "clients on the members' interface"
    );
    TcpStream::connect(("127.0.0.2", port)).await.unwrap();
    assert!(
        TcpStream::connect(("127.0.0.2", cluster[0].ports.peer)).await.is_err(),
        "members on the clients'"
    );
}

#[tokio::test]
async fn log_file_of_each_node_is_kept_across_restarts() {
    let mut cluster = Cluster::fixed_with(3, "");
    let dir = temporary_directory();
    let logs = dir.path().join("logs");
    for index in 0..3 {
        cluster[index].set_environment("LOG_DIR", &logs);
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let leader = cluster.leader().await;
    let file = logs.join(format!("{}.log", cluster[leader].name));
    let text = || std::fs::read_to_string(&file).unwrap();
    eventually("the leader has logged to its file", async || text().contains("Became leader").then_some(()))
        .await;
    assert!(!text().contains('\u{1b}'), "colours in a file");
    assert_eq!(cluster[leader].terminate().await.code(), Some(0));
    assert!(text().contains("leadership transferred"), "the last lines are missing");
    let before = text();
    cluster[leader].start();
    cluster[leader].wait_ready().await;
    assert!(text().starts_with(&before), "the next start truncated the file");
}
