use std::collections::BTreeSet;

use helios_proto::v1::{ErrorCode, Role};

use super::*;

/// Sends each command and checks its RESP2 reply, in order, on one connection of a new server.
pub async fn check_all(script: &[(&str, &str)]) {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (command, reply) in script {
        client.check(command, reply).await;
    }
}

#[tokio::test]
async fn string_commands_reply_as_redis() {
    check_all(&[
        ("GET k", "$-1"),
        ("SET k v", "+OK"),
        ("GET k", "$1\r\nv"),
        ("STRLEN k", ":1"),
        ("STRLEN none", ":0"),
        ("SET k w NX", "$-1"),
        ("SET k w XX GET", "$1\r\nv"),
        ("SET n 1 XX", "$-1"),
        ("SET n 1 GET", "$-1"),
        ("SETNX k x", ":0"),
        ("SETNX m x", ":1"),
        ("GETSET k y", "$1\r\nw"),
        ("GETSET fresh y", "$-1"),
        ("MSET a 1 b 2", "+OK"),
        ("MGET a none b", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2"),
        ("MSETNX a 1 c 2", ":0"),
        ("MSETNX c 1 d 2", ":1"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("SET", "-ERR wrong number of arguments for 'set' command"),
        ("SET k v FOO", "-ERR syntax error"),
        ("SET k v NX XX", "-ERR syntax error"),
        ("SET k v EX", "-ERR syntax error"),
        ("SET k v EX 1 PX 1", "-ERR syntax error"),
        ("SET k v EX 1 KEEPTTL", "-ERR syntax error"),
        ("SET k v EX a", "-ERR value is not an integer or out of range"),
        ("SET k v EX 0", "-ERR invalid expire time in 'set' command"),
        ("SET k v PX -1", "-ERR invalid expire time in 'set' command"),
        ("SET k v EX 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("SET k v PX 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("SETEX k 0 v", "-ERR invalid expire time in 'setex' command"),
        ("PSETEX k -5 v", "-ERR invalid expire time in 'psetex' command"),
    ])
    .await;
}

#[tokio::test]
async fn counter_commands_reply_as_redis() {
    check_all(&[
        ("INCR n", ":1"),
        ("INCRBY n 41", ":42"),
        ("DECR n", ":41"),
        ("DECRBY n 50", ":-9"),
        ("INCRBY n 1.5", "-ERR value is not an integer or out of range"),
        ("INCRBY n +1", "-ERR value is not an integer or out of range"),
        ("DECRBY n -9223372036854775808", "-ERR decrement would overflow"),
        ("SET n 9223372036854775807", "+OK"),
        ("INCR n", "-ERR increment or decrement would overflow"),
        ("SET n text", "+OK"),
        ("INCR n", "-ERR value is not an integer or out of range"),
    ])
    .await;
}

#[tokio::test]
async fn expiry_commands_reply_as_redis() {
    check_all(&[
        ("SET k v", "+OK"),
        ("TTL k", ":-1"),
        ("TTL none", ":-2"),
        ("PTTL none", ":-2"),
        ("EXPIRETIME k", ":-1"),
        ("EXPIRE k 100", ":1"),
        ("TTL k", ":100"),
        ("EXPIRE k 50 NX", ":0"),
        ("EXPIRE k 50 GT", ":0"),
        ("EXPIRE k 50 LT", ":1"),
        ("EXPIRE k 60 XX GT", ":1"),
        ("TTL k", ":60"),
        ("EXPIRE none 10", ":0"),
        ("PERSIST k", ":1"),
        ("PERSIST k", ":0"),
        ("EXPIREAT k 33177117420", ":1"),
        ("EXPIRETIME k", ":33177117420"),
        ("PEXPIREAT k 33177117420123", ":1"),
        ("PEXPIRETIME k", ":33177117420123"),
        ("SET k v KEEPTTL", "+OK"),
        ("PEXPIRETIME k", ":33177117420123"),
        ("SET k v PXAT 33177117420999", "+OK"),
        ("PEXPIRETIME k", ":33177117420999"),
        ("EXPIRE k 10 NX XX", "-ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE k 10 GT LT", "-ERR GT and LT options at the same time are not compatible"),
        ("EXPIRE k 10 AB", "-ERR Unsupported option AB"),
        ("EXPIRE k 9223372036854775807", "-ERR invalid expire time in 'expire' command"),
        ("PEXPIRE k 9223372036854775807", "-ERR invalid expire time in 'pexpire' command"),
        ("EXPIRE k x", "-ERR value is not an integer or out of range"),
        ("TYPE k", "+string"),
        ("TYPE none", "+none"),
        ("EXISTS k k none", ":2"),
        ("EXPIRE k -1", ":1"),
        ("EXISTS k", ":0"),
        ("MSET a 1 b 2 c 3", "+OK"),
        ("DEL a none", ":1"),
        ("UNLINK b", ":1"),
        ("DBSIZE", ":1"),
        ("FLUSHALL ASYNC", "+OK"),
        ("FLUSHDB NOW", "-ERR syntax error"),
        ("DBSIZE", ":0"),
    ])
    .await;
}

#[tokio::test]
async fn expired_key_does_not_exist() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET k v PX 30", "+OK").await;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        client.send("EXISTS k\r\n").await;
        match client.line().await.as_str() {
            ":0" => break,
            reply => assert_eq!(reply, ":1"),
        }
        assert!(std::time::Instant::now() < deadline, "the key never expired");
    }
    client.check("GET k", "$-1").await;
}

#[tokio::test]
async fn connection_and_server_commands_reply_as_redis() {
    check_all(&[
        ("PING", "+PONG"),
        ("PING hi", "$2\r\nhi"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("ECHO hi", "$2\r\nhi"),
        ("SELECT 0", "+OK"),
        ("SELECT 1", "-ERR DB index is out of range"),
        ("SELECT x", "-ERR value is not an integer or out of range"),
        ("CLIENT GETNAME", "$-1"),
        ("CLIENT SETNAME me", "+OK"),
        ("CLIENT GETNAME", "$2\r\nme"),
        ("CLIENT SETNAME 'a b'", "-ERR Client names cannot contain spaces, newlines or special characters."),
        ("CLIENT SETINFO lib-name x", "+OK"),
        ("CLIENT SETINFO foo x", "-ERR Unrecognized option 'foo'"),
        ("CLIENT ID", ":1"),
        ("CLIENT LIST TYPE replica", "$0\r\n"),
        ("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'"),
        ("CLIENT LIST ID x", "-ERR Invalid client ID"),
        ("CLIENT NO-EVICT ON", "+OK"),
        ("CLIENT NO-TOUCH maybe", "-ERR syntax error"),
        ("CLIENT TRACKING OFF", "+OK"),
        ("CLIENT GETREDIR", ":-1"),
        ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command"),
        ("DPING a b", "-ERR unknown command 'DPING', with args beginning with: 'a' 'b' "),
        ("AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"),
        ("AUTH default x", "+OK"),
        ("AUTH other x", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range"),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n"),
        ("CONFIG GET appendo*", "*2\r\n$10\r\nappendonly\r\n$3\r\nyes"),
        ("CONFIG GET nothing", "*0"),
        ("CONFIG RESETSTAT", "+OK"),
        ("CONFIG SET save x", "+OK"),
        (
            "CONFIG SET maxmemory 1",
            "-ERR CONFIG SET failed (possibly related to argument 'maxmemory') - can't set immutable config: set it in the configuration of heliosd",
        ),
        ("WAIT 1 0", ":0"),
        ("SET k v", "+OK"),
        ("WAIT 1 100", ":1"),
        ("WAIT 1 -1", "-ERR timeout is negative"),
        ("ROLE", "*3\r\n$6\r\nmaster\r\n:1\r\n*1\r\n*3\r\n$11\r\ndemo-2.demo\r\n$4\r\n6379\r\n$1\r\n0"),
        ("RESET", "+RESET"),
        ("CLIENT GETNAME", "$-1"),
        ("COMMAND GETKEYS MSET a 1 b 2", "*2\r\n$1\r\na\r\n$1\r\nb"),
        ("COMMAND GETKEYS PING", "-ERR The command has no key arguments"),
        ("COMMAND GETKEYS NOPE x", "-ERR Invalid command specified"),
        ("COMMAND GETKEYS GET", "-ERR Invalid number of arguments specified for command"),
        ("COMMAND INFO nope", "*1\r\n*-1"),
        ("COMMAND DOCS nope", "*0"),
        ("QUIT", "+OK"),
    ])
    .await;
}

#[tokio::test]
async fn info_shows_role_and_raft_state() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET k v", "+OK").await;
    let info = client.text("INFO").await;
    for line in [
        "redis_version:7.2.0",
        "loading:0",
        "role:master",
        "slave0:ip=demo-2.demo,port=6379,state=wait_bgsave,offset=0,lag=1",
        "raft_enabled:1",
        "raft_state:Leader",
        "raft_leader:demo-1",
        "raft_term:7",
        "raft_commit_index:1",
        "raft_members:2",
        "db0:keys=1,expires=0,avg_ttl=0",
    ] {
        assert!(info.contains(&format!("{line}\r\n")), "{line} not in\n{info}");
    }
    assert!(info.contains("helios_version:"));
    *server.db.0.role.lock().unwrap() = Role::Follower;
    let replication = client.text("INFO replication").await;
    assert!(
        replication
            .starts_with("# Replication\r\nrole:slave\r\nmaster_host:demo-1.demo\r\nmaster_port:6379\r\n")
    );
    assert!(!replication.contains("raft_state"));
    assert!(client.text("INFO raft").await.contains("raft_state:Follower\r\n"));
    client.check("ROLE", "*5\r\n$5\r\nslave\r\n$11\r\ndemo-1.demo\r\n:6379\r\n$9\r\nconnected\r\n:1").await;
}

#[tokio::test]
async fn forwarding_member_is_reported_as_a_master() {
    let server = Server::start().await;
    let mut client = server.client().await;
    server.db.0.followers_are_masters.store(true, Ordering::SeqCst);
    for role in [Role::Follower, Role::Candidate, Role::Learner] {
        *server.db.0.role.lock().unwrap() = role;
        let replication = client.text("INFO replication").await;
        assert!(
            replication.starts_with("# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"),
            "{replication}"
        );
        client.check("ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0").await;
        client.send("HELLO 2\r\n").await;
        while client.line().await != "role" {}
        let rest = [client.line().await, client.line().await, client.line().await, client.line().await];
        assert_eq!((rest[1].as_str(), client.line().await.as_str()), ("master", "*0"), "{rest:?}");
        assert!(!client.text("INFO raft").await.contains("raft_state:Leader"));
    }
    *server.db.0.role.lock().unwrap() = Role::Removed;
    assert!(client.text("INFO replication").await.contains("role:slave"));
}

#[tokio::test]
async fn keys_and_elements_over_their_limits_are_rejected() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let fits = "x".repeat(64 << 10);
    let long = "x".repeat((64 << 10) + 1);
    let element =
        "-ERR hash field or set member of 65537 bytes exceeds the limit of 65536 bytes (fixed limit)";
    let (fits, long) = (fits.as_str(), long.as_str());
    let script = format!("return redis.call('sadd', 's', '{long}')");
    for (words, expected) in [
        (vec!["SET", long, "v"], "-ERR key exceeds maximum allowed size (65536 bytes)"),
        (vec!["HSET", "h", fits, "v"], ":1"),
        (vec!["HSET", "h", "f", "v", long, "v"], element),
        (vec!["HSET", "h", "f", long], ":1"),
        (vec!["HINCRBY", "h", long, "1"], element),
        (vec!["SADD", "s", "a", long], element),
        (vec!["SADD", "s", fits], ":1"),
        (vec!["ZADD", "z", "1", long], element),
        (vec!["RPUSH", "l", long], ":1"),
        (vec!["SREM", "s", long], ":0"),
        (vec!["MULTI"], "+OK"),
        (vec!["SADD", "s", long], "+QUEUED"),
        (vec!["EXEC"], "*1"),
    ] {
        client.send_words(&words).await;
        assert_eq!(client.line().await, expected, "{words:.10?}");
    }
    assert_eq!(client.line().await, element, "in EXEC");
    client.send_words(&["EVAL", &script, "0"]).await;
    let answer = client.line().await;
    assert!(answer.starts_with(element), "{answer}");
    client.check("SCARD s", ":1").await;
}

