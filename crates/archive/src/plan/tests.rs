use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::layout::Object;

/// A log as a list, and the archive of it: bases at some indexes, segments, of which some are missing.
#[derive(Debug, Clone)]
struct Model {
    /// The log's clock after each entry, by its index.
    clocks: BTreeMap<u64, u64>,
    bases: Vec<u64>,
    segments: Vec<SegmentId>,
}

impl Model {
    fn catalog(&self) -> (Catalog, Clocks) {
        let (mut catalog, mut clocks) = (Catalog::default(), Clocks::default());
        for index in &self.bases {
            let id = BaseId { index: *index, term: 1 };
            catalog.add(Object::Manifest(id), 1);
            clocks.bases.insert(id, self.clocks[index]);
        }
        for segment in &self.segments {
            catalog.add(Object::Segment(*segment), 1);
        }
        (catalog, clocks)
    }

    fn has(&self, index: u64) -> bool {
        self.segments.iter().any(|segment| (segment.first..=segment.last).contains(&index))
    }

    /// Last index that can be reached from each base, by looking at each entry.
    fn reach(&self, base: u64) -> u64 {
        (base + 1..).take_while(|index| self.has(*index)).last().unwrap_or(base)
    }

    /// The index to which a time restores.
    fn at_time(&self, time: u64) -> Option<u64> {
        let base = *self.bases.iter().filter(|base| self.clocks[base] <= time).max()?;
        let reach = self.reach(base);
        let last = (base..=reach).filter(|index| self.clocks[index] <= time).max()?;
        (last < reach || self.clocks[&reach] == time).then_some(last)
    }

    fn at_index(&self, index: u64) -> Option<u64> {
        let reachable = |base: &&u64| (**base..=self.reach(**base)).contains(&index);
        self.bases.iter().find(reachable).map(|_| index)
    }
}

fn model() -> impl Strategy<Value = Model> {
    let entries = prop::collection::vec((0u64..4, 0u64..3), 1..60);
    let cuts = prop::collection::vec(any::<(bool, bool)>(), 60);
    let bases = prop::collection::btree_set(0usize..60, 0..4);
    (entries, cuts, bases).prop_map(|(entries, cuts, bases)| {
        let mut now = 100;
        let mut clocks = BTreeMap::from([(5, now)]);
        for (number, (step, behind)) in entries.iter().enumerate() {
            let leader = (now + step).saturating_sub(*behind);
            now = now.max(leader);
            clocks.insert(6 + number as u64, now);
        }
        let last = 5 + entries.len() as u64;
        let mut segments = Vec::new();
        let mut first = 6;
        for index in 6..=last {
            let (is_cut, is_kept) = cuts[(index - 6) as usize];
            if is_cut || index == last {
                // Half of the segments with an even begin are missing.
                if is_kept || first % 2 == 1 {
                    segments.push(SegmentId { first, last: index });
                }
                first = index + 1;
            }
        }
        let bases = bases.into_iter().map(|base| 5 + base as u64).filter(|base| *base <= last).collect();
        Model { clocks, bases, segments }
    })
}

