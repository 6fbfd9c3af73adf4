//! Replica mode: what a read sees by its level, and what it gets in a cut.

use helios_proto::v1::{ForceNewRequest, Role};
use redis::AsyncCommands;
use rustix::process::Signal;

use super::failures::used;
use super::replica::{info, local_reads, read_locally, replica};
use super::{Raw, Sidecar};
use crate::common::{CLUSTER_ID, Clients, Cluster, Operator, eventually, info_field};

/// Reads that a member got because the state was too old.
const STALE: &str = "forwarded_total{reason=\"stale\"}";

const SERVES_STALE: [&str; 6] =
    ["--offline", "serve-stale", "--cut-off-after-ms", "1500", "--max-staleness-ms", "500"];

/// Returns the reply to `GET key`.
async fn get(raw: &mut Raw, key: &str) -> String {
    let found = raw.ask(&format!("GET {key}"), "\r\n").await;
    let has_value = !found.starts_with('$') || found == "$-1\r\n" || found.matches("\r\n").count() == 2;
    if has_value { found } else { found + &raw.until("\r\n").await }
}

async fn wait_stale(sidecar: &Sidecar, wanted: &str) {
    eventually("the sidecar has noticed the cut or its end", async || {
        (info_field(&info(sidecar).await?, "sidecar_serves_stale") == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn replica_that_serves_stale_answers_reads_in_a_cut_but_not_after_an_own_write_of_unknown_outcome() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &SERVES_STALE).await;
    let mut client = sidecar.redis().await;
    let () = client.set("k", "v").await.unwrap();
    let () = client.hset("h", "f", "w").await.unwrap();
    assert_eq!(read_locally(&sidecar, &mut client, "k").await.as_deref(), Some("v"));
    let (mut reader, mut writer) = (sidecar.raw().await, sidecar.raw().await);
    assert_eq!(get(&mut reader, "k").await, "$1\r\nv\r\n");
    assert_eq!(sidecar.metric("serves_stale").await, 0);

    // A write is on its way when the members are lost.
    writer.ask("SET other v", "OK\r\n").await;
    let forwarded = "forwarded_total{reason=\"command\"}";
    let before = sidecar.metric(forwarded).await;
    (0..3).for_each(|index| cluster[index].signal(Signal::STOP));
    writer.send("SET k unknown\r\n").await;
    eventually("the write was sent", async || (sidecar.metric(forwarded).await > before).then_some(())).await;
    (0..3).for_each(|index| cluster[index].kill());
    let outcome = writer.until("\r\n").await;
    assert!(outcome.starts_with("-ERR outcome unknown"), "{outcome}");

    // Between the limit of age and that of the cut, a read waits; it is never an error.
    eventually("a stale read", async || {
        assert_eq!(get(&mut reader, "k").await, "$1\r\nv\r\n");
        (sidecar.metric("stale_reads_total").await > 0).then_some(())
    })
    .await;
    wait_stale(&sidecar, "1").await;
    let refused = get(&mut writer, "k").await;
    assert!(refused.starts_with("-CLUSTERDOWN cut off"), "{refused}");
    // A write that is refused has no effect, and a pipeline of reads after it is answered.
    let mut pipeline = sidecar.raw().await;
    pipeline.send("SET k w\r\nGET k\r\nHGETALL h\r\n").await;
    let replies = pipeline.until("w\r\n").await;
    assert!(replies.starts_with("-CLUSTERDOWN "), "{replies}");
    assert!(replies.ends_with("\r\n$1\r\nv\r\n*2\r\n$1\r\nf\r\n$1\r\nw\r\n"), "{replies}");
    let info = info(&sidecar).await.unwrap();
    assert_eq!(info_field(&info, "sidecar_serves_stale"), "1");
    assert!(info_field(&info, "sidecar_staleness_ms").parse::<u64>().unwrap() > 500, "{info}");
    assert_eq!(sidecar.metric("serves_stale").await, 1);

    cluster.start_all();
    cluster.wait_ready().await;
    sidecar.wait_ready().await;
    wait_stale(&sidecar, "0").await;
    let () = client.set("k", "later").await.unwrap();
    for raw in [&mut reader, &mut writer] {
        assert_eq!(get(raw, "k").await, "$5\r\nlater\r\n");
    }
}

#[tokio::test]
async fn replica_that_serves_stale_reads_old_state_while_no_member_has_a_quorum() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &SERVES_STALE).await;
    let mut client = sidecar.redis().await;
    let () = client.set("k", "v").await.unwrap();
    assert_eq!(read_locally(&sidecar, &mut client, "k").await.as_deref(), Some("v"));
    let mut reader = sidecar.raw().await;
    (0..2).for_each(|index| cluster[index].kill());
    wait_stale(&sidecar, "1").await;
    assert_eq!(get(&mut reader, "k").await, "$1\r\nv\r\n");
    assert!(sidecar.metric("stale_reads_total").await > 0);
    (0..2).for_each(|index| cluster[index].start());
    cluster.wait_ready().await;
    wait_stale(&sidecar, "0").await;
    let () = client.set("k", "later").await.unwrap();
    assert_eq!(get(&mut reader, "k").await, "$5\r\nlater\r\n");
}

