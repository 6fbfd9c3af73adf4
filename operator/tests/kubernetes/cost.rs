//! Cost of many settled clusters, with TLS and passwords: memory of the operator, and requests to the API server.

use std::time::{Duration, Instant};

use serde_json::json;

use super::operator::{Operator, Samples, sum};
use super::{begin, create_as, ready, until};

/// 40 MiB with an optimised program; the one of the tests has 7 MiB more code, 3 MiB more since it has the watches and
/// controllers of backups, and 3 MiB more since the webhook is part of it (50.4 MiB measured at 20 clusters).
const MOST_RESIDENT: u64 = 53 << 20;
const OVER: Duration = Duration::from_secs(60);
/// Longer than the time between two reconciles of an idle cluster.
const QUIET: Duration = Duration::from_secs(15);

/// `HELIOS_TEST_CLUSTERS` sets how many (default 500).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster; takes minutes"]
async fn settled_clusters_cost_no_write_and_little_memory() {
    let count: u16 = std::env::var("HELIOS_TEST_CLUSTERS").map_or(500, |count| count.parse().unwrap());
    let (server, _nodes) = begin().await;
    let mut first = Operator::start(&server, "first");
    let began = Instant::now();
    for number in 0..count {
        create_as(&server.client, &format!("c{number}"), json!({})).await;
    }
    until("all clusters are Ready", Duration::from_secs(1800), async || {
        // Listing hundreds of them takes the processor that the operator needs.
        tokio::time::sleep(Duration::from_secs(1)).await;
        ready(&server.client).await == usize::from(count)
    })
    .await;
    println!("{count} clusters created and Ready: {:.1} s", began.elapsed().as_secs_f64());
    println!("resident after that: {:.1} MiB", mebibytes(first.resident_bytes()));
    first.signal("TERM");
    assert!(first.ended().await.success(), "{}", first.log());

    let began = Instant::now();
    let second = Operator::start(&server, "second");
    until("a new operator has observed all", Duration::from_secs(300), async || {
        sum(&second.metrics(), "clusters", |_| true) >= f64::from(count)
    })
    .await;
    println!("a new operator has observed all: {:.1} s after its start", began.elapsed().as_secs_f64());
    await_quiet(&second).await;
    let before = second.metrics();
    tokio::time::sleep(OVER).await;
    let after = second.metrics();
    print_rates(&before, &after);
    let resident = second.resident_bytes();
    println!("resident at rest: {:.1} MiB", mebibytes(resident));

    assert_eq!(writes(&after), writes(&before), "a settled cluster costs writes");
    assert!(resident < MOST_RESIDENT, "{:.1} MiB are resident", mebibytes(resident));
}

/// Waits until the operator has read nothing but its lease for a while.
async fn await_quiet(operator: &Operator) {
    until("the operator has nothing to do", Duration::from_secs(300), async || {
        let before = sum(&operator.metrics(), "reconcile_total", |labels| labels.contains("\"ok\""));
        tokio::time::sleep(QUIET).await;
        sum(&operator.metrics(), "reconcile_total", |labels| labels.contains("\"ok\"")) == before
    })
    .await;
}

/// The lease is written whatever the clusters do.
fn writes(samples: &Samples) -> f64 {
    let writes = ["create", "update", "patch", "delete"];
    sum(samples, "api_requests_total", |labels| {
        !labels.contains("\"leases\"") && writes.iter().any(|verb| labels.contains(&format!("\"{verb}\"")))
    })
}

fn print_rates(before: &Samples, after: &Samples) {
    let minutes = OVER.as_secs_f64() / 60.0;
    for (name, value) in after.iter().filter(|(name, _)| name.starts_with("api_requests_total")) {
        let more = (value - before.get(name).unwrap_or(&0.0)) / minutes;
        if more > 0.0 {
            println!("a minute: {more:.0} {name}");
        }
    }
    let more = |name| sum(after, name, |_| true) - sum(before, name, |_| true);
    let reconciles = more("reconcile_duration_seconds_count");
    let took = more("reconcile_duration_seconds_sum") / reconciles * 1000.0;
    println!("a minute: {:.0} reconciles, {took:.1} ms each", reconciles / minutes);
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
