//! The engine against a `BTreeMap`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use helios_storage::disk::SimDisk;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Slot;

#[derive(Debug, Clone)]
enum Step {
    Checkpoint(Vec<(u64, Option<u8>)>),
    Clear(Vec<(u64, Option<u8>)>),
    /// One merge; the second number of checkpoints happens between its execution and its commit.
    Merge(Vec<(u64, Option<u8>)>),
    Reopen,
    Pin,
}

fn writes() -> impl Strategy<Value = Vec<(u64, Option<u8>)>> {
    vec((0..120_u64, proptest::option::weighted(0.8, 0..60_u8)), 0..60)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => writes().prop_map(Step::Checkpoint),
        1 => writes().prop_map(Step::Clear),
        12 => writes().prop_map(Step::Merge),
        2 => Just(Step::Reopen),
        2 => Just(Step::Pin),
    ]
}

type Model = BTreeMap<Bytes, Bytes>;

fn sorted(writes: &[(u64, Option<u8>)]) -> Vec<(Bytes, Slot)> {
    let of = |len: u8| Bytes::from(vec![len; usize::from(len) * 3]);
    let slots: BTreeMap<Bytes, Slot> = writes.iter().map(|(n, len)| (key(*n), len.map(of))).collect();
    slots.into_iter().collect()
}

