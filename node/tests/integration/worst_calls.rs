//! The worst legal call of every command, plain, in a transaction and in a script, against a member with little memory:
//! it stays up, and other clients are answered meanwhile.
//!
//! A command of the table without a call here fails the test.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Node, Ports, http, temporary_directory};

/// Of heap and stacks, bytes.
const MEMORY_LIMIT: u64 = 512 << 20;
/// Elements of each large collection, and how often a call repeats a word; `HELIOS_TEST_SCALE=10` for as many as a request
/// may have, which takes minutes in a debug build.
const ELEMENTS: usize = 10_000;
const REPEATS: usize = 50_000;

fn scale() -> usize {
    std::env::var("HELIOS_TEST_SCALE").map_or(1, |text| text.parse().expect("a number"))
}
/// A call that takes longer than this is a stall, whatever it answers.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Order of magnitude only: other tests share the cores. The figure is printed.
const PING_P99: Duration = Duration::from_secs(1);

/// A call in words. `LIST`, `SET`, `ZSET` and `HASH` are large collections, `TEXT` is a string of 2 MB, `WIDE` a set of one
/// member of 2 kB. `(words)*n` stands for the words n times over.
const CALLS: &[&str] = &[
    // Strings.
    "append new (y)*1",
    "bitcount TEXT 1 -1 BIT",
    "bitop xor new (TEXT)*N",
    "bitop and new (none)*N TEXT",
    "bitpos TEXT 1 0 -1 BIT",
    "decr n",
    "decrby n 9223372036854775807",
    "get TEXT",
    "getbit TEXT 67108863",
    "getdel TEXT",
    "getex TEXT PX 100000000",
    "getrange TEXT 0 -1",
    "getset TEXT x",
    "incr n",
    "incrby n 1",
    "incrbyfloat n 0.1",
    "lcs TEXT TEXT IDX WITHMATCHLEN",
    "lcs short short IDX MINMATCHLEN 0 WITHMATCHLEN",
    "mget (TEXT)*N",
    "mset (new v)*HALF",
    "msetnx (new v)*HALF",
    "psetex new 1 v",
    "set TEXT v GET",
    "setbit new 67108863 1",
    "setex new 1 v",
    "setnx new v",
    "setrange new 8388600 v",
    "strlen TEXT",
    "substr TEXT 0 -1",
    // Lists.
    "blmove LIST new LEFT RIGHT 0.01",
    "blmpop 0.01 N (LIST)*N LEFT COUNT 9223372036854775807",
    "blpop (none)*N 0.01",
    "brpop (none)*N 0.01",
    "brpoplpush LIST new 0.01",
    "lindex LIST -1",
    "linsert LIST AFTER e0009999 x",
    "llen LIST",
    "lmove LIST LIST LEFT RIGHT",
    "lmpop N (LIST)*N LEFT COUNT 9223372036854775807",
    "lpop LIST 9223372036854775807",
    "lpos LIST e0009999 RANK -1 COUNT 0 MAXLEN 0",
    "lpush new (y)*N",
    "lpushx LIST (y)*N",
    "lrange LIST 0 -1",
    "lrem LIST 0 e0005000",
    "lset LIST -1 x",
    "ltrim LIST 1 0",
    "rpop LIST 9223372036854775807",
    "rpoplpush LIST LIST",
    "rpush new (y)*N",
    "rpushx LIST (y)*N",
    // Sets.
    "sadd new (y)*N",
    "scard SET",
    "sdiff (SET)*N",
    "sdiffstore new (SET)*N",
    "sinter (SET)*N",
    "sintercard N (SET)*N LIMIT 0",
    "sinterstore new (SET)*N",
    "sismember SET x",
    "smembers SET",
    "smismember SET (x)*N",
    "smove SET new e0000001",
    "spop SET 9223372036854775807",
    "srandmember WIDE -1048576",
    "srandmember SET 9223372036854775807",
    "srem SET (x)*N",
    "sscan SET 0 COUNT 9223372036854775807",
    "sunion (SET)*N",
    "sunionstore new (SET)*N",
    // Sorted sets.
    "bzmpop 0.01 N (ZSET)*N MAX COUNT 9223372036854775807",
    "bzpopmax (none)*N 0.01",
    "bzpopmin (none)*N 0.01",
    "zadd new (1 y)*HALF",
    "zcard ZSET",
    "zcount ZSET -inf +inf",
    "zdiff N (ZSET)*N WITHSCORES",
    "zdiffstore new N (ZSET)*N",
    "zincrby ZSET 1 e0000001",
    "zinter N (ZSET)*N WITHSCORES",
    "zintercard N (ZSET)*N",
    "zinterstore new N (ZSET)*N",
    "zlexcount ZSET - +",
    "zmpop N (ZSET)*N MAX COUNT 9223372036854775807",
    "zmscore ZSET (x)*N",
    "zpopmax ZSET 9223372036854775807",
    "zpopmin ZSET 9223372036854775807",
    "zrandmember ZSET -1048576 WITHSCORES",
    "zrange ZSET 0 -1 REV WITHSCORES",
    "zrangebylex ZSET - + LIMIT 0 9223372036854775807",
    "zrangebyscore ZSET -inf +inf WITHSCORES",
    "zrangestore new ZSET 0 -1",
    "zrank ZSET e0009999 WITHSCORE",
    "zrem ZSET (x)*N",
    "zremrangebylex ZSET - +",
    "zremrangebyrank ZSET 0 -1",
    "zremrangebyscore ZSET -inf +inf",
    "zrevrange ZSET 0 -1 WITHSCORES",
    "zrevrangebylex ZSET + -",
    "zrevrangebyscore ZSET +inf -inf WITHSCORES",
    "zrevrank ZSET e0000001",
    "zscan ZSET 0 COUNT 9223372036854775807",
    "zscore ZSET x",
    "zunion N (ZSET)*N WITHSCORES",
    "zunionstore new N (ZSET)*N",
    // Hashes.
    "hdel HASH (x)*N",
    "hexists HASH x",
    "hget HASH x",
    "hgetall HASH",
    "hincrby HASH n 1",
    "hincrbyfloat HASH f 0.1",
    "hkeys HASH",
    "hlen HASH",
    "hmget HASH (e0000001)*N",
    "hmset new (f v)*HALF",
    "hrandfield HASH -1048576 WITHVALUES",
    "hscan HASH 0 COUNT 9223372036854775807",
    "hset new (f v)*HALF",
    "hsetnx HASH x v",
    "hstrlen HASH x",
    "hvals HASH",
    // Keys.
    "copy ZSET new REPLACE",
    "del (none)*N LIST",
    "dump HASH",
    "exists (TEXT)*N",
    "expire LIST 100000",
    "expireat LIST 99999999999",
    "expiretime LIST",
    "keys *a*b*c*d*e*",
    "object|encoding HASH",
    "object|freq HASH",
    "object|help",
    "object|idletime HASH",
    "object|refcount HASH",
    "persist LIST",
    "pexpire LIST 100000000",
    "pexpireat LIST 99999999999999",
    "pexpiretime LIST",
    "pttl LIST",
    "randomkey",
    "rename LIST LIST2",
    "renamenx SET SET2",
    "restore new 0 notadump REPLACE",
    "scan 0 MATCH *a*b*c* COUNT 9223372036854775807",
    "sort LIST BY nosort (GET #)*HALF",
    "sort LIST BY w-* ALPHA STORE new",
    "touch (TEXT)*N",
    "ttl LIST",
    "type LIST",
    "unlink (none)*N SET",
    "wait 1 10",
    // Scripts. The patterns are in their own tests.
    "eval while(true)do(end) 0",
    "evalsha ffffffffffffffffffffffffffffffffffffffff 0",
    "eval return(redis.call('lrange','LIST',0,-1)) 0",
    "eval return(redis.call('mget',unpack(KEYS))) 5000 (TEXT)*5000",
    "script|exists (ffff)*N",
    "script|flush",
    "script|help",
    "script|kill",
    "script|load return(1)",
    // Server.
    "command",
    "command|count",
    "command|docs (get)*N",
    "command|getkeys mget (k)*N",
    "command|getkeysandflags mget (k)*N",
    "command|help",
    "command|info (get)*N",
    "command|list FILTERBY PATTERN *a*b*c*d*",
    "config|get (*)*N",
    "config|help",
    "config|resetstat",
    "config|set timeout 0",
    "dbsize",
    "function|flush",
    "function|help",
    "info everything",
    "memory|help",
    "memory|malloc-stats",
    "memory|stats",
    "memory|usage HASH SAMPLES 0",
    "readonly",
    "readwrite",
    "role",
    "time",
    // Connections, channels, transactions.
    "acl|cat",
    "acl|help",
    "acl|list",
    "acl|users",
    "acl|whoami",
    "client|getname",
    "client|getredir",
    "client|help",
    "client|id",
    "client|info",
    "client|kill ID 999999999",
    "client|list",
    "client|no-evict on",
    "client|no-touch on",
    "client|pause 1 WRITE",
    "client|setinfo lib-name x",
    "client|setname x",
    "client|tracking off",
    "client|unblock 999999999",
    "client|unpause",
    "discard",
    "echo x",
    "exec",
    "hello 3",
    "multi",
    "ping x",
    "psubscribe (*a*b*c*d*)*9000",
    "publish c x",
    "pubsub|channels *a*b*c*",
    "pubsub|help",
    "pubsub|numpat",
    "pubsub|numsub (c)*N",
    "punsubscribe (p)*N",
    "quit",
    "reset",
    "select 0",
    "subscribe (c)*N",
    "unsubscribe (c)*N",
    "unwatch",
    "watch (TEXT)*N",
    "flushall",
    "flushdb",
];

