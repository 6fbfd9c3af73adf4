//! Transactions, collections and channels on a cluster of real processes.

use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{Cluster, PATIENCE, eventually};

const INCREMENTS: usize = 40;

/// Increments by WATCH, GET, SET; returns false when another client's write aborted the transaction.
async fn increment_watched(client: &mut MultiplexedConnection) -> bool {
    let () = redis::cmd("WATCH").arg("n").query_async(client).await.unwrap();
    let now: Option<u64> = redis::cmd("GET").arg("n").query_async(client).await.unwrap();
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("SET").arg("n").arg(now.unwrap_or(0) + 1).ignore();
    pipeline.cmd("HINCRBY").arg("h").arg("n").arg(1).ignore();
    pipeline.query_async::<Option<()>>(client).await.unwrap().is_some()
}

#[tokio::test]
async fn watched_increments_of_clients_of_all_members_lose_no_update() {
    let cluster = Cluster::of_three().await;
    let mut clients = tokio::task::JoinSet::new();
    for node in cluster.nodes().iter().chain(cluster.nodes()) {
        let mut client = node.redis().await;
        clients.spawn(async move {
            let mut done = 0;
            for _ in 0..INCREMENTS {
                done += u64::from(increment_watched(&mut client).await);
            }
            done
        });
    }
    let done: u64 = clients.join_all().await.into_iter().sum();
    assert!(done >= INCREMENTS as u64, "one transaction of each round succeeds: {done}");
    for node in cluster.nodes() {
        let mut client = node.redis().await;
        let total: u64 = redis::cmd("GET").arg("n").query_async(&mut client).await.unwrap();
        let in_hash: u64 = redis::cmd("HGET").arg("h").arg("n").query_async(&mut client).await.unwrap();
        assert_eq!((total, in_hash), (done, done), "{}", node.name);
    }
}

#[tokio::test]
async fn collections_are_the_same_on_all_members_after_restarts_and_deleted_elements_are_purged() {
    let mut cluster = Cluster::of_three().await;
    let mut client = cluster[0].redis().await;
    let mut pipeline = redis::pipe();
    for number in 0..3_000 {
        pipeline.cmd("HSET").arg("large").arg(number).arg("x").ignore();
        pipeline.cmd("RPUSH").arg("queue").arg(number).ignore();
        pipeline.cmd("ZADD").arg("board").arg(number % 7).arg(number).ignore();
    }
    let () = pipeline.query_async(&mut client).await.unwrap();
    let () = redis::cmd("DEL").arg("large").query_async(&mut client).await.unwrap();
    let () = redis::cmd("LPOP")
        .arg("queue")
        .arg(2_990)
        .query_async::<Vec<u64>>(&mut client)
        .await
        .map(drop)
        .unwrap();
    let () = redis::cmd("ZREMRANGEBYSCORE")
        .arg("board")
        .arg("-inf")
        .arg("(6")
        .query_async(&mut client)
        .await
        .unwrap();
    for index in 0..3 {
        cluster[index].terminate().await;
        cluster[index].start();
        cluster[index].wait_ready().await;
    }
    for node in cluster.nodes() {
        let mut client = node.redis().await;
        let queue: Vec<u64> =
            redis::cmd("LRANGE").arg("queue").arg(0).arg(-1).query_async(&mut client).await.unwrap();
        assert_eq!(queue, (2_990..3_000).collect::<Vec<_>>(), "{}", node.name);
        let first: Vec<u64> =
            redis::cmd("ZRANGE").arg("board").arg(0).arg(0).query_async(&mut client).await.unwrap();
        let count: u64 = redis::cmd("ZCARD").arg("board").query_async(&mut client).await.unwrap();
        assert_eq!((first, count), (vec![1_000], 428), "{}", node.name);
        eventually(&format!("two keys are left on {}", node.name), async || {
            (node.status().await.keys == 2).then_some(())
        })
        .await;
    }
}

/// Opens a connection that subscribes to `channel`.
async fn listen(port: u16, channel: &str) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    stream.write_all(format!("SUBSCRIBE {channel}\r\n").as_bytes()).await.unwrap();
    for expected in ["*3", "$9", "subscribe", &format!("${}", channel.len()), channel, ":1"] {
        assert_eq!(line(&mut stream).await, expected);
    }
    stream
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    timeout(PATIENCE, stream.read_line(&mut line)).await.unwrap().unwrap();
    line.trim_end().to_owned()
}

#[tokio::test]
async fn published_message_reaches_the_clients_of_every_member_once_and_in_order() {
    let mut cluster = Cluster::of_three().await;
    let mut listeners = Vec::new();
    for port in cluster.client_ports() {
        listeners.push(listen(port, "news").await);
    }
    let mut sent = Vec::new();
    for number in 0..60 {
        let text = format!("m{number:02}");
        let mut client = cluster[number % 3].redis().await;
        let reached: u64 =
            redis::cmd("PUBLISH").arg("news").arg(&text).query_async(&mut client).await.unwrap();
        assert_eq!(reached, 3, "{text}");
        sent.push(text);
    }
    for listener in &mut listeners {
        for text in &sent {
            let mut message = Vec::new();
            for _ in 0..7 {
                message.push(line(listener).await);
            }
            assert_eq!(message[6], *text);
        }
    }
    cluster[2].kill();
    let mut client = cluster[0].redis().await;
    eventually("the publisher counts the remaining subscribers", async || {
        let reached: u64 = redis::cmd("PUBLISH").arg("news").arg("x").query_async(&mut client).await.unwrap();
        (reached == 2).then_some(())
    })
    .await;
}
