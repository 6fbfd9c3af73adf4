//! Read consistency: tokens, bounded staleness, leases.

use std::time::Duration;

use helios_proto::v1::{Consistency, ErrorCode, GetRequest, PutRequest, RangeRequest, Token};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Cluster, error_code, eventually, http};

fn put(value: &str) -> PutRequest {
    PutRequest { key: "k".into(), value: value.to_owned().into(), ..PutRequest::default() }
}

fn stale(max_staleness_ms: u32) -> GetRequest {
    let consistency = Consistency::Stale.into();
    GetRequest { key: "k".into(), consistency, max_staleness_ms, ..GetRequest::default() }
}

fn stale_after(token: &Token) -> GetRequest {
    GetRequest { after: Some(token.clone()), ..stale(0) }
}

/// Returns three nodes with a request timeout of two seconds.
async fn with_short_timeout() -> Cluster {
    let mut cluster = Cluster::fixed(3);
    for index in 0..3 {
        cluster[index].config_mut().push_str("client: {request_timeout: 2s}\n");
    }
    cluster.start_all();
    cluster.wait_ready().await;
    cluster
}

#[tokio::test]
async fn stale_read_with_a_token_sees_the_write_on_a_lagging_member() {
    let cluster = with_short_timeout().await;
    let leader = cluster.leader().await;
    let (writer, lagging) = ((leader + 1) % 3, (leader + 2) % 3);
    for round in 0..5 {
        cluster[lagging].signal(Signal::STOP);
        let value = format!("round {round}");
        let token = cluster[writer].kv().put(put(&value)).await.unwrap().into_inner().token.unwrap();
        cluster[lagging].signal(Signal::CONT);
        let mut kv = cluster[lagging].kv();
        let entry = kv.get(stale_after(&token)).await.unwrap().into_inner().entry.unwrap();
        assert_eq!(entry.value, value);
        let range = RangeRequest {
            after: Some(token),
            consistency: Consistency::Stale.into(),
            ..RangeRequest::default()
        };
        assert_eq!(kv.range(range).await.unwrap().into_inner().entries[0].value, value);
    }
}

#[tokio::test]
async fn token_beyond_the_log_and_token_of_another_history_fail_with_different_errors() {
    let cluster = with_short_timeout().await;
    let token = cluster[0].kv().put(put("v")).await.unwrap().into_inner().token.unwrap();
    for node in cluster.nodes() {
        let mut kv = node.kv();
        let future = Token { index: token.index + 1_000, ..token.clone() };
        assert_eq!(error_code(kv.get(stale_after(&future)).await), ErrorCode::NotCaughtUp);
        let stranger = Token { cluster_id: "another".into(), ..token.clone() };
        assert_eq!(error_code(kv.get(stale_after(&stranger)).await), ErrorCode::WrongCluster);
        // For any consistency, a state that never held the write must not answer.
        let forked = Token { term: token.term + 1_000, ..token.clone() };
        let linearizable = GetRequest { after: Some(forked), key: "k".into(), ..GetRequest::default() };
        assert_eq!(error_code(kv.get(linearizable).await), ErrorCode::WrongCluster);
    }
}

