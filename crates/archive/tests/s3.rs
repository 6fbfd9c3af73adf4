//! The archive on a real S3 server, SeaweedFS's `weed`, which scripts/tools.sh installs.

// Helpers are no `#[test]` functions, for which `clippy.toml` allows unwrap; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use helios_archive::plan::Target;
use helios_archive::verify::verify;
use helios_archive::{Archive, ArchiveError, History, Object, Store};
use helios_testing::weed::{SECRET, Weed};

use common::{content, keyring, origin, restore, write_base, write_history, write_log};

const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

fn archive(server: &Weed, credentials: &PathBuf) -> Archive {
    let store = Store::open(&server.url("team/a", Some(credentials))).unwrap();
    Archive::new(store, History::new("cluster-a", 1).unwrap(), keyring())
}

async fn await_ready(server: &Weed, archive: &Archive) {
    let start = tokio::time::Instant::now();
    while let Err(error) = archive.begin(&origin()).await {
        assert!(start.elapsed() < DEADLINE, "the S3 server is not ready: {error}\n{}", server.log());
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn history_is_written_restored_verified_and_deleted_on_a_real_s3_server() {
    let Some(server) = Weed::start() else { return };
    let credentials = server.credentials("right", SECRET);
    let archive = archive(&server, &credentials);
    await_ready(&server, &archive).await;

    write_history(&archive).await;
    assert_eq!(archive.store().histories().await.unwrap(), [archive.history().clone()]);
    let catalog = archive.catalog().await.unwrap();
    let (base, entries) = restore(&archive, &catalog, Target::Time(1041)).await.unwrap();
    assert_eq!((base, entries.last().unwrap().index), (content(14_000), 41));
    let report = verify(&archive, &catalog).await.unwrap();
    assert!(report.is_intact() && report.bases.len() == 2, "{report:?}");

    // Conditional writes: equal content is no fork, other content is.
    write_base(&archive, 10, &content(10_000)).await.unwrap();
    let other = helios_archive::Origin { name: "other".to_owned(), ..origin() };
    assert!(matches!(archive.begin(&other).await, Err(ArchiveError::Forked { .. })));

    // A rotated secret takes effect with the next request, and a wrong one is a refused call.
    fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), "wrong").unwrap();
    let error = write_log(&archive, 61..=70).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Refused { .. }), "{error}");
    fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), SECRET).unwrap();
    write_log(&archive, 61..=70).await.unwrap();

    let catalog = archive.catalog().await.unwrap();
    for id in catalog.segments.keys() {
        archive.delete(Object::Segment(*id)).await.unwrap();
    }
    let text = restore(&archive, &archive.catalog().await.unwrap(), Target::Index(70)).await.unwrap_err();
    assert!(text.contains("the nearest is index 30"), "{text}");
}
