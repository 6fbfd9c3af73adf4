//! Which base and segments restore a target, or why none do, with the nearest targets. Pure: what it needs to know of the
//! store's objects is in the catalog and in [`Clocks`], and it asks for the clocks of single segments.

use std::collections::btree_map::Entry;
use std::fmt;

use crate::catalog::{Catalog, Clocks, Point};
use crate::layout::{BaseId, SegmentId};
use crate::segments::{SegmentReader, Stop, read_header};
use crate::{Archive, Result};

/// The moment to which a cluster is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The end of the archive.
    Latest,
    /// All entries up to this one.
    Index(u64),
    /// All entries with which the log's clock is not later than this, in milliseconds since the Unix epoch.
    Time(u64),
    /// The state of a base, without log.
    Base(BaseId),
}

/// A base, and the segments that are applied on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub base: BaseId,
    pub segments: Vec<SegmentId>,
    pub stop: Stop,
}

/// The result of [`plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Restore(Plan),
    /// The clock of this segment decides; the caller reads its header, adds it to the clocks and plans again.
    NeedsClock(SegmentId),
    Impossible(Impossible),
}

/// Why a target cannot be restored, and the nearest targets that can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible {
    pub reason: Reason,
    pub before: Option<Point>,
    pub after: Option<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NoBase,
    NoSuchBase(BaseId),
    BeforeFirstBase,
    AfterEnd,
    Gap,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::NoBase => return f.write_str("the archive has no complete base"),
            Reason::NoSuchBase(base) => write!(f, "the archive has no complete base {base}")?,
            Reason::BeforeFirstBase => f.write_str("the target is before the oldest base")?,
            Reason::AfterEnd => f.write_str("the target is after the end of the archive")?,
            Reason::Gap => f.write_str("the log has a gap at the target")?,
        }
        let point = |point: &Point| match point.now_ms {
            Some(now_ms) => format!("index {} (time {now_ms} ms)", point.index),
            None => format!("index {}", point.index),
        };
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                write!(f, "; the nearest are {} and {}", point(before), point(after))
            }
            (Some(only), None) | (None, Some(only)) => write!(f, "; the nearest is {}", point(only)),
            (None, None) => Ok(()),
        }
    }
}

/// Plans the restore of a target. The clocks of all usable bases have to be known for a target by time.
pub fn plan(catalog: &Catalog, clocks: &Clocks, target: Target) -> Decision {
    let Some(newest) = catalog.usable_bases().next_back() else {
        return impossible(Reason::NoBase, None, None);
    };
    match target {
        Target::Latest => {
            let stop = Stop::Index(catalog.reach_of(newest));
            restore(newest, catalog.chain_from(newest.index.saturating_add(1)), stop)
        }
        Target::Base(base) if catalog.usable_bases().any(|usable| usable == base) => {
            restore(base, Vec::new(), Stop::Index(base.index))
        }
        Target::Base(base) => {
            let before = catalog.usable_bases().rfind(|usable| usable.index <= base.index);
            let after = catalog.usable_bases().find(|usable| usable.index > base.index);
            let point = |base: Option<BaseId>| base.map(|base| base_point(clocks, base));
            impossible(Reason::NoSuchBase(base), point(before), point(after))
        }
        Target::Index(index) => plan_index(catalog, clocks, index),
        Target::Time(time) => plan_time(catalog, clocks, time),
    }
}

fn plan_index(catalog: &Catalog, clocks: &Clocks, index: u64) -> Decision {
    let next = catalog.usable_bases().find(|base| base.index > index);
    let next = next.map(|base| base_point(clocks, base));
    // An older base needs the log up to this one as well, so none restores more.
    let Some(base) = catalog.usable_bases().rfind(|base| base.index <= index) else {
        return impossible(Reason::BeforeFirstBase, None, next);
    };
    let mut chain = catalog.chain_from(base.index.saturating_add(1));
    if base.index == index {
        return restore(base, Vec::new(), Stop::Index(index));
    }
    match chain.iter().position(|segment| segment.last >= index) {
        Some(last) => {
            chain.truncate(last + 1);
            restore(base, chain, Stop::Index(index))
        }
        None => beyond(clocks, base, &chain, next, catalog),
    }
}

fn plan_time(catalog: &Catalog, clocks: &Clocks, time: u64) -> Decision {
    let clock = |base: &BaseId| clocks.bases.get(base).copied();
    let next = catalog.usable_bases().find(|base| clock(base).is_some_and(|clock| clock > time));
    let next = next.map(|base| base_point(clocks, base));
    let base = catalog.usable_bases().rfind(|base| clock(base).is_some_and(|clock| clock <= time));
    let Some(base) = base else {
        return impossible(Reason::BeforeFirstBase, None, next);
    };
    let mut chain = catalog.chain_from(base.index.saturating_add(1));
    // The first segment after whose last entry the clock is later; clocks never decrease.
    let (mut low, mut high) = (0, chain.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match clocks.segments.get(&chain[middle]) {
            None => return Decision::NeedsClock(chain[middle]),
            Some(clock) if *clock > time => high = middle,
            Some(_) => low = middle + 1,
        }
    }
    if low < chain.len() {
        chain.truncate(low + 1);
        return restore(base, chain, Stop::Time(time));
    }
    let end = match chain.last() {
        None => clock(&base),
        Some(last) => match clocks.segments.get(last) {
            None => return Decision::NeedsClock(*last),
            clock => clock.copied(),
        },
    };
    if end == Some(time) {
        return restore(base, chain, Stop::Time(time));
    }
    beyond(clocks, base, &chain, next, catalog)
}

/// The target is beyond the log that continues `base`.
fn beyond(
    clocks: &Clocks,
    base: BaseId,
    chain: &[SegmentId],
    next: Option<Point>,
    catalog: &Catalog,
) -> Decision {
    let end = chain.last().map_or(base_point(clocks, base), |last| Point {
        index: last.last,
        now_ms: clocks.segments.get(last).copied(),
    });
    let has_later = next.is_some() || catalog.segments.keys().any(|segment| segment.first > end.index);
    let reason = if has_later { Reason::Gap } else { Reason::AfterEnd };
    impossible(reason, Some(end), next)
}

fn base_point(clocks: &Clocks, base: BaseId) -> Point {
    Point { index: base.index, now_ms: clocks.bases.get(&base).copied() }
}

fn restore(base: BaseId, segments: Vec<SegmentId>, stop: Stop) -> Decision {
    Decision::Restore(Plan { base, segments, stop })
}

fn impossible(reason: Reason, before: Option<Point>, after: Option<Point>) -> Decision {
    Decision::Impossible(Impossible { reason, before, after })
}

impl Plan {
    /// A reader of the entries that follow the base.
    pub fn entries(&self, archive: &Archive) -> SegmentReader {
        SegmentReader::new(archive, self.base, self.segments.clone(), self.stop)
    }
}

impl Archive {
    /// Plans the restore of a target, and reads the headers that decide.
    pub async fn plan(
        &self,
        catalog: &Catalog,
        clocks: &mut Clocks,
        target: Target,
    ) -> Result<Result<Plan, Impossible>> {
        for base in catalog.usable_bases() {
            if let Entry::Vacant(unknown) = clocks.bases.entry(base) {
                unknown.insert(self.manifest(base).await?.now_ms);
            }
        }
        loop {
            match plan(catalog, clocks, target) {
                Decision::Restore(plan) => return Ok(Ok(plan)),
                Decision::Impossible(reason) => return Ok(Err(reason)),
                Decision::NeedsClock(id) => {
                    clocks.segments.insert(id, read_header(self, id).await?.clock_after);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
