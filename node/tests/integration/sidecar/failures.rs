//! Members that fail, and the view of the application.

use std::time::Duration;

use redis::AsyncCommands;

use super::{Limited, Sidecar, addresses};
use crate::common::{Clients, Cluster, Load, connect, eventually};

/// Returns the index of the member that the connections of the sidecar are at.
pub async fn used(sidecar: &Sidecar, cluster: &Cluster) -> usize {
    eventually("the sidecar names its member", async || {
        let mut client = connect(sidecar.port(), Duration::from_secs(5)).await.ok()?;
        let info: String = redis::cmd("INFO").arg("sidecar").query_async(&mut client).await.ok()?;
        let member = info.lines().find_map(|line| line.strip_prefix("sidecar_member:127.0.0.1:"))?;
        let port: u16 = member.trim().parse().ok()?;
        cluster.nodes().iter().position(|node| node.ports.client == port)
    })
    .await
}

#[tokio::test]
async fn killed_leader_costs_no_acknowledged_write_and_no_reply_is_wrong() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let port = sidecar.port();
    // Each error that says that nothing was executed is held against the history.
    let (clients, load) = (Clients::start(&[port, port, port]), Load::start(&[port]));
    for _ in 0..3 {
        load.wait_for(50).await;
        let leader = cluster.leader().await;
        cluster[leader].kill();
        load.wait_for(50).await;
        cluster[leader].start();
        cluster.wait_ready().await;
        // The member that all connections are at.
        let member = used(&sidecar, &cluster).await;
        load.wait_for(50).await;
        cluster[member].kill();
        clients.wait_for(0..3, 50).await;
        load.wait_for(50).await;
        cluster[member].start();
        cluster.wait_ready().await;
    }
    let report = load.finish().await;
    clients.finish(&cluster).await;
    report.assert_kept(&cluster.agreed_data().await);
    println!("longest write {:?}, {} errors", report.longest, report.failures);
    assert!(sidecar.metric("upstream_connects_total{result=\"open\"}").await > 1);
}

#[tokio::test]
async fn idle_connections_keep_their_settings_when_their_member_fails() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let mut raw = sidecar.raw().await;
    raw.ask("HELLO 3 SETNAME app", "*0\r\n").await;
    raw.ask("HELIOS.READ STALE", "OK\r\n").await;
    raw.ask("SET k v", "OK\r\n").await;
    let mut watching = sidecar.raw().await;
    watching.ask("WATCH k", "OK\r\n").await;
    let mut queueing = sidecar.raw().await;
    queueing.send("MULTI\r\nSET k lost\r\n").await;
    queueing.until("QUEUED\r\n").await;
    let mut listening = sidecar.raw().await;
    listening.ask("SUBSCRIBE c", ":1\r\n").await;

    let member = used(&sidecar, &cluster).await;
    cluster[member].kill();
    // A stale read on another member still sees the own write.
    assert_eq!(raw.ask("GET k", "v\r\n").await, "$1\r\nv\r\n");
    assert_eq!(raw.ask("CLIENT GETNAME", "app\r\n").await, "$3\r\napp\r\n");
    assert_eq!(raw.ask("HELIOS.READ", "stale\r\n").await, "$5\r\nstale\r\n");
    assert_eq!(raw.ask("GET none", "_\r\n").await, "_\r\n");
    let lost = raw.ask("WAIT 1 100", "\r\n").await;
    assert!(lost.starts_with("-ERR the member that took the last write"), "{lost}");
    raw.ask("SET k v", "OK\r\n").await;
    assert_eq!(raw.ask("WAIT 1 1000", "\r\n").await, ":1\r\n");

    // A lost watch is a changed key, a lost queue a discarded transaction, and a lost subscription a closed connection.
    watching.send("GET k\r\nMULTI\r\nSET k lost\r\nEXEC\r\n").await;
    assert_eq!(watching.until("*-1\r\n").await, "$1\r\nv\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
    watching.send("WATCH k\r\nMULTI\r\nSET k w\r\nEXEC\r\n").await;
    assert_eq!(watching.until("*1\r\n+OK\r\n").await, "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    queueing.send("SET k lost\r\nEXEC\r\nGET k\r\n").await;
    let aborted = queueing.until("w\r\n").await;
    assert!(
        aborted.starts_with("-TRYAGAIN the connection to the member was lost within the transaction"),
        "{aborted}"
    );
    assert!(aborted.contains("\r\n-EXECABORT Transaction discarded"), "{aborted}");
    assert_eq!(listening.rest().await, "");
}

#[tokio::test]
async fn blocking_command_on_a_killed_member_is_of_unknown_outcome() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let mut waiting = sidecar.raw().await;
    waiting.send("BLPOP list 0\r\nGET none\r\n").await;
    let member = used(&sidecar, &cluster).await;
    eventually("the command waits", async || {
        let mut client = cluster[member].redis().await;
        let info: String = redis::cmd("INFO").arg("clients").query_async(&mut client).await.unwrap();
        info.contains("blocked_clients:1").then_some(())
    })
    .await;
    cluster[member].kill();
    let answered = waiting.until("$-1\r\n").await;
    assert!(
        answered.starts_with("-ERR outcome unknown: the write was proposed and may still take effect"),
        "{answered}"
    );
    assert_eq!(sidecar.metric("errors_total{reason=\"outcome_unknown\"}").await, 1);
}

