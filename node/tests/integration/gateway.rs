//! The HTTP gateway, route by route, and its access control.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::common::{
    Cluster, Node, NodePorts, PATIENCE, Ports, eventually, http, http_with, temporary_directory,
};

async fn call(node: &Node, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (code, text) = http(node.ports.gateway, method, path, &body).await.unwrap();
    (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn get(node: &Node, path: &str) -> (u16, Value) {
    call(node, "GET", path, Value::Null).await
}

async fn post(node: &Node, path: &str, body: Value) -> (u16, Value) {
    call(node, "POST", path, body).await
}

/// Checks the fields that every error has; returns the status code and the error's name.
fn refused((code, body): (u16, Value)) -> (u16, String) {
    let error = &body["error"];
    assert!(
        error["code"].is_u64() && error["retryable"].is_boolean() && error["fatal"].is_boolean(),
        "{body}"
    );
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    (code, error["name"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn each_route_answers_as_documented() {
    let mut cluster = Cluster::blank(4);
    cluster.start_all();
    bootstrap(&cluster).await;
    state(&cluster).await;
    page_openapi_and_stream(&cluster[0]).await;
    keys(&cluster).await;
    bad_requests(&cluster[0]).await;
    leadership(&cluster).await;
    membership(&cluster).await;
    lost_quorum(&mut cluster).await;
}

/// Forms a cluster of three of the four nodes; the second and third are added over HTTP.
async fn bootstrap(cluster: &Cluster) {
    let disk = cluster[0].status().await.disk_id;
    let (code, name) = refused(get(&cluster[0], "/leader").await);
    assert_eq!((code, name.as_str()), (503, "NO_LEADER"));
    let (code, name) = refused(post(&cluster[0], "/put", json!({ "key": "k", "value": "v" })).await);
    assert_eq!((code, name.as_str()), (503, "NOT_STARTED"));
    let request = helios_proto::v1::InitializeRequest {
        cluster_id: "gateway-test".into(),
        expected_disk_id: disk,
        fencing_token: 0,
    };
    cluster[0].cluster().initialize(request).await.unwrap();
    cluster[0].wait_ready().await;
    for new in [1, 2] {
        let body =
            json!({ "node_id": cluster[new].name, "address": "127.0.0.1", "port": cluster[new].ports.peer });
        let (code, answer) = post(&cluster[0], "/nodes/add", body).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(answer["nodes"][new]["voter"], true, "{answer}");
        cluster[new].wait_ready().await;
    }
}

async fn state(cluster: &Cluster) {
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    for index in [0, 1, 2] {
        let node = &cluster[index];
        assert_eq!(get(node, "/health").await, (200, json!({ "healthy": true, "reason": "" })));
        let (code, detailed) = get(node, "/health/detailed").await;
        assert_eq!((code, &detailed["cluster"]["cluster_id"]), (200, &json!("gateway-test")));
        let (code, status) = get(node, "/status").await;
        let role = if index == leader { "leader" } else { "follower" };
        assert_eq!((code, &status["role"]), (200, &json!(role)));
        let (code, leads) = get(node, "/leader").await;
        assert_eq!((code, &leads["leader"]), (200, &json!(cluster[leader].name)));
        assert_eq!(leads["address"], json!(cluster[leader].peer_addr()));
        let (code, nodes) = get(node, "/nodes").await;
        assert_eq!((code, nodes["nodes"].as_array().unwrap().len()), (200, 3));
        for (path, expected) in [("/livez", 200), ("/readyz", 200), ("/healthz", 200), ("/metrics", 200)] {
            assert_eq!(get(node, path).await.0, expected, "{path}");
        }
        assert_eq!(get(node, "/primary").await.0, if index == leader { 200 } else { 503 });
        assert_eq!(get(node, "/replica").await.0, if index == leader { 503 } else { 200 });
    }
    let (code, detailed) = get(&cluster[3], "/health/detailed").await;
    assert_eq!((code, &detailed["healthy"]), (503, &json!(false)));
}

async fn page_openapi_and_stream(node: &Node) {
    let (code, head, page) = http_with(node.ports.gateway, "GET", "/", "", "").await.unwrap();
    assert!(code == 200 && head.contains("text/html") && head.contains("content-security-policy"), "{head}");
    assert_eq!(page.matches("http").count(), 1, "only the SVG namespace: the page loads nothing");
    let (code, document) = get(node, "/openapi.json").await;
    assert_eq!((code, &document["openapi"]), (200, &json!("3.1.0")));
    let mut stream = TcpStream::connect(("127.0.0.1", node.ports.gateway)).await.unwrap();
    stream.write_all(b"GET /status/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let (mut statuses, mut event) = (0, String::new());
    while statuses < 2 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        if let Some(name) = line.strip_prefix("event:") {
            name.clone_into(&mut event);
        } else if let Some(data) = line.strip_prefix("data:").filter(|_| event == "status") {
            let status: Value = serde_json::from_str(data).unwrap();
            assert_eq!(status["name"], json!(node.name));
            statuses += 1;
        }
    }
}

async fn keys(cluster: &Cluster) {
    for node in &cluster.nodes()[..3] {
        let (code, written) = post(node, "/put", json!({ "key": "k", "value": node.name })).await;
        assert_eq!(code, 200, "{written}");
        let data = json!({ "op": "set", "key": "config", "value": node.name });
        let (code, applied) = post(node, "/apply", json!({ "type": "set", "data": data })).await;
        assert_eq!(code, 200, "{applied}");
        assert!(applied["revision"].as_u64() > written["revision"].as_u64());
        for reader in &cluster.nodes()[..3] {
            let (code, found) = get(reader, "/get?key=k&consistency=linearizable").await;
            assert_eq!((code, &found["value"]), (200, &json!(node.name)));
            let (code, found) = post(reader, "/read", json!({ "query": "config" })).await;
            assert_eq!((code, &found["value"]), (200, &json!(node.name)));
            assert_eq!(found["revision"], applied["revision"]);
        }
    }
    let gone = post(&cluster[1], "/apply", json!({ "type": "delete", "data": { "key": "config" } })).await;
    assert_eq!((gone.0, &gone.1["deleted"]), (200, &json!(1)));
    let missing = refused(post(&cluster[2], "/read", json!({ "query": "config" })).await);
    assert_eq!(missing, (404, "KEY_NOT_FOUND".to_owned()));
    let mut redis = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("raw").arg(&[0xff_u8, 0]).query_async(&mut redis).await.unwrap();
    assert_eq!(get(&cluster[0], "/get?key=raw").await.1["value_base64"], "/wA=");
    // With the token of a write, a stale read at any member waits for that write.
    let (_, head, _) =
        http_with(cluster[0].ports.gateway, "POST", "/put", "", r#"{"key":"t","value":"1"}"#).await.unwrap();
    let token = head.lines().find(|line| line.starts_with("helios-token:")).unwrap();
    let path = "/get?key=t&consistency=stale";
    let answer = http_with(cluster[2].ports.gateway, "GET", path, &format!("{token}\r\n"), "").await.unwrap();
    assert_eq!(answer.0, 200, "{}", answer.2);
}

async fn bad_requests(node: &Node) {
    let invalid = |code: u16| (code, "INVALID_ARGUMENT".to_owned());
    assert_eq!(refused(get(node, "/nowhere").await), invalid(404));
    assert_eq!(refused(post(node, "/put", json!({ "key": "k" })).await), invalid(400));
    assert_eq!(
        refused(post(node, "/put", json!({ "key": "k", "value": "v", "ack": "one" })).await),
        invalid(400)
    );
    assert_eq!(refused(get(node, "/get").await), invalid(400));
    assert_eq!(refused(get(node, "/get?key=k&consistency=fresh").await), invalid(400));
    assert_eq!(refused(get(node, "/get?key=k&max_staleness_ms=5").await), invalid(400));
    assert_eq!(refused(post(node, "/apply", json!({ "type": "incr", "data": {} })).await), invalid(400));
    let port = node.ports.gateway;
    let (code, head, _) = http_with(port, "GET", "/put", "", "").await.unwrap();
    assert!(code == 405 && head.contains("\nallow: post"), "{head}");
    let xml = "content-type: text/xml\r\n";
    assert_eq!(http_with(port, "POST", "/put", xml, "<put/>").await.unwrap().0, 415);
    let long = format!(r#"{{"key":"k","value":"{}"}}"#, "x".repeat(8 << 20));
    assert_eq!(http(port, "POST", "/put", &long).await.unwrap().0, 413);
    // A page of another site, or a foreign host name that resolves to this host, is not a local program.
    for header in ["origin: http://evil.example\r\n", "host: evil.example\r\n"] {
        let (code, head, _) = http_with(port, "POST", "/snapshot", header, "").await.unwrap();
        assert!(code == 401 && head.contains("\nwww-authenticate: bearer"), "{head}");
    }
}

async fn leadership(cluster: &Cluster) {
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let next = (leader + 1) % 3;
    let wanted = json!({ "target_node_id": cluster[next].name });
    assert_eq!(
        refused(post(&cluster[next], "/leadership/transfer", wanted.clone()).await),
        (421, "NOT_LEADER".to_owned())
    );
    let empty = post(&cluster[leader], "/leadership/transfer", json!({ "target_node_id": "" })).await;
    assert_eq!(refused(empty), (400, "INVALID_ARGUMENT".to_owned()));
    let unknown = post(&cluster[leader], "/leadership/transfer", json!({ "target_node_id": "nobody" })).await;
    assert_eq!(refused(unknown), (404, "NODE_NOT_FOUND".to_owned()));
    let (code, led) = post(&cluster[leader], "/leadership/transfer", wanted).await;
    assert_eq!((code, &led["leader"]), (200, &json!(cluster[next].name)));
    assert_eq!(cluster.leader_among(&[0, 1, 2]).await, next);

    let not_leader = refused(post(&cluster[leader], "/leadership/stepdown", Value::Null).await);
    assert_eq!(not_leader, (421, "NOT_LEADER".to_owned()));
    // The candidate has to have caught up with the new leader first.
    let led = eventually("the new leader steps down", async || {
        let (code, led) = post(&cluster[next], "/leadership/stepdown", Value::Null).await;
        assert!(code == 200 || led["error"]["name"] == "TRANSFER_FAILED", "{led}");
        (code == 200).then_some(led)
    })
    .await;
    assert_ne!(led["leader"], json!(cluster[next].name));
}

async fn membership(cluster: &Cluster) {
    for node in &cluster.nodes()[..3] {
        let (code, taken) = post(node, "/snapshot", Value::Null).await;
        assert_eq!(code, 200, "{taken}");
        assert!(taken["index"].as_u64() > Some(0), "{taken}");
    }
    let follower = (cluster.leader_among(&[0, 1, 2]).await + 1) % 3;
    let via = &cluster[follower];
    let fourth = &cluster[3];
    let stranger = json!({ "node_id": "other", "address": fourth.peer_addr() });
    assert_eq!(refused(post(via, "/nodes/add", stranger).await), (400, "INVALID_ARGUMENT".to_owned()));
    let body = json!({ "node_id": fourth.name, "address": fourth.peer_addr(), "vote": false });
    let (code, added) = post(via, "/nodes/add", body).await;
    assert_eq!((code, &added["nodes"][3]["voter"]), (200, &json!(false)), "{added}");
    // The command of the user's documents, as `curl -d` sends it; the learner may have to catch up first.
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let promote = format!(r#"{{"node_id": {}}}"#, added["nodes"][3]["id"]);
    eventually("the learner is promoted", async || {
        let answer = http_with(via.ports.gateway, "POST", "/promote", form, &promote).await?;
        match answer.0 {
            200 => Some(()),
            code => {
                assert_eq!(code, 409, "{}", answer.2);
                None
            }
        }
    })
    .await;
    eventually("the member that was asked has applied the change", async || {
        (get(via, "/nodes").await.1["nodes"][3]["voter"] == true).then_some(())
    })
    .await;
    let nobody = post(via, "/nodes/remove", json!({ "node_id": "nobody" })).await;
    assert_eq!(refused(nobody), (404, "NODE_NOT_FOUND".to_owned()));
    // A removed leader first steps down, and the next leader removes it.
    for removed in [3, cluster.leader_among(&[0, 1, 2]).await] {
        let (code, left) = post(via, "/nodes/remove", json!({ "node_id": cluster[removed].name })).await;
        assert_eq!(code, 200, "{left}");
        let names = left["nodes"].as_array().unwrap().iter().map(|node| node["name"].clone());
        assert!(!names.collect::<Vec<_>>().contains(&json!(cluster[removed].name)));
    }
}

async fn lost_quorum(cluster: &mut Cluster) {
    // The removed member stops being ready when it learns of its removal.
    let members = eventually("two members are left", async || {
        let mut found = Vec::new();
        for index in [0, 1, 2] {
            if cluster[index].status().await.ready {
                found.push(index);
            }
        }
        (found.len() == 2).then_some(found)
    })
    .await;
    cluster[members[0]].kill();
    let left = &cluster[members[1]];
    eventually("the gateway says that there is no leader", async || {
        let (code, body) = get(left, "/health").await;
        (code == 503 && body["healthy"] == false).then_some(())
    })
    .await;
    assert_eq!(refused(get(left, "/leader").await), (503, "NO_LEADER".to_owned()));
}

#[tokio::test]
async fn remote_requests_need_the_token_and_a_prefix_applies_to_all_routes() {
    let ports = Ports::take();
    let dir = temporary_directory();
    let NodePorts { client, peer, grpc, metrics, gateway } = ports.node(0);
    let listen = ["--listen", &format!("127.0.0.1:{client}"), "--raft-addr", &format!("127.0.0.1:{peer}")];
    let near =
        ["--grpc-listen", &format!("127.0.0.1:{grpc}"), "--metrics-listen", &format!("127.0.0.1:{metrics}")];
    let own = ["--raft-node-id", "node-1", "--gateway-listen", &format!("0.0.0.0:{gateway}")];
    let arguments: Vec<_> = [listen, near, own].concat();
    let environment = [
        ("HELIOS__NODE__BOOTSTRAP", "single"),
        ("HELIOS__GATEWAY__TOKEN", "s3cret"),
        ("HELIOS__GATEWAY__PREFIX", "/db"),
    ];
    let mut node = Node::started_by(dir.path(), "node-1", ports.node(0), &arguments, &environment);
    node.start();
    node.wait_ready().await;
    let ask = async |path: &str, headers: &str| {
        http_with(gateway, "GET", path, headers, "").await.map(|answer| answer.0)
    };
    let elsewhere = "host: db.example\r\n";
    let with = |token: &str| format!("{elsewhere}authorization: Bearer {token}\r\n");
    for open in ["/db/", "/db/livez", "/db/readyz", "/db/healthz"] {
        assert_eq!(ask(open, elsewhere).await, Some(200), "{open}");
    }
    for closed in ["/db/status", "/db/metrics", "/db/get?key=k", "/db/nowhere", "/status"] {
        assert_eq!(ask(closed, elsewhere).await, Some(401), "{closed}");
        assert_eq!(ask(closed, &with("s3cre")).await, Some(401), "{closed}");
    }
    assert_eq!(ask("/db/status", &with("s3cret")).await, Some(200));
    assert_eq!(ask("/status", &with("s3cret")).await, Some(404));
}
