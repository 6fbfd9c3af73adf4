//! Keyspace notifications: what clients hear of what commands do to keys.

use super::*;

impl Client {
    /// The next message on a pattern, as `channel payload`.
    async fn hear(&mut self) -> String {
        assert_eq!(self.line().await, "*4");
        let mut words = Vec::new();
        for _ in 0..4 {
            self.line().await;
            words.push(self.line().await);
        }
        words[2..].join(" ")
    }
}

/// A client that listens to everything, and one that acts.
async fn listening(server: &Server, letters: &str) -> (Client, Client) {
    let (mut ear, mut hand) = (server.client().await, server.client().await);
    hand.check(&format!("CONFIG SET notify-keyspace-events {letters}"), "+OK").await;
    ear.check("PSUBSCRIBE *", "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1").await;
    (ear, hand)
}

#[tokio::test]
async fn a_key_and_an_event_are_told_each_on_its_channel_if_wanted() {
    let server = Server::start().await;
    let (mut ear, mut hand) = listening(&server, "KEA").await;
    hand.check("SET foo bar", "+OK").await;
    assert_eq!(ear.hear().await, "__keyspace@0__:foo set");
    assert_eq!(ear.hear().await, "__keyevent@0__:set foo");
    hand.check("CONFIG SET notify-keyspace-events El", "+OK").await;
    hand.check("SET foo bar", "+OK").await;
    hand.check("RPUSH list a", ":1").await;
    assert_eq!(ear.hear().await, "__keyevent@0__:rpush list");
    hand.check("CONFIG SET notify-keyspace-events ''", "+OK").await;
    hand.check("RPUSH list a", ":2").await;
    hand.check("PUBLISH done 1", ":1").await;
    assert_eq!(ear.hear().await, "done 1");
}

#[tokio::test]
async fn each_command_is_told_of_under_redis_name() {
    let server = Server::start().await;
    let (mut ear, mut hand) = listening(&server, "EA").await;
    // The commands, and the events with their keys.
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
        hand.send(commands.replace("; ", "\r\n") + "\r\n").await;
        for event in events.split(", ") {
            let (name, key) = event.split_once(' ').unwrap();
            assert_eq!(ear.hear().await, format!("__keyevent@0__:{name} {key}"), "of {commands}");
        }
    }
    hand.send("PUBLISH done 1\r\n").await;
    assert_eq!(ear.hear().await, "done 1");
}

#[tokio::test]
async fn what_is_new_and_what_has_expired_is_told() {
    let server = Server::start().await;
    let (mut ear, mut hand) = listening(&server, "Knx").await;
    hand.check("SET a 1 PX 1", "+OK").await;
    assert_eq!(ear.hear().await, "__keyspace@0__:a new");
    let store = server.db.0.store.clone();
    while !store.has_expired(now_ms()).unwrap() {
        tokio::task::yield_now().await;
    }
    // A write that finds it expired tells so first.
    hand.check("SETNX a 2", ":1").await;
    assert_eq!(ear.hear().await, "__keyspace@0__:a expired");
    assert_eq!(ear.hear().await, "__keyspace@0__:a new");
}