/// What the table has and no call is made of, with the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    ("auth", "its limits are in `strangers`"),
    ("client|reply", "answers nothing to wait for"),
    ("eval_ro", "as EVAL"),
    ("evalsha_ro", "as EVALSHA"),
    ("sort_ro", "as SORT"),
    ("swapdb", "there is one database"),
    // Containers only hold others.
    ("acl", ""),
    ("client", ""),
    ("config", ""),
    ("function", ""),
    ("memory", ""),
    ("object", ""),
    ("pubsub", ""),
    ("script", ""),
    ("helios", ""),
];

fn words(call: &str) -> Vec<String> {
    let number = |word: &str| match word {
        "N" => (REPEATS * scale()).to_string(),
        "HALF" => (REPEATS * scale() / 2).to_string(),
        word => word.to_owned(),
    };
    let (mut words, mut rest) = (Vec::new(), call.trim());
    while !rest.is_empty() {
        if let Some(group) = rest.strip_prefix('(')
            && let Some((inner, after)) = group.split_once(")*")
        {
            let (count, after) = after.split_once(' ').unwrap_or((after, ""));
            let inner: Vec<_> = inner.split(' ').map(str::to_owned).collect();
            words.extend(std::iter::repeat_n(inner, number(count).parse().unwrap()).flatten());
            rest = after.trim_start();
        } else {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let parts = if words.is_empty() { word.split('|').collect() } else { vec![word] };
            words.extend(parts.into_iter().map(number));
            rest = after.trim_start();
        }
    }
    // A script is one word of the call.
    words.into_iter().map(|word| word.replace("while(true)do(end)", "while true do end")).collect()
}

