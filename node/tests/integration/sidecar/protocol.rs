//! The view of an application through the sidecar: the bytes of a member.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::AsyncCommands;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Raw, Sidecar};
use crate::common::{Cluster, PATIENCE, eventually, info_field};

/// Value near the limit of a command in the small segments of a test.
const LARGE: usize = 1_000_000;
/// Requests of each command.
const REQUESTS: usize = 40;
/// Commands whose replies differ between two members or two times, or that end or block the connection.
const EXCLUDED: [&str; 36] = [
    "acl",
    "auth",
    "client",
    "command",
    "config",
    "copy",
    "debug",
    "eval",
    "eval_ro",
    "evalsha",
    "evalsha_ro",
    "expiretime",
    "function",
    "hello",
    "helios.token",
    "hrandfield",
    "info",
    "memory",
    "monitor",
    "object",
    "pexpiretime",
    "psubscribe",
    "pttl",
    "punsubscribe",
    "quit",
    "randomkey",
    "reset",
    "role",
    "script",
    "shutdown",
    "spop",
    "srandmember",
    "subscribe",
    "time",
    "unsubscribe",
    "zrandmember",
];
const WORDS: [&str; 36] = [
    "k",
    "l",
    "h",
    "s",
    "z",
    "k2",
    "0",
    "1",
    "-1",
    "2",
    "10",
    "1.5",
    "a",
    "b",
    "x",
    "*",
    "NX",
    "XX",
    "GET",
    "COUNT",
    "LIMIT",
    "BY",
    "WITHSCORES",
    "LEFT",
    "RIGHT",
    "MATCH",
    "STORE",
    "-inf",
    "+inf",
    "[a",
    "(b",
    "EX",
    "9999",
    "AND",
    "",
    "a\r\nb",
];

fn request(words: &[String]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// Returns random requests of every command of the table, MULTI and EXEC among them.
async fn stream(member: &Cluster) -> Vec<u8> {
    let mut client = member[0].redis().await;
    let mut names: Vec<String> = redis::cmd("COMMAND").arg("LIST").query_async(&mut client).await.unwrap();
    names.retain(|name| !EXCLUDED.contains(&&**name));
    names.sort();
    assert!(names.len() > 100, "{names:?}");
    let mut rng = StdRng::seed_from_u64(7);
    let mut requests: Vec<Vec<String>> = Vec::new();
    for name in names {
        for _ in 0..REQUESTS {
            let count = rng.random_range(0..6);
            let mut words = vec![name.clone()];
            words.extend((0..count).map(|_| WORDS[rng.random_range(0..WORDS.len())].to_owned()));
            // A blocking command waits for a tenth of a second at most, if its timeout is the last argument.
            if name.starts_with('b') && name != "bitcount" {
                words.push("0.01".to_owned());
            }
            requests.push(words);
        }
    }
    for index in (1..requests.len()).rev() {
        requests.swap(index, rng.random_range(0..=index));
    }
    let mut bytes = Vec::new();
    for words in &requests {
        // WAIT 10 0 would wait for ever; a blocking command with its timeout elsewhere as well.
        let blocks = words[0] == "wait" || matches!(&*words[0], "blmpop" | "bzmpop");
        if !blocks {
            bytes.extend(request(words));
        }
    }
    // A transaction may be open.
    bytes.extend_from_slice(b"DISCARD\r\n");
    bytes
}

async fn replies(port: u16, requests: &[u8], is_resp3: bool) -> Vec<u8> {
    let mut raw = Raw::connect(port).await;
    if is_resp3 {
        raw.ask("HELLO 3 AUTH default any", "*0\r\n").await;
    }
    let (mut reader, mut writer) = raw.0.into_split();
    let requests = [requests, b"ECHO that-is-all\r\n"].concat();
    let writing = tokio::spawn(async move { writer.write_all(&requests).await.map(|()| writer) });
    let mut found = Vec::new();
    let reading = async {
        while !found.ends_with(b"that-is-all\r\n") {
            assert!(reader.read_buf(&mut found).await.unwrap() > 0, "closed");
        }
    };
    tokio::time::timeout(4 * PATIENCE, reading).await.expect("all replies in time");
    drop(writing.await.unwrap().unwrap());
    found
}

async fn single() -> Cluster {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    cluster
}

#[tokio::test]
async fn bytes_through_the_sidecar_equal_those_of_a_member_for_every_command() {
    for is_resp3 in [false, true] {
        let (direct, proxied) = (single().await, single().await);
        let requests = stream(&direct).await;
        let sidecar = Sidecar::of(&proxied, &[]).await;
        let expected = replies(direct[0].ports.client, &requests, is_resp3).await;
        let found = replies(sidecar.port(), &requests, is_resp3).await;
        if let Some(at) = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at))
        {
            let shown = |bytes: &[u8]| {
                String::from_utf8_lossy(
                    &bytes[at.saturating_sub(200).min(bytes.len())..(at + 100).min(bytes.len())],
                )
                .into_owned()
            };
            panic!("at byte {at} (RESP3: {is_resp3}):\n{:?}\nand not\n{:?}", shown(&found), shown(&expected));
        }
        assert!(found.len() > 50_000, "{} bytes", found.len());
    }
}

