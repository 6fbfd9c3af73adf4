//! Keyspace notifications: the messages that commands on keys publish.

use super::*;

impl Client {
    /// Reads the next message on a pattern, as `channel payload`.
    async fn next_message(&mut self) -> String {
        assert_eq!(self.line().await, "*4");
        let mut words = Vec::new();
        for _ in 0..4 {
            self.line().await;
            words.push(self.line().await);
        }
        words[2..].join(" ")
    }
}

/// Returns a client that is subscribed to all channels, and one for commands.
async fn subscribed(server: &Server, letters: &str) -> (Client, Client) {
    let (mut subscriber, mut client) = (server.client().await, server.client().await);
    client.check(&format!("CONFIG SET notify-keyspace-events {letters}"), "+OK").await;
    subscriber.check("PSUBSCRIBE *", "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1").await;
    (subscriber, client)
}

#[tokio::test]
async fn keyspace_and_keyevent_messages_follow_the_filter() {
    let server = Server::start().await;
    let (mut subscriber, mut client) = subscribed(&server, "KEA").await;
    client.check("SET foo bar", "+OK").await;
    assert_eq!(subscriber.next_message().await, "__keyspace@0__:foo set");
    assert_eq!(subscriber.next_message().await, "__keyevent@0__:set foo");
    client.check("CONFIG SET notify-keyspace-events El", "+OK").await;
    client.check("SET foo bar", "+OK").await;
    client.check("RPUSH list a", ":1").await;
    assert_eq!(subscriber.next_message().await, "__keyevent@0__:rpush list");
    client.check("CONFIG SET notify-keyspace-events ''", "+OK").await;
    client.check("RPUSH list a", ":2").await;
    client.check("PUBLISH done 1", ":1").await;
    assert_eq!(subscriber.next_message().await, "done 1");
}

#[tokio::test]
async fn commands_publish_redis_event_names() {
    let server = Server::start().await;
    let (mut subscriber, mut client) = subscribed(&server, "EA").await;
    // Commands, and the events with their keys.
    for (commands, events) in [
        ("SET s 1 EX 100", "set s, expire s"),
        ("INCR s; DECRBY s 2; INCRBYFLOAT s 0.5", "incrby s, incrby s, incrbyfloat s"),
        ("APPEND s x; SETRANGE s 0 y; SETBIT b 1 1", "append s, setrange s, setbit b"),
        ("GETEX s PERSIST; GETEX s EX 100; PERSIST s; GETDEL s", "persist s, expire s, persist s, del s"),
        (
            "MSET b 1 c 2; RENAME b d; COPY c e; DEL c d e nosuch",
            "set b, set c, rename_from b, rename_to d, copy_to e, del c, del d, del e",
        ),
        ("SET s 1; EXPIRE s 100; EXPIRE s -1", "set s, expire s, del s"),
        (
            "HSET h a 1 b 2; HINCRBY h a 1; HDEL h a; HDEL h b; HDEL h b",
            "hset h, hincrby h, hdel h, hdel h, del h",
        ),
        (
            "RPUSH l a b c; LPUSHX l z; LSET l 0 y; LINSERT l BEFORE y x; LREM l 0 x",
            "rpush l, lpush l, lset l, linsert l, lrem l",
        ),
        (
            "LMOVE l m LEFT RIGHT; LMOVE m m LEFT RIGHT; RPOPLPUSH m l",
            "lpop l, rpush m, rpush m, lpop m, rpop m, del m, lpush l",
        ),
        ("LMPOP 2 m l RIGHT COUNT 2; LTRIM l 1 0", "rpop l, ltrim l, del l"),
        (
            "SADD a 1 2; SADD a 1; SREM a 9; SMOVE a b 1; SINTERSTORE a a b; DEL b",
            "sadd a, srem a, sadd b, del a, del b",
        ),
        (
            "SADD a 1 2 3; SUNIONSTORE b a; SPOP b 3; SORT a STORE l; DEL a l",
            "sadd a, sunionstore b, spop b, del b, sortstore l, del a, del l",
        ),
        (
            "ZADD z 1 a 2 b 3 c; ZADD z INCR 1 a; ZINCRBY z 1 a; ZPOPMAX z",
            "zadd z, zincr z, zincr z, zpopmax z",
        ),
        (
            "ZREMRANGEBYSCORE z 0 2; ZRANGESTORE y z 0 -1; ZMPOP 1 y MIN; DEL z",
            "zremrangebyscore z, zrangestore y, zpopmin y, del y, del z",
        ),
        ("MULTI; SET k 1; DEL k; EXEC", "set k, del k"),
        ("EVAL \"redis.call('set', KEYS[1], 1) return redis.call('del', KEYS[1])\" 1 k", "set k, del k"),
    ] {
        client.send(commands.replace("; ", "\r\n") + "\r\n").await;
        for event in events.split(", ") {
            let (name, key) = event.split_once(' ').unwrap();
            assert_eq!(
                subscriber.next_message().await,
                format!("__keyevent@0__:{name} {key}"),
                "of {commands}"
            );
        }
    }
    client.send("PUBLISH done 1\r\n").await;
    assert_eq!(subscriber.next_message().await, "done 1");
}

#[tokio::test]
async fn new_and_expired_events_are_published() {
    let server = Server::start().await;
    let (mut subscriber, mut client) = subscribed(&server, "Knx").await;
    client.check("SET a 1 PX 1", "+OK").await;
    assert_eq!(subscriber.next_message().await, "__keyspace@0__:a new");
    let store = server.db.0.store.clone();
    while !store.has_expired(now_ms()).unwrap() {
        tokio::task::yield_now().await;
    }
    // A write that meets the expired key publishes that event first.
    client.check("SETNX a 2", ":1").await;
    assert_eq!(subscriber.next_message().await, "__keyspace@0__:a expired");
    assert_eq!(subscriber.next_message().await, "__keyspace@0__:a new");
}
