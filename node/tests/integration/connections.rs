//! Memory and descriptor use of connections.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{Node, PATIENCE, Ports, eventually, http, info_field, temporary_directory};

const MIB: u64 = 1 << 20;

struct Single {
    node: Node,
    _ports: Ports,
    _dir: tempfile::TempDir,
}

async fn single(config: &str, open_files: Option<u64>) -> Single {
    let (dir, ports) = (temporary_directory(), Ports::take());
    let mut node = Node::new(dir.path(), "node-1", ports.node(0), "bootstrap: single", config);
    node.limit_open_files(open_files);
    node.start();
    node.wait_ready().await;
    Single { node, _ports: ports, _dir: dir }
}

impl Single {
    fn pid(&self) -> u32 {
        self.node.pid().load(std::sync::atomic::Ordering::Relaxed)
    }

    fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it runs");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    async fn raw(&self) -> BufReader<TcpStream> {
        BufReader::new(TcpStream::connect(("127.0.0.1", self.node.ports.client)).await.unwrap())
    }

    async fn is_alive(&self) -> bool {
        matches!(http(self.node.ports.metrics, "GET", "/livez", "").await, Some((200, _)))
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    timeout(PATIENCE, stream.read_line(&mut line)).await.expect("it answers").unwrap();
    line
}

async fn command(connection: &mut MultiplexedConnection, words: &[&str]) -> redis::RedisResult<redis::Value> {
    redis::cmd(words[0]).arg(&words[1..]).query_async(connection).await
}

