//! `EVAL`, `EVALSHA`, their read-only variants, and `SCRIPT`.

use super::*;

/// Sends a script as an array of bulk strings and checks the reply.
pub async fn eval(client: &mut Client, script: &str, words: &[&str], reply: &str) {
    let words = ["EVAL", script].into_iter().chain(words.iter().copied());
    command(client, &words.collect::<Vec<_>>()).await;
    client.expect(&format!("{reply}\r\n")).await;
}

pub async fn command(client: &mut Client, words: &[&str]) {
    let words_wire = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    client.send(format!("*{}\r\n{}", words.len(), words_wire.collect::<String>())).await;
}

#[tokio::test]
async fn values_are_converted_both_ways_as_redis_does() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (script, reply) in [
        ("return 3.99", ":3"),
        ("return -3.99", ":-3"),
        ("return true", ":1"),
        ("return false", "$-1"),
        ("return nil", "$-1"),
        ("return 'x'", "$1\r\nx"),
        ("return {1,'a',nil,2}", "*2\r\n:1\r\n$1\r\na"),
        ("return {ok='fine'}", "+fine"),
        ("return {err='MY error'}", "-MY error"),
        ("return redis.error_reply('word')", "-ERR word"),
        ("return redis.error_reply('-MY word')", "-MY word"),
        ("return redis.status_reply('PONG')", "+PONG"),
        ("return {double=1.5}", "$3\r\n1.5"),
        ("return redis.call('set','k','v')", "+OK"),
        ("return redis.call('get','k')", "$1\r\nv"),
        ("return redis.call('get','absent') == false", ":1"),
        ("return redis.call('incr','n')", ":1"),
        ("redis.call('set','f',3.14) return redis.call('get','f')", "$18\r\n3.1400000000000001"),
        ("return redis.call('hset','h','a','1','b','2')", ":2"),
        ("return redis.call('hgetall','h')", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2"),
        ("redis.setresp(3) return redis.call('hgetall','h').map.a", "$1\r\n1"),
        (
            "return redis.pcall('hget','k','f').err",
            "$65\r\nWRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        ("return redis.sha1hex('')", "$40\r\nda39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("return cjson.encode({1,2,{a='x'}})", "$15\r\n[1,2,{\"a\":\"x\"}]"),
        ("return cjson.decode('{\"a\":[1,2]}').a[2]", ":2"),
        ("return redis.call('time')[1] ~= nil", ":1"),
        ("return redis.call('scan', 0, 'match', 'h*')[2]", "*1\r\n$1\r\nh"),
        ("redis.call('hset','h','c','3') return #redis.call('hscan','h',0)[2]", ":6"),
    ] {
        eval(&mut client, script, &["0"], reply).await;
    }
    let mut three = server.client().await;
    three.send("HELLO 3\r\n").await;
    while three.line().await != "*0" {}
    eval(&mut three, "return true", &["0"], ":1").await;
    eval(&mut three, "return {double=1.5}", &["0"], ",1.5").await;
    eval(&mut three, "return {map={a=1}}", &["0"], "%1\r\n$1\r\na\r\n:1").await;
}

#[tokio::test]
async fn a_script_sees_its_own_writes_and_is_one_entry() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SADD s a b c", ":3").await;
    server.db.take_batches();
    let script = "redis.call('set', KEYS[1], ARGV[1]) redis.call('append', KEYS[1], '!') \
                  redis.call('spop', 's') redis.call('rpush', 'l', 'x', 'y') redis.call('lpop', 'l') \
                  return {redis.call('get', KEYS[1]), redis.call('scard', 's'), redis.call('lrange', 'l', 0, -1)}";
    eval(&mut client, script, &["1", "k", "v"], "*3\r\n$2\r\nv!\r\n:2\r\n*1\r\n$1\r\ny").await;
    assert_eq!(server.db.take_batches(), [1]);
    client.check("GET k", "$2\r\nv!").await;
    client.check("SCARD s", ":2").await;
    client.check("LRANGE l 0 -1", "*1\r\n$1\r\ny").await;
    eval(&mut client, "return redis.call('get', KEYS[1])", &["1", "k"], "$2\r\nv!").await;
    assert!(server.db.take_batches().is_empty(), "a script that only reads is not in the log");
    eval(
        &mut client,
        "redis.call('flushall') redis.call('set','a','1') return redis.call('dbsize')",
        &["0"],
        ":1",
    )
    .await;
    client.check("DBSIZE", ":1").await;
}

