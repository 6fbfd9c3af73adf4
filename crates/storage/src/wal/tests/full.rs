//! The log on a full disk, with and without spare segments.

use super::*;
use crate::disk::{SetApart, SimDisk};

fn begin(options: WalOptions) -> (SimDisk, Wal) {
    let disk = SimDisk::new(1);
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), Path::new("/wal"), options).unwrap();
    while wal.prepare_spare().unwrap() {}
    (disk, wal)
}

#[test]
fn spares_serve_appends_on_a_full_disk_and_are_refilled_later() {
    let (disk, mut wal) = begin(WalOptions { spare_segments: 2, ..SMALL });
    disk.set_free_bytes(Some(0));
    wal.check_room().unwrap();
    wal.append(&[append(large(1..=8, 1))]).unwrap();
    assert!(matches!(wal.check_room(), Err(WalError::NoSpare { .. })));
    assert!(matches!(wal.prepare_spare(), Err(WalError::NoSpare { .. })));
    wal.append(&[append(large(9..=14, 1))]).unwrap();
    let refused = wal.append(&[append(large(15..=30, 1))]);
    assert!(matches!(refused, Err(WalError::NoSpare { .. })), "{refused:?}");
    assert_eq!((wal.last_index(), wal.spare_segments()), (14, 1));

    disk.set_free_bytes(Some(1 << 20));
    wal.append(&[append(large(15..=30, 1))]).unwrap();
    while wal.prepare_spare().unwrap() {}
    assert_eq!(wal.spare_segments(), 2);
    drop(wal);
    let (_, found) = open_in(Arc::new(disk.durable()), Path::new("/wal"), SMALL).unwrap();
    assert_eq!(found.entries, large(1..=30, 1));
}

/// A half-written spare would use up the space that the state and snapshots need.
#[test]
fn spare_is_not_created_without_space_for_two() {
    let (disk, mut wal) = begin(SMALL);
    wal.append(&[append(large(1..=8, 1))]).unwrap();
    let before = disk.stats();
    disk.set_free_bytes(Some(2 * SMALL.segment_bytes - 1));
    assert!(matches!(wal.prepare_spare(), Err(WalError::NoSpare { .. })));
    assert_eq!(disk.stats(), before);
    disk.set_free_bytes(Some(2 * SMALL.segment_bytes));
    while wal.prepare_spare().unwrap() {}
    assert_eq!(wal.spare_segments(), 1);
}

/// A checkpoint that meets a full disk ends the process, so the log does not use the space reserved for it.
#[test]
fn spare_does_not_use_reserved_space() {
    let (disk, mut wal) = begin(SMALL);
    wal.append(&[append(large(1..=8, 1))]).unwrap();
    disk.set_free_bytes(Some(3 * SMALL.segment_bytes));
    let set_apart = SetApart::new(&disk, SMALL.segment_bytes + 1);
    assert!(matches!(wal.prepare_spare(), Err(WalError::NoSpare { .. })));
    drop(set_apart);
    while wal.prepare_spare().unwrap() {}
    assert_eq!(wal.spare_segments(), 1);
}

#[test]
fn purge_on_a_full_disk_refills_the_spares() {
    let (disk, mut wal) = begin(WalOptions { spare_segments: 2, ..SMALL });
    disk.set_free_bytes(Some(0));
    wal.append(&[append(large(1..=12, 1))]).unwrap();
    let mut last = 12;
    while wal.append(&[append(entries([last + 1], 1))]).is_ok() {
        last += 1;
    }
    assert_eq!((wal.last_index(), wal.spare_segments()), (last, 1));
    wal.append(&[Batch { hard_state: Some(hard_state(2, 1, 0)), ..Batch::default() }]).unwrap();
    wal.purge(Base { index: last, term: 1 }).unwrap();
    assert_eq!(wal.spare_segments(), 2);
    wal.check_room().unwrap();
}
