//! Restore of a backup into a blank node.

mod backup;
mod figures;

use helios_proto::detail_of;
use helios_proto::v1::restore_request::Kind;
use helios_proto::v1::restore_response::Kind as Answer;
use helios_proto::v1::{
    BaseHeader, ErrorCode, InitializeRequest, RestoreData, RestoreEnd, RestoreEntries, RestoreHeader, Role,
};
use tonic::Status;

use self::backup::{Backup, Call, content};
use crate::common::{Cluster, Node, Operator, error_code, eventually, http};

/// Three blank nodes of which the first has `engine`; the others have the default.
fn blank(engine: &str) -> Cluster {
    let mut cluster = Cluster::blank(3);
    cluster[0].config_mut().push_str(&format!("state: {{engine: {engine}}}\n"));
    cluster
}

async fn assert_blank(node: &Node) {
    eventually("the node is blank", async || {
        let status = node.try_status().await?;
        (status.not_ready_reason == "belongs to no cluster yet").then_some(())
    })
    .await;
    let status = node.status().await;
    assert_eq!((status.role(), status.keys, &status.cluster_id[..]), (Role::Uninitialized, 0, ""));
}

async fn reason(node: &Node) -> String {
    http(node.ports.metrics, "GET", "/readyz", "").await.unwrap().1
}

fn code(status: &Status) -> ErrorCode {
    detail_of(status).code()
}

#[tokio::test]
async fn restored_node_of_each_engine_has_all_keys_and_forms_a_cluster() {
    for (source, engine) in [("runs", "runs"), ("sled", "runs"), ("runs", "redb"), ("redb", "sled")] {
        println!("a backup of {source} into {engine}");
        let backup = Backup::of(source).await;
        let mut cluster = blank(engine);
        cluster.start_all();
        let restored = backup.restore(&cluster[0]).await.unwrap();
        cluster[0].wait_ready().await;
        assert_eq!(
            (restored.index, restored.base_digest),
            (backup.last_index, backup.base.state_digest.clone())
        );
        assert_eq!(restored.base_keys, backup.base.keys);
        assert!(restored.base_keys > 400 && restored.keys > restored.base_keys);
        let status = cluster[0].status().await;
        assert_eq!((&status.cluster_id[..], status.member_id, status.incarnation), ("restored", 1, 0));
        assert!(status.applied_index > backup.last_index, "indexes continue");
        let mut client = cluster[0].redis().await;
        assert_eq!(content(&mut client).await, backup.content);

        let () = redis::cmd("SET").arg("after").arg("restore").query_async(&mut client).await.unwrap();
        for index in 1..3 {
            let id = Operator::add(&cluster[0], &cluster[index]).await;
            Operator::promote(&cluster[0], id).await;
        }
        cluster.wait_ready().await;
        let all = content(&mut client).await;
        assert_eq!(all.len(), backup.content.len() + 1);
        for node in cluster.nodes() {
            assert_eq!(content(&mut node.redis().await).await, all, "{}", node.name);
        }
        cluster[0].kill();
        let leader = cluster.leader_among(&[1, 2]).await;
        let mut client = cluster[leader].redis().await;
        let () = redis::cmd("SET").arg("after").arg("failover").query_async(&mut client).await.unwrap();
        cluster[0].start();
        cluster[0].wait_ready().await;
        let data = cluster.agreed_data().await;
        assert!(data.iter().any(|entry| entry.key == "after"));
    }
}

#[tokio::test]
async fn repeated_restore_gets_the_same_answer_and_another_one_is_refused() {
    let backup = Backup::of("runs").await;
    let mut cluster = blank("runs");
    cluster[0].start();
    let restored = backup.restore(&cluster[0]).await.unwrap();
    for is_restarted in [false, true] {
        if is_restarted {
            cluster[0].kill();
            cluster[0].start();
            cluster[0].wait_ready().await;
        }
        let mut call = Call::open(&cluster[0]).await;
        call.send(Kind::Header(backup.header())).await;
        let Answer::Restored(again) = call.answer().await.unwrap() else { panic!("it begins again") };
        assert_eq!((again.index, again.keys), (restored.index, restored.keys));
        assert_eq!((again.base_digest, again.base_keys), (restored.base_digest.clone(), restored.base_keys));
        assert_eq!(again.membership.unwrap().cluster_id, "restored");
    }
    let refused = [
        RestoreHeader { last_index: backup.last_index - 1, ..backup.header() },
        RestoreHeader { cluster_id: "another".into(), ..backup.header() },
    ];
    for header in refused {
        let error = Call::begin(&cluster[0], header).await.err().unwrap();
        assert_eq!(code(&error), ErrorCode::AlreadyStarted, "{error}");
    }
}

