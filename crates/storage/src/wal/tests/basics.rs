//! The log's interface without crashes.

use std::fs::File;

use super::*;
use crate::wal::format::proven_after;
use crate::wal::verify;

#[test]
fn a_new_log_is_empty_and_starts_at_one() {
    let dir = scratch();
    let (wal, recovered) = open(&dir.path().join("deep/wal"));
    assert_eq!(recovered, Content::default());
    assert_eq!((wal.first_index(), wal.last_index(), wal.hard_state()), (1, 0, None));
    assert_eq!(reopen(wal).1, Content::default());
}

#[test]
fn everything_appended_is_recovered() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    let first = Batch { hard_state: Some(hard_state(1, 2, 3)), ..append(entries(1..=5, 1)) };
    wal.append(&[first, append(entries(6..=7, 1)), append(Vec::new())]).unwrap();
    wal.append(&[]).unwrap();
    let (wal, recovered) = reopen(wal);
    assert_eq!(recovered.entries, entries(1..=7, 1));
    assert_eq!(recovered.hard_state, Some(hard_state(1, 2, 3)));
    assert_eq!(wal.last_index(), 7);
}

#[test]
fn append_of_several_batches_is_one_frame() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    let before = read_frames(dir.path());
    wal.append(&[append(entries(1..=2, 1)), append(entries(3..=4, 1)), append(entries(4..=5, 2))]).unwrap();
    drop(wal);
    assert_eq!(read_frames(dir.path()), before + 1);
    assert_eq!(read(dir.path()).unwrap().entries, [entries(1..=3, 1), entries(4..=5, 2)].concat());
}

fn read_frames(dir: &Path) -> u64 {
    // The writer may still hold the lock of `dir`; a copy is not locked.
    let copy = scratch();
    for (path, bytes) in Image::of(dir).0 {
        fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    read_log(copy.path()).unwrap().next_sequence - 1
}

#[test]
fn an_append_longer_than_several_segments_is_split_and_read_back() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    let batch = Batch { hard_state: Some(hard_state(1, 1, 30)), ..append(large(1..=30, 1)) };
    wal.append(&[batch]).unwrap();
    assert!(wal.size_bytes() > 3 * SMALL.segment_bytes);
    let (mut wal, recovered) = reopen(wal);
    assert_eq!(recovered.entries, large(1..=30, 1));
    wal.append(&[append(large(31..=40, 1))]).unwrap();
    assert_eq!(reopen(wal).1.entries, large(1..=40, 1));
}

#[test]
fn a_refused_append_changes_nothing() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    let good = Batch { hard_state: Some(hard_state(2, 1, 2)), ..append(entries(1..=4, 1)) };
    wal.append(&[good]).unwrap();
    let before = Image::of(dir.path());
    let refused = [
        append(entries(7..=8, 1)),
        append(entries([6, 8], 1)),
        append(entries([6, 6], 1)),
        append(entries(2..=3, 2)),
        Batch { hard_state: Some(hard_state(2, 1, 9)), ..append(entries(6..=7, 1)) },
        Batch { hard_state: Some(hard_state(1, 1, 2)), ..Batch::default() },
    ];
    for batch in refused {
        let result = wal.append(&[append(entries(5..=5, 1)), batch.clone()]);
        assert!(matches!(result, Err(WalError::Refused(_))), "{batch:?}: {result:?}");
    }
    let past_the_end = wal.purge(Base { index: 5, term: 1 });
    assert!(matches!(past_the_end, Err(WalError::Refused(_))));
    assert!(Image::of(dir.path()) == before);
    wal.append(&[append(entries(5..=5, 1))]).unwrap();
}

#[test]
fn an_entry_over_the_limit_is_refused_with_the_limit() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    let limit = SMALL.max_entry_bytes();
    let entry = |bytes: u64| LogEntry { index: 1, term: 1, payload: vec![7; bytes as usize].into() };
    let refused = wal.append(&[append(vec![entry(limit + 1)])]).unwrap_err();
    assert_eq!(refused.to_string(), "log: entry 1 of 1025 bytes exceeds the limit of 1024");
    wal.append(&[append(vec![entry(limit)])]).unwrap();
    assert_eq!(reopen(wal).1.entries, [entry(limit)]);
    assert_eq!(WalOptions::default().max_entry_bytes(), 8 << 20);
}

#[test]
fn options_out_of_range_are_refused() {
    let dir = scratch();
    for (segment_bytes, spare_segments) in [(0, 1), (4097, 1), (2 << 30, 1), (4096, 0), (4096, 17)] {
        let result = Wal::open(disk::real(), dir.path(), WalOptions { segment_bytes, spare_segments });
        assert!(matches!(result.map(|_| ()), Err(WalError::Options(_))));
    }
}

