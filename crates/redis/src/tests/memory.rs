//! Memory limits of connections.

use helios_service::client_memory::MemoryLimits;
use tokio::io::AsyncWrite;

use super::*;

fn limited(memory: MemoryLimits) -> Limits {
    Limits { memory, ..Limits::default() }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), wire: &str) -> std::io::Result<()> {
    timeout(PATIENCE, stream.write_all(wire.as_bytes())).await.expect("the server keeps reading")
}

#[tokio::test]
async fn pipeline_is_answered_in_full_when_it_is_written_before_it_is_read() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let value = "x".repeat(10_000);
    client.check(&format!("SET k {value}"), "+OK").await;
    let request = format!("*3\r\n$6\r\nGETSET\r\n$1\r\nk\r\n$10000\r\n{value}\r\n");
    write(&mut client.stream, &request.repeat(2_000)).await.unwrap();
    let mut received = vec![0; 2_000 * "$10000\r\n\r\n".len() + 2_000 * value.len()];
    timeout(PATIENCE, client.stream.read_exact(&mut received)).await.expect("all are answered").unwrap();
    client.check("PING", "+PONG").await;
}

#[tokio::test]
async fn connection_is_closed_when_its_unsent_replies_exceed_the_limit() {
    let server =
        Server::with(limited(MemoryLimits { output_bytes: 4 << 20, ..MemoryLimits::default() }), None).await;
    let (mut greedy, mut other) = (server.client().await, server.client().await);
    other.check(&format!("SET k {}", "x".repeat(50_000)), "+OK").await;
    let requests = "GET k\r\n".repeat(10_000);
    let closed = async { while greedy.stream.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("the connection is closed");
    let info = other.text("INFO").await;
    assert!(info.contains("client_output_buffer_limit_disconnections:1\r\n"), "{info}");
    assert!(info.contains("mem_clients_normal:0\r\n"), "{info}");
}

#[tokio::test]
async fn connection_is_closed_when_its_client_takes_no_reply_for_the_write_timeout() {
    let write_timeout = Some(Duration::from_millis(200));
    let server = Server::with(limited(MemoryLimits { write_timeout, ..MemoryLimits::default() }), None).await;
    let (mut silent, mut other) = (server.client().await, server.client().await);
    let value = "x".repeat(60_000);
    other.check(&format!("SET k {value}"), "+OK").await;
    // The replies exceed the socket buffers, and the input is small enough that the server waits for the
    // client.
    silent.send("GET k\r\n".repeat(1_000)).await;
    let cut = async { while !other.text("INFO").await.contains("limit_disconnections:1\r\n") {} };
    timeout(PATIENCE, cut).await.expect("the connection is closed");
}

#[tokio::test]
async fn reply_over_the_limit_is_an_error_that_names_the_setting() {
    let server =
        Server::with(limited(MemoryLimits { output_bytes: 1 << 20, ..MemoryLimits::default() }), None).await;
    let mut client = server.client().await;
    client.check(&format!("SADD s {}", "x".repeat(2_000)), ":1").await;
    client.send("SRANDMEMBER s -10000\r\n").await;
    let line = client.line().await;
    assert!(
        line.starts_with("-ERR ") && line.contains("client.output_buffer_limit (1048576 bytes)"),
        "{line}"
    );
    client.check("PING", "+PONG").await;
    client.send("CONFIG GET client-output-buffer-limit\r\n").await;
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.push(client.line().await);
    }
    assert_eq!(lines[4], "normal 1048576 67108864 60 slave 0 0 0 pubsub 33554432 0 0");
}

#[tokio::test]
async fn connection_that_does_not_authenticate_in_time_is_closed() {
    let auth_timeout = Duration::from_millis(300);
    let server = Server::with(Limits { auth_timeout, ..Limits::default() }, Some("secret")).await;
    let (mut known, mut silent, mut unauthenticated) =
        (server.client().await, server.client().await, server.client().await);
    known.check("AUTH secret", "+OK").await;
    unauthenticated.check("PING", "-NOAUTH Authentication required.").await;
    silent.expect_end().await;
    unauthenticated.expect_end().await;
    known.check("PING", "+PONG").await;
    let server = Server::with(Limits { auth_timeout, ..Limits::default() }, None).await;
    let (mut known, mut silent, mut slow) =
        (server.client().await, server.client().await, server.client().await);
    known.check("PING", "+PONG").await;
    slow.send("*1\r\n$4\r\nPI").await;
    silent.expect_end().await;
    slow.expect_end().await;
    known.check("PING", "+PONG").await;
}
