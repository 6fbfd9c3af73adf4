//! Duration and memory of a restore. `HELIOS_TEST_SCALE=10`: 1 GiB and a million entries.

use std::sync::atomic::Ordering;
use std::time::Instant;

use redis::aio::MultiplexedConnection;

use super::backup::{Backup, Content};
use crate::common::{Cluster, Operator};

const KEYS: usize = 100_000;
const ENTRIES: usize = 100_000;
const PIPELINE: usize = 1_000;

/// Writes one entry for each number, of `bytes` bytes without a pattern.
async fn fill(client: &mut MultiplexedConnection, prefix: &str, count: usize, bytes: usize) {
    let mut state = 88_172_645_463_325_252u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    for first in (0..count).step_by(PIPELINE) {
        let mut pipeline = redis::pipe();
        for number in first..first + PIPELINE {
            let value: Vec<u8> = (0..bytes / 8).flat_map(|_| noise()).collect();
            pipeline.cmd("SET").arg(format!("{prefix} {number}")).arg(value).ignore();
        }
        let () = pipeline.query_async(client).await.unwrap();
    }
}

fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Run by: `cargo test -p helios-node --test integration restore::figures -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures"]
async fn duration_and_memory_of_a_restore() {
    let scale: usize = std::env::var("HELIOS_TEST_SCALE").map_or(1, |text| text.parse().expect("a number"));
    let engine = std::env::var("HELIOS_TEST_ENGINE").unwrap_or_else(|_| "runs".to_owned());
    let mut source = Cluster::blank_with(1, "max_retained_log_bytes: 4294967296, trailing_entries: 10000000");
    source[0].config_mut().push_str("state: {engine: runs}\n");
    source.start_all();
    Operator::initialize(&source[0]).await;
    let mut client = source[0].redis().await;
    fill(&mut client, "key", scale * KEYS, 1_024).await;
    let (base, bytes) = super::backup::take_base(&source[0]).await;
    let log = super::backup::log_after(&source[0], &base).await;
    fill(&mut client, "key", scale * ENTRIES, 96).await;
    let last_index = super::backup::applied(&source[0]).await;
    let entries = super::backup::take_log(log, last_index).await;
    source[0].kill();
    let backup = Backup { base, bytes, entries, last_index, content: Content::new() };

    let mut cluster = Cluster::blank(1);
    cluster[0].config_mut().push_str(&format!("state: {{engine: {engine}}}\n"));
    cluster.start_all();
    cluster[0].status().await;
    let pid = cluster[0].pid().load(Ordering::Relaxed);
    let before_mib = peak_mib(pid);
    let started = Instant::now();
    let restored = backup.restore(&cluster[0]).await.unwrap();
    let took = started.elapsed();
    cluster[0].wait_ready().await;
    let mut client = cluster[0].redis().await;
    let () = redis::cmd("SET").arg("first").arg("write").query_async(&mut client).await.unwrap();
    println!(
        "{engine}: {} MiB and {} entries, {} keys: restored after {took:.1?}, first write after {:.1?}; peak memory {} MiB, {} before",
        backup.bytes.len() >> 20,
        backup.entries.len(),
        restored.keys,
        started.elapsed(),
        peak_mib(pid),
        before_mib
    );
    cluster[0].log().lines().filter(|line| line.contains("restor")).for_each(|line| println!("{line}"));
}