#[test]
fn reset_drops_the_log_and_recycles_its_segments() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    let batch = Batch { hard_state: Some(hard_state(3, 2, 20)), ..append(large(1..=20, 3)) };
    wal.append(&[batch]).unwrap();
    let base = Base { index: 90, term: 4 };
    wal.append(&[Batch { reset: Some(base), ..append(entries(91..=92, 4)) }]).unwrap();
    assert_eq!((wal.first_index(), wal.last_index()), (91, 92));
    assert_eq!(Image::of(dir.path()).segments().len(), 1);
    let (mut wal, recovered) = reopen(wal);
    let hard_state = Some(hard_state(3, 2, 90));
    assert_eq!(recovered, Content { base, hard_state, entries: entries(91..=92, 4) });
    assert!(wal.append(&[append(entries(21..=21, 3))]).is_err());
}

#[test]
fn a_purge_recycles_whole_segments_and_keeps_the_hard_state() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    wal.append(&[Batch { hard_state: Some(hard_state(5, 3, 0)), ..Batch::default() }]).unwrap();
    for index in 1..=40 {
        wal.append(&[append(large([index], 5))]).unwrap();
    }
    let full = wal.size_bytes();
    let base = Base { index: 33, term: 5 };
    wal.purge(base).unwrap();
    assert!(wal.size_bytes() < full / 2);
    wal.purge(Base { index: 12, term: 5 }).unwrap();
    assert_eq!(wal.base(), base);
    let (mut wal, recovered) = reopen(wal);
    let hard_state = Some(hard_state(5, 3, 33));
    assert_eq!(recovered, Content { base, hard_state, entries: large(34..=40, 5) });
    wal.purge(Base { index: 40, term: 5 }).unwrap();
    let (mut wal, recovered) = reopen(wal);
    assert_eq!((recovered.entries.len(), wal.first_index()), (0, 41));
    wal.append(&[append(large([41], 5))]).unwrap();
    assert_eq!(reopen(wal).1.entries, large([41], 5));
}

#[test]
fn stale_frames_of_a_recycled_segment_are_not_read() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    wal.append(&[Batch { hard_state: Some(hard_state(1, 1, 0)), ..append(large([1], 1)) }]).unwrap();
    let mut index = 1;
    let mut write_until = |wal: &mut Wal, segments: usize| {
        while Image::of(wal.directory()).segments().len() < segments {
            index += 1;
            wal.append(&[append(large([index], 1))]).unwrap();
        }
        index
    };
    let filled = write_until(&mut wal, 3);
    wal.purge(Base { index: filled - 1, term: 1 }).unwrap();
    let last = write_until(&mut wal, 2);
    drop(wal);

    // All frames have one size, so the remnants are exactly where the next frames will be.
    let active = Image::of(dir.path()).segments().pop().unwrap();
    let log = read_log(dir.path()).unwrap();
    let end = log.segments.back().unwrap().end;
    let bytes = fs::read(&active).unwrap();
    assert!(
        (1..=3).any(|generation| proven_after(&bytes, generation, end).is_some()),
        "the segment has no stale frame"
    );
    let (mut wal, recovered) = open(dir.path());
    assert_eq!(recovered.entries, large(filled..=last, 1));
    assert!(fs::read(&active).unwrap()[end as usize..].iter().all(|byte| *byte == 0));
    wal.append(&[append(entries([last + 1], 1))]).unwrap();
    assert_eq!(reopen(wal).1.entries.len() as u64, last + 2 - filled);
}

#[test]
fn spares_are_made_in_parts_and_counted() {
    let dir = scratch();
    let options = WalOptions { segment_bytes: 3 << 20, spare_segments: 2 };
    let (mut wal, _) = Wal::open(disk::real(), dir.path(), options).unwrap();
    let mut steps = 1;
    while wal.prepare_spare().unwrap() {
        steps += 1;
    }
    assert_eq!((steps, wal.spare_segments()), (6, 2));
    assert!(!wal.prepare_spare().unwrap());
    drop(wal);
    let (wal, _) = Wal::open(disk::real(), dir.path(), options).unwrap();
    assert_eq!(wal.spare_segments(), 2);
    drop(wal);
    // Spares of another segment size are removed.
    let (wal, _) = Wal::open(disk::real(), dir.path(), SMALL).unwrap();
    assert_eq!((wal.spare_segments(), Image::of(dir.path()).0.len()), (0, 1));
}

