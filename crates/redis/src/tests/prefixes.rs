//! A user who may access keys with certain prefixes: no command reads or writes a key outside.
//!
//! Two databases have the same keys inside the prefixes and other keys outside. A connection of such a user to either
//! must get the same replies, whatever it sends: a reply that differs reveals a key. And the keys outside stay as they are.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::fuzz::{encode, seeds};
use super::*;
use crate::table::{COMMANDS, Spec};

const REQUESTS: usize = 2_000;
const USERS: &str = "users:
- {name: default, password_sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, role: admin}
- {name: app, password_sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, role: ROLE, prefixes: ['app:']}
";
/// Words of requests: keys inside and outside, patterns, numbers, options, scripts.
const WORDS: [&str; 60] = [
    "app:s",
    "app:l",
    "app:h",
    "app:z",
    "app:t",
    "app:new",
    "app:*",
    "app:",
    "app:2",
    "app:[a-z]*",
    "out:s",
    "out:l",
    "out:h",
    "out:z",
    "out:t",
    "out:new",
    "out:*",
    "*",
    "ap*",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "10",
    "a",
    "b",
    "match",
    "count",
    "by",
    "get",
    "store",
    "limit",
    "withscores",
    "weights",
    "nx",
    "xx",
    "replace",
    "left",
    "right",
    "samples",
    "out:*->x",
    "app:*->x",
    "desc",
    "__keyspace@0__:app:s",
    "__keyspace@0__:out:s",
    "__keyevent@0__:del",
    "__keyspace@0__:*",
    "type",
    "string",
    "return redis.call('get', 'out:s')",
    "return redis.call('get', KEYS[1])",
    "return redis.call('del', ARGV[1])",
    "return redis.call('keys', '*')",
    "return redis.call('scan', 0, 'match', 'app:*')",
    "return redis.call('dbsize')",
    "return redis.pcall('publish', 'out:s', 'x')",
    "and",
    "ex",
    "numkeys",
];
/// Requests that random words seldom make; K is some key. The first ten are executed, where the role permits it: the property
/// says nothing of a command that is always refused.
const FORMS: [&str; 34] = [
    "get app:s",
    "set app:new 1",
    "scan 0 match app:*",
    "keys app:*",
    "eval return(1) 0",
    "sunionstore app:new app:t app:t",
    "zunionstore app:new 1 app:z",
    "copy app:l app:new replace",
    "sort app:l",
    "object encoding app:s",
    "scan 0 match K*",
    "keys K*",
    "eval S 1 K",
    "eval S 2 K K",
    "eval S 0 K",
    "eval_ro S 1 K K",
    "sunionstore K K K",
    "sinterstore K K",
    "zunionstore K 2 K K",
    "zinterstore K 1 K",
    "zrangestore K K 0 -1",
    "sort K store K",
    "sort K limit 0 1 store K",
    "sort K by nosort get K*",
    "bitop and K K K",
    "copy K K replace",
    "rename K K",
    "smove K K 1",
    "lmove K K left right",
    "lmpop 2 K K left",
    "zmpop 2 K K min",
    "sintercard 2 K K",
    "restore K 0 x replace",
    "zdiff 2 K K",
];
/// Commands whose replies differ for other reasons: between two nodes, or two times, or by the index of the log.
const VARY: [&str; 11] = [
    "auth",
    "role",
    "client|id",
    "client|info",
    "client|reply",
    "hello",
    "helios.token",
    "quit",
    "reset",
    "time",
    "client|setinfo",
];
/// Commands whose replies are long and depend on no data.
const LONG: [&str; 4] = ["command", "command|docs", "command|info", "command|list"];
/// Commands that take their elements at random.
const RANDOM: [&str; 3] = ["hrandfield", "srandmember", "zrandmember"];

async fn server(role: &str, outside: &[&str]) -> (Server, Client) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), USERS.replace("ROLE", role)).unwrap();
    let options = AccessOptions { users_file: Some(file.path().to_owned()), ..AccessOptions::default() };
    let server = Server::guarded(Store::in_memory(), Limits::default(), options).await;
    let mut admin = server.client().await;
    admin.check("AUTH default secret", "+OK").await;
    let inside =
        ["SET app:s 1", "RPUSH app:l 1 2 3", "HSET app:h a 1 b 2", "ZADD app:z 1 a 2 b", "SADD app:t 1 2"];
    for command in inside.iter().chain(outside) {
        admin.send(format!("{command}\r\n")).await;
        admin.line().await;
    }
    let mut client = server.client().await;
    client.check("AUTH app secret", "+OK").await;
    (server, client)
}

