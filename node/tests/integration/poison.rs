//! A committed entry that ends every process that applies it.

use std::path::Path;

use helios_proto::v1::{ErrorCode, SkipEntryRequest, StatusResponse};

use crate::common::{Cluster, Node, error_code, eventually, http};

const KEY: &str = "poison";
const WRITES: u32 = 40;

async fn set(node: &Node, key: &str) -> redis::RedisResult<String> {
    redis::cmd("SET").arg(key).arg("value").query_async(&mut node.redis().await).await
}

async fn get(node: &Node, key: &str) -> redis::RedisResult<Option<String>> {
    redis::cmd("GET").arg(key).query_async(&mut node.redis().await).await
}

/// Restarts ended members until each holds an entry and knows a leader; returns their statuses, and how often
/// each has ended.
async fn restart_until_all_hold(cluster: &mut Cluster) -> (Vec<StatusResponse>, Vec<u32>) {
    let mut ends = vec![0; 3];
    let statuses = eventually("all members stay up and hold the entry", async || {
        let mut found = Vec::new();
        for (index, ends) in ends.iter_mut().enumerate() {
            *ends += u32::from(cluster[index].start_if_ended());
            found.extend(cluster[index].try_status().await);
        }
        found.retain(|status| status.entry_unappliable.is_some() && status.leader_id != 0);
        (found.len() == 3).then_some(found)
    })
    .await;
    (statuses, ends)
}

#[tokio::test]
async fn entry_that_ends_every_process_is_held_after_two_tries_and_skipped_on_request() {
    let mut cluster = Cluster::fixed(3);
    for index in 0..3 {
        cluster[index].set_environment("HELIOS_TEST_ABORT_AT_KEY", Path::new(KEY));
        cluster[index].start();
    }
    cluster.wait_ready().await;
    for number in 0..WRITES {
        set(&cluster[0], &format!("key-{number}")).await.unwrap();
    }
    set(&cluster[1], KEY).await.unwrap_err();
    let (statuses, ends) = restart_until_all_hold(&mut cluster).await;
    // Two ends with the attempt on record, and one before them where the entry was applied before the first
    // restart.
    assert!(ends.iter().all(|ends| (2..=3).contains(ends)), "{ends:?}");
    let held = statuses[0].entry_unappliable.clone().unwrap();
    for (status, node) in statuses.iter().zip(cluster.nodes()) {
        assert_eq!(status.entry_unappliable.as_ref(), Some(&held), "{} holds another", node.name);
        assert_eq!((held.command.as_str(), status.applied_index), ("SET", held.index - 1));
        assert!(!status.ready && status.not_ready_reason.contains(&format!("entry {}", held.index)));
        let code = async |path| http(node.ports.metrics, "GET", path, "").await.unwrap().0;
        assert_eq!((code("/livez").await, code("/readyz").await), (200, 503));
        assert_eq!(node.metric("helios_entry_unappliable").await, Some(1));
    }
    // The errors are returned at once, because waiting does not help: only the operator can resolve this.
    let refused = set(&cluster[0], "refused").await.unwrap_err().to_string();
    assert!(refused.contains("heliosctl log skip"), "{refused}");
    let unread = get(&cluster[2], "key-0").await.unwrap_err().to_string();
    assert!(unread.contains("heliosctl log skip"), "{unread}");

    let skip = async |request: SkipEntryRequest| {
        let mut client = cluster[cluster.leader().await].cluster();
        client.skip_entry(request).await
    };
    let right = SkipEntryRequest { index: held.index, crc: held.crc, fencing_token: 0 };
    let wrong = skip(SkipEntryRequest { crc: held.crc ^ 1, ..right }).await;
    assert_eq!(error_code(wrong), ErrorCode::InvalidArgument);
    eventually("the leader skips it", async || skip(right).await.ok()).await;

    cluster.wait_ready().await;
    for node in cluster.nodes() {
        let status = node.status().await;
        assert_eq!((status.entry_unappliable, status.last_skipped_index), (None, held.index));
        assert_eq!(node.metric("helios_log_entries_skipped_total").await, Some(1));
        assert_eq!(get(node, KEY).await.unwrap(), None, "{} applied it", node.name);
        for number in 0..WRITES {
            let key = format!("key-{number}");
            assert_eq!(get(node, &key).await.unwrap().as_deref(), Some("value"), "{key} is lost");
        }
    }
    set(&cluster[0], "after").await.unwrap();
    assert_eq!(error_code(skip(right).await), ErrorCode::InvalidArgument, "skipped twice");

    // The restart replays the same log, perhaps on an older state, and perhaps without knowing that the two
    // entries are committed.
    for index in 0..3 {
        cluster[index].kill();
    }
    cluster.start_all();
    cluster.wait_ready().await;
    for node in cluster.nodes() {
        assert_eq!(get(node, KEY).await.unwrap(), None);
        assert_eq!(get(node, "after").await.unwrap().as_deref(), Some("value"));
    }
}