#[tokio::test]
async fn isolated_member_serves_stale_reads_only_within_max_staleness() {
    let mut cluster = with_short_timeout().await;
    let leader = cluster.leader().await;
    let (left, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster[leader].kv().put(put("v")).await.unwrap();
    let mut kv = cluster[left].kv();
    // A majority confirms this read; the next ten minutes are measured from that confirmation.
    let young = kv.get(stale(600_000)).await.unwrap().into_inner().entry.unwrap();
    assert_eq!(young.value, "v");
    cluster[leader].kill();
    cluster[other].kill();

    eventually("the confirmation is older than 100 ms", async || {
        kv.get(stale(100)).await.err().map(|status| {
            assert_eq!(error_code::<()>(Err(status)), ErrorCode::TooStale);
        })
    })
    .await;
    for max_staleness_ms in [600_000, 0] {
        let entry = kv.get(stale(max_staleness_ms)).await.unwrap().into_inner().entry.unwrap();
        assert_eq!(entry.value, "v");
    }
    let contradiction = GetRequest { consistency: Consistency::Linearizable.into(), ..stale(100) };
    assert_eq!(error_code(kv.get(contradiction).await), ErrorCode::InvalidArgument);

    let mut client = cluster[left].redis().await;
    let () = redis::cmd("HELIOS.READ").arg("STALE").arg(100).query_async(&mut client).await.unwrap();
    let refused = redis::cmd("GET").arg("k").query_async::<String>(&mut client).await.unwrap_err();
    assert_eq!(refused.code(), Some("TRYAGAIN"), "{refused}");

    cluster[other].start();
    eventually("a majority confirms it again", async || kv.get(stale(100)).await.ok()).await;
}

#[tokio::test]
async fn readonly_connection_to_a_follower_sees_its_own_writes() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let mut client = cluster[(leader + 1) % 3].redis().await;
    let mut other = cluster[(leader + 2) % 3].redis().await;
    for connection in [&mut client, &mut other] {
        let () = redis::cmd("READONLY").query_async(connection).await.unwrap();
    }
    for round in 0..200 {
        let () = redis::cmd("SET").arg("k").arg(round).query_async(&mut client).await.unwrap();
        let own: i32 = redis::cmd("GET").arg("k").query_async(&mut client).await.unwrap();
        assert_eq!(own, round);
        let token: String = redis::cmd("HELIOS.TOKEN").query_async(&mut client).await.unwrap();
        let () = redis::cmd("HELIOS.TOKEN").arg(token).query_async(&mut other).await.unwrap();
        let with_token: i32 = redis::cmd("GET").arg("k").query_async(&mut other).await.unwrap();
        assert_eq!(with_token, round);
    }
}

#[tokio::test]
async fn leader_with_a_lease_answers_alone_and_paused_leader_serves_no_stale_read() {
    let cluster = Cluster::of_three_configured("reads: {lease: on}\nclient: {request_timeout: 2s}\n").await;
    let leader = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let mut by_lease = cluster[leader].redis().await;
    let () = redis::cmd("HELIOS.READ").arg("LEASE").query_async(&mut by_lease).await.unwrap();
    let mut writer = cluster[others[0]].redis().await;
    for round in 0..300 {
        let () = redis::cmd("SET").arg("k").arg(round).query_async(&mut writer).await.unwrap();
        let found: i32 = redis::cmd("GET").arg("k").query_async(&mut by_lease).await.unwrap();
        assert_eq!(found, round);
    }
    let (_, metrics) = http(cluster[leader].ports.metrics, "GET", "/metrics", "").await.unwrap();
    let count = |name: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in:\n{metrics}")).parse().unwrap()
    };
    assert!(count("helios_raft_lease_reads_total") > 0);
    assert!(count("helios_raft_lease_reads_total") + count("helios_raft_read_rounds_total") >= 300);

    // As in a long pause of its machine: when it resumes, its lease has expired.
    cluster[leader].signal(Signal::STOP);
    cluster.leader_among(&others).await;
    let () = redis::cmd("SET").arg("k").arg("new").query_async(&mut writer).await.unwrap();
    let read =
        tokio::spawn(async move { redis::cmd("GET").arg("k").query_async::<String>(&mut by_lease).await });
    tokio::task::yield_now().await;
    cluster[leader].signal(Signal::CONT);
    assert_eq!(read.await.unwrap().unwrap(), "new");
}

#[tokio::test]
async fn gateway_returns_and_accepts_tokens_in_a_header() {
    let cluster = with_short_timeout().await;
    let leader = cluster.leader().await;
    let body = r#"{"key":"k","value":"v","ack":"all"}"#;
    let written = exchange(cluster[leader].ports.gateway, "POST", "/put", "", body).await;
    assert!(written.starts_with("HTTP/1.1 200"), "{written}");
    let token = written.lines().find_map(|line| line.strip_prefix("helios-token: ")).unwrap().to_owned();
    let path = "/get?key=k&consistency=stale&max_staleness_ms=60000";
    for node in cluster.nodes() {
        let header = format!("helios-token: {token}\r\n");
        let found = exchange(node.ports.gateway, "GET", path, &header, "").await;
        assert!(found.starts_with("HTTP/1.1 200") && found.contains(r#""value":"v""#), "{found}");
    }
    let refused = exchange(cluster[0].ports.gateway, "GET", path, "helios-token: nonsense\r\n", "").await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
}

async fn exchange(port: u16, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{headers}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let whole = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
    whole.unwrap().unwrap();
    answer
}
