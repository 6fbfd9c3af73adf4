use proptest::prelude::*;

use super::*;
use crate::layout::SegmentId;
use crate::plan::{Decision, Target, plan};

const RETENTION: Retention = Retention { keep_for_ms: 30, keep_last: 2, log_ms: 14 };

/// Bases whose clocks are their indexes, and a segment for every five entries up to `end`.
fn history(bases: &[u64], end: u64) -> (Catalog, Clocks) {
    let (mut catalog, mut clocks) = (Catalog::default(), Clocks::default());
    for index in bases {
        let id = BaseId { index: *index, term: 1 };
        for object in [Object::Source(id), Object::Part(id, 0), Object::Manifest(id)] {
            catalog.add(object, 1);
        }
        clocks.bases.insert(id, *index);
    }
    for first in (1..=end).step_by(5) {
        let id = SegmentId { first, last: end.min(first + 4) };
        catalog.add(Object::Segment(id), 1);
        clocks.segments.insert(id, id.last);
    }
    (catalog, clocks)
}

fn base(index: u64) -> BaseId {
    BaseId { index, term: 1 }
}

fn removed_bases(objects: &[Object]) -> Vec<u64> {
    let manifest = |object: &Object| match object {
        Object::Manifest(id) => Some(id.index),
        _ => None,
    };
    objects.iter().filter_map(manifest).collect()
}

fn without(catalog: &Catalog, removed: &[Object]) -> Catalog {
    let mut left = catalog.clone();
    for object in removed {
        match object {
            Object::Manifest(id) => {
                left.bases.remove(id);
            }
            Object::Segment(id) => {
                left.segments.remove(id);
            }
            _ => {}
        }
    }
    left
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn window_of_the_log_and_kept_bases_stay_restorable(
        bases in prop::collection::btree_set(1u64..100, 1..8),
        verified in prop::collection::btree_set(1u64..100, 0..4),
        gaps in prop::collection::btree_set(0u64..20, 0..3),
        keep_for_ms in 5u64..40,
        age in 0u64..60,
    ) {
        let retention = Retention { keep_for_ms, ..RETENTION };
        let bases: Vec<_> = bases.into_iter().collect();
        let (mut catalog, clocks) = history(&bases, 100);
        catalog.segments.retain(|id, _| !gaps.contains(&(id.first / 5)));
        let verified: BTreeSet<_> =
            verified.into_iter().filter(|index| bases.contains(index)).map(base).collect();
        let now = 100 + age;
        let removed = removable(&catalog, &clocks, &verified, &retention, now);
        let left = without(&catalog, &removed);
        let can = |catalog: &Catalog, target| matches!(plan(catalog, &clocks, target), Decision::Restore(_));
        for moment in 0..=100 {
            let target = Target::Time(moment);
            if can(&catalog, target) && moment >= now.saturating_sub(retention.log_ms) {
                prop_assert!(can(&left, target), "{} is lost", moment);
            }
        }
        for index in &bases {
            if now - index < retention.keep_for_ms {
                prop_assert!(can(&left, Target::Base(base(*index))), "base {} is lost", index);
            }
        }
        for index in bases.iter().rev().take(retention.keep_last) {
            prop_assert!(can(&left, Target::Base(base(*index))), "base {} is lost", index);
        }
        if let Some(newest) = verified.last() {
            prop_assert!(can(&left, Target::Base(*newest)));
            let is_after = |id: &&SegmentId| id.last > newest.index;
            prop_assert!(catalog.segments.keys().filter(is_after).all(|id| left.segments.contains_key(id)));
        }
        // What is left is what retention asks for: a second pass finds nothing more.
        prop_assert_eq!(removable(&left, &clocks, &verified, &retention, now), []);
    }
}

#[test]
fn old_bases_and_the_log_before_the_window_are_removed() {
    let (catalog, clocks) = history(&[10, 20, 60, 80, 90], 100);
    let removed = removable(&catalog, &clocks, &BTreeSet::new(), &RETENTION, 100);
    assert_eq!(removed_bases(&removed), [10, 20, 60]);
    // The window begins at 86, so the log is kept from base 80 on.
    let mut segments = removed.iter().filter(|object| matches!(object, Object::Segment(_)));
    assert_eq!(segments.next_back(), Some(&Object::Segment(SegmentId { first: 76, last: 80 })));
}

#[test]
fn newest_verified_base_is_kept_however_old() {
    let (catalog, clocks) = history(&[10, 20, 60, 80, 90], 100);
    let verified = BTreeSet::from([base(10), base(20)]);
    let removed = removable(&catalog, &clocks, &verified, &RETENTION, 100);
    assert_eq!(removed_bases(&removed), [10, 60]);
    let later = BTreeSet::from([base(10), base(20), base(80)]);
    assert_eq!(removed_bases(&removable(&catalog, &clocks, &later, &RETENTION, 100)), [10, 20, 60]);
}

#[test]
fn deleted_base_goes_with_its_manifest_first_and_its_mark_last() {
    let (mut catalog, clocks) = history(&[80, 90], 100);
    let id = base(80);
    catalog.add(Object::Deleted(id), 1);
    let removed = removable(&catalog, &clocks, &BTreeSet::new(), &RETENTION, 100);
    let expected = [Object::Manifest(id), Object::Part(id, 0), Object::Source(id), Object::Deleted(id)];
    assert_eq!(removed[..4], expected);
}

#[test]
fn incomplete_base_is_removed_only_when_a_newer_one_is_complete() {
    let (mut catalog, clocks) = history(&[90], 100);
    for index in [85, 95] {
        catalog.add(Object::Source(base(index)), 1);
        catalog.add(Object::Part(base(index), 0), 1);
    }
    let removed = removable(&catalog, &clocks, &BTreeSet::new(), &RETENTION, 100);
    assert!(removed.contains(&Object::Part(base(85), 0)));
    assert!(!removed.contains(&Object::Part(base(95), 0)));
}

#[test]
fn object_is_removed_by_the_second_pass_an_hour_later() {
    let [a, b] = [1, 2].map(|index| Object::Manifest(base(index)));
    let (remove, pass) = confirm(&[a], None, 1000);
    assert_eq!((remove.len(), pass.objects.len()), (0, 1));
    let (remove, pass) = confirm(&[a, b], Some(&pass), 1000 + HOUR_MS - 1);
    assert_eq!((remove.len(), pass.at_ms), (0, 1000));
    let (remove, pass) = confirm(&[a, b], Some(&pass), 1000 + HOUR_MS);
    assert_eq!(remove, [a]);
    let (remove, pass) = confirm(&[], Some(&pass), 1000 + 2 * HOUR_MS);
    assert!(remove.is_empty() && pass.objects.is_empty());
}