#[tokio::test]
async fn script_runs_again_after_a_conflicting_write_and_takes_effect_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET n 1", "+OK").await;
    // The gate holds the write back; meanwhile another member changes the key.
    let held = server.db.0.gate.acquire().await.unwrap();
    let script = "local n = redis.call('get', KEYS[1]) redis.call('set', KEYS[1], n + 10) return n";
    let submitted = server.db.0.waiting.load(Ordering::SeqCst);
    command(&mut client, &["EVAL", script, "1", "n"]).await;
    let is_tried = async {
        while server.db.0.waiting.load(Ordering::SeqCst) == submitted {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, is_tried).await.unwrap();
    let set = helios_proto::v1::Set { key: "n".into(), value: "5".into(), ..Default::default() };
    server.db.apply(Op::Set(set));
    drop(held);
    client.expect("$1\r\n5\r\n").await;
    client.check("GET n", "$2\r\n15").await;
}

#[tokio::test]
async fn script_errors_name_cause_and_line() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let sha = |script: &str| super::super::script::digest_of(script.as_bytes());
    for (script, error) in [
        (
            "return redis.call('nosuch')",
            "ERR Unknown Redis command called from script script: SHA, on @user_script:1.",
        ),
        (
            "return redis.call('get')",
            "ERR Wrong number of args calling Redis command from script script: SHA, on @user_script:1.",
        ),
        (
            "local y = 1\nlocal x = redis.call('hget', 'k', 'f')\nreturn x",
            "WRONGTYPE Operation against a key holding the wrong kind of value script: SHA, on @user_script:2.",
        ),
        (
            "return redis.call('eval', 'return 1', 0)",
            "ERR This Redis command is not allowed from script script: SHA, on @user_script:1.",
        ),
        (
            "return redis.call({})",
            "ERR Lua redis lib command arguments must be strings or integers script: SHA, on @user_script:1.",
        ),
        ("\nerror('mine')", "ERR user_script:2: mine script: SHA, on @user_script:2."),
        ("error({err='MY word'})", "MY word script: SHA, on @user_script:1."),
        (
            "return nosuch",
            "ERR user_script:1: Script attempted to access nonexistent global variable 'nosuch' script: SHA, on @user_script:1.",
        ),
        ("x = 1", "ERR user_script:1: Attempt to modify a readonly table script: SHA, on @user_script:1."),
        (
            "return io",
            "ERR user_script:1: Script attempted to access nonexistent global variable 'io' script: SHA, on @user_script:1.",
        ),
        ("return os.exit", "$-1"),
        ("return loadstring('\\27Lua') == nil", ":1"),
        ("return string.dump == nil", ":1"),
    ] {
        client.check("SET k v", "+OK").await;
        let error = error.replace("SHA", &sha(script));
        let reply = if error.starts_with(['$', ':']) { error } else { format!("-{error}") };
        eval(&mut client, script, &["0"], &reply).await;
    }
    command(&mut client, &["EVAL", "return (", "0"]).await;
    assert!(client.line().await.starts_with("-ERR Error compiling script (new function): user_script:1:"));
    command(&mut client, &["EVAL_RO", "return redis.call('set', 'k', 'w')", "0"]).await;
    assert!(client.line().await.starts_with("-ERR Write commands are not allowed from read-only scripts."));
    eval(&mut client, "#!lua flags=no-writes\nreturn redis.pcall('del', 'k').err ~= nil", &["0"], ":1").await;
    client.check("GET k", "$1\r\nv").await;
    client.check("EVAL 'return 1' -1", "-ERR Number of keys can't be negative").await;
    client.check("EVAL 'return 1' 2 k", "-ERR Number of keys can't be greater than number of args").await;
    // Writes of a script before it failed take effect, as in Redis.
    command(&mut client, &["EVAL", "redis.call('set','k','w') error('late')", "0"]).await;
    assert!(client.line().await.starts_with("-ERR user_script:1: late"));
    client.check("GET k", "$1\r\nw").await;
}

