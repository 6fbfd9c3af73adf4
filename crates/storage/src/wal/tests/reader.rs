//! The reader of entries, while the writer appends, replaces, purges and recycles.

use std::os::unix::fs::FileExt;

use super::*;
use crate::disk::SimDisk;

fn begin() -> (SimDisk, Wal) {
    let disk = SimDisk::new(1);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), Path::new("/wal"), SMALL).unwrap();
    (disk, wal)
}

fn fill(wal: &mut Wal, indices: std::ops::RangeInclusive<u64>, term: u64) {
    for index in indices {
        wal.append(&[append(large([index], term))]).unwrap();
    }
}

#[test]
fn entries_of_several_segments_are_read_up_to_the_limits() {
    let (_, mut wal) = begin();
    fill(&mut wal, 1..=30, 1);
    let reader = wal.reader();
    assert_eq!(reader.read(1, 31, u64::MAX).unwrap().unwrap(), large(1..=30, 1));
    assert_eq!(reader.read(7, 12, u64::MAX).unwrap().unwrap(), large(7..=11, 1));
    assert_eq!(reader.read(7, 31, 1_100).unwrap().unwrap(), large(7..=8, 1));
    assert_eq!(reader.read(7, 31, 1).unwrap().unwrap(), large([7], 1));
    assert_eq!(reader.read(28, 90, u64::MAX).unwrap().unwrap(), large(28..=30, 1));
    assert_eq!(reader.read(31, 90, u64::MAX).unwrap(), None);
}

#[test]
fn replaced_entries_are_not_read() {
    let (_, mut wal) = begin();
    fill(&mut wal, 1..=12, 1);
    wal.append(&[append(large(5..=7, 2)), append(large(7..=9, 3))]).unwrap();
    fill(&mut wal, 10..=20, 3);
    wal.append(&[append(large(4..=4, 4))]).unwrap();
    let expected = [large(1..=3, 1), large(4..=4, 4)].concat();
    assert_eq!(wal.reader().read(1, 90, u64::MAX).unwrap().unwrap(), expected);
    wal.append(&[append(large(5..=6, 4))]).unwrap();
    assert_eq!(wal.reader().read(4, 90, u64::MAX).unwrap().unwrap(), large(4..=6, 4));
}

#[test]
fn entries_before_a_reset_are_not_read() {
    let (_, mut wal) = begin();
    fill(&mut wal, 1..=12, 1);
    let base = Base { index: 5, term: 2 };
    wal.append(&[append(large(13..=13, 1)), Batch { reset: Some(base), ..append(large(6..=8, 2)) }]).unwrap();
    let reader = wal.reader();
    assert_eq!(reader.read(6, 90, u64::MAX).unwrap().unwrap(), large(6..=8, 2));
    assert_eq!(reader.read(5, 6, u64::MAX).unwrap(), None);
    assert_eq!(reader.read(9, 14, u64::MAX).unwrap(), None);
}

#[test]
fn purged_entries_are_not_read_once_their_segment_is_used_again() {
    let (_, mut wal) = begin();
    fill(&mut wal, 1..=30, 1);
    let reader = wal.reader();
    wal.purge(Base { index: 25, term: 1 }).unwrap();
    fill(&mut wal, 31..=60, 1);
    assert_eq!(reader.read(3, 9, u64::MAX).unwrap(), None);
    assert_eq!(reader.read(26, 61, u64::MAX).unwrap().unwrap(), large(26..=60, 1));
}

#[test]
fn reader_beside_a_writer_reads_each_durable_entry() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    fill(&mut wal, 1..=8, 1);
    let reader = wal.reader();
    let writer = std::thread::spawn(move || {
        for index in 9..=400 {
            fill(&mut wal, index..=index, 1);
            if index % 20 == 0 {
                wal.purge(Base { index: index - 15, term: 1 }).unwrap();
            }
        }
        wal
    });
    let mut next = 1;
    while next <= 400 {
        match reader.read(next, 401, 2_000).unwrap() {
            Some(entries) => {
                let last = entries.last().unwrap().index;
                assert_eq!(entries, large(next..=last, 1));
                next = last + 1;
            }
            None if writer.is_finished() => break,
            None => next += 1,
        }
    }
    let wal = writer.join().unwrap();
    assert_eq!(wal.reader().read(390, 401, u64::MAX).unwrap().unwrap(), large(390..=400, 1));
}

#[test]
fn damaged_frame_is_an_error_and_the_entries_before_it_are_read() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    fill(&mut wal, 1..=30, 1);
    let segments = Image::of(dir.path()).segments();
    let file = fs::File::options().read(true).write(true).open(&segments[1]).unwrap();
    let mut bytes = vec![0; SMALL.segment_bytes as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let found = wal.reader().read(1, 31, u64::MAX).unwrap().unwrap();
    assert_eq!(found.len(), 30);
    for (offset, byte) in (0..).zip(&bytes) {
        file.write_all_at(&[byte ^ 4], offset).unwrap();
        for low in [1, 9, 30] {
            match wal.reader().read(low, 31, u64::MAX) {
                Ok(Some(found)) => {
                    let last = found.last().unwrap().index;
                    assert_eq!(found, large(low..=last, 1), "byte {offset}");
                }
                Err(WalError::Corrupt { segment: 2, .. }) if low == 9 => {}
                other => panic!("byte {offset}, entry {low}: {other:?}"),
            }
        }
        file.write_all_at(&[*byte], offset).unwrap();
    }
    fs::remove_file(&segments[1]).unwrap();
    let error = wal.reader().read(9, 31, u64::MAX).unwrap_err();
    assert!(matches!(error, WalError::Io { action: "open", .. }), "{error}");
}
