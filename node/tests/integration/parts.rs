//! Status of a node's three parts: consensus, health checker, failover coordinator.

use helios_proto::v1::{Membership, RemoveRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use crate::common::{Cluster, Node, Operator, PATIENCE, eventually, http};

async fn status_json(node: &Node) -> Option<Value> {
    let (_, text) = http(node.ports.gateway, "GET", "/status", "").await?;
    serde_json::from_str(&text).ok()
}

/// Returns the health that `node` reports of `peer`.
async fn health(node: &Node, peer: &str) -> Option<Value> {
    let status = status_json(node).await?;
    let peers = status["parts"]["health_checker"]["peers"].as_array()?;
    peers.iter().find(|one| one["name"] == peer).cloned()
}

#[tokio::test]
async fn status_shows_state_log_memory_and_volume() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let state = eventually("a checkpoint is in the status", async || {
        let state = status_json(&cluster[leader]).await?["state"].clone();
        (state["durable_index"].as_u64() > Some(0) && state["checkpoint_age_seconds"].is_u64())
            .then_some(state)
    })
    .await;
    assert_eq!(state["engine"], "runs", "{state}");
    for figure in ["size_bytes", "log_bytes", "log_memory_bytes"] {
        assert!(state[figure].as_u64() > Some(0), "{figure}: {state}");
    }
    assert_eq!((&state["scrub"]["running"], &state["scrub"]["damaged_files"]), (&json!(false), &json!([])));
    assert!(state["memory"]["used_bytes"].as_u64() > Some(0), "{state}");
    let volume = &state["volume"];
    assert!(volume["size_bytes"].as_u64() >= volume["free_bytes"].as_u64(), "{volume}");
    let metric = |name| cluster[leader].metric(name);
    assert!(metric("helios_engine_size_bytes").await > Some(0));
    assert_eq!(metric("helios_scrub_damaged_files").await, Some(0));
}

#[tokio::test]
async fn status_shows_consensus_health_and_failover_as_parts() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let names = [0, 1, 2].map(|index| cluster[index].name.clone());

    let parts = eventually("both followers are healthy and could take over", async || {
        let parts = status_json(&cluster[leader]).await?["parts"].clone();
        let peers = parts["health_checker"]["peers"].as_array()?;
        let healthy = peers.iter().filter(|peer| peer["health"] == "healthy").count();
        let may_lead = parts["failover_coordinator"]["may_lead"].as_array()?.len();
        ((healthy, may_lead) == (2, 2)).then_some(parts)
    })
    .await;
    let consensus = &parts["consensus_manager"];
    assert_eq!((&consensus["role"], &consensus["leader"]), (&json!("leader"), &json!(names[leader])));
    assert!(consensus["commit_index"].as_u64() > Some(0), "{consensus}");
    let failover = &parts["failover_coordinator"];
    assert!(failover["last_election"]["took_ms"].is_u64() && failover["transfer_to"].is_null(), "{failover}");
    let of_leader = health(&cluster[one], &names[leader]).await.unwrap();
    assert_eq!(of_leader["health"], "healthy", "{of_leader}");
    assert!(of_leader["last_contact_ms"].is_u64() && of_leader["lag_entries"].is_null(), "{of_leader}");
    assert_eq!(health(&cluster[one], &names[other]).await.unwrap()["health"], "unknown");

    cluster[one].kill();
    eventually("the leader reports the unreachable member, and the other one as candidate", async || {
        let peer = health(&cluster[leader], &names[one]).await?;
        let status = status_json(&cluster[leader]).await?;
        let may_lead = &status["parts"]["failover_coordinator"]["may_lead"];
        (peer["health"] == "unreachable"
            && peer["consecutive_errors"].as_u64() > Some(1)
            && *may_lead == json!([names[other]]))
        .then_some(())
    })
    .await;
    let errors = format!("helios_peer_consecutive_errors{{peer=\"{}\"}}", names[one]);
    assert!(cluster[leader].metric(&errors).await > Some(1));
    cluster[one].start();
    eventually("it is healthy again, without consecutive errors", async || {
        let peer = health(&cluster[leader], &names[one]).await?;
        (peer["health"] == "healthy" && peer["consecutive_errors"] == 0).then_some(())
    })
    .await;

    cluster[leader].kill();
    eventually("the new leader reports the cause and the duration of its election", async || {
        for node in [&cluster[one], &cluster[other]] {
            let status = status_json(node).await?;
            let election = &status["parts"]["failover_coordinator"]["last_election"];
            if status["role"] == "leader" && election["took_ms"].is_u64() {
                assert_ne!(election["cause"], "handover");
                let counted = node.metric("helios_raft_election_duration_seconds_count").await;
                assert!(counted >= Some(1), "the election is in no histogram");
                return Some(());
            }
        }
        None
    })
    .await;
}