fn encode(words: &[impl AsRef<str>]) -> Vec<u8> {
    let mut wire = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        wire.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    wire
}

/// Sends `wire`, then ECHO, and reads until its answer or the end: the first 200 bytes.
async fn send(port: u16, wire: Vec<u8>, what: &str) -> String {
    const MARK: &str = "the-end-of-this-call";
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sending = tokio::spawn(async move {
        // The node may close the connection first.
        drop(writer.write_all(&wire).await);
        drop(writer.write_all(&encode(&["ECHO", MARK])).await);
        writer
    });
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let reading = async {
        let mut chunk = vec![0; 64 << 10];
        loop {
            match reader.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let read = &chunk[..count];
                    head.extend_from_slice(&read[..count.min(200_usize.saturating_sub(head.len()))]);
                    tail.extend_from_slice(&read[count.saturating_sub(64)..]);
                    tail.drain(..tail.len().saturating_sub(64));
                    // In subscribed state ECHO is refused by name.
                    let text = String::from_utf8_lossy(&tail);
                    if text.contains(MARK) || text.contains("allowed in this context") {
                        break;
                    }
                }
            }
        }
    };
    assert!(
        tokio::time::timeout(CALL_TIMEOUT, reading).await.is_ok(),
        "{what} was not answered within {CALL_TIMEOUT:?}"
    );
    sending.abort();
    String::from_utf8_lossy(&head).into_owned()
}

