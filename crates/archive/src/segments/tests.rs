use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;
use crate::crypto::sha256;
use crate::layout::{BaseId, History, Object, SegmentId};
use crate::{Archive, ArchiveError, Catalog, Keyring, Store};

const START: Position = Position { next_index: 11, term: 2, now_ms: 1000, previous: [0; 32] };
const BASE: BaseId = BaseId { index: 10, term: 2 };

fn archive() -> Archive {
    let store = Store::new(Arc::new(InMemory::new()), "p");
    let keyring = Keyring::new([("k".to_owned(), [1; 32])], "k").unwrap();
    Archive::new(store, History::new("c", 1).unwrap(), keyring)
}

fn entry(index: u64) -> Entry {
    let payload = format!("payload of {index}").repeat(20).into();
    // Clocks of leaders differ: the log's clock is the maximum.
    let now_ms = 1000 + index * 10 - if index.is_multiple_of(3) { 25 } else { 0 };
    Entry { index, term: 2 + index / 20, now_ms, payload }
}

async fn write(archive: &Archive, to: u64) -> Catalog {
    let mut writer = SegmentWriter::with_limit(archive, START, 1000);
    for index in 11..=to {
        writer.push(&entry(index)).await.unwrap();
    }
    writer.flush().await.unwrap();
    assert_eq!((writer.archived(), writer.has_unarchived()), (to, false));
    archive.catalog().await.unwrap()
}

async fn read(archive: &Archive, catalog: &Catalog, stop: Stop) -> crate::Result<Vec<Entry>> {
    let mut reader = SegmentReader::new(archive, BASE, catalog.chain_from(11), stop);
    let mut found = Vec::new();
    while let Some(entries) = reader.next().await? {
        found.extend(entries);
    }
    Ok(found)
}

#[tokio::test]
async fn entries_are_read_as_they_were_written_up_to_an_index_or_a_time() {
    let archive = archive();
    let catalog = write(&archive, 50).await;
    assert!(catalog.segments.len() > 5);
    for end in 11..=50 {
        let expected: Vec<_> = (11..=end).map(entry).collect();
        assert_eq!(read(&archive, &catalog, Stop::Index(end)).await.unwrap(), expected);
    }
    // The clock is 1 260 with entry 26, and stays so with entry 27, whose leader's clock was behind.
    let found = read(&archive, &catalog, Stop::Time(1269)).await.unwrap();
    assert_eq!(found.last().unwrap().index, 27);
    assert!(read(&archive, &catalog, Stop::Time(1109)).await.unwrap().is_empty());
}

#[tokio::test]
async fn writer_resumes_after_the_last_segment() {
    let archive = archive();
    let catalog = write(&archive, 30).await;
    let position = SegmentWriter::resume_position(&archive, &catalog).await.unwrap().unwrap();
    assert_eq!(position.next_index, 31);
    let mut writer = SegmentWriter::new(&archive, position);
    writer.push(&entry(31)).await.unwrap();
    writer.flush().await.unwrap();
    writer.flush().await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(read(&archive, &catalog, Stop::Index(31)).await.unwrap().len(), 21);
}

#[tokio::test]
async fn header_is_read_without_the_entries_and_without_the_key() {
    let archive = archive();
    let catalog = write(&archive, 30).await;
    let id = *catalog.segments.keys().next().unwrap();
    let stranger = Archive::new(archive.store().clone(), archive.history().clone(), Keyring::unencrypted());
    let header = read_header(&stranger, id).await.unwrap();
    assert_eq!((header.id, header.clock_before, header.first_term), (id, 1000, 2));
    assert!(read_segment(&stranger, id).await.is_err());
}

#[tokio::test]
async fn repeated_write_of_equal_content_is_no_fork_and_other_content_is() {
    let archive = archive();
    write(&archive, 30).await;
    write(&archive, 30).await;
    let mut writer = SegmentWriter::with_limit(&archive, START, 1000);
    writer.push(&Entry { payload: "other".into(), ..entry(11) }).await.unwrap();
    let id = SegmentId { first: 11, last: 11 };
    writer.flush().await.unwrap();
    let mut other = SegmentWriter::with_limit(&archive, START, 1000);
    other.push(&entry(11)).await.unwrap();
    let error = other.flush().await.unwrap_err();
    let name = archive.name(Object::Segment(id));
    assert!(matches!(&error, ArchiveError::Forked { object } if *object == name), "{error}");
    assert_eq!(other.archived(), 10);
}