#[tokio::test]
async fn connection_chooses_its_level_in_the_words_of_a_member() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &["--reads", "bounded"]).await;
    let mut raw = sidecar.raw().await;
    raw.ask("SET k v", "OK\r\n").await;
    for (request, level, is_local) in [
        ("PING", "bounded", true),
        ("HELIOS.READ LINEARIZABLE", "linearizable", true),
        ("HELIOS.READ LEASE", "lease", false),
        ("HELIOS.READ STALE 60000", "stale 60000", true),
        ("READONLY", "stale", true),
        ("READWRITE", "bounded", true),
        ("HELIOS.READ SESSION", "session", true),
    ] {
        raw.ask(request, "\r\n").await;
        let shown = format!("${}\r\n{level}\r\n", level.len());
        assert_eq!(raw.ask("HELIOS.READ", &shown).await, shown, "{request}");
        let before = local_reads(&sidecar).await;
        if is_local {
            eventually("a local read", async || {
                assert_eq!(get(&mut raw, "k").await, "$1\r\nv\r\n");
                (local_reads(&sidecar).await > before).then_some(())
            })
            .await;
            continue;
        }
        for _ in 0..5 {
            assert_eq!(get(&mut raw, "k").await, "$1\r\nv\r\n");
        }
        assert_eq!(local_reads(&sidecar).await, before, "{request}");
    }
    let refused = raw.ask("HELIOS.READ FUTURE", "\r\n").await;
    assert!(refused.starts_with("-ERR read level 'FUTURE'"), "{refused}");
    // The level stays when the member is lost, in a pipeline with the request that chooses it as well.
    let lost = used(&sidecar, &cluster).await;
    cluster[lost].kill();
    raw.send("GET other\r\nHELIOS.READ\r\nHELIOS.READ STALE\r\nHELIOS.READ\r\n").await;
    assert_eq!(raw.until("stale\r\n").await, "$-1\r\n$7\r\nsession\r\n+OK\r\n$5\r\nstale\r\n");
    let survivor = cluster.nodes().iter().find(|node| node.is_running()).unwrap();
    let refused = Raw::connect(survivor.ports.client).await.ask("HELIOS.READ SESSION", "\r\n").await;
    assert!(refused.starts_with("-ERR read level"), "only a sidecar has it: {refused}");
}

#[tokio::test]
async fn level_of_the_connection_limits_the_age_of_what_it_reads() {
    let cluster = Cluster::of_three().await;
    let sidecar = replica(&cluster, &["--max-staleness-ms", "500"]).await;
    let mut client = sidecar.redis().await;
    let () = client.set("k", "v").await.unwrap();
    assert_eq!(read_locally(&sidecar, &mut client, "k").await.as_deref(), Some("v"));
    let (mut any, mut named) = (sidecar.raw().await, sidecar.raw().await);
    any.ask("HELIOS.READ STALE", "OK\r\n").await;
    named.ask("HELIOS.READ STALE 300", "OK\r\n").await;
    let signal = |signal| (0..3).for_each(|index| cluster[index].signal(signal));
    signal(Signal::STOP);
    eventually("the state is too old", async || {
        let info = any.ask("INFO sidecar", "\r\n\r\n").await;
        (info_field(&info, "sidecar_staleness_ms").parse::<u64>().unwrap() > 500).then_some(())
    })
    .await;
    let before = (local_reads(&sidecar).await, sidecar.metric(STALE).await);
    assert_eq!(get(&mut any, "k").await, "$1\r\nv\r\n");
    named.send("GET k\r\n").await;
    eventually("the read was sent to a member", async || {
        (sidecar.metric(STALE).await > before.1).then_some(())
    })
    .await;
    assert_eq!(local_reads(&sidecar).await, before.0 + 1);
    signal(Signal::CONT);
    assert_eq!(named.until("v\r\n").await, "$1\r\nv\r\n");
}

