//! Blocking commands.

use super::*;

/// Waits until `count` clients are blocked.
async fn until_waiting(client: &mut Client, count: usize) {
    while !client.text("INFO clients").await.contains(&format!("blocked_clients:{count}\r\n")) {}
}

#[tokio::test]
async fn blocking_commands_take_existing_elements_at_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("RPUSH b 1 2 3", ":3").await;
    client.check("BLPOP a b 0", "*2\r\n$1\r\nb\r\n$1\r\n1").await;
    client.check("BRPOP a b 0", "*2\r\n$1\r\nb\r\n$1\r\n3").await;
    client.check("BLMOVE b c LEFT RIGHT 0", "$1\r\n2").await;
    client.check("BRPOPLPUSH c b 0", "$1\r\n2").await;
    client.check("BLMPOP 0 2 a b LEFT COUNT 9", "*2\r\n$1\r\nb\r\n*1\r\n$1\r\n2").await;
    client.check("ZADD z 1 m 2 n 3 o", ":3").await;
    client.check("BZPOPMIN y z 0", "*3\r\n$1\r\nz\r\n$1\r\nm\r\n$1\r\n1").await;
    client.check("BZPOPMAX y z 0", "*3\r\n$1\r\nz\r\n$1\r\no\r\n$1\r\n3").await;
    client.check("BZMPOP 0 1 z MIN", "*2\r\n$1\r\nz\r\n*1\r\n*2\r\n$1\r\nn\r\n$1\r\n2").await;
    client.check("SET s x", "+OK").await;
    client.check("BLPOP s 0", "-WRONGTYPE Operation against a key holding the wrong kind of value").await;
    client.check("BLPOP a 0.001", "*-1").await;
    client.check("BLPOP a -1", "-ERR timeout is negative").await;
    client.check("BLPOP a x", "-ERR timeout is not a float or out of range").await;
    client.check("BLMPOP 0 1 a MIN", "-ERR syntax error").await;
}

#[tokio::test]
async fn blocked_clients_are_served_in_order_one_element_each() {
    let server = Server::start().await;
    let mut writer = server.client().await;
    let mut waiters = Vec::new();
    for number in 1..=3 {
        let mut waiter = server.client().await;
        waiter.send("BLPOP other list 0\r\n").await;
        until_waiting(&mut writer, number).await;
        waiters.push(waiter);
    }
    writer.check("RPUSH list a b", ":2").await;
    waiters[0].expect("*2\r\n$4\r\nlist\r\n$1\r\na\r\n").await;
    waiters[1].expect("*2\r\n$4\r\nlist\r\n$1\r\nb\r\n").await;
    until_waiting(&mut writer, 1).await;
    writer.check("SET other string", "+OK").await;
    writer.check("RPUSH list c", ":1").await;
    waiters[2].expect("*2\r\n$4\r\nlist\r\n$1\r\nc\r\n").await;
}

#[tokio::test]
async fn disconnected_client_takes_no_element() {
    let server = Server::start().await;
    let mut writer = server.client().await;
    let mut gone = server.client().await;
    gone.send("BLPOP list 0\r\n").await;
    until_waiting(&mut writer, 1).await;
    drop(gone);
    until_waiting(&mut writer, 0).await;
    writer.check("RPUSH list a", ":1").await;
    writer.check("LLEN list", ":1").await;
}

#[tokio::test]
async fn requests_behind_a_blocking_command_wait() {
    let server = Server::start().await;
    let (mut writer, mut waiter) = (server.client().await, server.client().await);
    waiter.send("PING\r\nBLMOVE from to LEFT LEFT 0\r\nLLEN to\r\n").await;
    waiter.expect("+PONG\r\n").await;
    until_waiting(&mut writer, 1).await;
    waiter.send("ECHO late\r\n").await;
    writer.check("RPUSH from a", ":1").await;
    waiter.expect("$1\r\na\r\n:1\r\n$4\r\nlate\r\n").await;
}

#[tokio::test]
async fn blocking_commands_do_not_wait_in_transactions_or_scripts() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("MULTI", "+OK").await;
    client.check("BLPOP a 0", "+QUEUED").await;
    client.check("RPUSH a x", "+QUEUED").await;
    client.check("BLPOP a 0", "+QUEUED").await;
    client.check("EXEC", "*3\r\n*-1\r\n:1\r\n*2\r\n$1\r\na\r\n$1\r\nx").await;
    client.check("EVAL \"return redis.call('blmpop', 0, 1, 'a', 'LEFT')\" 0", "$-1").await;
}

#[tokio::test]
async fn shutdown_closes_blocked_connections() {
    let mut server = Server::start().await;
    let (mut other, mut waiter) = (server.client().await, server.client().await);
    waiter.send("BLPOP list 0\r\n").await;
    until_waiting(&mut other, 1).await;
    server.shutdown.cancel();
    waiter.expect_end().await;
    timeout(PATIENCE, &mut server.task).await.unwrap().unwrap().unwrap();
}
