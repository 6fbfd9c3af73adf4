//! Foreign input on any port: invalid bytes, half-open connections and unknown peers affect only their own
//! connection.

use std::time::Duration;

use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{
    AwaitReplicasRequest, ErrorCode, FetchSnapshotRequest, ForwardRequest, GetRequest, Handshake, PeerFrame,
    Publication, PublishRequest, RaftBatch, peer_frame::Kind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::common::{Cluster, Load, Node, PATIENCE, error_code, http};

/// Number of connections that are opened to each port and send nothing.
const IDLE: usize = 300;
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns byte sequences that no protocol here starts with, that announce too large a size, or that never
/// end.
fn invalid_inputs() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let frame_of_16_mib = [HTTP2_PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &[0; 1_000]].concat();
    let headers_without_end = [HTTP2_PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0x40, 0, 1, 0, 0, 0, 0, 1]];
    vec![
        noise,
        vec![0; 100_000],
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$999999999999\r\n".to_vec(),
        b"*1000000000\r\n".to_vec(),
        b"*-7\r\n$-9\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        [b"GET /".as_slice(), &[b'a'; 200_000], b" HTTP/1.1\r\n\r\n"].concat(),
        frame_of_16_mib,
        headers_without_end.concat(),
    ]
}

#[tokio::test]
async fn garbage_oversized_and_half_open_connections_on_any_port_do_not_affect_others() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let term = cluster[leader].status().await.term;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(20).await;

    for port in cluster[leader].ports.all() {
        let mut half_open = Vec::new();
        for bytes in invalid_inputs() {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // The server may close the connection in the middle, as it should.
            drop(stream.write_all(&bytes).await);
            half_open.push(stream);
        }
        for beginning in [b"".as_slice(), b"*3\r\n$3\r\nSET\r\n", HTTP2_PREFACE, b"GET /live"] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(beginning).await.unwrap();
            half_open.push(stream);
        }
        for _ in 0..IDLE {
            half_open.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        assert_serves(&cluster[leader], term).await;
        load.wait_for(20).await;
    }
    load.finish().await.assert_kept(&cluster.agreed_data().await);
}

#[tokio::test]
async fn http_connection_without_a_complete_request_is_closed() {
    let mut cluster = Cluster::blank(1);
    cluster.start_all();
    cluster[0].status().await;
    let ports = cluster[0].ports;
    for beginning in [b"".as_slice(), b"GET /livez HTTP/1.1\r\nhost: x\r\n"] {
        let mut streams = Vec::new();
        for port in [ports.metrics, ports.gateway] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(beginning).await.unwrap();
            streams.push((port, stream));
        }
        for (port, mut stream) in streams {
            let mut rest = Vec::new();
            let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "port {port} waits without limit after {beginning:?}");
        }
    }
}

#[tokio::test]
async fn grpc_connection_that_answers_no_ping_is_closed() {
    let mut cluster = Cluster::blank(1);
    cluster.start_all();
    cluster[0].status().await;
    let ports = cluster[0].ports;
    let silence = async |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(&[HTTP2_PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "port {port} waits without limit");
    };
    tokio::join!(silence(ports.peer), silence(ports.grpc));
}

async fn assert_serves(node: &Node, term: u64) {
    let status = node.status().await;
    assert_eq!((status.term, status.ready), (term, true), "the leader was disturbed");
    let get = GetRequest { key: "key".into(), ..GetRequest::default() };
    node.kv().get(get).await.unwrap();
    let () = redis::cmd("PING").exec_async(&mut node.redis().await).await.unwrap();
    for (port, path) in [(node.ports.metrics, "/readyz"), (node.ports.gateway, "/health")] {
        let answer = tokio::time::timeout(Duration::from_secs(5), http(port, "GET", path, "")).await;
        let (code, _) = answer.unwrap_or_else(|_| panic!("{path} is not answered")).unwrap();
        assert_eq!(code, 200, "{path}");
    }
}