#[tokio::test]
async fn application_uses_transactions_channels_blocking_commands_and_large_values() {
    // Segments large enough for the largest value.
    let mut cluster = Cluster::fixed(3);
    for index in 0..3 {
        let config = cluster[index].config_mut();
        *config = config.replace("segment_bytes: 4194304", "segment_bytes: 67108864");
    }
    cluster.start_all();
    cluster.wait_ready().await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let mut client = sidecar.redis().await;

    let large = vec![b'x'; 7 << 20];
    let () = client.set("large", &large).await.unwrap();
    let found: Vec<u8> = client.get("large").await.unwrap();
    assert!(found == large);

    let mut pipeline = redis::pipe();
    pipeline.atomic().set("n", 1).ignore().incr("n", 5);
    assert_eq!(pipeline.query_async::<(u64,)>(&mut client).await.unwrap(), (6,));

    // A watched key that another client changes.
    let mut watching = sidecar.raw().await;
    watching.ask("WATCH n", "OK\r\n").await;
    let () = client.set("n", 7).await.unwrap();
    watching.send("MULTI\r\nSET n 8\r\nEXEC\r\n").await;
    assert_eq!(watching.until("*-1\r\n").await, "+OK\r\n+QUEUED\r\n*-1\r\n");

    // A list on which one client waits.
    let mut waiting = sidecar.raw().await;
    waiting.send("BLPOP list 10\r\nGET n\r\n").await;
    let () = client.rpush("list", "v").await.unwrap();
    let expected = "*2\r\n$4\r\nlist\r\n$1\r\nv\r\n$1\r\n7\r\n";
    assert_eq!(waiting.until("7\r\n").await, expected);

    for hello in ["", "HELLO 3"] {
        let (kind, mut subscriber) = (if hello.is_empty() { '*' } else { '>' }, sidecar.raw().await);
        if !hello.is_empty() {
            subscriber.ask(hello, "*0\r\n").await;
        }
        subscriber.send("GET n\r\nSUBSCRIBE a b\r\nPING\r\nPSUBSCRIBE p*\r\n").await;
        let pong = if hello.is_empty() { "*2\r\n$4\r\npong\r\n$0\r\n\r\n" } else { "+PONG\r\n" };
        let expected = format!(
            "$1\r\n7\r\n{kind}3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n{kind}3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n{pong}\
             {kind}3\r\n$10\r\npsubscribe\r\n$2\r\np*\r\n:3\r\n"
        );
        assert_eq!(subscriber.until("p*\r\n:3\r\n").await, expected);
        let () = client.publish("a", "message").await.unwrap();
        let message = format!("{kind}3\r\n$7\r\nmessage\r\n$1\r\na\r\n$7\r\nmessage\r\n");
        assert_eq!(subscriber.until("message\r\n$1\r\na\r\n$7\r\nmessage\r\n").await, message);
        subscriber.send("UNSUBSCRIBE\r\nPUNSUBSCRIBE\r\nGET n\r\n").await;
        let end = subscriber.until("7\r\n").await;
        assert!(end.ends_with(":0\r\n$1\r\n7\r\n") && end.matches("unsubscribe").count() == 3, "{end}");
    }
}