/// Everything that the server sends for the request, up to the reply to the ECHO behind it.
async fn reply(client: &mut Client, words: &[String]) -> Vec<u8> {
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.clone().into_bytes()).collect();
    client.send(encode(&words)).await;
    client.send("ECHO the-end\r\n").await;
    let (mut received, end) = (Vec::new(), b"$7\r\nthe-end\r\n");
    while !received.ends_with(end) {
        let byte = timeout(PATIENCE, client.stream.read_u8()).await;
        received.push(byte.unwrap_or_else(|_| panic!("no reply to {words:?}")).unwrap());
        // In MULTI and after EXEC the ECHO is queued.
        if received.ends_with(b"+QUEUED\r\n+QUEUED\r\n") {
            break;
        }
    }
    received
}

/// Keys outside the prefixes, with their values.
fn outside(server: &Server) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = Some(Bytes::new());
    while let Some(start) = next {
        let page = server.db.0.store.scan(&start, None, 1000, now_ms()).unwrap();
        let outside = page.pairs.iter().filter(|(key, _)| !key.starts_with(b"app:"));
        found.extend(outside.map(|(key, value)| format!("{key:?} {value:?}")));
        next = page.next;
    }
    found
}

fn all_commands() -> Vec<&'static Spec> {
    COMMANDS.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands)).collect()
}

/// A request of one of the forms, with keys inside only if `is_inside`.
fn formed(random: &mut StdRng, form: &str, is_inside: bool) -> Vec<String> {
    let words = form.split(' ').map(|word| match word {
        "S" => WORDS
            .iter()
            .filter(|word| word.starts_with("return"))
            .nth(random.random_range(0..7))
            .unwrap()
            .to_string(),
        _ if word.starts_with('K') => {
            let name = &WORDS[random.random_range(0..5)][4..];
            let prefix = if is_inside || random.random() { "app:" } else { "out:" };
            format!("{prefix}{name}{}", &word[1..])
        }
        _ => word.to_owned(),
    });
    words.collect()
}

