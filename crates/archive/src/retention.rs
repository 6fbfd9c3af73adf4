//! Which objects may be removed. Pure. Two passes that are an hour apart have to agree before one is removed, so that an object
//! of a base that is being written, or a listing that was not complete, costs nothing.

use std::collections::BTreeSet;

use crate::Pass;
use crate::catalog::{BaseObjects, Catalog, Clocks};
use crate::layout::{BaseId, Object};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Rules of retention. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Bases that are younger are kept.
    pub keep_for_ms: u64,
    /// So many of the newest bases are kept, however old they are.
    pub keep_last: usize,
    /// Every moment of so long ago and since can be restored.
    pub log_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep_for_ms: 30 * DAY_MS, keep_last: 7, log_ms: 14 * DAY_MS }
    }
}

/// The objects that retention does not keep, in the order in which they are removed: a base's manifest before its parts.
///
/// `verified` are the bases that were restored or read successfully; the newest of them is always kept, as is the newest base,
/// unless an admin deleted it. A base whose clock is not known is kept.
pub fn removable(
    catalog: &Catalog,
    clocks: &Clocks,
    verified: &BTreeSet<BaseId>,
    retention: &Retention,
    now_ms: u64,
) -> Vec<Object> {
    let kept = kept_bases(catalog, clocks, verified, retention, now_ms);
    let newest = catalog.usable_bases().next_back();
    let mut found = Vec::new();
    for (id, base) in &catalog.bases {
        // A base without manifest is being written, unless a newer one was completed since.
        let is_garbage = base.has_manifest || newest.is_some_and(|newest| newest.index > id.index);
        if !kept.contains(id) && is_garbage {
            found.extend(objects(*id, base));
        }
    }
    if let Some(floor) = log_floor(&kept, clocks, verified, retention, now_ms) {
        let below = catalog.segments.keys().filter(|segment| segment.last <= floor.index);
        found.extend(below.map(|segment| Object::Segment(*segment)));
    }
    found
}

fn kept_bases(
    catalog: &Catalog,
    clocks: &Clocks,
    verified: &BTreeSet<BaseId>,
    retention: &Retention,
    now_ms: u64,
) -> BTreeSet<BaseId> {
    let usable: Vec<BaseId> = catalog.usable_bases().collect();
    let last = usable.iter().rev().take(retention.keep_last.max(1));
    // All bases of the log's window: after a gap of the log there is no other way to its moments.
    let keep_for_ms = retention.keep_for_ms.max(retention.log_ms);
    let is_young = |base: &&BaseId| {
        clocks.bases.get(base).is_none_or(|clock| now_ms.saturating_sub(*clock) < keep_for_ms)
    };
    let mut kept: BTreeSet<BaseId> = last.chain(usable.iter().filter(is_young)).copied().collect();
    let is_usable = |base: &&BaseId| catalog.bases.get(base).is_some_and(BaseObjects::is_usable);
    kept.extend(verified.iter().rev().find(is_usable));
    // The base before the window of the log: without it, the begin of the window could not be restored.
    kept.extend(before_window(usable.iter(), clocks, retention, now_ms));
    kept
}

/// The base after which the log is kept.
fn log_floor(
    kept: &BTreeSet<BaseId>,
    clocks: &Clocks,
    verified: &BTreeSet<BaseId>,
    retention: &Retention,
    now_ms: u64,
) -> Option<BaseId> {
    let floor = before_window(kept.iter(), clocks, retention, now_ms).or(kept.first().copied())?;
    let verified = verified.iter().rev().find(|base| kept.contains(base));
    Some(verified.map_or(floor, |verified| floor.min(*verified)))
}

fn before_window<'a>(
    bases: impl DoubleEndedIterator<Item = &'a BaseId>,
    clocks: &Clocks,
    retention: &Retention,
    now_ms: u64,
) -> Option<BaseId> {
    let start = now_ms.saturating_sub(retention.log_ms);
    let mut bases = bases.rev();
    bases.find(|base| clocks.bases.get(base).is_some_and(|clock| *clock <= start)).copied()
}

fn objects(id: BaseId, base: &BaseObjects) -> Vec<Object> {
    let mut objects = Vec::new();
    objects.extend(base.has_manifest.then_some(Object::Manifest(id)));
    objects.extend(base.parts.iter().map(|part| Object::Part(id, *part)));
    objects.extend(base.has_source.then_some(Object::Source(id)));
    // Last: while it is there, what is left of the base is not taken for one that is being written.
    objects.extend(base.is_deleted.then_some(Object::Deleted(id)));
    objects
}

/// The objects to remove now, and the pass to record: those that the pass before also found, if it was an hour ago.
pub fn confirm(removable: &[Object], before: Option<&Pass>, now_ms: u64) -> (Vec<Object>, Pass) {
    let names = |objects: &[Object]| objects.iter().map(Object::to_string).collect::<Vec<_>>();
    let Some(before) = before else {
        return (Vec::new(), Pass { at_ms: now_ms, objects: names(removable) });
    };
    if now_ms.saturating_sub(before.at_ms) < HOUR_MS {
        // What is not removable any more leaves the pass; what is new waits for the next one.
        let found: BTreeSet<_> = names(removable).into_iter().collect();
        let objects = before.objects.iter().filter(|name| found.contains(*name)).cloned().collect();
        return (Vec::new(), Pass { at_ms: before.at_ms, objects });
    }
    let known: BTreeSet<_> = before.objects.iter().map(String::as_str).collect();
    let (remove, wait): (Vec<_>, Vec<_>) =
        removable.iter().copied().partition(|object| known.contains(object.to_string().as_str()));
    (remove, Pass { at_ms: now_ms, objects: names(&wait) })
}

#[cfg(test)]
mod tests;
