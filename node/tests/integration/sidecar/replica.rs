//! Replica mode: reads from the sidecar's memory, and when they go to a member instead.

use helios_redis::table::{COMMANDS, Flags};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::{LIMIT, Limited, Raw, Sidecar, addresses};
use crate::common::{Clients, Cluster, Load, connect, eventually, info_field};

/// Reads whose replies differ from call to call.
const VARYING: [&str; 6] = ["hrandfield", "pttl", "srandmember", "ttl", "zrandmember", "touch"];
/// Reads that a replica answers.
const LOCAL: [&str; 16] = [
    "GET s",
    "MGET s none",
    "GETRANGE s 1 2",
    "EXISTS s l none",
    "TYPE z",
    "LRANGE l 0 -1",
    "LINDEX l 1",
    "HGETALL h",
    "HMGET h a none",
    "SMEMBERS S",
    "SISMEMBER S a",
    "SINTER S S",
    "ZRANGE z 0 -1 WITHSCORES",
    "ZSCORE z c",
    "ZRANK z b",
    "ZRANGEBYSCORE z 2 +inf",
];
/// Requests of each command, with random words.
const REQUESTS: usize = 12;

pub async fn replica(cluster: &Cluster, arguments: &[&str]) -> Sidecar {
    let sidecar = started(cluster, arguments);
    sidecar.wait_ready().await;
    eventually("the replica follows", async || {
        let info = info(&sidecar).await?;
        let is_fresh = info_field(&info, "sidecar_staleness_ms") != "-1";
        (info_field(&info, "sidecar_replica") == "following" && is_fresh).then_some(())
    })
    .await;
    sidecar
}

fn started(cluster: &Cluster, arguments: &[&str]) -> Sidecar {
    let ports = cluster.nodes().iter().map(|node| format!("127.0.0.1:{}", node.ports.grpc));
    let follow = ports.collect::<Vec<_>>().join(",");
    let given = ["--mode", "replica", "--follow", &follow];
    Sidecar::started(&addresses(cluster), &[&given, arguments].concat())
}

pub async fn info(sidecar: &Sidecar) -> Option<String> {
    let mut client = connect(sidecar.port(), LIMIT).await.ok()?;
    redis::cmd("INFO").arg("sidecar").query_async(&mut client).await.ok()
}

pub async fn local_reads(sidecar: &Sidecar) -> u64 {
    sidecar.metric("local_reads_total").await
}

/// Reads `key` until a read was answered by the replica; returns its value.
pub async fn read_locally(
    sidecar: &Sidecar,
    client: &mut MultiplexedConnection,
    key: &str,
) -> Option<String> {
    eventually("a local read", async || {
        let before = local_reads(sidecar).await;
        let found: Option<String> = client.get(key).await.ok()?;
        (local_reads(sidecar).await > before).then_some(found)
    })
    .await
}

#[tokio::test]
async fn every_connection_sees_the_writes_of_all_at_once_and_reads_are_local() {
    let cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &[]).await;
    let (mut writer, mut reader) = (sidecar.redis().await, sidecar.redis().await);
    for number in 0..200_u64 {
        let () = writer.set("app:k", number).await.unwrap();
        let found: [u64; 2] = [reader.get("app:k").await.unwrap(), writer.get("app:k").await.unwrap()];
        assert_eq!(found, [number; 2]);
    }
    assert!(local_reads(&sidecar).await > 0, "reads wait for the replica");
    assert_eq!(read_locally(&sidecar, &mut reader, "app:k").await.as_deref(), Some("199"));

    // What only a member did is seen in the order of the replies.
    let mut raw = sidecar.raw().await;
    raw.send("SET app:k a\r\nGET app:k\r\nMULTI\r\nSET app:k b\r\nGET app:k\r\nEXEC\r\nGET app:k\r\nSET app:k c\r\nGET app:k\r\n").await;
    let expected = "+OK\r\n$1\r\na\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\nb\r\n$1\r\nb\r\n+OK\r\n$1\r\nc\r\n";
    assert_eq!(raw.until("c\r\n").await, expected);
    assert_eq!(reader.get::<_, String>("app:k").await.unwrap(), "c");
    let _: String = redis::cmd("EVAL")
        .arg("return redis.call('set', KEYS[1], 'd')")
        .arg(1)
        .arg("app:k")
        .query_async(&mut writer)
        .await
        .unwrap();
    assert_eq!(reader.get::<_, String>("app:k").await.unwrap(), "d");
    raw.send("BLPOP app:list 5\r\n").await;
    let () = writer.rpush("app:list", "v").await.unwrap();
    raw.until("v\r\n").await;
    assert!(!reader.exists::<_, bool>("app:list").await.unwrap());
    raw.send("CLIENT REPLY OFF\r\nSET app:k e\r\nCLIENT REPLY ON\r\nGET app:k\r\n").await;
    assert_eq!(raw.until("e\r\n").await, "+OK\r\n$1\r\ne\r\n");

    // A message arrives after the write that it is about.
    let mut other = cluster[0].redis().await;
    let mut subscriber = sidecar.raw().await;
    subscriber.ask("SUBSCRIBE changed", ":1\r\n").await;
    let () = other.set("app:k", "f").await.unwrap();
    let () = other.publish("changed", "app:k").await.unwrap();
    subscriber.until("app:k\r\n").await;
    assert_eq!(reader.get::<_, String>("app:k").await.unwrap(), "f");

    // Only the leader has the lease.
    let before = local_reads(&sidecar).await;
    raw.ask("HELIOS.READ LEASE", "OK\r\n").await;
    for _ in 0..5 {
        assert_eq!(raw.ask("GET app:k", "f\r\n").await, "$1\r\nf\r\n");
    }
    assert_eq!(local_reads(&sidecar).await, before);
    assert!(sidecar.metric("forwarded_total{reason=\"connection\"}").await > 5);
    assert!(sidecar.metric("forwarded_total{reason=\"command\"}").await > 200);
}

