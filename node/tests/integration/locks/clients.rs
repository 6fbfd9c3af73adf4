//! TLS on the client ports, and clients with slow handshakes.

use std::process::Command;
use std::time::Duration;

use helios_proto::tls::connect;
use helios_proto::v1::kv_client::KvClient;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{GetRequest, PeerFrame, PutRequest, RaftBatch, peer_frame::Kind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{
    Authority, Mounted, Node, PATIENCE, Ports, begin_of, eventually, http, temporary_directory,
};

const LIMIT: Duration = Duration::from_secs(10);
/// The first bytes of a TLS 1.3 client hello.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc];

struct Secured {
    node: Node,
    mount: Mounted,
    authority: Authority,
    _ports: Ports,
    _dir: TempDir,
}

impl Secured {
    /// Starts a cluster of one with certificates for clients; `section` returns the keys of `tls.client`.
    async fn start(section: impl Fn(&Mounted) -> String) -> Self {
        let (dir, ports, authority) = (temporary_directory(), Ports::take(), Authority::new("ours"));
        let mut mount = Mounted::new(&dir.path().join("client-tls"));
        mount.put_certificates(&authority.leaf(2081), &[&authority]);
        let config = format!("tls: {{client: {}}}\n", section(&mount));
        let mut node = Node::new(dir.path(), "node-1", ports.node(0), "bootstrap: single", &config);
        node.start();
        node.wait_ready().await;
        Self { node, mount, authority, _ports: ports, _dir: dir }
    }

    async fn counted(&self, reason: &str) -> u64 {
        let metric = format!("helios_rejected_total{{reason=\"{reason}\"}}");
        self.node.metric(&metric).await.unwrap_or_default()
    }
}

/// Returns the standard output of a program of the user's toolbox; `None` when it fails.
async fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

async fn plain_answer(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn client_ports_with_certificates_accept_only_tls() {
    let mut secured = Secured::start(Mounted::open_section).await;
    let (ports, ca) = (secured.node.ports, secured.mount.file("ca.crt"));
    let (client, gateway) = (ports.client.to_string(), format!("https://127.0.0.1:{}/health", ports.gateway));
    let said = run("redis-cli", &["-p", &client, "--tls", "--cacert", &ca, "SET", "k", "v"]).await;
    assert_eq!(said.as_deref().map(str::trim), Some("OK"));
    let healthy = run("curl", &["--fail", "--silent", "--cacert", &ca, &gateway]).await.unwrap();
    assert!(healthy.contains("healthy"), "{healthy}");
    let tls = secured.authority.client(None);
    let address = format!("127.0.0.1:{}", ports.grpc);
    let channel = connect(&address, "127.0.0.1", Some(&tls), LIMIT, LIMIT).await.unwrap();
    let get = GetRequest { key: "k".into(), ..GetRequest::default() };
    assert_eq!(KvClient::new(channel).get(get).await.unwrap().into_inner().entry.unwrap().value, "v");

    let refused = plain_answer(ports.client, b"PING\r\n").await;
    assert!(refused.starts_with("-ERR this port speaks TLS only"), "{refused}");
    let refused = plain_answer(ports.gateway, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("https://"), "{refused}");
    assert_eq!(secured.counted("no_tls").await, 2);
    // A client that trusts another CA closes the connection with a clear error.
    let other = Authority::new("theirs").client(None);
    let error = connect(&address, "127.0.0.1", Some(&other), LIMIT, LIMIT).await.unwrap_err();
    assert!(error.0.contains("its certificate is not signed by a trusted CA"), "{error}");
    // Probes and Prometheus use the metrics port, which has no TLS.
    assert_eq!(http(ports.metrics, "GET", "/readyz", "").await.unwrap().0, 200);

    let renewed = secured.authority.leaf(2083);
    secured.mount.put_certificates(&renewed, &[&secured.authority]);
    eventually("the renewed certificate is reloaded", async || {
        let expires = secured.node.metric("helios_cert_expiry_timestamp_seconds{for=\"client\"}").await?;
        (expires == begin_of(2083).cast_unsigned()).then_some(())
    })
    .await;
    let status = secured.node.status().await;
    assert_eq!(
        (status.client_tls, status.client_certificate_expires_at, status.peer_tls),
        (true, begin_of(2083), false)
    );
    assert!(run("redis-cli", &["-p", &client, "--tls", "--cacert", &ca, "GET", "k"]).await.is_some());
}

#[tokio::test]
async fn client_ports_with_a_ca_require_a_client_certificate() {
    let secured = Secured::start(Mounted::section).await;
    let ca = secured.mount.file("ca.crt");
    let gateway = format!("https://127.0.0.1:{}/health", secured.node.ports.gateway);
    let ask = ["--fail", "--silent", "--cacert", &ca, &gateway];
    assert_eq!(run("curl", &ask).await, None);
    let (cert, key) = (secured.mount.file("tls.crt"), secured.mount.file("tls.key"));
    let with = [&ask[..], &["--cert", &cert, "--key", &key]].concat();
    assert!(run("curl", &with).await.is_some());
    assert!(secured.counted("tls_handshake").await > 0);
}

#[tokio::test]
async fn oversized_requests_are_rejected_and_counted_at_each_port() {
    let secured = Secured::start(Mounted::open_section).await;
    let ports = secured.node.ports;
    let tls = secured.authority.client(None);
    let address = format!("127.0.0.1:{}", ports.grpc);
    let channel = connect(&address, "127.0.0.1", Some(&tls), LIMIT, LIMIT).await.unwrap();
    let put = PutRequest { key: "k".into(), value: vec![0; 20 << 20].into(), ..PutRequest::default() };
    let error = KvClient::new(channel).put(put).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::OutOfRange, "{error}");
    assert_eq!(secured.counted("too_large").await, 1);

    let ca = secured.mount.file("ca.crt");
    let large = secured.mount.file("large");
    std::fs::write(&large, vec![b' '; 9 << 20]).unwrap();
    let (body, url) = (format!("@{large}"), format!("https://127.0.0.1:{}/put", ports.gateway));
    let asked = ["--silent", "--cacert", &ca, "--data-binary", &body, "--output", "-", &url];
    assert!(run("curl", &asked).await.unwrap_or_default().contains("more than"));
    assert_eq!(secured.counted("too_large").await, 2);

    // The limit of the peer port is 16 MiB.
    let mut peer = PeerClient::new(secured.node.peer_channel());
    let batch = RaftBatch { messages: vec![vec![0; 17 << 20].into()], ..RaftBatch::default() };
    let frame = PeerFrame { kind: Some(Kind::Batch(batch)) };
    let error = peer.messages(tokio_stream::iter([frame])).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::OutOfRange, "{error}");
    assert_eq!(secured.counted("too_large").await, 3);
}

/// Opens a connection, sends `beginning` and waits until the server closes it.
async fn closed(port: u16, beginning: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(beginning).await.unwrap();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "port {port} waits without limit after {beginning:?}");
}

#[tokio::test]
async fn stalled_handshake_is_closed_and_does_not_delay_other_clients() {
    let secured = Secured::start(Mounted::open_section).await;
    let ports = secured.node.ports;
    let mut silent = tokio::task::JoinSet::new();
    for port in [ports.client, ports.grpc, ports.gateway] {
        for beginning in [b"".as_slice(), HALF_A_HELLO] {
            silent.spawn(closed(port, beginning));
        }
    }
    // The peer port has no TLS here; the incomplete handshake is HTTP/2's preface.
    silent.spawn(closed(ports.peer, b"PRI * HT"));
    let (client, ca) = (ports.client.to_string(), secured.mount.file("ca.crt"));
    assert!(run("redis-cli", &["-p", &client, "--tls", "--cacert", &ca, "PING"]).await.is_some());
    while let Some(ended) = silent.join_next().await {
        ended.unwrap();
    }
    // A connection is closed before its rejection is counted.
    eventually("every slow handshake is counted", async || {
        (secured.counted("slow_handshake").await == 7).then_some(())
    })
    .await;
}