/// Large keys, and what makes those again that a call took.
struct Keys {
    dumps: Vec<(&'static str, Vec<u8>)>,
}

impl Keys {
    async fn make(redis: &mut MultiplexedConnection) -> Self {
        let name = |n: usize| format!("e{n:07}");
        for chunk in (0..ELEMENTS * scale()).collect::<Vec<_>>().chunks(5_000) {
            let mut pipe = redis::pipe();
            for (command, key) in [("RPUSH", "LIST"), ("SADD", "SET")] {
                pipe.cmd(command).arg(key).arg(chunk.iter().map(|n| name(*n)).collect::<Vec<_>>()).ignore();
            }
            let mut add = redis::cmd("ZADD");
            let mut set = redis::cmd("HSET");
            add.arg("ZSET");
            set.arg("HASH");
            for n in chunk {
                add.arg(n).arg(name(*n));
                set.arg(name(*n)).arg("value");
            }
            pipe.add_command(add).ignore().add_command(set).ignore();
            pipe.query_async::<()>(redis).await.unwrap();
        }
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg("TEXT").arg("t".repeat(2_000_000)).ignore();
        pipe.cmd("SADD").arg("WIDE").arg("w".repeat(2_000)).ignore();
        pipe.cmd("SET").arg("short").arg("ab".repeat(2_000)).ignore();
        pipe.query_async::<()>(redis).await.unwrap();
        let mut dumps = Vec::new();
        for key in ["LIST", "SET", "ZSET", "HASH", "TEXT", "WIDE", "short"] {
            dumps.push((key, redis::cmd("DUMP").arg(key).query_async(redis).await.unwrap()));
        }
        Self { dumps }
    }

    async fn mend(&self, redis: &mut MultiplexedConnection) {
        redis::cmd("DEL").arg(&["new", "LIST2", "SET2", "n"]).query_async::<()>(redis).await.unwrap();
        for (key, dump) in &self.dumps {
            let kind: String = redis::cmd("TYPE").arg(key).query_async(redis).await.unwrap();
            let length = match kind.as_str() {
                "list" => redis::cmd("LLEN").arg(key).query_async::<usize>(redis).await.unwrap(),
                "set" => redis::cmd("SCARD").arg(key).query_async::<usize>(redis).await.unwrap(),
                "zset" => redis::cmd("ZCARD").arg(key).query_async::<usize>(redis).await.unwrap(),
                "hash" => redis::cmd("HLEN").arg(key).query_async::<usize>(redis).await.unwrap(),
                "string" => redis::cmd("STRLEN").arg(key).query_async::<usize>(redis).await.unwrap(),
                _ => 0,
            };
            let whole = if matches!(*key, "WIDE") { 1 } else { 4_000 };
            if length < whole
                || matches!(*key, "LIST" | "SET" | "ZSET" | "HASH") && length < ELEMENTS * scale() - 10
            {
                redis::cmd("RESTORE")
                    .arg(key)
                    .arg(0)
                    .arg(&dump[..])
                    .arg("REPLACE")
                    .query_async::<()>(redis)
                    .await
                    .unwrap();
            }
        }
    }
}

/// Measures what another client waits for PING, and the kubelet for /livez, until it is dropped.
fn watch(
    client: u16,
    metrics: u16,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<(Vec<Duration>, Vec<Duration>)> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stream = TcpStream::connect(("127.0.0.1", client)).await.unwrap();
            let (mut pings, mut probes) = (Vec::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                stream.write_all(b"PING\r\n").await.unwrap();
                stream.read_exact(&mut [0; 7]).await.expect("PING is answered");
                pings.push(begun.elapsed());
                if pings.len() % 10 == 0 {
                    let begun = Instant::now();
                    let (code, _) = http(metrics, "GET", "/livez", "").await.expect("/livez is answered");
                    assert_eq!(code, 200);
                    probes.push(begun.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (pings, probes)
        })
    })
}