#[tokio::test]
async fn scripts_are_cached_by_digest() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    client.check(&format!("EVALSHA {digest} 0"), "-NOSCRIPT No matching script. Please use EVAL.").await;
    client.check("SCRIPT LOAD 'return 1'", &format!("$40\r\n{digest}")).await;
    client.check(&format!("EVALSHA {} 0", digest.to_uppercase()), ":1").await;
    client.check(&format!("EVALSHA_RO {digest} 0"), ":1").await;
    client.check(&format!("SCRIPT EXISTS {digest} nosuch"), "*2\r\n:1\r\n:0").await;
    client.check("SCRIPT FLUSH SYNC", "+OK").await;
    client.check(&format!("SCRIPT EXISTS {digest}"), "*1\r\n:0").await;
    client.check("SCRIPT KILL", "-NOTBUSY No scripts in execution right now.").await;
    client.check("SCRIPT FLUSH now", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option").await;
}

#[tokio::test]
async fn killed_script_has_no_effect_even_if_it_catches_errors() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    let script = "redis.call('set','k','v') while true do pcall(function() while true do end end) end";
    command(&mut client, &["EVAL", script, "0"]).await;
    loop {
        other.send("SCRIPT KILL\r\n").await;
        if other.line().await == "+OK" {
            break;
        }
    }
    assert!(
        client.line().await.starts_with("-ERR Error running script: Script killed by user with SCRIPT KILL")
    );
    client.check("EXISTS k", ":0").await;
    command(
        &mut client,
        &["EVAL", "local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end", "0"],
    )
    .await;
    assert!(client.line().await.contains("not enough memory"));
    client.check("PING", "+PONG").await;
}

#[tokio::test]
async fn script_in_a_transaction_takes_effect_with_it() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    client.check("WATCH w", "+OK").await;
    client.check("MULTI", "+OK").await;
    for queued in
        ["SET k 1", "EVAL \"return redis.call('incr', KEYS[1])\" 1 k", "GET k", "EVALSHA nosuch 0", "PING"]
    {
        client.check(queued, "+QUEUED").await;
    }
    server.db.take_batches();
    client
        .check(
            "EXEC",
            "*5\r\n+OK\r\n:2\r\n$1\r\n2\r\n-NOSCRIPT No matching script. Please use EVAL.\r\n+PONG",
        )
        .await;
    assert_eq!(server.db.take_batches(), [1]);
    client.check("WATCH w", "+OK").await;
    other.check("SET w 1", "+OK").await;
    client.check("MULTI", "+OK").await;
    client.check("EVAL \"return redis.call('incr', 'k')\" 1 k", "+QUEUED").await;
    client.check("EXEC", "*-1").await;
    client.check("GET k", "$1\r\n2").await;
}

#[tokio::test]
async fn messages_of_a_script_are_sent_after_it_takes_effect() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    other.check("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1").await;
    eval(&mut client, "return redis.call('publish', 'c', 'hi')", &["0"], ":0").await;
    other.expect("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n").await;
}

#[tokio::test]
async fn script_uses_the_clock_of_the_database() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET k v PX 60000", "+OK").await;
    let get = "EVAL \"return redis.call('get', KEYS[1])\" 1 k";
    client.check(get, "$1\r\nv").await;
    server.db.0.clock_ms.store(now_ms() + 120_000, Ordering::SeqCst);
    client.check("GET k", "$-1").await;
    client.check(get, "$-1").await;
}