#[tokio::test]
async fn history_of_linearizable_reads_of_two_replicas_and_a_member_is_linearizable() {
    let mut cluster = Cluster::of_three().await;
    let linearizable = ["--reads", "linearizable"];
    let (one, other) = (replica(&cluster, &linearizable).await, replica(&cluster, &linearizable).await);
    let clients = Clients::start(&[one.port(), other.port(), cluster[0].ports.client]);
    for victim in [1, 2] {
        clients.wait_for(0..3, 100).await;
        cluster[victim].kill();
        clients.wait_for(0..3, 50).await;
        cluster[victim].start();
        cluster.wait_ready().await;
    }
    clients.wait_for(0..3, 100).await;
    clients.finish(&cluster).await;
    let reads = [local_reads(&one).await, local_reads(&other).await];
    println!("{reads:?} local reads");
    assert!(reads.into_iter().all(|reads| reads > 20), "{reads:?} reads were local");
}

#[tokio::test]
async fn nothing_of_a_lost_history_is_read_after_the_first_reply_of_a_forced_new_cluster() {
    let mut cluster = Cluster::blank(3);
    cluster.start_all();
    Operator::initialize(&cluster[0]).await;
    for index in [1, 2] {
        let id = Operator::add(&cluster[0], &cluster[index]).await;
        Operator::promote(&cluster[0], id).await;
    }
    let sidecar = replica(&cluster, &[]).await;
    let mut client = sidecar.redis().await;
    let () = client.set("k", "kept").await.unwrap();
    let held = async || cluster[2].dump().await.iter().any(|entry| entry.key[..] == b"k"[..]).then_some(());
    eventually("the survivor has the first write", held).await;
    cluster[2].kill();
    let set = eventually("a write without the survivor", async || {
        let set: redis::RedisResult<()> = client.set("k", "lost").await;
        set.ok()
    });
    set.await;
    eventually("the sidecar reads it from memory", async || {
        (read_locally(&sidecar, &mut client, "k").await.as_deref() == Some("lost")).then_some(())
    })
    .await;
    (0..2).for_each(|index| cluster[index].kill());
    cluster[2].start();
    let seen = eventually("the survivor knows no leader", async || {
        cluster[2].try_status().await.filter(|status| status.leader_id == 0 && status.last_index > 0)
    })
    .await;
    eventually("the survivor is the only member", async || {
        let forced = ForceNewRequest {
            cluster_id: CLUSTER_ID.into(),
            expected_disk_id: seen.disk_id.clone(),
            expected_term: seen.last_log_term,
            expected_last_index: seen.last_index,
            fencing_token: 9,
        };
        // The reply may be lost when the process restarts; the call is idempotent.
        drop(cluster[2].cluster().force_new(forced).await);
        let status = cluster[2].try_status().await?;
        (status.role() == Role::Leader && status.incarnation == 1).then_some(())
    })
    .await;
    eventually("a write in the new history", async || {
        let set: redis::RedisResult<()> = client.set("new", "v").await;
        set.ok()
    })
    .await;
    let mut reader = sidecar.redis().await;
    let before = local_reads(&sidecar).await;
    eventually("the new state is read from memory", async || {
        for client in [&mut client, &mut reader] {
            let found: [Option<String>; 2] =
                redis::pipe().get("k").get("new").query_async(client).await.unwrap();
            assert_eq!(found.map(Option::unwrap_or_default), ["kept", "v"]);
        }
        (local_reads(&sidecar).await > before + 100).then_some(())
    })
    .await;
}