#[tokio::test]
async fn cut_off_sidecar_answers_at_once_and_recovers_with_the_cluster() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = Sidecar::of(&cluster, &["--cut-off-after-ms", "1500"]).await;
    let mut raw = sidecar.raw().await;
    raw.ask("SET k v", "OK\r\n").await;
    for index in 0..3 {
        cluster[index].kill();
    }
    let error = raw.ask("GET k", "\r\n").await;
    assert!(error.starts_with("-CLUSTERDOWN cut off from the cluster for 1 s: 127.0.0.1:"), "{error}");
    let (code, reason) = sidecar.readiness().await.unwrap();
    assert!(code == 503 && reason.contains("no contact to the cluster"), "{code} {reason}");
    let began = std::time::Instant::now();
    let error = raw.ask("SET k w", "\r\n").await;
    assert!(error.starts_with("-CLUSTERDOWN ") && began.elapsed() < Duration::from_millis(500), "{error}");
    assert_eq!(raw.ask("AUTH p", "OK\r\n").await, "+OK\r\n");
    raw.send("MULTI\r\n").await;
    assert!(raw.until("\r\n").await.starts_with("-CLUSTERDOWN "));
    assert_eq!(raw.ask("DISCARD", "\r\n").await, "+OK\r\n");

    cluster.start_all();
    cluster.wait_ready().await;
    sidecar.wait_ready().await;
    assert_eq!(raw.ask("GET k", "v\r\n").await, "$1\r\nv\r\n");
    assert!(sidecar.metric("errors_total{reason=\"cut_off\"}").await >= 2);
}

#[tokio::test]
async fn stale_reads_of_a_user_with_prefixes_see_its_writes_when_its_member_fails() {
    let limited = Limited::new();
    let mut cluster = Cluster::of_three_configured(&limited.config()).await;
    let sidecar = Sidecar::of(&cluster, &limited.flags()).await;
    let mut raw = sidecar.raw().await;
    for round in 0..3 {
        raw.ask("HELIOS.READ STALE", "OK\r\n").await;
        raw.ask(&format!("SET app:k v{round}"), "OK\r\n").await;
        let member = used(&sidecar, &cluster).await;
        cluster[member].kill();
        let value = format!("v{round}\r\n");
        assert_eq!(raw.ask("GET app:k", &value).await, format!("$2\r\n{value}"));
        assert_eq!(raw.ask("HELIOS.READ", "stale\r\n").await, "$5\r\nstale\r\n");
        cluster[member].start();
        cluster.wait_ready().await;
    }
}

#[tokio::test]
async fn sidecar_starts_before_the_cluster_and_leaves_a_member_without_a_quorum() {
    let mut cluster = Cluster::fixed(3);
    let sidecar = Sidecar::started(&addresses(&cluster), &[]);
    eventually("the sidecar reports that it has no contact", async || {
        sidecar.readiness().await.filter(|(code, _)| *code == 503)
    })
    .await;
    cluster.start_all();
    cluster.wait_ready().await;
    sidecar.wait_ready().await;
    let mut raw = sidecar.raw().await;
    raw.ask("SET k v", "OK\r\n").await;
    // The other two are gone for a while: the member answers, but has no quorum.
    let member = used(&sidecar, &cluster).await;
    let others: Vec<_> = (0..3).filter(|index| *index != member).collect();
    others.iter().for_each(|index| cluster[*index].kill());
    let error = raw.ask("SET k w", "\r\n").await;
    assert!(error.starts_with("-CLUSTERDOWN ") || error.starts_with("-ERR outcome unknown"), "{error}");
    others.iter().for_each(|index| cluster[*index].start());
    cluster.wait_ready().await;
    let mut client = sidecar.redis().await;
    eventually("writes work again", async || client.set::<_, _, ()>("k", "x").await.ok()).await;
}

#[tokio::test]
async fn redirecting_followers_are_left_for_the_leader() {
    let mut cluster = Cluster::of_three_configured("writes: {on_follower: redirect}\n").await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let mut client = sidecar.redis().await;
    for number in 0..3 {
        let () = client.set("k", number).await.unwrap();
        let leader = cluster.leader().await;
        assert_eq!(used(&sidecar, &cluster).await, leader);
        cluster[leader].terminate().await;
        cluster[leader].start();
        cluster.wait_ready().await;
        cluster.leader().await;
    }
}

#[tokio::test]
async fn rolling_restart_is_seen_as_no_error_by_reads() {
    let mut cluster = Cluster::of_three().await;
    let sidecar = Sidecar::of(&cluster, &[]).await;
    let mut client = sidecar.redis().await;
    let () = client.set("k", "v").await.unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let reader = tokio::spawn(async move {
        let mut count = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let found: String = client.get("k").await.unwrap();
            assert_eq!(found, "v");
            count += 1;
        }
        count
    });
    for index in 0..3 {
        cluster[index].terminate().await;
        cluster[index].start();
        cluster.wait_ready().await;
        cluster.leader().await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.await.unwrap() > 100);
}
