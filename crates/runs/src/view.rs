//! A view: the runs that are the state at one checkpoint.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::cache::CacheStats;
use crate::error::Result;
use crate::fence::Fence;
use crate::merge::{Merge, Order, Source};
use crate::run::{BackIter, Caching, Run, RunId, RunIter};
use crate::{Slot, faults, filter};

/// The slots of a run from a key on.
#[derive(Clone)]
pub struct Slice {
    pub run: Arc<Run>,
    /// The lower keys were merged into the bottom. Empty for a whole run.
    pub from: Bytes,
}

impl Slice {
    pub fn whole(run: Arc<Run>) -> Self {
        Self { run, from: Bytes::new() }
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.run.id == other.run.id && self.from == other.from
    }

    /// Returns the rest of the slice from `from` on; `None` if it has no such keys.
    pub fn rest(&self, from: &Bytes) -> Option<Self> {
        (self.run.last_key >= *from)
            .then(|| Self { run: Arc::clone(&self.run), from: from.max(&self.from).clone() })
    }

    fn iter(&self, scan: &Scan) -> Source<'static> {
        let start = faults::slice_start(&self.from, &scan.start);
        let (run, end) = (Arc::clone(&self.run), scan.end.clone());
        match scan.order {
            Order::Ascending => Box::new(RunIter::new(run, start, end, scan.caching)),
            Order::Descending => Box::new(BackIter::new(run, start, end, scan.caching)),
        }
    }

    fn covers(&self, key: &[u8]) -> bool {
        key >= faults::slice_from(&self.from)
    }
}

/// Sizes of a view, and of the block cache that it shares with the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub bytes: u64,
    pub uppers: u64,
    pub bottom_runs: u64,
    pub cache: CacheStats,
}

/// The content of the engine after one checkpoint or merge. A clone shares it; its files exist until the last clone is
/// dropped.
#[derive(Clone, Default)]
pub struct View(Arc<Runs>);

#[derive(Default)]
struct Runs {
    uppers: Vec<Slice>,
    bottom: Vec<Slice>,
    /// Fence of the last keys of the bottom.
    fence: Fence,
    record: Bytes,
}

impl View {
    /// `uppers` newest first, `bottom` in key order.
    pub(crate) fn new(uppers: Vec<Slice>, bottom: Vec<Slice>, record: Bytes) -> Self {
        let low = bottom.first().map(|slice| slice.run.first_key.clone()).unwrap_or_default();
        let fence = Fence::new(&low, bottom.iter().map(|slice| slice.run.last_key.as_ref()));
        Self(Arc::new(Runs { uppers, bottom, fence, record }))
    }

    pub(crate) fn uppers(&self) -> &[Slice] {
        &self.0.uppers
    }

    pub(crate) fn bottom(&self) -> &[Slice] {
        &self.0.bottom
    }

    /// Returns the record of the last checkpoint, as the caller wrote it; empty before the first one.
    pub fn record(&self) -> &Bytes {
        &self.0.record
    }