#[tokio::test]
async fn node_that_is_killed_in_a_restore_is_blank_and_continues_with_the_received_bytes() {
    for engine in ["runs", "sled"] {
        let backup = Backup::of("runs").await;
        let mut cluster = blank(engine);
        cluster[0].start();
        let (call, held_bytes) = Call::begin(&cluster[0], backup.header()).await.unwrap();
        assert_eq!(held_bytes, 0);
        let parts = backup.data(0);
        for part in &parts[..parts.len() - 1] {
            call.send(part.clone()).await;
        }
        eventually("the node says how many bytes it has", async || {
            let reason = reason(&cluster[0]).await;
            (reason.starts_with("restoring: ") && reason.contains(" bytes") && !reason.contains(" 0 of"))
                .then_some(())
        })
        .await;
        cluster[0].kill();
        cluster[0].start();
        assert_blank(&cluster[0]).await;

        let (call, held_bytes) = Call::begin(&cluster[0], backup.header()).await.unwrap();
        assert!(held_bytes > 0, "{engine}");
        for message in backup.data(held_bytes).into_iter().chain(backup.entries().into_iter().take(10)) {
            call.send(message).await;
        }
        eventually("the node applies entries", async || {
            reason(&cluster[0]).await.starts_with("restoring: entry ").then_some(())
        })
        .await;
        cluster[0].kill();
        cluster[0].start();
        assert_blank(&cluster[0]).await;

        let (call, held_bytes) = Call::begin(&cluster[0], backup.header()).await.unwrap();
        assert_eq!(held_bytes, backup.base.size_bytes, "{engine}");
        call.complete(backup.entries().into_iter().chain([Kind::End(RestoreEnd {})])).await.unwrap();
        cluster[0].wait_ready().await;
        assert_eq!(content(&mut cluster[0].redis().await).await, backup.content, "{engine}");
    }
}

#[tokio::test]
async fn node_in_a_restore_refuses_to_become_a_member_in_another_way() {
    let backup = Backup::of("runs").await;
    let mut cluster = blank("runs");
    cluster.start_all();
    let (call, _) = Call::begin(&cluster[0], backup.header()).await.unwrap();
    let second = Call::begin(&cluster[0], backup.header()).await.err().unwrap();
    assert_eq!(code(&second), ErrorCode::Overloaded, "{second}");
    let initialize = InitializeRequest { cluster_id: "other".into(), ..InitializeRequest::default() };
    let refused = cluster[0].cluster().initialize(initialize.clone()).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::NotStarted);
    assert!(refused.message().contains("restored into it as cluster restored"), "{refused}");

    // The leader of another cluster does not get it as a learner before the restore has ended.
    Operator::initialize(&cluster[1]).await;
    Operator::add(&cluster[1], &cluster[0]).await;
    for message in backup.data(0).into_iter().chain(backup.entries()) {
        call.send(message).await;
    }
    let reason = reason(&cluster[0]).await;
    assert!(reason.starts_with("restoring: "), "{reason}");
    drop(call);
    // Blank again, it becomes the learner.
    cluster[0].wait_ready().await;
    let status = cluster[0].status().await;
    assert_eq!((&status.cluster_id[..], status.keys), (crate::common::CLUSTER_ID, 0));
    let refused = cluster[0].cluster().initialize(initialize).await;
    assert_eq!(error_code(refused), ErrorCode::AlreadyStarted);
}

