//! A store that refuses, throttles, is full, loses answers or objects' halves, at every single call.

// Helpers are no `#[test]` functions, for which `clippy.toml` allows unwrap; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use helios_archive::base::{BaseReader, BaseWriter, Begun};
use helios_archive::plan::Target;
use helios_archive::{Archive, ArchiveError, Keyring, Object};
use helios_testing::store::{Fault, Faulty};
use object_store::memory::InMemory;

use common::{archive, content, keyring, origin, read_base, request, restore, write_base, write_log};

const BASE: usize = 10_000;

async fn write_all(archive: &Archive) -> Result<(), ArchiveError> {
    archive.begin(&origin()).await?;
    write_base(archive, 10, &content(BASE)).await?;
    write_log(archive, 11..=30).await
}

/// Writes with the fault at each call, then continues without it; the archive has to be whole.
async fn assert_every_call_can_fail(fault: Fault, check: impl Fn(&ArchiveError)) {
    for at in 0.. {
        let memory = Arc::new(InMemory::new());
        let faulty = Faulty::new(memory.clone(), fault, at);
        let first = write_all(&archive(faulty.clone(), keyring())).await;
        if !faulty.was_met() {
            assert!(first.is_ok() && at > 10, "{fault:?} at {at}: {first:?}");
            return;
        }
        if let Err(error) = &first {
            check(error);
        }
        // The archiver's next attempt: what is there is resumed, and a log that has begun is continued.
        let healed = archive(memory, keyring());
        healed.begin(&origin()).await.unwrap();
        write_base(&healed, 10, &content(BASE)).await.unwrap();
        let catalog = healed.catalog().await.unwrap();
        let next = catalog.segments.keys().map(|id| id.last + 1).max().unwrap_or(11);
        if next <= 30 {
            write_log(&healed, next..=30).await.unwrap();
        }
        let catalog = healed.catalog().await.unwrap();
        let (base, entries) = restore(&healed, &catalog, Target::Index(30)).await.unwrap();
        assert!(base == content(BASE) && entries.len() == 20, "{fault:?} at {at}");
    }
}

