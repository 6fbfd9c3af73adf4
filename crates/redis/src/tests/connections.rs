use helios_proto::v1::ErrorCode;

use super::*;

#[tokio::test]
async fn malformed_request_closes_only_its_connection() {
    let server = Server::start().await;
    let mut bystander = server.client().await;
    bystander.check("PING", "+PONG").await;
    let mut client = server.client().await;
    client.send("PING\r\n*1\r\n:3\r\nPING\r\n").await;
    client.expect("+PONG\r\n-ERR Protocol error: expected '$', got ':'\r\n").await;
    client.expect_end().await;
    let mut browser = server.client().await;
    browser.send("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nFLUSHALL\r\n").await;
    assert!(browser.line().await.starts_with("-ERR unknown command 'POST'"));
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, browser.stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(server.db.take_batches(), [0; 0]);
    bystander.check("PING", "+PONG").await;
}

#[tokio::test]
async fn oversized_request_closes_the_connection_and_oversized_value_is_an_error() {
    let limits =
        Limits { max_request_bytes: 4096, max_value_bytes: 100, max_key_bytes: 10, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let mut client = server.client().await;
    let value = "x".repeat(101);
    client.check(&format!("SET k {value}"), "-ERR string exceeds maximum allowed size (100 bytes)").await;
    client.check("SET 12345678901 v", "-ERR key exceeds maximum allowed size (10 bytes)").await;
    client.check("PING", "+PONG").await;
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5000\r\n{}", "x".repeat(5000))).await;
    client.expect("-ERR Protocol error: invalid bulk length\r\n").await;
    client.expect_end().await;
    let mut client = server.client().await;
    let chunk = format!("$2000\r\n{}\r\n", "x".repeat(2000));
    client.send(format!("*4\r\n$4\r\nMGET\r\n{}", chunk.repeat(3))).await;
    client.expect("-ERR Protocol error: request exceeds 4096 bytes\r\n").await;
    client.expect_end().await;
}

#[tokio::test]
async fn partial_request_times_out_and_idle_client_does_not() {
    let limits = Limits { request_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with(limits, None).await;
    let mut idle = server.client().await;
    idle.check("PING", "+PONG").await;
    for beginning in ["*2\r\n$3\r\nGET", "*2\r\n$3\r\nGET\r\n", "PING"] {
        let mut slow = server.client().await;
        slow.send(beginning).await;
        slow.expect_end().await;
    }
    idle.check("PING", "+PONG").await;
}

#[tokio::test]
async fn commands_are_rejected_before_authentication() {
    let server = Server::with(Limits::default(), Some("secret")).await;
    let mut client = server.client().await;
    client.check("GET k", "-NOAUTH Authentication required.").await;
    client.check("PING", "-NOAUTH Authentication required.").await;
    client.check("GET", "-ERR wrong number of arguments for 'get' command").await;
    client.send("HELLO 3\r\n").await;
    assert!(
        client.line().await.starts_with("-NOAUTH HELLO must be called with the client already authenticated")
    );
    client.check("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.").await;
    client
        .check("AUTH someone secret", "-WRONGPASS invalid username-password pair or user is disabled.")
        .await;
    // Requests behind AUTH in the same packet are decoded under the wider limits of an authenticated client.
    let value = "x".repeat(20_000);
    client.send(format!("AUTH secret\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n{value}\r\n")).await;
    client.expect("+OK\r\n+OK\r\n").await;
    client.check("RESET", "+RESET").await;
    client.check("GET k", "-NOAUTH Authentication required.").await;
    client.send("*11\r\n").await;
    client.expect("-ERR Protocol error: unauthenticated multibulk length\r\n").await;
    client.expect_end().await;
}

#[tokio::test]
async fn connection_closes_after_the_error_of_a_removed_node() {
    let server = Server::start().await;
    let (mut writer, mut reader) = (server.client().await, server.client().await);
    let removed = Error::new(ErrorCode::MemberRemoved, "this node was removed");
    *server.db.0.write_error.lock().unwrap() = Some(removed.clone());
    *server.db.0.read_error.lock().unwrap() = Some(removed);
    for (client, command) in [(&mut writer, "SET k v\r\n"), (&mut reader, "GET k\r\n")] {
        client.send(command).await;
        client.expect("-ERR this node was removed\r\n").await;
        client.expect_end().await;
    }
    *server.db.0.write_error.lock().unwrap() = Some(Error::new(ErrorCode::NoLeader, "m"));
    let mut patient = server.client().await;
    patient.check("SET k v", "-CLUSTERDOWN The cluster is down: m").await;
    patient.check("PING", "+PONG").await;
}

#[tokio::test]
async fn connection_over_max_clients_is_rejected_with_an_error() {
    let server = Server::with(Limits { max_clients: 1, ..Limits::default() }, None).await;
    let mut first = server.client().await;
    first.check("PING", "+PONG").await;
    let mut second = server.client().await;
    second.expect("-ERR max number of clients reached\r\n").await;
    second.expect_end().await;
    first.check("QUIT", "+OK").await;
    first.expect_end().await;
    // The limit admits a new client once the server has seen the first one leave.
    timeout(PATIENCE, async {
        loop {
            let mut client = server.client().await;
            client.send("PING\r\n").await;
            if client.line().await == "+PONG" {
                break;
            }
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn idle_timeout_closes_idle_connections_but_not_subscribers_or_blocked_clients() {
    let limits = Limits::default();
    let idle_timeout = limits.idle_timeout.clone();
    assert_eq!(idle_timeout.get(), None);
    let server = Server::with(limits, None).await;
    let (mut client, mut listener, mut waiting) =
        (server.client().await, server.client().await, server.client().await);
    client.check("PING", "+PONG").await;
    listener.check("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1").await;
    waiting.send("BLPOP list 0\r\n").await;

    // The change applies to open connections.
    idle_timeout.set(Some(Duration::from_millis(20)));
    client.expect_end().await;
    let mut other = server.client().await;
    other.check("RPUSH list x", ":1").await;
    waiting.expect("*2\r\n$4\r\nlist\r\n$1\r\nx\r\n").await;
    other.expect_end().await;
    idle_timeout.set(None);
    server.client().await.check("PUBLISH news now", ":1").await;
    listener.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\nnow\r\n").await;
}

#[tokio::test]
async fn shutdown_finishes_the_command_in_flight() {
    let mut server = Server::start().await;
    let (mut busy, mut idle) = (server.client().await, server.client().await);
    idle.check("PING", "+PONG").await;
    let gate = server.db.clone();
    let closed = gate.0.gate.acquire().await.unwrap();
    busy.send("SET k v\r\n").await;
    // The write is in flight once the connection is listed with it.
    while !idle.text("CLIENT LIST").await.contains("cmd=set") {}
    server.shutdown.cancel();
    idle.expect_end().await;
    drop(closed);
    busy.expect("+OK\r\n").await;
    busy.expect_end().await;
    timeout(PATIENCE, &mut server.task).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", server.port)).await.is_err());
}

#[tokio::test]
async fn shutdown_aborts_a_stuck_command_after_the_drain_timeout() {
    let drain_timeout = Duration::from_millis(50);
    let mut server = Server::with(Limits { drain_timeout, ..Limits::default() }, None).await;
    let (mut stuck, mut idle) = (server.client().await, server.client().await);
    let gate = server.db.clone();
    let _closed = gate.0.gate.acquire().await.unwrap();
    stuck.send("SET k v\r\n").await;
    while !idle.text("CLIENT LIST").await.contains("cmd=set") {}
    server.shutdown.cancel();
    timeout(PATIENCE, &mut server.task).await.unwrap().unwrap().unwrap();
}