#[tokio::test]
async fn wrong_headers_and_streams_leave_the_node_blank() {
    let backup = Backup::of("sled").await;
    let mut cluster = blank("runs");
    cluster[0].start();
    let header = backup.header();
    let base = |change: fn(&mut BaseHeader)| {
        let mut base = backup.base.clone();
        change(&mut base);
        RestoreHeader { base: Some(base), ..backup.header() }
    };
    let headers = [
        (RestoreHeader { cluster_id: String::new(), ..header.clone() }, ErrorCode::InvalidArgument),
        (
            RestoreHeader { cluster_id: backup.base.cluster_id.clone(), ..header.clone() },
            ErrorCode::InvalidArgument,
        ),
        (RestoreHeader { expected_disk_id: "another".into(), ..header.clone() }, ErrorCode::WrongMember),
        (RestoreHeader { last_index: 1, ..header.clone() }, ErrorCode::InvalidArgument),
        (RestoreHeader { base: None, ..header.clone() }, ErrorCode::InvalidArgument),
        (base(|base| base.version = 1_000), ErrorCode::SnapshotFailed),
        (base(|base| base.size_bytes = u64::MAX / 4), ErrorCode::DiskFull),
    ];
    for (header, expected) in headers {
        let error = Call::begin(&cluster[0], header).await.err().unwrap();
        assert_eq!(code(&error), expected, "{error}");
        assert_blank(&cluster[0]).await;
    }

    let end = || vec![Kind::End(RestoreEnd {})];
    let entries = |from: usize| {
        let entries = backup.entries[from..].to_vec();
        vec![Kind::Entries(RestoreEntries { entries })]
    };
    let mut repeated = backup.entries();
    repeated.insert(1, repeated[0].clone());
    let mut lower = backup.entries.clone();
    lower[9].term = 0;
    let lower = vec![Kind::Entries(RestoreEntries { entries: lower })];
    let mut flipped = backup.bytes.clone();
    flipped[backup.bytes.len() / 2] ^= 1;
    let flipped = flipped.chunks(64 << 10).map(backup::data).collect::<Vec<_>>();
    let in_transit = vec![Kind::Data(RestoreData { data: "x".into(), crc32c: 1 })];
    let all = || backup.data(0);
    let streams = [
        ("a damaged message", in_transit, ErrorCode::SnapshotFailed),
        ("a damaged base", [flipped, entries(0), end()].concat(), ErrorCode::SnapshotFailed),
        ("no base", [entries(0), end()].concat(), ErrorCode::InvalidArgument),
        ("half a base", [all()[..1].to_vec(), end()].concat(), ErrorCode::InvalidArgument),
        ("a long base", [all(), all()].concat(), ErrorCode::InvalidArgument),
        ("a gap", [all(), entries(1), end()].concat(), ErrorCode::InvalidArgument),
        ("a repeated entry", [all(), repeated, end()].concat(), ErrorCode::InvalidArgument),
        ("a lower term", [all(), lower, end()].concat(), ErrorCode::InvalidArgument),
        ("no entries", [all(), end()].concat(), ErrorCode::InvalidArgument),
        ("no end", [all(), entries(0)].concat(), ErrorCode::InvalidArgument),
        ("a second header", vec![Kind::Header(header.clone())], ErrorCode::InvalidArgument),
    ];
    for (what, messages, expected) in streams {
        let (call, held_bytes) = Call::begin(&cluster[0], header.clone()).await.unwrap();
        // The bytes that an earlier stream left are not sent again; the streams with damage are before those.
        let mut left = held_bytes;
        let messages = messages.into_iter().filter_map(|message| match message {
            Kind::Data(data) if left > 0 && what != "a damaged message" => {
                let skipped = left.min(data.data.len() as u64);
                left -= skipped;
                let rest = &data.data[skipped as usize..];
                (!rest.is_empty()).then(|| backup::data(rest))
            }
            other => Some(other),
        });
        let outcome = call.complete(messages).await;
        let Err(error) = outcome else { panic!("{what} is accepted") };
        assert_eq!(code(&error), expected, "{what}: {error}");
        assert_blank(&cluster[0]).await;
    }
    // Nothing of all this is in its way.
    backup.restore(&cluster[0]).await.unwrap();
    cluster[0].wait_ready().await;
    assert_eq!(content(&mut cluster[0].redis().await).await, backup.content);
}
