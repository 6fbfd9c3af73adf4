//! The garbage collection of a store.

// Helpers are no `#[test]` functions, for which `clippy.toml` allows unwrap; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use helios_archive::catalog::Clocks;
use helios_archive::plan::Target;
use helios_archive::retention::Retention;
use helios_archive::verify::verify;
use helios_archive::{Archive, BaseId, Collected, Drill, Object};
use helios_testing::store::{Fault, Faulty};
use object_store::memory::InMemory;

use common::{archive, keyring, restore, write_history};

const HOUR_MS: u64 = 3_600_000;
const NOTHING: Retention = Retention { keep_for_ms: 1, keep_last: 1, log_ms: 1 };

async fn collect(archive: &Archive, now_ms: u64) -> Collected {
    let catalog = archive.catalog().await.unwrap();
    let mut clocks = Clocks::default();
    for base in catalog.usable_bases() {
        clocks.bases.insert(base, archive.manifest(base).await.unwrap().now_ms);
    }
    archive.collect(&catalog, &clocks, &NOTHING, now_ms).await.unwrap()
}

#[tokio::test]
async fn old_base_and_its_log_are_removed_by_the_second_pass_and_the_rest_is_intact() {
    let archive = archive(Arc::new(InMemory::new()), keyring());
    write_history(&archive).await;
    let first = collect(&archive, 10_000).await;
    assert!(first.removed.is_empty() && first.pending > 5, "{first:?}");
    assert!(collect(&archive, 20_000).await.removed.is_empty());
    let second = collect(&archive, 10_000 + HOUR_MS).await;
    assert_eq!((second.removed.len(), second.pending), (first.pending, 0));
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(catalog.bases.keys().map(|base| base.index).collect::<Vec<_>>(), [30]);
    assert!(verify(&archive, &catalog).await.unwrap().is_intact());
    assert_eq!(restore(&archive, &catalog, Target::Latest).await.unwrap().1.len(), 30);
    assert_eq!(collect(&archive, 10_000 + 2 * HOUR_MS).await, Collected::default());
}

#[tokio::test]
async fn base_of_the_last_successful_drill_is_kept_with_its_log() {
    let archive = archive(Arc::new(InMemory::new()), keyring());
    write_history(&archive).await;
    for (at_ms, index, succeeded) in [(1, 10, true), (2, 30, false)] {
        let detail = String::new();
        let drill = Drill {
            at_ms,
            index,
            term: 2,
            is_restore: true,
            succeeded,
            took_ms: 5,
            detail,
            compared_index: None,
        };
        archive.report_drill(&drill).await.unwrap();
    }
    let catalog = archive.catalog().await.unwrap();
    let verified = archive.verified_bases(&catalog).await.unwrap();
    assert_eq!(verified.into_iter().collect::<Vec<_>>(), [BaseId { index: 10, term: 2 }]);
    assert_eq!(collect(&archive, 10_000).await.pending, 0);
}

#[tokio::test]
async fn base_with_a_locked_manifest_stays_whole_and_the_log_is_removed() {
    let memory = Arc::new(InMemory::new());
    let healthy = archive(memory.clone(), keyring());
    write_history(&healthy).await;
    let pending = collect(&healthy, 10_000).await.pending;
    // Two manifests for the clocks, the list, and the record of the pass come before the first removal.
    let locked = archive(Faulty::new(memory, Fault::Forbidden, 4), keyring());
    let collected = collect(&locked, 10_000 + HOUR_MS).await;
    // The manifest, three parts and the identity of the source stay.
    assert_eq!((collected.removed.len(), collected.refused.len()), (pending - 5, 1));
    let (object, reason) = &collected.refused[0];
    assert!(matches!(object, Object::Manifest(base) if base.index == 10), "{object}");
    assert!(reason.contains("refused DELETE") && reason.contains(&locked.name(*object)), "{reason}");
    assert!(verify(&healthy, &healthy.catalog().await.unwrap()).await.unwrap().is_intact());
    assert!(collect(&healthy, 10_000 + 2 * HOUR_MS).await.removed.is_empty());
    assert_eq!(collect(&healthy, 10_000 + 3 * HOUR_MS).await.removed.len(), 5);
}