    pub(crate) fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.0.uppers.iter().chain(&self.0.bottom)
    }

    /// Returns the files of this view.
    pub fn files(&self) -> impl Iterator<Item = RunId> {
        self.slices().map(|slice| slice.run.id)
    }

    /// Returns the files of this view in the order of their first keys.
    pub fn files_by_key(&self) -> Vec<RunId> {
        let mut runs: Vec<&Run> = self.slices().map(|slice| slice.run.as_ref()).collect();
        runs.sort_by(|a, b| a.first_key.cmp(&b.first_key));
        runs.into_iter().map(|run| run.id).collect()
    }

    /// Reads and checks every block of every run; returns the first damage.
    pub fn verify(&self) -> Result<()> {
        self.slices().try_for_each(|slice| slice.run.verify(|_| ControlFlow::Continue(())).map(drop))
    }

    /// Returns the bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|run| run.len).sum()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            bytes: self.bytes(),
            uppers: self.uppers().len() as u64,
            bottom_runs: self.bottom().len() as u64,
            cache: self.slices().next().map(|slice| slice.run.cache_stats()).unwrap_or_default(),
        }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let hash = filter::hash(key);
        let uppers = self.uppers().iter();
        for slice in uppers.chain(self.bottom_of(key)).filter(|slice| slice.covers(key)) {
            if let Some(slot) = slice.run.get(key, hash)? {
                return Ok(slot);
            }
        }
        Ok(None)
    }

    /// Whether an earlier checkpoint may have written `key`; reads filters, but no data.
    pub(crate) fn may_contain(&self, key: &[u8]) -> Result<bool> {
        let hash = filter::hash(key);
        let uppers = self.uppers().iter();
        for slice in uppers.chain(self.bottom_of(key)).filter(|slice| slice.covers(key)) {
            if slice.run.may_contain(key, hash)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the run of the bottom that may have `key`.
    fn bottom_of(&self, key: &[u8]) -> Option<&Slice> {
        let bottom = self.bottom();
        let (first, last) = (&bottom.first()?.run, &bottom.last()?.run);
        if key < first.first_key.as_ref() || key > last.last_key.as_ref() {
            return None;
        }
        bottom.get(self.0.fence.below(key, |number| &bottom[number].run.last_key))
    }

    /// Returns the live pairs in key order from `start` (inclusive) to `end` (exclusive; `None`: to the last key).
    pub fn range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes)>> + Send + use<> {
        self.pairs(start, end, Order::Ascending, Caching::Fill)
    }

    /// Returns all live pairs in key order, past the cache: a scan of everything would replace what reads need.
    pub fn all(&self) -> impl Iterator<Item = Result<(Bytes, Bytes)>> + Send + use<> {
        self.pairs(b"", None, Order::Ascending, Caching::Bypass)
    }

    /// Returns the pairs of [`View::range`] in descending order.
    pub fn range_back(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes)>> + Send + use<> {
        self.pairs(start, end, Order::Descending, Caching::Fill)
    }

    fn pairs(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        order: Order,
        caching: Caching,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes)>> + Send + use<> {
        let (start, end) = (Bytes::copy_from_slice(start), end.map(Bytes::copy_from_slice));
        let merged = merge(self.uppers(), self.bottom(), Scan { start, end, order, caching });
        merged.filter_map(|found| match found {
            Ok((key, slot)) => slot.map(|value| Ok((key, value))),
            Err(error) => Some(Err(error)),
        })
    }
}

/// The slots that a merge returns.
pub struct Scan {
    pub start: Bytes,
    /// First key after the range; `None`: to the last key.
    pub end: Option<Bytes>,
    pub order: Order,
    pub caching: Caching,
}

/// Merges the slots of `uppers` and `bottom` in `scan`.
pub fn merge(uppers: &[Slice], bottom: &[Slice], scan: Scan) -> Merge<'static> {
    let is_in = |slice: &&Slice| {
        let run = &slice.run;
        run.last_key >= scan.start && scan.end.as_ref().is_none_or(|end| run.first_key < *end)
    };
    let mut sources: Vec<_> = uppers.iter().filter(is_in).map(|slice| slice.iter(&scan)).collect();
    let mut bottom: Vec<Slice> = bottom.iter().filter(is_in).cloned().collect();
    let order = scan.order;
    if order == Order::Descending {
        bottom.reverse();
    }
    if !bottom.is_empty() {
        sources.push(Box::new(Chain { slices: bottom.into_iter(), open: None, scan }));
    }
    Merge::new(sources, order)
}

/// The slots of runs that do not overlap, one run open at a time.
struct Chain {
    slices: std::vec::IntoIter<Slice>,
    open: Option<Source<'static>>,
    scan: Scan,
}

impl Iterator for Chain {
    type Item = Result<(Bytes, Slot)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.open.as_mut().and_then(Iterator::next) {
                return Some(found);
            }
            self.open = Some(self.slices.next()?.iter(&self.scan));
        }
    }
}
