//! Channels.

use super::*;

#[tokio::test]
async fn messages_reach_subscribers() {
    let server = Server::start().await;
    let (mut listener, mut speaker) = (server.client().await, server.client().await);
    listener
        .check(
            "SUBSCRIBE a b",
            "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2",
        )
        .await;
    listener.check("PSUBSCRIBE a*", "*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:3").await;
    speaker.check("PUBLISH a hi", ":2").await;
    listener.expect("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n").await;
    listener.expect("*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$1\r\na\r\n$2\r\nhi\r\n").await;
    speaker.check("PUBSUB CHANNELS", "*2\r\n$1\r\na\r\n$1\r\nb").await;
    speaker.check("PUBSUB NUMSUB b c", "*4\r\n$1\r\nb\r\n:1\r\n$1\r\nc\r\n:0").await;
    speaker.check("PUBSUB NUMPAT", ":1").await;
    listener.check("UNSUBSCRIBE b", "*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:2").await;
    speaker.check("PUBLISH b hi", ":0").await;
}

#[tokio::test]
async fn subscriber_may_send_few_commands_in_resp2_and_any_in_resp3() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0").await;
    client.check("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1").await;
    client.check("PING", "*2\r\n$4\r\npong\r\n$0\r\n").await;
    let refusal = "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                   in this context";
    client.check("GET k", refusal).await;
    client.check("RESET", "+RESET").await;
    client.check("GET k", "$-1").await;
    client.send("HELLO 3\r\n").await;
    while client.line().await != "*0" {}
    client.check("SUBSCRIBE a", ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1").await;
    client.check("GET k", "_").await;
    client.send("PUBLISH a hi\r\n").await;
    client.expect(":1\r\n>3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n").await;
}

#[tokio::test]
async fn a_transaction_publishes_after_its_entry() {
    let server = Server::start().await;
    let (mut listener, mut speaker) = (server.client().await, server.client().await);
    listener.check("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1").await;
    speaker.check("MULTI", "+OK").await;
    speaker.check("PUBLISH a hi", "+QUEUED").await;
    speaker.check("SET k v", "+QUEUED").await;
    speaker.check("EXEC", "*2\r\n:1\r\n+OK").await;
    listener.expect("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n").await;
}

#[tokio::test]
async fn subscriber_that_does_not_read_is_disconnected() {
    let server = Server::start().await;
    let (mut listener, mut speaker) = (server.client().await, server.client().await);
    listener.check("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1").await;
    let payload = "x".repeat(1 << 20);
    let mut is_cut = false;
    for _ in 0..1_000 {
        speaker.send(format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n${}\r\n{payload}\r\n", payload.len())).await;
        is_cut = speaker.line().await == ":0";
        if is_cut {
            break;
        }
    }
    assert!(is_cut, "a gigabyte of messages is queued for one client");
}
