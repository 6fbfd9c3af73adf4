//! The catalog of one history, from a listing: bases, segments, gaps, and the ranges that can be restored. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::layout::{BaseId, History, Object, SegmentId};

/// The objects of one history.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    pub has_origin: bool,
    pub bases: BTreeMap<BaseId, BaseObjects>,
    /// Segments with their sizes in bytes.
    pub segments: BTreeMap<SegmentId, u64>,
    /// Reports of drills, by their times.
    pub drills: BTreeSet<u64>,
}

/// The objects of one base.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BaseObjects {
    pub has_source: bool,
    pub has_manifest: bool,
    /// An admin deleted it; it is restored no more.
    pub is_deleted: bool,
    pub parts: BTreeSet<u16>,
    pub bytes: u64,
}

impl BaseObjects {
    pub fn is_usable(&self) -> bool {
        self.has_manifest && !self.is_deleted
    }
}

/// Clocks of bases and segments, as far as their headers were read. A clock is the maximum `now_ms` of the log up to there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clocks {
    pub bases: BTreeMap<BaseId, u64>,
    /// Clock after the last entry of a segment.
    pub segments: BTreeMap<SegmentId, u64>,
}

/// A position of the log, and the log's clock there if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub index: u64,
    pub now_ms: Option<u64>,
}

/// Every index from `from` to `to` can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recoverable {
    pub from: Point,
    pub to: Point,
}

/// Indexes, both included, that no segment has although there are segments before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub first: u64,
    pub last: u64,
}

impl Catalog {
    /// The catalogs of all histories in a listing of names without the store's prefix, with sizes in bytes. Names that are
    /// no objects of an archive are left out.
    pub fn of_store<'a>(listing: impl IntoIterator<Item = (&'a str, u64)>) -> BTreeMap<History, Self> {
        let mut found: BTreeMap<History, Self> = BTreeMap::new();
        for (name, bytes) in listing {
            if let Some((history, object)) = History::parse(name) {
                found.entry(history).or_default().add(object, bytes);
            }
        }
        found
    }

    pub fn add(&mut self, object: Object, bytes: u64) {
        match object {
            Object::Origin => self.has_origin = true,
            Object::Source(id) => self.base(id, bytes).has_source = true,
            Object::Manifest(id) => self.base(id, bytes).has_manifest = true,
            Object::Deleted(id) => self.base(id, bytes).is_deleted = true,
            Object::Part(id, part) => {
                self.base(id, bytes).parts.insert(part);
            }
            Object::Segment(id) => {
                self.segments.insert(id, bytes);
            }
            Object::Drill(time) => {
                self.drills.insert(time);
            }
            Object::Collection => {}
        }
    }

    fn base(&mut self, id: BaseId, bytes: u64) -> &mut BaseObjects {
        let base = self.bases.entry(id).or_default();
        base.bytes += bytes;
        base
    }

    /// Bases that can be restored, oldest first.
    pub fn usable_bases(&self) -> impl DoubleEndedIterator<Item = BaseId> + '_ {
        self.bases.iter().filter(|(_, base)| base.is_usable()).map(|(id, _)| *id)
    }

    /// The segments that continue each other from the one that has `index`, as far as they reach. Where two writers raced,
    /// segments overlap: the chain that reaches furthest is taken.
    pub fn chain_from(&self, index: u64) -> Vec<SegmentId> {
        let best = self.reaches();
        let holds = self.segments.range(..=SegmentId { first: index, last: u64::MAX });
        let holds = holds.map(|(id, _)| *id).filter(|id| id.last >= index);
        let reach = |id: &SegmentId| next_of(&best, *id).map_or(id.last, |(reach, _)| reach);
        let Some(mut current) = holds.max_by_key(|id| (reach(id), id.last)) else {
            return Vec::new();
        };
        let mut chain = vec![current];
        while let Some((_, next)) = next_of(&best, current) {
            chain.push(next);
            current = next;
        }
        chain
    }

    /// For each first index: the segment whose chain reaches furthest, and the last index of that chain.
    fn reaches(&self) -> BTreeMap<u64, (u64, SegmentId)> {
        let mut best: BTreeMap<u64, (u64, SegmentId)> = BTreeMap::new();
        for id in self.segments.keys().rev() {
            let reach = next_of(&best, *id).map_or(id.last, |(reach, _)| reach);
            let found = best.entry(id.first).or_insert((reach, *id));
            if (reach, id.last) > (found.0, found.1.last) {
                *found = (reach, *id);
            }
        }
        best
    }

    /// The last index that can be restored from a base.
    pub fn reach_of(&self, base: BaseId) -> u64 {
        let next = base.index.saturating_add(1);
        self.chain_from(next).last().map_or(base.index, |segment| segment.last)
    }

    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut covered: Option<u64> = None;
        for id in self.segments.keys() {
            if let Some(last) = covered
                && id.first > last.saturating_add(1)
            {
                gaps.push(Gap { first: last + 1, last: id.first - 1 });
            }
            covered = Some(covered.map_or(id.last, |last| last.max(id.last)));
        }
        gaps
    }

    /// Segments that begin within an earlier one: two writers archived this history at the same time.
    pub fn overlaps(&self) -> Vec<(SegmentId, SegmentId)> {
        let mut found = Vec::new();
        let mut widest: Option<SegmentId> = None;
        for id in self.segments.keys() {
            if let Some(before) = widest.filter(|before| id.first <= before.last) {
                found.push((before, *id));
            }
            widest = widest.filter(|before| before.last >= id.last).or(Some(*id));
        }
        found
    }

    /// Ranges that can be restored, oldest first.
    pub fn recoverable(&self, clocks: &Clocks) -> Vec<Recoverable> {
        let mut found: Vec<Recoverable> = Vec::new();
        for base in self.usable_bases() {
            let from = Point { index: base.index, now_ms: clocks.bases.get(&base).copied() };
            if found.last().is_some_and(|before| base.index <= before.to.index) {
                continue;
            }
            let chain = self.chain_from(base.index.saturating_add(1));
            let to = chain
                .last()
                .map_or(from, |last| Point { index: last.last, now_ms: clocks.segments.get(last).copied() });
            match found.last_mut() {
                Some(before) if before.to.index.saturating_add(1) == base.index => before.to = to,
                _ => found.push(Recoverable { from, to }),
            }
        }
        found
    }

    pub fn stored_bytes(&self) -> u64 {
        self.bases.values().map(|base| base.bytes).sum::<u64>() + self.segments.values().sum::<u64>()
    }
}