fn request(random: &mut StdRng, spec: &Spec) -> Vec<String> {
    let mut words: Vec<_> = spec.name.split('|').map(str::to_owned).collect();
    let least = spec.arity.unsigned_abs() as usize;
    let more = if spec.arity < 0 { random.random_range(0..5) } else { 0 };
    while words.len() < least + more {
        // So many that most requests are valid.
        let inside = random.random_ratio(1, 2).then(|| WORDS[random.random_range(0..5)]);
        words.push(inside.unwrap_or_else(|| WORDS[random.random_range(0..WORDS.len())]).to_owned());
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_of_a_limited_user_reads_or_writes_a_key_outside_its_prefixes() {
    let commands: Vec<_> = all_commands()
        .into_iter()
        .filter(|spec| ![&VARY[..], &RANDOM, &LONG].concat().contains(&spec.name))
        // A wait, a pause, or a subscription changes what the connection may send next.
        .filter(|spec| !spec.has(crate::table::Flags::BLOCKING) && !spec.name.contains("subscribe"))
        .filter(|spec| !["multi", "exec", "discard", "client|pause"].contains(&spec.name))
        .collect();
    let mut ran = BTreeSet::new();
    for seed in seeds() {
        for role in ["read-only", "read-write", "admin"] {
            let (few, mut first) = server(role, &["SET out:s x", "SET zzz 1"]).await;
            let many = [
                "SET out:s other",
                "RPUSH out:l a b c",
                "SADD out:t 1",
                "HSET out:h a 1",
                "ZADD out:z 1 a",
                "SET aaa 1",
                "DEL aaa",
            ];
            let (more, mut second) = server(role, &many).await;
            let (before_few, before_many) = (outside(&few), outside(&more));
            let mut random = StdRng::seed_from_u64(seed);
            for number in 0..REQUESTS {
                let words = match (FORMS.get(number), commands.get(number)) {
                    (Some(form), _) => formed(&mut random, form, true),
                    (None, Some(spec)) => request(&mut random, spec),
                    (None, None) if random.random() => {
                        let form = FORMS[random.random_range(0..FORMS.len())];
                        formed(&mut random, form, false)
                    }
                    (None, None) => {
                        let spec = commands[random.random_range(0..commands.len())];
                        request(&mut random, spec)
                    }
                };
                let (left, right) = (reply(&mut first, &words).await, reply(&mut second, &words).await);
                let text = String::from_utf8_lossy(&left).into_owned();
                assert_eq!(text, String::from_utf8_lossy(&right), "{role}, seed {seed}: {words:?}");
                if !text.starts_with('-') {
                    ran.insert(words[0].clone());
                }
            }
            assert_eq!(outside(&few), before_few, "{role}, seed {seed}");
            assert_eq!(outside(&more), before_many, "{role}, seed {seed}");
        }
    }
    for form in &FORMS[..10] {
        let name = form.split(' ').next().unwrap();
        assert!(ran.contains(name), "{name} was never executed; it ran {ran:?}");
    }
}

#[tokio::test]
async fn requests_of_a_limited_user_are_refused_by_their_keys_channels_and_commands() {
    let (_server, mut client) = server("read-write", &["SET out:s x"]).await;
    for (command, expected) in [
        ("GET app:s", "$1\r\n1"),
        ("GET out:s", "-NOPERM user app may access keys that begin with app:, and \"out:s\" does not"),
        (
            "MSET app:s 1 out:s 2",
            "-NOPERM user app may access keys that begin with app:, and \"out:s\" does not",
        ),
        (
            "EXISTS app:s out:s",
            "-NOPERM user app may access keys that begin with app:, and \"out:s\" does not",
        ),
        (
            "EVAL \"return 1\" x",
            "-NOPERM user app may access keys that begin with app:, and eval with an invalid number of keys reaches others",
        ),
        (
            "EVAL \"return redis.pcall('get', 'out:s').err\" 0",
            "$74\r\nNOPERM user app may access keys that begin with app:, and \"out:s\" does not",
        ),
        ("EVAL \"return redis.call('get', 'app:s')\" 0", "$1\r\n1"),
        ("DBSIZE", "-NOPERM user app may access keys that begin with app:, and dbsize reaches others"),
        ("RANDOMKEY", "-NOPERM user app may access keys that begin with app:, and randomkey reaches others"),
        ("INFO", "-NOPERM user app may access keys that begin with app:, and info reaches others"),
        (
            "KEYS *",
            "-NOPERM user app may access keys that begin with app:, and keys of this pattern reaches others",
        ),
        ("KEYS app:s*", "*1\r\n$5\r\napp:s"),
        (
            "SCAN 0",
            "-NOPERM user app may access keys that begin with app:, and scan without MATCH of such a prefix reaches others",
        ),
        ("SCAN 0 MATCH app:s*", "*2\r\n$1\r\n0\r\n*1\r\n$5\r\napp:s"),
        (
            "SORT app:l BY out:*",
            "-NOPERM user app may access keys that begin with app:, and sort with BY or GET reaches others",
        ),
        (
            "BLPOP app:l out:l 0",
            "-NOPERM user app may access keys that begin with app:, and \"out:l\" does not",
        ),
        ("WATCH out:s", "-NOPERM user app may access keys that begin with app:, and \"out:s\" does not"),
        (
            "SUBSCRIBE __keyevent@0__:del",
            "-NOPERM user app may access keys that begin with app:, and a channel without such a prefix reaches others",
        ),
        (
            "PSUBSCRIBE a*",
            "-NOPERM user app may access keys that begin with app:, and a channel without such a prefix reaches others",
        ),
        (
            "PUBLISH news x",
            "-NOPERM user app may access keys that begin with app:, and a channel without such a prefix reaches others",
        ),
        ("PUBLISH app:news x", ":0"),
        ("MULTI", "+OK"),
        ("GET out:s", "-NOPERM user app may access keys that begin with app:, and \"out:s\" does not"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
        ("ACL WHOAMI", "$3\r\napp"),
    ] {
        client.check(command, expected).await;
    }
    client.send("SUBSCRIBE app:news __keyspace@0__:app:s\r\n").await;
    client.expect("*3\r\n$9\r\nsubscribe\r\n$8\r\napp:news\r\n:1\r\n").await;
}

#[tokio::test]
async fn scan_of_a_limited_user_does_not_resume_at_a_key_outside() {
    let (server, mut client) = server("read-only", &["SET out:s x", "SET out:t x"]).await;
    let mut admin = server.client().await;
    admin.check("AUTH default secret", "+OK").await;
    // The cursor of a key outside is in the table, and that of another one is not.
    let (cursor, _) = admin.scan("SCAN 0 COUNT 5").await;
    let unknown = crate::cursor::cursor_of(b"out:t").to_string();
    for cursor in [cursor, unknown, "1".to_owned()] {
        client.send(format!("SCAN {cursor} MATCH app:*\r\n")).await;
        let line = client.line().await;
        assert!(line.starts_with("-ERR invalid cursor"), "{cursor}: {line}");
    }
    admin.send("ACL LIST\r\n").await;
    let rule = "user app on ~app:* &app:* +@all -@write -@admin -eval -evalsha";
    admin.expect(&format!("*2\r\n${}\r\n{rule}\r\n", rule.len())).await;
}