fn apply(model: &mut Model, slots: &[(Bytes, Slot)]) {
    for (key, slot) in slots {
        match slot {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

fn check(view: &View, model: &Model) {
    let expected: Vec<_> = model.clone().into_iter().collect();
    assert_eq!(content(view), expected);
    let descending: Vec<_> = view.range_back(b"", None).collect::<Result<_>>().unwrap();
    assert!(descending.iter().eq(expected.iter().rev()), "{descending:?}");
    for n in (0..121).step_by(7) {
        assert_eq!(view.get(&key(n)).unwrap(), model.get(&key(n)).cloned(), "key {n}");
    }
    for (start, end) in [(3, 50), (50, 3), (40, 41), (119, 300)] {
        let (start, end) = (key(start), key(end));
        let found: Vec<_> = view.range(&start, Some(&end)).collect::<Result<_>>().unwrap();
        let expected = model.range(start.clone()..end.clone().max(start.clone()));
        let expected: Vec<_> = expected.map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(found, expected);
        let mut descending: Vec<_> = view.range_back(&start, Some(&end)).collect::<Result<_>>().unwrap();
        descending.reverse();
        assert_eq!(descending, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn engine_equals_a_map_after_any_steps(steps in vec(step(), 1..40)) {
        let disk = SimDisk::new(1);
        let mut runs = open(&disk, 1).unwrap();
        let (mut model, mut pinned) = (Model::new(), Vec::new());
        for (at, step) in (1..).zip(steps) {
            match step {
                Step::Checkpoint(writes) => {
                    let slots = sorted(&writes);
                    apply(&mut model, &slots);
                    checkpoint(&runs, &slots, false, at).unwrap();
                }
                Step::Clear(writes) => {
                    let slots = sorted(&writes);
                    model.clear();
                    apply(&mut model, &slots);
                    checkpoint(&runs, &slots, true, at).unwrap();
                }
                Step::Merge(writes) => if let Some(job) = runs.pick(u64::MAX, true) {
                    let merged = execute(&runs, &job).unwrap();
                    let slots = sorted(&writes);
                    apply(&mut model, &slots);
                    checkpoint(&runs, &slots, false, at).unwrap();
                    runs.commit(&job, merged).unwrap();
                }
                Step::Reopen => {
                    pinned.clear();
                    drop(runs);
                    runs = open(&disk, at).unwrap();
                }
                Step::Pin => pinned.push((runs.view(), model.clone())),
            }
            check(&runs.view(), &model);
        }
        for (view, model) in &pinned {
            check(view, model);
        }
        drop(pinned);
        runs.view().verify().unwrap();
        let live = runs.view().files().count();
        prop_assert_eq!(run_files(&disk), live, "files of merged runs are left");
    }
}

#[test]
fn tombstones_are_kept_only_while_an_older_run_may_have_the_key() {
    // No bottom merge is due below this size.
    let options = Options { file_bytes: 1 << 20, ..options(1) };
    let runs = Runs::open(Arc::new(SimDisk::new(1)), Path::new(DIR), options).unwrap();
    let tombstones = |runs: &Runs| runs.view().slices().map(|slice| slice.run.tombstones).sum::<u64>();
    let removals: Vec<_> = (0..200).map(|n| (key(n), None)).collect();
    checkpoint(&runs, &removals, false, 1).unwrap();
    assert_eq!((runs.view().files().count(), tombstones(&runs)), (0, 0));
    // The first hundred exist, and are removed again.
    checkpoint(&runs, &(0..100).map(|n| (key(n), value(n, 2))).collect::<Vec<_>>(), false, 2).unwrap();
    checkpoint(&runs, &removals, false, 3).unwrap();
    assert!((100..110).contains(&tombstones(&runs)), "{}", tombstones(&runs));
    for at in 4..=5 {
        let more: Vec<_> = (0..100).map(|n| (key(at * 100 + n), value(n, at))).collect();
        checkpoint(&runs, &more, false, at).unwrap();
    }
    let job = runs.pick(u64::MAX, false).unwrap();
    let merged = execute(&runs, &job).unwrap();
    runs.commit(&job, merged).unwrap();
    assert_eq!((runs.view().uppers().len(), tombstones(&runs)), (1, 0));
    assert_eq!(content(&runs.view()).len(), 200);
}

#[test]
fn installed_runs_that_do_not_overlap_are_the_bottom() {
    let disk = SimDisk::new(1);
    let runs = open(&disk, 1).unwrap();
    checkpoint(&runs, &slots(1, 100, 1), false, 1).unwrap();
    let range = |keys: std::ops::Range<u64>| keys.map(|n| (key(n), value(n, 9))).collect::<Vec<_>>();
    let batches = [
        range(0..10),
        range(500..510),
        range(10..20),
        range(505..505),
        vec![(key(900), value(1, 9)), (key(990), value(1, 9))],
        range(950..960),
    ];
    let pending = batches.iter().map(|batch| runs.write_run(batch.iter().cloned()).unwrap());
    let view = runs.install_runs(pending.collect(), Bytes::from_static(b"r")).unwrap();
    assert_eq!((view.bottom().len(), view.uppers().len(), run_files(&disk)), (4, 1, 5));
    let mut expected: Vec<_> =
        batches.concat().into_iter().filter_map(|(key, slot)| Some((key, slot?))).collect();
    expected.sort();
    assert_eq!(content(&view), expected);
    assert_eq!(content(&open(&disk, 2).unwrap().view()), expected);
}

#[test]
fn cancelled_merge_leaves_no_file() {
    let disk = SimDisk::new(1);
    let runs = open(&disk, 1).unwrap();
    for at in 1..=4 {
        checkpoint(&runs, &slots(at, 100, 2), false, at).unwrap();
    }
    let files = disk.list(Path::new(DIR)).unwrap().len();
    let job = runs.pick(u64::MAX, false).unwrap();
    let mut left = 20;
    let merged = runs.merge(&job, |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(merged.unwrap().is_none());
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), files);
}

#[test]
fn merge_of_cleared_runs_changes_nothing() {
    let disk = SimDisk::new(1);
    let runs = open(&disk, 1).unwrap();
    for at in 1..=4 {
        checkpoint(&runs, &slots(at, 100, 2), false, at).unwrap();
    }
    let job = runs.pick(u64::MAX, false).unwrap();
    let merged = execute(&runs, &job).unwrap();
    checkpoint(&runs, &[(key(1), value(1, 5))], true, 5).unwrap();
    assert!(runs.commit(&job, merged).unwrap().is_none());
    assert_eq!(content(&runs.view()).len(), 1);
    drop(job);
    assert_eq!(run_files(&disk), 1);
}

#[test]
fn merges_bring_overwritten_content_to_the_bottom_without_tombstones() {
    let disk = SimDisk::new(1);
    let runs = open(&disk, 1).unwrap();
    for at in 1..=30 {
        checkpoint(&runs, &slots(at, 400, 3), false, at).unwrap();
        while merge(&runs).unwrap() {}
    }
    let expected = content(&runs.view());
    while merge(&runs).unwrap() {}
    let view = runs.view();
    assert_eq!(content(&view), expected);
    let bottom: u64 = view.bottom().iter().map(|slice| slice.run.tombstones).sum();
    assert_eq!(bottom, 0);
    assert!(view.bottom().len() > 3, "{:?}", runs.view().stats());
    let live: u64 = expected.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
    assert!(view.bytes() < 3 * live, "{} bytes for {live}", view.bytes());
}

#[test]
fn failed_checkpoint_on_a_full_disk_keeps_the_content_and_can_be_repeated() {
    let disk = SimDisk::new(1);
    let runs = open(&disk, 1).unwrap();
    checkpoint(&runs, &slots(1, 100, 1), false, 1).unwrap();
    let before = content(&runs.view());
    for free in (0..4_000).step_by(97) {
        disk.set_free_bytes(Some(free));
        let next = slots(2, 100, 1);
        if checkpoint(&runs, &next, false, 2).is_ok() {
            disk.set_free_bytes(None);
            break;
        }
        disk.set_free_bytes(None);
        assert_eq!(content(&runs.view()), before);
        assert_eq!(
            content(&Runs::open_to_read(Arc::new(disk.clone()), Path::new(DIR), options(9)).unwrap().view()),
            before
        );
    }
    checkpoint(&runs, &slots(2, 100, 1), false, 2).unwrap();
    assert_eq!(record(&runs.view()), 2);
    assert_eq!(run_files(&disk), runs.view().files().count(), "runs of failed checkpoints are left");
    let reopened = open(&disk, 3).unwrap();
    assert_eq!(content(&reopened.view()), content(&runs.view()));
}