#[tokio::test]
async fn refused_call_is_named_and_the_next_attempt_completes() {
    assert_every_call_can_fail(Fault::Forbidden, |error| {
        assert!(matches!(error, ArchiveError::Refused { .. }) && !error.is_transient(), "{error}");
        assert!(error.to_string().contains("check the credentials"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn throttled_call_is_transient_and_the_next_attempt_completes() {
    assert_every_call_can_fail(Fault::Throttled, |error| {
        assert!(matches!(error, ArchiveError::Throttled { .. }) && error.is_transient(), "{error}");
    })
    .await;
}

#[tokio::test]
async fn full_store_is_named_and_the_next_attempt_completes() {
    assert_every_call_can_fail(Fault::Full, |error| {
        assert!(matches!(error, ArchiveError::Full { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn lost_answer_of_any_call_costs_a_repetition_only() {
    assert_every_call_can_fail(Fault::AnswerLost, |error| {
        assert!(matches!(error, ArchiveError::Unavailable { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn half_of_an_object_is_never_handed_out() {
    let memory = Arc::new(InMemory::new());
    write_all(&archive(memory.clone(), keyring())).await.unwrap();
    for at in 0.. {
        let faulty = Faulty::new(memory.clone(), Fault::Half, at);
        let broken = archive(faulty.clone(), keyring());
        let catalog = archive(memory.clone(), keyring()).catalog().await.unwrap();
        let restored = restore(&broken, &catalog, Target::Index(30)).await;
        if !faulty.was_met() {
            assert!(restored.is_ok() && at > 5);
            return;
        }
        let text = restored.unwrap_err();
        assert!(text.contains("cluster-a/"), "{text}");
    }
}

#[tokio::test]
async fn half_written_part_is_written_again() {
    // The manifest is read first, then the identity is written, then parts 0, 1 and 2.
    let mut rewritten = 0;
    for at in 0..8 {
        let memory = Arc::new(InMemory::new());
        let faulty = Faulty::new(memory.clone(), Fault::HalfWritten, at);
        let broken = archive(faulty, keyring());
        let first = write_base(&broken, 10, &content(BASE)).await;
        rewritten += usize::from(first.is_err());
        let healed = archive(memory, keyring());
        match write_base(&healed, 10, &content(BASE)).await {
            Ok(_) => {
                assert_eq!(read_base(&healed, request(10).id).await.unwrap(), content(BASE));
            }
            // A manifest that is half is damage: an admin deletes it.
            Err(error) => assert!(error.object().unwrap().ends_with("manifest.json"), "{error}"),
        }
    }
    assert!(rewritten >= 4);
}

#[tokio::test]
async fn interrupted_base_resumes_at_the_next_part() {
    let memory = Arc::new(InMemory::new());
    let archive = archive(memory, keyring());
    let bytes = content(BASE);
    let begin = async || BaseWriter::begin(&archive, request(10), common::options()).await.unwrap();
    let Begun::Writer(mut writer) = begin().await else { panic!("it is complete") };
    // A source that ends at the end of a part looks like one that was cut.
    writer.write(&mut &bytes[..2 * common::PART_BYTES]).await.unwrap();
    drop(writer);
    let Begun::Writer(mut writer) = begin().await else { panic!("it is complete") };
    assert_eq!(writer.offset(), 2 * common::PART_BYTES as u64);
    writer.write(&mut &bytes[2 * common::PART_BYTES..]).await.unwrap();
    let manifest = writer.finish(9).await.unwrap();
    assert_eq!((manifest.bytes, manifest.parts.len()), (BASE as u64, 3));
    assert_eq!(read_base(&archive, manifest.id()).await.unwrap(), bytes);
    assert!(matches!(begin().await, Begun::Complete(_)));
}

#[tokio::test]
async fn parts_after_a_missing_one_are_removed_and_written_again() {
    let archive = archive(Arc::new(InMemory::new()), keyring());
    let bytes = content(BASE);
    let begin = async || BaseWriter::begin(&archive, request(10), common::options()).await.unwrap();
    let Begun::Writer(mut writer) = begin().await else { panic!("it is complete") };
    writer.write(&mut &bytes[..]).await.unwrap();
    drop(writer);
    // Parts are stored out of order: the process was killed before it had stored the first one.
    archive.delete(Object::Part(request(10).id, 0)).await.unwrap();
    let Begun::Writer(mut writer) = begin().await else { panic!("it is complete") };
    assert_eq!(writer.offset(), 0);
    assert!(archive.catalog().await.unwrap().bases[&request(10).id].parts.is_empty());
    writer.write(&mut &bytes[..]).await.unwrap();
    let manifest = writer.finish(9).await.unwrap();
    assert_eq!(read_base(&archive, manifest.id()).await.unwrap(), bytes);
}

#[tokio::test]
async fn base_of_another_source_begins_at_its_first_byte() {
    let archive = archive(Arc::new(InMemory::new()), keyring());
    let Begun::Writer(mut writer) =
        BaseWriter::begin(&archive, request(10), common::options()).await.unwrap()
    else {
        panic!("it is complete")
    };
    writer.write(&mut &content(BASE)[..common::PART_BYTES]).await.unwrap();
    let mut other = request(10);
    other.source = "member-2".to_owned();
    let Begun::Writer(mut writer) = BaseWriter::begin(&archive, other, common::options()).await.unwrap()
    else {
        panic!("it is complete")
    };
    assert_eq!(writer.offset(), 0);
    let bytes = vec![5; 100];
    writer.write(&mut &bytes[..]).await.unwrap();
    let manifest = writer.finish(9).await.unwrap();
    assert_eq!(read_base(&archive, manifest.id()).await.unwrap(), bytes);
}

#[tokio::test]
async fn base_is_read_from_an_offset_and_of_any_size() {
    let archive = archive(Arc::new(InMemory::new()), Keyring::unencrypted());
    for (index, length) in
        [0, 1, common::PART_BYTES, common::PART_BYTES + 1, 3 * common::PART_BYTES].into_iter().enumerate()
    {
        let bytes = content(length);
        let manifest = write_base(&archive, 10 + index as u64, &bytes).await.unwrap();
        for offset in [0, length / 2, length.saturating_sub(1), length] {
            let mut reader = BaseReader::open_at(&archive, manifest.id(), offset as u64).await.unwrap();
            let mut found = Vec::new();
            while let Some(part) = reader.next().await.unwrap() {
                found.extend_from_slice(&part);
            }
            assert!(found == bytes[offset..], "{length} from {offset}");
        }
        assert!(BaseReader::open_at(&archive, manifest.id(), length as u64 + 1).await.is_err());
    }
}