/// Writes entries up to the last of `cuts`, each of which ends a segment.
async fn write_cut_at(archive: &Archive, cuts: &[u64]) {
    let mut writer = SegmentWriter::new(archive, START);
    for index in 11..=cuts.last().copied().unwrap() {
        writer.push(&entry(index)).await.unwrap();
        if cuts.contains(&index) {
            writer.flush().await.unwrap();
        }
    }
}

#[tokio::test]
async fn segments_of_two_writers_that_cut_at_other_places_are_one_chain() {
    let archive = archive();
    // Both write 16 to 17, after other segments.
    write_cut_at(&archive, &[12, 13, 15, 17, 20, 22]).await;
    write_cut_at(&archive, &[12, 14, 15, 17, 18, 20, 25]).await;
    let catalog = archive.catalog().await.unwrap();
    assert!(!catalog.overlaps().is_empty());
    assert_eq!(read(&archive, &catalog, Stop::Index(25)).await.unwrap().len(), 15);
    // A third one continues after the last segment.
    let position = SegmentWriter::resume_position(&archive, &catalog).await.unwrap().unwrap();
    let mut writer = SegmentWriter::new(&archive, position);
    writer.push(&entry(26)).await.unwrap();
    writer.flush().await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(read(&archive, &catalog, Stop::Index(26)).await.unwrap().len(), 16);
}

#[tokio::test]
async fn log_of_version_1_is_read_and_continued() {
    let archive = archive();
    let mut position = START;
    for first in [11, 15, 19] {
        let mut builder = SegmentBuilder::new(position, 100_000);
        (first..first + 4).for_each(|index| builder.push(&entry(index)).unwrap());
        let (header, content) = builder.segment().unwrap();
        let mut attributes = header.encode();
        attributes[..2].copy_from_slice(&1_u16.to_be_bytes());
        let hash = sha256(&[&attributes, content]);
        let content = content.to_vec().into();
        archive.create(Object::Segment(header.id), attributes, content).await.unwrap();
        position = read_segment(&archive, header.id).await.unwrap().end;
        assert_eq!(position.previous, hash);
    }
    let mut writer = SegmentWriter::with_limit(&archive, position, 1000);
    for index in 23..=40 {
        writer.push(&entry(index)).await.unwrap();
    }
    writer.flush().await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    let expected: Vec<_> = (11..=40).map(entry).collect();
    assert_eq!(read(&archive, &catalog, Stop::Index(40)).await.unwrap(), expected);
}

#[tokio::test]
async fn entry_that_does_not_continue_the_log_is_refused() {
    let archive = archive();
    let mut writer = SegmentWriter::new(&archive, START);
    for bad in [entry(12), entry(10), Entry { term: 1, ..entry(11) }] {
        assert!(writer.push(&bad).await.is_err());
    }
    writer.push(&entry(11)).await.unwrap();
    assert_eq!(writer.next_index(), 12);
}

#[tokio::test]
async fn segment_left_out_or_of_another_log_is_named() {
    let archive = archive();
    let catalog = write(&archive, 50).await;
    let chain = catalog.chain_from(11);
    let mut left_out = chain.clone();
    left_out.remove(2);
    let read = async |base, chain: Vec<SegmentId>| {
        let mut reader = SegmentReader::new(&archive, base, chain, Stop::Index(50));
        loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("nothing was noticed"),
                Err(error) => return error.object().unwrap().to_owned(),
            }
        }
    };
    assert_eq!(read(BASE, left_out).await, archive.name(Object::Segment(chain[3])));
    let forked = BaseId { index: 12, term: 9 };
    assert_eq!(read(forked, chain.clone()).await, archive.name(Object::Segment(chain[0])));
    let late = BaseId { index: 500, term: 9 };
    assert_eq!(read(late, chain.clone()).await, archive.name(Object::Segment(chain[0])));
}

#[tokio::test]
async fn large_entry_has_a_segment_alone() {
    let archive = archive();
    let mut writer = SegmentWriter::with_limit(&archive, START, 100);
    for index in 11..14 {
        writer.push(&entry(index)).await.unwrap();
    }
    writer.flush().await.unwrap();
    let ids: Vec<_> = archive.catalog().await.unwrap().segments.into_keys().collect();
    assert_eq!(ids, [11, 12, 13].map(|index| SegmentId { first: index, last: index }));
}
