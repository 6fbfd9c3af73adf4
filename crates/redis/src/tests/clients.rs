//! `CLIENT KILL`, `REPLY` and `UNBLOCK`.

use super::*;

#[tokio::test]
async fn client_kill_closes_connections_that_match_its_filters() {
    let server = Server::start().await;
    let (mut client, mut other, mut listener) =
        (server.client().await, server.client().await, server.client().await);
    let id = client.text("CLIENT INFO").await;
    let address = other.stream.local_addr().unwrap();
    assert!(id.contains(" flags=N "), "{id}");
    listener.check("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1").await;
    other.check("PING", "+PONG").await;
    let listed = client.text("CLIENT LIST TYPE pubsub").await;
    assert!(
        listed.contains(" flags=P ") && listed.contains(" sub=1 ") && listed.lines().count() == 2,
        "{listed}"
    );
    client.check("CLIENT KILL TYPE master", ":0").await;
    client.check("CLIENT KILL TYPE pubsub", ":1").await;
    listener.expect_end().await;
    client.check("CLIENT KILL 127.0.0.1:1", "-ERR No such client").await;
    client.check(&format!("CLIENT KILL ADDR {address} USER default"), ":1").await;
    other.expect_end().await;
    client.check("CLIENT KILL USER nosuch", "-ERR No such user 'nosuch'").await;
    client.check("CLIENT KILL ID 0", "-ERR client-id should be greater than 0").await;
    client.check("CLIENT KILL TYPE normal SKIPME yes", ":0").await;
    client.check("CLIENT KILL TYPE normal SKIPME no", ":1").await;
    client.expect_end().await;
}

#[tokio::test]
async fn client_reply_suppresses_replies() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client
        .send("CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY SKIP\r\nPING\r\nCLIENT REPLY ON\r\nECHO a\r\n")
        .await;
    client.expect("+OK\r\n$1\r\na\r\n").await;
    client.send("CLIENT REPLY SKIP\r\nPING\r\nECHO b\r\n").await;
    client.expect("$1\r\nb\r\n").await;
}

#[tokio::test]
async fn client_reply_off_does_not_suppress_messages() {
    let server = Server::start().await;
    let mut listener = server.client().await;
    listener.send("CLIENT REPLY OFF\r\nSUBSCRIBE a\r\nPING\r\n").await;
    listener.expect("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").await;
    server.client().await.check("PUBLISH a b", ":1").await;
    listener.expect("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n").await;
}

#[tokio::test]
async fn client_unblock_ends_a_blocking_command() {
    let server = Server::start().await;
    let (mut client, mut waiter) = (server.client().await, server.client().await);
    for (reason, reply) in [("", "*-1\r\n"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]
    {
        waiter.send("BLPOP list 0\r\n").await;
        let id = loop {
            let list = client.text("CLIENT LIST").await;
            if let Some(line) = list.lines().find(|line| line.contains(" flags=b ")) {
                break line.split(['=', ' ']).nth(1).unwrap().to_owned();
            }
        };
        client.check(&format!("CLIENT UNBLOCK {id}{reason}"), ":1").await;
        waiter.expect(reply).await;
        client.check(&format!("CLIENT UNBLOCK {id}"), ":0").await;
    }
}
