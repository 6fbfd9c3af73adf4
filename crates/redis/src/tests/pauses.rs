//! `CLIENT PAUSE`.

use super::*;

#[tokio::test]
async fn writers_wait_for_the_end_of_a_pause_and_readers_do_not() {
    let server = Server::start().await;
    let (mut admin, mut writer) = (server.client().await, server.client().await);
    admin.check("CLIENT PAUSE 100000 WRITE", "+OK").await;
    // Earlier requests are answered before the wait.
    writer.send("GET a\r\nSET a 1\r\n").await;
    writer.expect("$-1\r\n").await;
    admin.check("GET a", "$-1").await;
    admin.check("CLIENT UNPAUSE", "+OK").await;
    writer.expect("+OK\r\n").await;
    admin.check("GET a", "$1\r\n1").await;
}

#[tokio::test]
async fn pause_of_all_clients_ends_by_timeout_or_unpause() {
    let server = Server::start().await;
    let (mut admin, mut client) = (server.client().await, server.client().await);
    admin.check("CLIENT PAUSE 50", "+OK").await;
    client.check("PING", "+PONG").await;
    admin.check("CLIENT PAUSE 100000", "+OK").await;
    client.send("PING\r\n").await;
    admin.check("CLIENT UNPAUSE", "+OK").await;
    client.expect("+PONG\r\n").await;
    for (request, refusal) in [
        ("CLIENT PAUSE x", "timeout is not an integer or out of range"),
        ("CLIENT PAUSE -1", "timeout is negative"),
        ("CLIENT PAUSE 1 READ", "CLIENT PAUSE mode must be WRITE or ALL"),
    ] {
        client.check(request, &format!("-ERR {refusal}")).await;
    }
}

#[tokio::test]
async fn shutdown_closes_paused_connections() {
    let mut server = Server::start().await;
    let (mut admin, mut client) = (server.client().await, server.client().await);
    admin.check("CLIENT PAUSE 100000", "+OK").await;
    client.send("PING\r\n").await;
    server.shutdown.cancel();
    timeout(PATIENCE, &mut server.task).await.unwrap().unwrap().unwrap();
    client.expect_end().await;
}
