//! An archive in a store.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::RangeInclusive;
use std::sync::Arc;

use helios_archive::base::{BaseReader, BaseRequest, BaseWriter, Begun, Manifest, Options};
use helios_archive::plan::Target;
use helios_archive::segments::{Entry, Position, SegmentWriter};
use helios_archive::{Archive, ArchiveError, BaseId, Catalog, History, Keyring, Origin, Result, Store};
use object_store::ObjectStore;

pub const PART_BYTES: usize = 4000;
pub const SEGMENT_BYTES: usize = 1500;
pub const PREFIX: &str = "team/backups";

pub fn keyring() -> Keyring {
    Keyring::new([("k1".to_owned(), [1; 32])], "k1").unwrap()
}

pub fn archive(store: Arc<dyn ObjectStore>, keyring: Keyring) -> Archive {
    Archive::new(Store::new(store, PREFIX), History::new("cluster-a", 1).unwrap(), keyring)
}

/// Bytes that zstd does not make smaller.
pub fn content(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(next).collect()
}

pub fn request(index: u64) -> BaseRequest {
    BaseRequest {
        id: BaseId { index, term: 2 },
        now_ms: 1000 + index,
        snapshot_version: 3,
        snapshot_crc32c: Some(7),
        source: format!("member-1 snapshot {index}"),
        member: "member-1".to_owned(),
        started_ms: 1,
        keys: Some(17),
        state_digest: Some("abc".to_owned()),
    }
}

pub fn options() -> Options {
    Options { part_bytes: PART_BYTES }
}

pub async fn write_base(archive: &Archive, index: u64, bytes: &[u8]) -> Result<Manifest> {
    match BaseWriter::begin(archive, request(index), options()).await? {
        Begun::Complete(manifest) => Ok(*manifest),
        Begun::Writer(mut writer) => {
            let offset = writer.offset() as usize;
            writer.write(&mut &bytes[offset..]).await?;
            writer.finish(2).await
        }
    }
}

pub async fn read_base(archive: &Archive, base: BaseId) -> Result<Vec<u8>> {
    let mut reader = BaseReader::open(archive, base).await?;
    let mut found = Vec::new();
    while let Some(part) = reader.next().await? {
        found.extend_from_slice(&part);
    }
    Ok(found)
}

pub fn entry(index: u64) -> Entry {
    Entry { index, term: 2, now_ms: 1000 + index, payload: content(200 + index as usize).into() }
}

pub fn origin() -> Origin {
    Origin {
        format: 1,
        cluster_id: "cluster-a".to_owned(),
        incarnation: 1,
        name: "orders".to_owned(),
        namespace: "shop".to_owned(),
        parent: None,
    }
}

/// Continues the log of the archive with these entries.
pub async fn write_log(archive: &Archive, entries: RangeInclusive<u64>) -> Result<()> {
    let catalog = archive.catalog().await?;
    let position = SegmentWriter::resume_position(archive, &catalog).await?.unwrap();
    let mut writer = SegmentWriter::with_limit(archive, position, SEGMENT_BYTES);
    for index in entries {
        writer.push(&entry(index)).await?;
    }
    writer.flush().await
}

/// A history with bases at 10 and 30, and the log from 11 to 60.
pub async fn write_history(archive: &Archive) {
    archive.begin(&origin()).await.unwrap();
    write_base(archive, 10, &content(10_000)).await.unwrap();
    write_log(archive, 11..=30).await.unwrap();
    write_base(archive, 30, &content(14_000)).await.unwrap();
    write_log(archive, 31..=60).await.unwrap();
}

/// The base's content and the entries of a target.
pub async fn restore(
    archive: &Archive,
    catalog: &Catalog,
    target: Target,
) -> Result<(Vec<u8>, Vec<Entry>), String> {
    let text = |error: ArchiveError| error.to_string();
    let plan = archive.plan(catalog, &mut Default::default(), target).await.map_err(text)?;
    let plan = plan.map_err(|impossible| impossible.to_string())?;
    let base = read_base(archive, plan.base).await.map_err(text)?;
    let mut reader = plan.entries(archive);
    let mut entries = Vec::new();
    while let Some(some) = reader.next().await.map_err(text)? {
        entries.extend(some);
    }
    Ok((base, entries))
}

pub fn start() -> Position {
    Position { next_index: 11, term: 2, now_ms: 1010, previous: [0; 32] }
}