/// Raises this process's limit of open files, because it needs descriptors for all of its clients.
fn raise_own_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[tokio::test]
async fn large_replies_to_a_client_that_does_not_read_are_refused_or_close_it() {
    let single = single("reads: {max_bytes: 4294967296}", None).await;
    let mut other = single.node.redis().await;
    command(&mut other, &["SADD", "s", &"x".repeat(2_000)]).await.unwrap();
    let before = single.resident_bytes();
    let mut client = single.raw().await;
    client.write_all(b"SRANDMEMBER s -1048576\r\n").await.unwrap();
    let refused = line(&mut client).await;
    assert!(refused.starts_with("-ERR ") && refused.contains("client.output_buffer_limit"), "{refused}");

    // This client writes on and reads nothing.
    let mut silent = single.raw().await;
    silent.write_all(b"SRANDMEMBER s -100000\r\nSRANDMEMBER s -100000\r\n").await.unwrap();
    let pings = b"PING\r\n".repeat(10_000);
    let closed = async { while silent.write_all(&pings).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("it is closed");
    let grown = single.resident_bytes().saturating_sub(before);
    assert!(grown < 700 * MIB, "{} MiB", grown / MIB);
    let info: String = redis::cmd("INFO").query_async(&mut other).await.unwrap();
    assert_eq!(info_field(&info, "client_output_buffer_limit_disconnections"), "1");
    let counted = single.node.metric("helios_rejected_total{reason=\"output_buffer_limit\"}").await;
    assert_eq!(counted, Some(1));
    assert!(single.node.log().contains("exceed client.output_buffer_limit"), "{}", single.node.log());
}

#[tokio::test]
async fn large_reply_within_the_limit_is_encoded_while_it_is_read() {
    let limits = "client: {output_buffer_limit: 4294967296, maxmemory_clients: 4294967296}\nreads: {max_bytes: 4294967296}";
    let single = single(limits, None).await;
    let mut other = single.node.redis().await;
    command(&mut other, &["SADD", "s", &"x".repeat(2_000)]).await.unwrap();
    let before = single.resident_bytes();
    let mut client = single.raw().await;
    client.write_all(b"SRANDMEMBER s -500000\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "*500000\r\n");
    let mut received = vec![0; 500_000 * "$2000\r\n\r\n".len() + 500_000 * 2_000];
    let half = received.len() / 2;
    timeout(3 * PATIENCE, client.read_exact(&mut received[..half])).await.unwrap().unwrap();
    let grown = single.resident_bytes().saturating_sub(before);
    assert!(grown < 500 * MIB, "{} MiB for a reply of 1000 MB", grown / MIB);
    timeout(3 * PATIENCE, client.read_exact(&mut received[half..])).await.unwrap().unwrap();
    client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "+PONG\r\n");
}

#[tokio::test]
async fn commands_queued_one_a_packet_pin_no_read_buffers() {
    const COMMANDS: usize = 30_000;
    let single = single("", None).await;
    let mut client = single.raw().await;
    client.get_ref().set_nodelay(true).unwrap();
    client.write_all(b"MULTI\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "+OK\r\n");
    let before = single.resident_bytes();
    for _ in 0..COMMANDS {
        client.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n").await.unwrap();
        assert_eq!(line(&mut client).await, "+QUEUED\r\n");
    }
    let grown = single.resident_bytes().saturating_sub(before);
    // 30 000 chunks of 32 KiB with one written page each would be 117 MiB.
    assert!(grown < 50 * MIB, "{} MiB", grown / MIB);
    client.write_all(b"DISCARD\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "+OK\r\n");
}

#[tokio::test]
async fn idle_connections_beyond_the_limit_of_open_files_do_not_stop_the_node() {
    raise_own_limit();
    let single = single("", Some(1_024)).await;
    let mut known = single.node.redis().await;
    let mut idle = Vec::new();
    for _ in 0..1_100 {
        idle.push(TcpStream::connect(("127.0.0.1", single.node.ports.client)).await.unwrap());
    }
    // A checkpoint is written every 5 s while there are writes.
    let value = "x".repeat(10_000);
    let end = tokio::time::Instant::now() + Duration::from_secs(7);
    while tokio::time::Instant::now() < end {
        command(&mut known, &["SET", "k", &value]).await.unwrap();
    }
    assert!(single.is_alive().await);
    assert!(single.node.log().contains("client.max_connections lowered"), "{}", single.node.log());
}

#[tokio::test]
async fn idle_and_half_open_connections_on_every_port_stop_neither_probes_nor_clients() {
    raise_own_limit();
    let single = single("", Some(1_024)).await;
    let mut known = single.node.redis().await;
    command(&mut known, &["SET", "k", "v"]).await.unwrap();
    let mut held = Vec::new();
    for number in 0..2_000 {
        for port in single.node.ports.all() {
            // The accept queue of a port may be full for a moment.
            let connected = timeout(Duration::from_secs(2), TcpStream::connect(("127.0.0.1", port))).await;
            let Ok(Ok(mut stream)) = connected else { continue };
            if number % 2 == 0 {
                drop(stream.write_all(b"*2\r\n$3\r\nGE").await);
            }
            held.push(stream);
        }
    }
    assert!(held.len() > 5_000, "{}", held.len());
    for path in ["/livez", "/readyz"] {
        let answer = eventually(path, async || http(single.node.ports.metrics, "GET", path, "").await).await;
        assert_eq!(answer.0, 200, "{path}: {}", answer.1);
    }
    command(&mut known, &["SET", "k", "w"]).await.unwrap();
    assert!(single.node.try_status().await.is_some(), "the peer port does not answer");
    drop(held);
    eventually("new clients are served again", async || {
        let mut client =
            BufReader::new(TcpStream::connect(("127.0.0.1", single.node.ports.client)).await.ok()?);
        client.write_all(b"GET k\r\n").await.ok()?;
        let mut line = String::new();
        timeout(PATIENCE, client.read_line(&mut line)).await.ok()?.ok()?;
        (line == "$1\r\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn node_without_descriptors_resumes_when_it_can_open_files() {
    let single = single("", None).await;
    let mut known = single.node.redis().await;
    let pid = Pid::from_raw(single.pid().cast_signed());
    let limit = |current| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap()
    };
    let earlier = limit(Some(8));
    let value = "x".repeat(10_000);
    eventually("the log or a checkpoint finds no descriptor", async || {
        // A log that waits for a descriptor may take longer than the request.
        drop(command(&mut known, &["SET", "k", &value]).await);
        single.node.log().contains("no file can be opened").then_some(())
    })
    .await;
    limit(earlier.current);
    eventually("it writes again", async || command(&mut known, &["SET", "k", "v"]).await.ok()).await;
    eventually("it takes connections again", async || single.is_alive().await.then_some(())).await;
}