#[tokio::test]
async fn status_shows_sessions_and_the_newest_snapshot() {
    let mut cluster = Cluster::blank(1);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    let node = &cluster[0];
    let mut writer = node.redis().await;
    let () = redis::cmd("SET").arg("key").arg("value").query_async(&mut writer).await.unwrap();
    let first = status_json(node).await.unwrap()["snapshot"].clone();
    let sessions =
        async |port: &str| status_json(node).await.and_then(|status| status["sessions"][port].as_u64());
    // The writer stays connected. An earlier connection may end between two counts.
    let before = eventually("only the writer is connected", async || {
        sessions("client").await.filter(|&count| count == 1)
    })
    .await;
    let clients = (node.redis().await, node.redis().await);
    assert_eq!(sessions("client").await, Some(before + 2));
    drop(clients);
    eventually("connections that ended are not counted", async || {
        (sessions("client").await? == before).then_some(())
    })
    .await;
    assert!(sessions("gateway").await >= Some(1), "the request itself is a session of the gateway");

    let (code, taken) = http(node.ports.gateway, "POST", "/snapshot", "").await.unwrap();
    assert_eq!(code, 200, "{taken}");
    let snapshot = status_json(node).await.unwrap()["snapshot"].clone();
    assert!(snapshot["size_bytes"].as_u64() > Some(0), "{snapshot}");
    assert!(snapshot["index"].as_u64() > first["index"].as_u64(), "{first}, then {snapshot}");
    assert!(snapshot["age_seconds"].as_u64() < Some(PATIENCE.as_secs()), "{snapshot}");
    let size = node.metric("helios_raft_snapshot_size_bytes").await;
    assert_eq!(size, snapshot["size_bytes"].as_u64());

    // The snapshot is known after a restart.
    cluster[0].kill();
    cluster[0].start();
    cluster[0].wait_ready().await;
    assert_eq!(status_json(&cluster[0]).await.unwrap()["snapshot"]["size_bytes"], snapshot["size_bytes"]);
}

/// Returns the names in the next `members` event of the stream.
async fn next_members(events: &mut Lines<BufReader<TcpStream>>) -> Vec<String> {
    let mut is_members = false;
    loop {
        let line = tokio::time::timeout(PATIENCE, events.next_line()).await.unwrap().unwrap().unwrap();
        if let Some(name) = line.strip_prefix("event:") {
            is_members = name == "members";
        } else if let Some(data) = line.strip_prefix("data:").filter(|_| is_members) {
            let members: Value = serde_json::from_str(data).unwrap();
            let nodes = members["nodes"].as_array().unwrap().iter();
            return nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect();
        }
    }
}

#[tokio::test]
async fn status_stream_sends_an_event_for_each_member_that_joins_or_leaves() {
    let mut cluster = Cluster::blank(2);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", cluster[0].ports.gateway)).await.unwrap();
    stream.write_all(b"GET /status/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut events = BufReader::new(stream).lines();
    assert_eq!(next_members(&mut events).await, ["node-1"]);

    let id = Operator::add(&cluster[0], &cluster[1]).await;
    while next_members(&mut events).await != ["node-1", "node-2"] {}
    let request = RemoveRequest { id, ..RemoveRequest::default() };
    let left: Membership =
        cluster[0].cluster().remove(request).await.unwrap().into_inner().membership.unwrap();
    assert_eq!(left.members.len(), 1);
    while next_members(&mut events).await != ["node-1"] {}
}