#[tokio::test]
async fn redis_client_that_violates_the_protocol_gets_an_error_and_is_closed() {
    let cluster = Cluster::of_three().await;
    let mut stream = TcpStream::connect(("127.0.0.1", cluster[0].ports.client)).await.unwrap();
    stream.write_all(b"PING\r\n*1\r\n$999999999999\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.lines().next(), Some("+PONG"));
    assert!(answer.contains("-ERR Protocol error"), "{answer}");
    let mut client = cluster[0].redis().await;
    let large =
        redis::cmd("SET").arg("k").arg(vec![0_u8; 9 << 20]).exec_async(&mut client).await.unwrap_err();
    assert!(large.to_string().contains("exceeds maximum allowed size"), "{large}");
    let () = redis::cmd("SET").arg("k").arg(vec![0_u8; 1 << 19]).query_async(&mut client).await.unwrap();
}

#[tokio::test]
async fn peer_port_rejects_messages_and_calls_of_non_members() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    cluster.wait_registered().await;
    let status = cluster[leader].status().await;
    let channel = Channel::from_shared(format!("http://{}", cluster[leader].peer_addr())).unwrap();
    let mut peer = PeerClient::new(channel.connect().await.unwrap());
    let hello = Handshake {
        cluster_id: status.cluster_id.clone(),
        from_id: status.member_id % 3 + 1,
        from_name: "node-x".into(),
        from_disk_id: "a stranger's disk".into(),
        from_boot_epoch: 99,
        to_id: status.member_id,
        ..Handshake::default()
    };
    let frame = |kind| PeerFrame { kind: Some(kind) };
    let batch = frame(Kind::Batch(RaftBatch { messages: vec![vec![1; 100].into()], ..RaftBatch::default() }));
    let cases = [
        (vec![batch.clone()], ErrorCode::InvalidArgument),
        (vec![frame(Kind::Handshake(hello.clone())), batch], ErrorCode::WrongMember),
        (
            vec![frame(Kind::Handshake(Handshake { cluster_id: "another".into(), ..hello.clone() }))],
            ErrorCode::WrongCluster,
        ),
        (vec![frame(Kind::Handshake(Handshake { from_id: 0, ..hello.clone() }))], ErrorCode::PeerUnreachable),
    ];
    for (frames, code) in cases {
        let answer = peer.messages(tokio_stream::iter(frames.clone())).await;
        assert_eq!(error_code(answer), code, "{frames:?}");
    }
    // Unary calls are checked like streams.
    for (from, code) in [
        (Handshake { cluster_id: "another".into(), ..hello.clone() }, ErrorCode::WrongCluster),
        (hello.clone(), ErrorCode::WrongMember),
        (Handshake { from_id: 0, ..hello }, ErrorCode::PeerUnreachable),
    ] {
        let (cluster_id, from) = (status.cluster_id.clone(), Some(from));
        let forward = ForwardRequest { cluster_id, from, ..ForwardRequest::default() };
        let ForwardRequest { cluster_id, from, .. } = forward.clone();
        assert_eq!(error_code(peer.forward(forward).await), code, "{from:?}");
        let publish = PublishRequest {
            cluster_id: cluster_id.clone(),
            from: from.clone(),
            ..PublishRequest::default()
        };
        assert_eq!(error_code(peer.publish(publish).await), code, "{from:?}");
        let fetch = FetchSnapshotRequest { from: from.clone(), ..FetchSnapshotRequest::default() };
        assert_eq!(error_code(peer.fetch_snapshot(fetch).await), code);
        let waits = AwaitReplicasRequest { cluster_id, from, ..AwaitReplicasRequest::default() };
        assert_eq!(error_code(peer.await_replicas(waits).await), code);
    }
    // With a member's handshake, but more publications than a member sends.
    let (cluster_id, publications) = (status.cluster_id.clone(), vec![Publication::default(); 257]);
    let publish = PublishRequest { cluster_id, publications, from: Some(as_member(&cluster, leader).await) };
    assert_eq!(error_code(peer.publish(publish).await), ErrorCode::InvalidArgument);
    assert_eq!(cluster[leader].status().await.term, status.term);
}

/// Returns the handshake of another member of the cluster with the leader.
async fn as_member(cluster: &Cluster, leader: usize) -> Handshake {
    let (status, other) = (cluster[leader].status().await, cluster[(leader + 1) % 3].status().await);
    Handshake {
        cluster_id: status.cluster_id,
        from_id: other.member_id,
        from_name: other.name,
        from_disk_id: other.disk_id,
        from_boot_epoch: u64::MAX,
        to_id: status.member_id,
        ..Handshake::default()
    }
}