fn resident_bytes(pid: Option<Pid>) -> u64 {
    let pid = pid.expect("it runs").as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn p99(sorted: &mut [Duration]) -> (Duration, Duration) {
    sorted.sort_unstable();
    (sorted[sorted.len() * 99 / 100], sorted[sorted.len() - 1])
}

/// Wrong calls would prove nothing: these say that the words are no call of the command.
fn is_misspelt(answer: &str) -> bool {
    ["syntax error", "wrong number of arguments", "unknown command", "unknown subcommand"]
        .iter()
        .any(|wrong| answer.contains(wrong))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "not all calls stay within the memory limit yet (docs/checklist.md, B1-6)"]
async fn the_worst_call_of_every_command_stops_neither_the_member_nor_other_clients() {
    let dir = temporary_directory();
    let ports = Ports::take();
    let mut node = Node::new(
        dir.path(),
        "worst",
        ports.node(0),
        "bootstrap: single",
        "reads: {max_bytes: 67108864}\nclient: {request_timeout: 60s}",
    );
    node.set_environment("MALLOC_MMAP_THRESHOLD_", std::path::Path::new("262144"));
    node.set_environment("MALLOC_ARENA_MAX", std::path::Path::new("2"));
    node.start();
    node.wait_ready().await;
    let mut redis = node.redis().await;
    let keys = Keys::make(&mut redis).await;
    let pid = Pid::from_raw(node.pid().load(Ordering::Relaxed).cast_signed());
    let limit = Rlimit { current: Some(MEMORY_LIMIT), maximum: Some(MEMORY_LIMIT) };
    prlimit(pid, Resource::Data, limit).unwrap();

    println!("before the first call: {} MiB resident", resident_bytes(pid) >> 20);
    let table: Vec<String> = redis::cmd("COMMAND").arg("LIST").query_async(&mut redis).await.unwrap();
    let called: BTreeSet<_> = CALLS.iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect();
    let left_out: BTreeSet<_> = LEFT_OUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    let missing: Vec<_> = table
        .iter()
        .filter(|name| !called.contains(*name) && !left_out.contains(*name) && !name.starts_with("helios"))
        .collect();
    assert!(missing.is_empty(), "no worst call of {missing:?}: write one");

    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch(node.ports.client, node.ports.metrics, Arc::clone(&stop));
    for call in CALLS {
        let begun = Instant::now();
        println!("{call}: {} MiB resident", resident_bytes(pid) >> 20);
        let words = words(call);
        let wire = encode(&words);
        let times = (4_000_000 / wire.len()).clamp(1, 2_000);
        let answer = send(node.ports.client, wire.clone(), call).await;
        assert!(!is_misspelt(&answer), "{call}: {answer}");
        keys.mend(&mut redis).await;
        let mut queued = encode(&["MULTI"]);
        (0..times).for_each(|_| queued.extend_from_slice(&wire));
        queued.extend_from_slice(&encode(&["EXEC"]));
        send(node.ports.client, queued, &format!("{times} x {call} in MULTI")).await;
        if words.len() < 5_000 && !call.starts_with("eval") {
            let script = "for i = 1, 2000 do redis.call(unpack(ARGV)) end";
            let scripted: Vec<_> =
                ["EVAL", script, "0"].into_iter().chain(words.iter().map(String::as_str)).collect();
            send(node.ports.client, encode(&scripted), &format!("2000 x {call} in a script")).await;
        }
        keys.mend(&mut redis).await;
        if begun.elapsed() > Duration::from_secs(10) {
            println!("{:.1} s: {call}", begun.elapsed().as_secs_f64());
        }
        assert!(node.try_status().await.is_some(), "the member is gone after {call}");
    }
    stop.store(true, Ordering::Relaxed);
    let (mut pings, mut probes) = watching.join().expect("PING and /livez were answered throughout");
    let ((ping, longest), (probe, longest_probe)) = (p99(&mut pings), p99(&mut probes));
    println!(
        "{} calls of {} commands: PING p99 {ping:?}, longest {longest:?}; /livez p99 {probe:?}, longest {longest_probe:?}",
        CALLS.len(),
        called.len()
    );
    assert!(ping < PING_P99 && probe < PING_P99, "PING p99 {ping:?}, /livez p99 {probe:?}");
}