/// The index to which the archive restores the target, as the reader of a restore does.
fn restored(model: &Model, target: Target) -> Option<u64> {
    let (catalog, mut clocks) = model.catalog();
    let mut reads = 0;
    let plan = loop {
        match plan(&catalog, &clocks, target) {
            Decision::Restore(plan) => break plan,
            Decision::Impossible(_) => return None,
            Decision::NeedsClock(id) => {
                reads += 1;
                assert!(clocks.segments.insert(id, model.clocks[&id.last]).is_none(), "{id} is read twice");
            }
        }
    };
    assert!(reads <= 2 + model.segments.len().max(1).ilog2(), "{reads} headers of {}", model.segments.len());
    let mut index = plan.base.index;
    for segment in &plan.segments {
        assert!(segment.first <= index + 1, "a gap before {segment}");
        for entry in index + 1..=segment.last {
            let is_after = match plan.stop {
                Stop::Index(stop) => entry > stop,
                Stop::Time(time) => model.clocks[&entry] > time,
            };
            if is_after {
                return Some(index);
            }
            index = entry;
        }
    }
    Some(index)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn every_target_is_restored_as_the_list_of_entries_says(model in model()) {
        for index in 3..70 {
            prop_assert_eq!(restored(&model, Target::Index(index)), model.at_index(index), "index {}", index);
        }
        for time in 95..300 {
            prop_assert_eq!(restored(&model, Target::Time(time)), model.at_time(time), "time {}", time);
        }
        let latest = model.bases.iter().max().map(|base| model.reach(*base));
        prop_assert_eq!(restored(&model, Target::Latest), latest);
    }

    #[test]
    fn nearest_targets_of_an_impossible_one_are_possible(model in model(), index in 3u64..70, time in 95u64..300) {
        let (catalog, mut clocks) = model.catalog();
        clocks.segments = model.segments.iter().map(|id| (*id, model.clocks[&id.last])).collect();
        for target in [Target::Index(index), Target::Time(time)] {
            if let Decision::Impossible(Impossible { before, after, .. }) = plan(&catalog, &clocks, target) {
                for point in before.iter().chain(&after) {
                    prop_assert!(model.at_index(point.index).is_some(), "{:?}", point);
                    prop_assert_eq!(point.now_ms, Some(model.clocks[&point.index]));
                }
                let is_ordered = |a: Option<Point>, b: Option<Point>| match (a, b) {
                    (Some(a), Some(b)) => a.index < b.index,
                    _ => true,
                };
                prop_assert!(is_ordered(before, after));
                prop_assert_eq!(before.is_none() && after.is_none(), model.bases.is_empty());
            }
        }
    }
}

fn impossible_text(model: &Model, target: Target) -> String {
    let (catalog, mut clocks) = model.catalog();
    clocks.segments = model.segments.iter().map(|id| (*id, model.clocks[&id.last])).collect();
    match plan(&catalog, &clocks, target) {
        Decision::Impossible(reason) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn impossible_target_is_explained_with_the_nearest() {
    let clocks = (5..=30).map(|index| (index, index * 10)).collect();
    let segments = [(11, 15), (18, 25)].map(|(first, last)| SegmentId { first, last }).to_vec();
    let model = Model { clocks, bases: vec![10, 20], segments };
    for (target, text) in [
        (Target::Index(9), "before the oldest base; the nearest is index 10 (time 100 ms)"),
        (Target::Time(99), "before the oldest base; the nearest is index 10 (time 100 ms)"),
        (
            Target::Index(16),
            "a gap at the target; the nearest are index 15 (time 150 ms) and index 20 (time 200 ms)",
        ),
        (
            Target::Time(170),
            "a gap at the target; the nearest are index 15 (time 150 ms) and index 20 (time 200 ms)",
        ),
        (Target::Index(26), "after the end of the archive; the nearest is index 25 (time 250 ms)"),
        (Target::Time(251), "after the end of the archive; the nearest is index 25 (time 250 ms)"),
        (Target::Base(BaseId { index: 12, term: 1 }), "no complete base 000000000000000c-0000000000000001"),
    ] {
        let found = impossible_text(&model, target);
        assert!(found.contains(text), "{found}");
    }
    let empty = Model { bases: vec![], ..model };
    assert_eq!(impossible_text(&empty, Target::Latest), "the archive has no complete base");
}

#[test]
fn deleted_base_is_not_planned() {
    let id = BaseId { index: 10, term: 1 };
    let mut catalog = Catalog::default();
    catalog.add(Object::Manifest(id), 1);
    catalog.add(Object::Deleted(id), 1);
    assert!(matches!(plan(&catalog, &Clocks::default(), Target::Base(id)), Decision::Impossible(_)));
}