/// Returns the replies to a request and to an ECHO after it, so that their end is known.
async fn reply(raw: &mut Raw, words: &[&str]) -> String {
    let bulks: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    raw.send(&format!("*{}\r\n{bulks}ECHO the-end\r\n", words.len())).await;
    raw.until("the-end\r\n").await
}

#[tokio::test]
async fn bytes_of_local_replies_equal_those_of_a_member_for_every_read() {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    let sidecar = replica(&cluster, &[]).await;
    let mut rng = StdRng::seed_from_u64(3);
    let words = [
        "s",
        "l",
        "h",
        "S",
        "z",
        "0",
        "1",
        "-1",
        "10",
        "a",
        "b",
        "COUNT",
        "LIMIT",
        "WITHSCORES",
        "-inf",
        "+inf",
        "[a",
        "2",
        "none",
    ];
    for is_resp3 in [false, true] {
        let (mut direct, mut local) = (Raw::connect(cluster[0].ports.client).await, sidecar.raw().await);
        for raw in [&mut direct, &mut local] {
            for line in [
                "SET s 1234",
                "RPUSH l a b c",
                "HSET h a 1 b 2",
                "SADD S a b c",
                "ZADD z 1 a 2 b 3.5 c",
                if is_resp3 { "HELLO 3" } else { "PING" },
            ] {
                reply(raw, &line.split(' ').collect::<Vec<_>>()).await;
            }
        }
        for line in LOCAL {
            let request: Vec<_> = line.split(' ').collect();
            eventually("a local read", async || {
                let before = local_reads(&sidecar).await;
                assert_eq!(reply(&mut local, &request).await, reply(&mut direct, &request).await, "{line}");
                (local_reads(&sidecar).await > before).then_some(())
            })
            .await;
        }
        for spec in COMMANDS.iter().filter(|spec| spec.has(Flags::READONLY) && spec.state.is_some()) {
            if VARYING.contains(&spec.name) {
                continue;
            }
            for _ in 0..REQUESTS {
                let mut request = vec![spec.name, words[rng.random_range(0..5)]];
                request.extend((0..rng.random_range(0..4)).map(|_| words[rng.random_range(0..words.len())]));
                let expected = reply(&mut direct, &request).await;
                assert_eq!(reply(&mut local, &request).await, expected, "{request:?}");
            }
        }
    }
}

#[tokio::test]
async fn history_of_clients_of_one_replica_is_linearizable_while_members_are_killed() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &[]).await;
    let port = sidecar.port();
    // Three groups of clients of the same sidecar.
    let (clients, load) = (Clients::start(&[port, port, port]), Load::start(&[port]));
    for round in 0..4 {
        load.wait_for(50).await;
        let leader = cluster.leader().await;
        let victim = if round % 2 == 0 { leader } else { (leader + 1 + round / 2) % 3 };
        cluster[victim].kill();
        load.wait_for(50).await;
        clients.wait_for(0..3, 50).await;
        cluster[victim].start();
        cluster.wait_ready().await;
    }
    let report = load.finish().await;
    clients.finish(&cluster).await;
    report.assert_kept(&cluster.agreed_data().await);
    let reads = local_reads(&sidecar).await;
    println!("{reads} local reads");
    assert!(reads > 100, "{reads} reads were local");
}