fn next_of(best: &BTreeMap<u64, (u64, SegmentId)>, id: SegmentId) -> Option<(u64, SegmentId)> {
    best.get(&id.last.checked_add(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(ids: &[(u64, u64)]) -> Catalog {
        let mut catalog = Catalog::default();
        for (first, last) in ids {
            catalog.add(Object::Segment(SegmentId { first: *first, last: *last }), 1);
        }
        catalog
    }

    fn base(catalog: &mut Catalog, index: u64) -> BaseId {
        let id = BaseId { index, term: 1 };
        catalog.add(Object::Part(id, 0), 10);
        catalog.add(Object::Manifest(id), 1);
        id
    }

    fn chain(catalog: &Catalog, index: u64) -> Vec<(u64, u64)> {
        catalog.chain_from(index).iter().map(|id| (id.first, id.last)).collect()
    }

    #[test]
    fn chain_begins_within_a_segment_and_ends_at_a_gap() {
        let catalog = segments(&[(1, 4), (5, 9), (10, 10), (12, 20)]);
        assert_eq!(chain(&catalog, 6), [(5, 9), (10, 10)]);
        assert_eq!(chain(&catalog, 11), []);
        assert_eq!(catalog.gaps(), [Gap { first: 11, last: 11 }]);
        assert!(catalog.overlaps().is_empty());
    }

    #[test]
    fn chain_that_reaches_furthest_is_taken_where_two_writers_raced() {
        let catalog = segments(&[(1, 4), (5, 9), (5, 12), (10, 14), (13, 20)]);
        assert_eq!(chain(&catalog, 2), [(1, 4), (5, 12), (13, 20)]);
        let overlaps = catalog.overlaps();
        assert_eq!(overlaps[0], (SegmentId { first: 5, last: 9 }, SegmentId { first: 5, last: 12 }));
        assert_eq!(overlaps.len(), 3);
    }

    #[test]
    fn ranges_are_joined_across_bases_and_parted_by_gaps() {
        let mut catalog = segments(&[(11, 20), (21, 30), (41, 50)]);
        for index in [10, 25, 40] {
            base(&mut catalog, index);
        }
        let partial = BaseId { index: 45, term: 1 };
        catalog.add(Object::Part(partial, 0), 10);
        let ranges = catalog.recoverable(&Clocks::default());
        let indexes: Vec<_> = ranges.iter().map(|range| (range.from.index, range.to.index)).collect();
        assert_eq!(indexes, [(10, 30), (40, 50)]);
    }

    #[test]
    fn deleted_base_is_not_usable() {
        let mut catalog = segments(&[]);
        let id = base(&mut catalog, 10);
        catalog.add(Object::Deleted(id), 1);
        assert_eq!(catalog.usable_bases().count(), 0);
        assert!(catalog.recoverable(&Clocks::default()).is_empty());
    }

    #[test]
    fn histories_are_kept_apart_and_foreign_names_left_out() {
        let [a, b] = [1, 2].map(|incarnation| History::new("c", incarnation).unwrap());
        let names = [a.name(Object::Origin), b.name(Object::Origin), "lost+found/x".to_owned()];
        let found = Catalog::of_store(names.iter().map(|name| (name.as_str(), 1)));
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [a, b]);
    }
}
