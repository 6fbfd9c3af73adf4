//! Sets: the files of a view as a snapshot.

use super::*;
use crate::{HEAD, Set};

const SET: &str = "/set";

/// An engine with several runs, some of them partly merged into the bottom.
fn filled(disk: &SimDisk) -> Runs {
    let runs = open(disk, 1).unwrap();
    for at in 1..=9 {
        checkpoint(&runs, &slots(at, 200, 2), false, at).unwrap();
        merge(&runs).unwrap();
    }
    runs
}

fn create(disk: &SimDisk, view: &View) -> Result<Set> {
    disk.make_dir(Path::new(SET)).unwrap();
    Set::create(disk, Path::new(SET), view, Bytes::from_static(b"another record"))
}

fn target(disk: &SimDisk) -> Runs {
    Runs::open(Arc::new(disk.clone()), Path::new("/target"), options(7)).unwrap()
}

#[test]
fn set_has_the_content_of_its_view_whatever_becomes_of_the_engine() {
    let disk = SimDisk::new(0);
    let runs = filled(&disk);
    let before = content(&runs.view());
    let written = disk.stats().written_bytes;
    let set = create(&disk, &runs.view()).unwrap();
    assert!(disk.stats().written_bytes - written < 2_000, "the files were copied");
    for at in 10..=20 {
        checkpoint(&runs, &slots(at, 200, 2), at == 12, at).unwrap();
        merge(&runs).unwrap();
    }
    drop(runs);
    disk.remove_dir_all(Path::new(DIR)).unwrap();
    assert_eq!(Set::read(&disk, Path::new(SET)).unwrap(), set);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let view = set.open(&shared, Path::new(SET), 0).unwrap();
    view.verify().unwrap();
    assert_eq!((content(&view), view.record().as_ref()), (before, b"another record".as_slice()));
    let files = disk.list(Path::new(SET)).unwrap();
    let bytes = files.iter().map(|file| disk.open(&Path::new(SET).join(&file.name)).unwrap().len().unwrap());
    assert_eq!(bytes.sum::<u64>(), set.bytes());
}

#[test]
fn installed_set_replaces_the_content_and_is_merged_on() {
    let disk = SimDisk::new(0);
    let runs = filled(&disk);
    let set = create(&disk, &runs.view()).unwrap();
    let target = target(&disk);
    checkpoint(&target, &slots(1, 50, 1), false, 1).unwrap();
    target.install_set(&set, Path::new(SET)).unwrap();
    disk.remove_dir_all(Path::new(SET)).unwrap();
    assert_eq!(content(&target.view()), content(&runs.view()));
    for at in 10..=20 {
        for engine in [&runs, &target] {
            checkpoint(engine, &slots(at, 200, 2), false, at).unwrap();
            merge(engine).unwrap();
        }
    }
    assert_eq!(content(&target.view()), content(&runs.view()));
}

#[test]
fn power_cut_before_any_operation_of_an_install_leaves_the_set_and_the_next_install_succeeds() {
    let disk = SimDisk::new(0);
    let expected = {
        let runs = filled(&disk);
        create(&disk, &runs.view()).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        content(&runs.view())
    };
    let install = |disk: &SimDisk| {
        let dir = Path::new("/target");
        if disk.is_dir(dir) {
            disk.remove_dir_all(dir).ok();
        }
        let target = Runs::open(Arc::new(disk.clone()), dir, options(7))?;
        let set = Set::read(disk, Path::new(SET))?;
        target.install_set(&set, Path::new(SET)).map(|view| content(&view))
    };
    let before = disk.stats().operations;
    assert_eq!(install(&disk.copy()).unwrap(), expected);
    let counted = disk.copy();
    install(&counted).unwrap();
    for at in 0..counted.stats().operations - before {
        for seed in 0..3 {
            let disk = SimDisk::with_random(&disk.copy(), seed << 32 | at);
            disk.cut_power_after(at);
            drop(install(&disk));
            disk.crash();
            assert_eq!(install(&disk).unwrap(), expected, "operation {at}, seed {seed}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_head_and_a_newer_format_are_detected() {
    let disk = SimDisk::new(0);
    let runs = filled(&disk);
    let set = create(&disk, &runs.view()).unwrap();
    let path = Path::new(SET).join(HEAD);
    for bit in 0..set.head().len() * 8 {
        let mut damaged = set.head().to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Set::decode(&path, damaged.into()).is_err(), "bit {bit}");
    }
    let mut newer = set.head().to_vec();
    newer[11] += 1;
    let error = Set::decode(&path, newer.into()).unwrap_err();
    assert!(error.to_string().contains("this build reads up to 1"), "{error}");
    for end in 0..set.head().len() {
        assert!(Set::decode(&path, set.head().slice(..end)).is_err(), "{end} bytes");
    }
}