#[tokio::test]
async fn scan_returns_each_key_once_despite_deletes_and_other_nodes() {
    let (server, other_node) = (Server::start().await, Server::start().await);
    let (mut client, mut elsewhere) = (server.client().await, other_node.client().await);
    let expected: BTreeSet<String> = (0..500).map(|number| format!("user:{number:03}")).collect();
    for key in &expected {
        client.check(&format!("SET {key} v"), "+OK").await;
        elsewhere.check(&format!("SET {key} v"), "+OK").await;
    }
    client.check("MSET unrelated 1 aaa 2", "+OK").await;
    let (mut cursor, mut found, mut calls) = ("0".to_owned(), Vec::new(), 0);
    loop {
        // The node changes from call to call, and returned keys are deleted at once.
        let node = if calls % 2 == 0 { &mut client } else { &mut elsewhere };
        let (next, keys) = node.scan(&format!("SCAN {cursor} MATCH user:* COUNT 7 TYPE string")).await;
        client.check(&format!("DEL none {}", keys.join(" ")), &format!(":{}", keys.len())).await;
        found.extend(keys);
        (cursor, calls) = (next, calls + 1);
        if cursor == "0" {
            break;
        }
        assert!(calls < 1000, "the iteration does not end");
    }
    assert_eq!(found.len(), expected.len(), "each key once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn scan_and_keys_filter_and_reject_bad_arguments() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("MSET a 1 ab 2 b 3", "+OK").await;
    client.check("KEYS a*", "*2\r\n$1\r\na\r\n$2\r\nab").await;
    client.check("KEYS [b]", "*1\r\n$1\r\nb").await;
    client.check("KEYS none*", "*0").await;
    assert_eq!(client.scan("SCAN 0 TYPE list").await, ("0".to_owned(), vec![]));
    assert_eq!(client.scan("SCAN 0 MATCH b COUNT 1").await, ("0".to_owned(), vec!["b".to_owned()]));
    client.check("SCAN x", "-ERR invalid cursor").await;
    client.check("SCAN 0 COUNT 0", "-ERR syntax error").await;
    client.check("SCAN 0 COUNT x", "-ERR value is not an integer or out of range").await;
    client.check("SCAN 0 MATCH", "-ERR syntax error").await;
    client.send("SCAN 12345\r\n").await;
    assert!(client.line().await.starts_with("-ERR invalid cursor: "));
}

#[tokio::test]
async fn cluster_errors_keep_the_connection_open() {
    let server = Server::start().await;
    let mut client = server.client().await;
    *server.db.0.write_error.lock().unwrap() = Some(Error::outcome_unknown());
    client.send("SET k v\r\n").await;
    assert!(client.line().await.starts_with("-ERR outcome unknown: "));
    *server.db.0.write_error.lock().unwrap() = Some(Error::not_leader(None));
    client.send("SET k v\r\n").await;
    assert!(client.line().await.starts_with("-READONLY "));
    *server.db.0.read_error.lock().unwrap() = Some(Error::new(ErrorCode::NoQuorum, "no majority answers"));
    client.check("GET k", "-CLUSTERDOWN The cluster is down: no majority answers").await;
    client.check("READONLY", "+OK").await;
    client.check("GET k", "$-1").await;
    client.check("READWRITE", "+OK").await;
    client.check("GET k", "-CLUSTERDOWN The cluster is down: no majority answers").await;
    client.check("PING", "+PONG").await;
}

#[tokio::test]
async fn patterns_are_bounded_in_length_and_in_steps() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let key = "a".repeat(60_000);
    client.check(&format!("SET {key} v"), "+OK").await;
    client.check("HSET h f v", ":1").await;
    client.check("SADD s m", ":1").await;
    let long = format!("*[{}]q", "x".repeat(40_000));
    let request = |words: &[&str]| {
        let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        format!("*{}\r\n{}", words.len(), words.collect::<String>())
    };
    let too_long = "-ERR pattern exceeds maximum allowed size (8192 bytes)\r\n";
    for words in [
        &["KEYS", &long][..],
        &["SCAN", "0", "MATCH", &long],
        &["HSCAN", "h", "0", "MATCH", &long],
        &["SSCAN", "s", "0", "MATCH", &long],
        &["PSUBSCRIBE", &long],
        &["PUBSUB", "CHANNELS", &long],
        &["CONFIG", "GET", &long],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", &long],
    ] {
        client.send(request(words)).await;
        client.expect(too_long).await;
    }
    // Each byte of the key starts a match that fails only at its end.
    let costly = format!("*{}b", "a".repeat(4_000));
    for words in [&["KEYS", &costly][..], &["SCAN", "0", "MATCH", &costly, "COUNT", "1000"]] {
        client.send(request(words)).await;
        let line = client.line().await;
        assert!(line.starts_with("-ERR the pattern takes more than 16777216 steps"), "{line}");
    }
    // A long class does not make a long pattern, and costs one step for each byte.
    let class = format!("*[{}]q", "x".repeat(8_000));
    client.send(request(&["KEYS", &class])).await;
    client.expect("*0\r\n").await;
    client
        .check(&format!("CONFIG GET {}", "x ".repeat(257)), "-ERR CONFIG GET takes at most 256 patterns")
        .await;
}