#[tokio::test]
async fn stream_is_continued_on_another_member_and_the_leader_serves_the_last_one() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &["--prefix", "app:"]).await;
    let mut reader = sidecar.redis().await;
    for number in 0..3_u64 {
        let leader = cluster.leader().await;
        // Each follower in turn: the one that is followed is among them.
        for victim in (0..3).filter(|index| *index != leader) {
            cluster[victim].kill();
            let key = format!("app:{victim}");
            let () = cluster[leader].redis().await.set(&key, number).await.unwrap();
            eventually("the change is read locally", async || {
                let found = read_locally(&sidecar, &mut reader, &key).await;
                (found == Some(number.to_string())).then_some(())
            })
            .await;
            cluster[victim].start();
            cluster.wait_ready().await;
        }
    }
    let info = info(&sidecar).await.unwrap();
    assert_eq!(info_field(&info, "sidecar_replica_keys"), "2");
    // Keys of other prefixes are read at a member.
    let () = reader.set("other", "v").await.unwrap();
    let before = local_reads(&sidecar).await;
    assert_eq!(reader.get::<_, String>("other").await.unwrap(), "v");
    assert_eq!(local_reads(&sidecar).await, before);
}

#[tokio::test]
async fn replica_that_is_cut_off_refuses_once_its_state_is_too_old_and_recovers() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &["--cut-off-after-ms", "1500", "--max-staleness-ms", "500"]).await;
    let mut client = sidecar.redis().await;
    let () = client.set("k", "v").await.unwrap();
    assert_eq!(read_locally(&sidecar, &mut client, "k").await.as_deref(), Some("v"));
    (0..3).for_each(|index| cluster[index].kill());
    let mut raw = sidecar.raw().await;
    let error = eventually("reads are refused", async || {
        let found = raw.ask("GET k", "\r\n").await;
        if found == "$1\r\n" {
            raw.until("v\r\n").await;
        }
        found.starts_with('-').then_some(found)
    })
    .await;
    assert!(error.starts_with("-CLUSTERDOWN cut off from the cluster"), "{error}");
    let (code, _) = sidecar.readiness().await.unwrap();
    assert_eq!(code, 503);
    cluster.start_all();
    cluster.wait_ready().await;
    sidecar.wait_ready().await;
    assert_eq!(read_locally(&sidecar, &mut client, "k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn keys_that_need_too_much_memory_are_read_at_a_member() {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    let sidecar = replica(&cluster, &["--replica-memory-bytes", "200000"]).await;
    let mut client = sidecar.redis().await;
    let () = client.set("small", "v").await.unwrap();
    assert_eq!(read_locally(&sidecar, &mut client, "small").await.as_deref(), Some("v"));
    for number in 0..30 {
        let () = client.set(format!("large:{number}"), "x".repeat(10_000)).await.unwrap();
        assert_eq!(client.get::<_, String>("small").await.unwrap(), "v");
    }
    eventually("nothing is held", async || {
        (sidecar.metric("replica_phase{phase=\"over_memory\"}").await == 1).then_some(())
    })
    .await;
    assert_eq!(client.get::<_, String>("large:29").await.unwrap().len(), 10_000);
    let info = info(&sidecar).await.unwrap();
    assert_eq!(info_field(&info, "sidecar_replica"), "over_memory");
    assert_eq!(info_field(&info, "sidecar_replica_bytes"), "0");
    assert!(sidecar.metric("forwarded_total{reason=\"no_state\"}").await > 0);
}

#[tokio::test]
async fn replica_of_a_user_with_prefixes_has_no_other_keys() {
    let limited = Limited::new();
    let mut cluster = Cluster::single(&limited.config());
    cluster.start_all();
    cluster.wait_ready().await;
    let mut boss = Raw::connect(cluster[0].ports.client).await;
    boss.send("AUTH boss secret\r\nSET app:k v\r\nSET other hidden\r\n").await;
    boss.until("+OK\r\n+OK\r\n+OK\r\n").await;
    let sidecar = replica(&cluster, &limited.flags()).await;
    let mut client = sidecar.redis().await;
    assert_eq!(read_locally(&sidecar, &mut client, "app:k").await.as_deref(), Some("v"));
    let refused = client.get::<_, Option<String>>("other").await.unwrap_err();
    assert_eq!(refused.code(), Some("NOPERM"), "{refused}");
    let refused = client.mget::<_, Vec<Option<String>>>(&["app:k", "other"]).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOPERM"), "{refused}");
    let info = info(&sidecar).await.unwrap();
    assert_eq!(info_field(&info, "sidecar_replica_keys"), "1");

    // Prefixes that the user may not access are not followed, and nothing is local.
    let other = started(&cluster, &[&limited.flags()[..], &["--prefix", "other"]].concat());
    other.wait_ready().await;
    let mut client = other.redis().await;
    assert_eq!(client.get::<_, String>("app:k").await.unwrap(), "v");
    assert_eq!(local_reads(&other).await, 0);
}