#[tokio::test]
async fn sidecar_answers_passwords_resets_silence_and_its_own_section_itself() {
    let cluster = single().await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let mut raw = sidecar.raw().await;
    raw.send("AUTH any password\r\nCLIENT SETNAME app\r\nAUTH p\r\nCLIENT GETNAME\r\n").await;
    assert_eq!(raw.until("app\r\n").await, "+OK\r\n+OK\r\n+OK\r\n$3\r\napp\r\n");
    let hello = raw.ask("HELLO 3 AUTH default wrong SETNAME other", "*0\r\n").await;
    assert!(hello.starts_with("%7\r\n"), "{hello}");
    raw.send("CLIENT REPLY OFF\r\nSET k v\r\nCLIENT REPLY ON\r\nCLIENT REPLY SKIP\r\nSET k w\r\nGET k\r\n")
        .await;
    assert_eq!(raw.until("w\r\n").await, "+OK\r\n$1\r\nw\r\n");
    raw.send("SET k x\r\nRESET\r\nCLIENT GETNAME\r\nGET k\r\n").await;
    assert_eq!(raw.until("$1\r\nx\r\n").await, "+OK\r\n+RESET\r\n$-1\r\n$1\r\nx\r\n");
    raw.send("MULTI\r\nAUTH p\r\nGET k\r\nEXEC\r\n").await;
    let transaction = raw.until("*1\r\n$1\r\nx\r\n").await;
    assert!(transaction.contains("-ERR AUTH, HELLO and CLIENT REPLY are not available"), "{transaction}");

    let mut client = sidecar.redis().await;
    let info: String = redis::cmd("INFO").arg("sidecar").query_async(&mut client).await.unwrap();
    assert_eq!(info_field(&info, "sidecar_mode"), "proxy");
    assert_eq!(info_field(&info, "sidecar_ready"), "1");
    assert_eq!(info_field(&info, "sidecar_member"), format!("127.0.0.1:{}", cluster[0].ports.client));
    let whole: String = redis::cmd("INFO").query_async(&mut client).await.unwrap();
    assert!(whole.contains("raft_name:node-1"), "{whole}");
    assert!(sidecar.metric("forwarded_total{reason=\"proxy_mode\"}").await > 0);

    // A page in a browser cannot execute a command by a request to localhost.
    let mut browser = sidecar.raw().await;
    browser.send("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET k evil\r\n").await;
    assert!(browser.rest().await.starts_with("-ERR this port speaks the Redis protocol"));
    let mut wrong = sidecar.raw().await;
    wrong.send("*1\r\n$x\r\n").await;
    assert_eq!(wrong.rest().await, "-ERR Protocol error: invalid bulk length\r\n");
    assert_eq!(raw.ask("GET k", "x\r\n").await, "$1\r\nx\r\n");
}

#[tokio::test]
async fn client_that_leaves_a_blocking_command_takes_no_element() {
    let cluster = single().await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let mut waiting = sidecar.raw().await;
    waiting.send("BLPOP list 0\r\n").await;
    let mut client = cluster[0].redis().await;
    let blocked = async |client: &mut redis::aio::MultiplexedConnection| {
        let info: String = redis::cmd("INFO").arg("clients").query_async(client).await.unwrap();
        info_field(&info, "blocked_clients").to_owned()
    };
    eventually("the command waits", async || (blocked(&mut client).await == "1").then_some(())).await;
    drop(waiting);
    eventually("nobody waits", async || (blocked(&mut client).await == "0").then_some(())).await;
    let () = client.rpush("list", "v").await.unwrap();
    assert_eq!(client.llen::<_, u64>("list").await.unwrap(), 1);

    // A client that closes its direction gets the replies to what it has sent.
    let mut half = sidecar.raw().await;
    half.send("LPOP list\r\nGET none\r\n").await;
    half.0.shutdown().await.unwrap();
    assert_eq!(half.rest().await, "$1\r\nv\r\n$-1\r\n");
}

#[tokio::test]
async fn client_that_reads_nothing_holds_bounded_memory_and_is_closed() {
    let cluster = single().await;
    let sidecar =
        Sidecar::of(&cluster, &["--max-output-bytes", "8388608", "--max-memory-bytes", "16777216"]).await;
    let mut client = sidecar.redis().await;
    let () = client.set("large", vec![b'x'; LARGE]).await.unwrap();
    let slow = sidecar.raw().await;
    let (reader, mut writer) = slow.0.into_split();
    // 100 MB of requests, and many times as much of replies. The write ends when the sidecar closes the connection.
    let requests = "*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(4_000_000);
    let flooding = tokio::spawn(async move { writer.write_all(requests.as_bytes()).await });
    let written =
        tokio::time::timeout(4 * PATIENCE, flooding).await.expect("the connection is closed").unwrap();
    assert!(written.is_err(), "the sidecar accepted 100 MB without a reader");
    drop(reader);
    let pid = sidecar.process.pid().load(std::sync::atomic::Ordering::Relaxed);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 80 << 10, "{kib} KiB");
    let found: Vec<u8> = client.get("large").await.unwrap();
    assert_eq!(found.len(), LARGE);
}