/// A segment of zeros is as many bytes to write as the log itself.
#[test]
fn log_that_is_purged_as_it_grows_builds_no_spare_after_the_first() {
    let dir = scratch();
    let (mut wal, _) =
        Wal::open(disk::real(), dir.path(), WalOptions { spare_segments: 2, ..SMALL }).unwrap();
    while wal.prepare_spare().unwrap() {}
    let mut built = 0;
    for round in 0..20 {
        wal.append(&[append(large(round * 10 + 1..=round * 10 + 10, 1))]).unwrap();
        let left = wal.spare_segments();
        while wal.prepare_spare().unwrap() {}
        built += wal.spare_segments() - left;
        wal.purge(Base { index: round * 10 + 10, term: 1 }).unwrap();
        assert!((2..=4).contains(&wal.spare_segments()), "{} spares", wal.spare_segments());
    }
    assert!(built <= 2, "{built} spares were built");
    let kept = wal.spare_segments();
    drop(wal);
    let (wal, _) = Wal::open(disk::real(), dir.path(), WalOptions { spare_segments: 2, ..SMALL }).unwrap();
    assert_eq!(wal.spare_segments(), kept);
}

#[test]
fn segments_of_two_sizes_coexist() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    wal.append(&[append(large(1..=12, 1))]).unwrap();
    drop(wal);
    let (mut wal, _) =
        Wal::open(disk::real(), dir.path(), WalOptions { segment_bytes: 16384, ..SMALL }).unwrap();
    wal.append(&[append(large(13..=60, 1))]).unwrap();
    // The small segments cannot be recycled as spares now.
    wal.purge(Base { index: 14, term: 1 }).unwrap();
    wal.append(&[append(large(61..=99, 1))]).unwrap();
    assert_eq!(reopen(wal).1.entries, large(15..=99, 1));
}

#[test]
fn append_is_refused_whole_and_can_be_retried_without_space_for_a_segment() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    let obstacle = dir.path().join("spare.draft");
    fs::create_dir(&obstacle).unwrap();
    let refused = wal.append(&[append(large(1..=20, 1))]);
    assert!(matches!(refused, Err(WalError::NoSpare { .. })), "{refused:?}");
    assert!(matches!(wal.prepare_spare(), Err(WalError::NoSpare { .. })));
    assert_eq!(wal.last_index(), 0);
    wal.append(&[append(entries(1..=2, 1))]).unwrap();
    fs::remove_dir(&obstacle).unwrap();
    wal.append(&[append(large(3..=20, 1))]).unwrap();
    assert_eq!(reopen(wal).1.entries, [entries(1..=2, 1), large(3..=20, 1)].concat());
}

#[test]
fn a_failed_write_poisons_the_log_for_good() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    wal.append(&[append(entries(1..=2, 1))]).unwrap();
    let read_only = File::open(&Image::of(dir.path()).segments()[0]).unwrap();
    let writable = wal.replace_active(Box::new(read_only));
    assert!(matches!(wal.append(&[append(entries(3..=3, 1))]), Err(WalError::Io { action: "write", .. })));
    wal.replace_active(writable);
    assert!(matches!(wal.append(&[append(entries(3..=3, 1))]), Err(WalError::Poisoned)));
    assert!(matches!(wal.append(&[]), Err(WalError::Poisoned)));
    assert!(matches!(wal.purge(Base { index: 1, term: 1 }), Err(WalError::Poisoned)));
    assert!(matches!(wal.prepare_spare(), Err(WalError::Poisoned)));
    assert_eq!(reopen(wal).1.entries, entries(1..=2, 1));
}

#[test]
fn a_failed_sync_poisons_the_log_for_good() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    // A character device accepts the write but does not support fsync.
    let Ok(null) = File::options().write(true).open("/dev/null") else { return };
    let writable = wal.replace_active(Box::new(null));
    assert!(matches!(wal.append(&[append(entries(1..=1, 1))]), Err(WalError::Io { action: "sync", .. })));
    wal.replace_active(writable);
    assert!(matches!(wal.append(&[append(entries(1..=1, 1))]), Err(WalError::Poisoned)));
}

#[test]
fn second_writer_and_verify_are_refused_while_the_log_is_open() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    wal.append(&[Batch { hard_state: Some(hard_state(1, 1, 4)), ..append(entries(1..=5, 1)) }]).unwrap();
    wal.purge(Base { index: 2, term: 1 }).unwrap();
    assert!(matches!(Wal::open(disk::real(), dir.path(), SMALL), Err(WalError::Locked { .. })));
    assert!(matches!(verify(disk::real(), dir.path()), Err(WalError::Locked { .. })));
    let size_bytes = wal.size_bytes();
    drop(wal);
    let before = Image::of(dir.path());
    let report = verify(disk::real(), dir.path()).unwrap();
    assert_eq!((report.segments, report.size_bytes, report.entries), (1, size_bytes, 3));
    assert_eq!((report.base.index, report.last_index), (2, 5));
    assert_eq!(report.hard_state, Some(hard_state(1, 1, 4)));
    assert!(Image::of(dir.path()) == before);
}
