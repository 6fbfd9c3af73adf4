//! `SORT`, `DUMP` and `RESTORE`.

use super::commands::check_all;
use super::*;

#[tokio::test]
async fn sort_replies_as_redis() {
    check_all(&[
        ("RPUSH l 3 1 2", ":3"),
        ("SORT l", "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3"),
        ("SORT l DESC LIMIT 0 2", "*2\r\n$1\r\n3\r\n$1\r\n2"),
        ("SORT_RO l BY nosort", "*3\r\n$1\r\n3\r\n$1\r\n1\r\n$1\r\n2"),
        ("MSET w1 30 w2 20 w3 10", "+OK"),
        ("HSET h1 f a", ":1"),
        ("SORT l BY w* GET # GET h*->f GET w*", "*9\r\n$1\r\n3\r\n$-1\r\n$2\r\n10\r\n$1\r\n2\r\n$-1\r\n$2\r\n20\r\n$1\r\n1\r\n$1\r\na\r\n$2\r\n30"),
        ("SORT l BY w* STORE t", ":3"),
        ("LRANGE t 0 -1", "*3\r\n$1\r\n3\r\n$1\r\n2\r\n$1\r\n1"),
        ("SORT nosuch STORE t", ":0"),
        ("EXISTS t", ":0"),
        ("SADD s b a", ":2"),
        ("SORT s", "-ERR One or more scores can't be converted into double"),
        ("SORT s ALPHA DESC", "*2\r\n$1\r\nb\r\n$1\r\na"),
        ("SORT w1", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("SORT_RO l STORE t", "-ERR syntax error"),
        ("SORT l BY store", "*3\r\n$1\r\n3\r\n$1\r\n1\r\n$1\r\n2"),
        ("SORT l LIMIT 0", "-ERR syntax error"),
    ])
    .await;
}

#[tokio::test]
async fn restore_accepts_dumped_bytes_and_rejects_damaged_ones() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for make in
        ["SET string x", "RPUSH list b a b", "HSET hash f v g w", "SADD set a b", "ZADD zset 1 a -2.5 b"]
    {
        client.send(format!("{make}\r\n")).await;
        client.line().await;
        let key = make.split(' ').nth(1).unwrap();
        let payload = dump(&mut client, key).await;
        restore(&mut client, "copy", "100000", &payload, "").await;
        assert_eq!(client.line().await, "+OK");
        assert_eq!(dump(&mut client, "copy").await, payload, "{key}");
        client.check("TTL copy", ":100").await;
        restore(&mut client, "copy", "0", &payload, "").await;
        assert_eq!(client.line().await, "-BUSYKEY Target key name already exists.");
        restore(&mut client, "copy", "0", &payload, "REPLACE").await;
        assert_eq!(client.line().await, "+OK");
        client.check("TTL copy", ":-1").await;
        for position in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[position] ^= 1;
            restore(&mut client, "other", "0", &damaged, "").await;
            assert_eq!(client.line().await, "-ERR DUMP payload version or checksum are wrong");
        }
        client.check("EXISTS other", ":0").await;
        client.check("DEL copy", ":1").await;
    }
    client.check("DUMP nosuch", "$-1").await;
    client.check("RESTORE k -1 x", "-ERR Invalid TTL value, must be >= 0").await;
}

async fn dump(client: &mut Client, key: &str) -> Vec<u8> {
    client.send(format!("DUMP {key}\r\n")).await;
    let length: usize = client.line().await[1..].parse().unwrap();
    let mut payload = vec![0; length + 2];
    timeout(PATIENCE, client.stream.read_exact(&mut payload)).await.unwrap().unwrap();
    payload.truncate(length);
    payload
}

async fn restore(client: &mut Client, key: &str, ttl: &str, payload: &[u8], option: &str) {
    let mut words = vec![b"RESTORE".as_slice(), key.as_bytes(), ttl.as_bytes(), payload];
    words.extend((!option.is_empty()).then_some(option.as_bytes()));
    client.send(format!("*{}\r\n", words.len())).await;
    for word in words {
        client.send(format!("${}\r\n", word.len())).await;
        client.send(word).await;
        client.send("\r\n").await;
    }
}
