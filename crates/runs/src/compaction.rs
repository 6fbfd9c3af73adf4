//! Merges of runs: which one is due (pure), and its execution.
//!
//! - A *tier merge* joins the newest four or more uppers of similar size to one, so that their number grows with the
//!   logarithm of the data.
//! - A *bottom merge* merges all uppers into the bottom, in jobs of bounded size from the lowest key up: after each job
//!   its inputs begin at the key where the job ended ([`Slice::from`]), and inputs without remaining keys are removed.
//!   Uppers that are written meanwhile wait for the next one.
//!
//! A tombstone is dropped as soon as no older run may have its key, which the filters tell: every range walks over those
//! that are left.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;

use crate::error::Result;
use crate::faults;
use crate::merge::Order;
use crate::run::Caching;
use crate::view::{Scan, Slice, View, merge};
use crate::writer::{RunWriter, Written};

/// Number of similar uppers that are merged to one.
const TIER: usize = 4;
/// Uppers are similar while each is at most this many times as large as all newer ones together.
const SIMILAR: u64 = 2;
/// Limit of the output of a tier merge, bytes: this, or an eighth of the bottom if that is more.
const TIER_BYTES: u64 = 256 << 20;
/// Number of uppers above which the newest ones are merged whatever their sizes, because every read visits each.
const MAX_UPPERS: usize = 12;
/// Number of uppers that are then merged.
const MANY: usize = 8;
/// Size of the uppers, as a percentage of the bottom, at which a bottom merge begins: while there are writes, and after
/// they have ceased. A lower one saves disk space and costs more writes.
const BUSY_PERCENT: u64 = 35;
const IDLE_PERCENT: u64 = 10;
/// Size of the uppers below which no bottom merge begins, bytes.
const MIN_BOTTOM_MERGE_BYTES: u64 = 64 << 20;
/// A job of a bottom merge ends after it has read this many times the size of its output file.
const READ_FACTOR: u64 = 4;

/// The kind of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Merges the uppers in this range of positions.
    Tier(Range<usize>),
    /// Merges the uppers from this position on into the bottom.
    Bottom(usize),
}

/// The inputs of one merge.
pub struct Job {
    pub(crate) uppers: Vec<Slice>,
    /// The runs that are older than those of a tier merge; empty for a bottom merge.
    older: View,
    /// Runs of the bottom with keys from `start` on; empty for a tier merge.
    pub(crate) bottom: Vec<Slice>,
    /// Lowest key of a bottom merge.
    start: Bytes,
    /// Size at which the output of a bottom merge ends, bytes.
    file_bytes: u64,
    is_tier: bool,
}

/// The output of one merge.
pub struct Merged {
    /// The new run; `None` if nothing is left.
    pub(crate) run: Option<Written>,
    /// Key at which the next job continues; `None` if all inputs were merged.
    pub(crate) next: Option<Bytes>,
}

#[derive(Debug, Clone, Copy)]
struct Upper {
    bytes: u64,
    /// Bytes that its tombstones remove from the bottom, at most.
    removed_bytes: u64,
    /// Whether a bottom merge has begun with it.
    is_merging: bool,
}

/// The inputs of [`pick`] besides the uppers.
#[derive(Debug, Clone, Copy)]
struct Situation {
    bottom_bytes: u64,
    /// Size of the uppers below which no bottom merge begins, bytes.
    min_bytes: u64,
    /// Free space on the volume, bytes.
    room_bytes: u64,
    /// Whether there have been no writes for a while.
    is_idle: bool,
}

/// Returns the merge that is due.
fn pick(uppers: &[Upper], situation: Situation) -> Option<Kind> {
    let Situation { bottom_bytes, min_bytes, room_bytes, is_idle } = situation;
    let waiting = uppers.iter().take_while(|upper| !upper.is_merging).count();
    let (newer, merging) = uppers.split_at(waiting);
    let are_many = newer.len() > MAX_UPPERS;
    let limit = room_bytes.min(if are_many { u64::MAX } else { TIER_BYTES.max(bottom_bytes / 8) });
    let mut tier = 0;
    let mut sum = 0;
    for upper in newer.iter().take(if are_many { MANY } else { usize::MAX }) {
        let is_similar = tier == 0 || upper.bytes <= SIMILAR * sum || are_many;
        if !is_similar || sum + upper.bytes > limit {
            break;
        }
        tier += 1;
        sum += upper.bytes;
    }
    if tier >= TIER {
        return Some(Kind::Tier(0..tier));
    }
    if !merging.is_empty() {
        return Some(Kind::Bottom(waiting));
    }
    // Removals free the space of what they remove, however small they are.
    let total: u64 = uppers.iter().map(|upper| upper.bytes + upper.removed_bytes).sum();
    let percent = if is_idle { IDLE_PERCENT } else { BUSY_PERCENT };
    let due = (bottom_bytes / 100 * percent).max(if is_idle { min_bytes / 8 } else { min_bytes });
    (total >= due && !uppers.is_empty()).then_some(Kind::Bottom(0))
}

impl Job {
    /// Returns the merge that is due for `view`. Runs of at most `file_bytes` are the unit of the bottom.
    pub(crate) fn of(view: &View, file_bytes: u64, room_bytes: u64, is_idle: bool) -> Option<Self> {
        let uppers = view.uppers();
        let bottom_bytes: u64 = view.bottom().iter().map(|slice| slice.run.id.len).sum();
        let bottom_slots: u64 = view.bottom().iter().map(|slice| slice.run.slots).sum();
        let slot_bytes = bottom_bytes / bottom_slots.max(1);
        let upper = |slice: &Slice| Upper {
            bytes: slice.run.id.len,
            removed_bytes: slice.run.tombstones * slot_bytes,
            is_merging: !slice.from.is_empty(),
        };
        let sizes: Vec<Upper> = uppers.iter().map(upper).collect();
        let min_bytes = MIN_BOTTOM_MERGE_BYTES.min(file_bytes);
        let job = match pick(&sizes, Situation { bottom_bytes, min_bytes, room_bytes, is_idle })? {
            Kind::Tier(range) => Self {
                older: View::new(uppers[range.end..].to_vec(), view.bottom().to_vec(), Bytes::new()),
                uppers: uppers[range].to_vec(),
                bottom: Vec::new(),
                start: Bytes::new(),
                file_bytes,
                is_tier: true,
            },
            Kind::Bottom(first) => {
                let uppers = uppers[first..].to_vec();
                // An upper of which no merge has begun starts at its first key.
                let start = uppers.iter().map(|slice| &slice.from).max().cloned().unwrap_or_default();
                let bottom =
                    view.bottom().iter().filter(|slice| slice.run.last_key >= start).cloned().collect();
                Self { uppers, older: View::default(), bottom, start, file_bytes, is_tier: false }
            }
        };
        (job.room_bytes() <= room_bytes).then_some(job)
    }

    /// Returns the free space, bytes, that the output needs at most: all inputs of a tier merge, one file of the bottom.
    pub fn room_bytes(&self) -> u64 {
        let inputs: u64 = self.inputs().map(|slice| slice.run.id.len).sum();
        if self.is_tier { inputs } else { inputs.min(self.file_bytes + self.file_bytes / 8) }
    }

    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Slice> {
        self.uppers.iter().chain(&self.bottom)
    }

    /// Merges the inputs into `writer`; `None` if `pace` breaks.
    pub(crate) fn run(
        &self,
        mut writer: RunWriter<'_>,
        mut pace: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Merged>> {
        match self.copy(&mut writer, &mut pace) {
            Ok(ControlFlow::Break(())) => {
                writer.abandon();
                Ok(None)
            }
            Ok(ControlFlow::Continue(next)) => Ok(Some(Merged { run: writer.finish()?, next })),
            Err(error) => {
                writer.abandon();
                Err(error)
            }
        }
    }

    /// Copies slots until the output or the input of a job is large enough; returns the key of the next slot.
    fn copy(
        &self,
        writer: &mut RunWriter<'_>,
        pace: &mut impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Option<Bytes>>> {
        let mut read = 0;
        let all =
            Scan { start: self.start.clone(), end: None, order: Order::Ascending, caching: Caching::Bypass };
        for found in merge(&self.uppers, &self.bottom, all) {
            let (key, slot) = found?;
            let is_full = writer.bytes() >= self.file_bytes || read >= READ_FACTOR * self.file_bytes;
            if !self.is_tier && is_full {
                return Ok(ControlFlow::Continue(Some(key)));
            }
            let bytes = (key.len() + slot.as_ref().map_or(0, Bytes::len)) as u64;
            read += bytes;
            if pace(bytes).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if slot.is_some() || faults::keeps_tombstone(self.older.may_contain(&key)?) {
                writer.add(&key, &slot)?;
            }
        }
        Ok(ControlFlow::Continue(None))
    }

    /// Whether all inputs are still part of `view`. They are not after a clear.
    pub(crate) fn is_valid_in(&self, view: &View) -> bool {
        faults::inputs_are_live(self.inputs().all(|input| view.slices().any(|slice| slice.is_same(input))))
    }

    /// Returns the uppers and the bottom of `view` after this merge, whose output is `output`.
    pub(crate) fn apply(
        &self,
        view: &View,
        output: Option<Slice>,
        next: Option<&Bytes>,
    ) -> (Vec<Slice>, Vec<Slice>) {
        let is_input = |slice: &Slice| self.inputs().any(|input| input.is_same(slice));
        let rest = |slice: &Slice| next.and_then(|next| slice.rest(&faults::next_key(next)));
        if self.is_tier {
            let mut uppers = Vec::new();
            let mut output = output;
            for slice in view.uppers() {
                if !is_input(slice) {
                    uppers.push(slice.clone());
                } else if let Some(output) = output.take() {
                    uppers.push(output);
                }
            }
            return (faults::kept_uppers(uppers), view.bottom().to_vec());
        }
        let uppers = view.uppers().iter();
        let uppers =
            uppers.filter_map(|slice| if is_input(slice) { rest(slice) } else { Some(slice.clone()) });
        let (inputs, before): (Vec<&Slice>, Vec<&Slice>) =
            view.bottom().iter().partition(|slice| is_input(slice));
        // Most of the bottom is beyond this job and keeps its slices, so that the frames stay short.
        let is_beyond = |slice: &Slice| next.is_some_and(|next| slice.run.first_key >= *next);
        let left = |slice: &Slice| if is_beyond(slice) { Some(slice.clone()) } else { rest(slice) };
        let bottom = before.into_iter().cloned().chain(output).chain(inputs.into_iter().filter_map(left));
        (faults::kept_uppers(uppers.collect()), bottom.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn uppers(sizes: &[u64], merging: usize) -> Vec<Upper> {
        let of = |(at, bytes): (usize, &u64)| Upper {
            bytes: *bytes * MIB,
            removed_bytes: 0,
            is_merging: at + merging >= sizes.len(),
        };
        sizes.iter().enumerate().map(of).collect()
    }

    fn situation(bottom: u64, is_idle: bool) -> Situation {
        Situation { bottom_bytes: bottom * MIB, min_bytes: 64 * MIB, room_bytes: u64::MAX, is_idle }
    }

    fn picked(sizes: &[u64], merging: usize, bottom: u64, is_idle: bool) -> Option<Kind> {
        pick(&uppers(sizes, merging), situation(bottom, is_idle))
    }

    #[test]
    fn four_similar_uppers_are_merged_to_one() {
        assert_eq!(picked(&[10, 10, 10], 0, 1_000, false), None);
        assert_eq!(picked(&[10, 10, 10, 10], 0, 1_000, false), Some(Kind::Tier(0..4)));
        assert_eq!(picked(&[10, 10, 10, 200], 0, 1_000, false), None);
        assert_eq!(picked(&[1, 1, 1, 1, 40, 40], 0, 1_000, false), Some(Kind::Tier(0..4)));
    }

    #[test]
    fn bottom_merge_begins_at_a_share_of_the_bottom_and_earlier_when_idle() {
        assert_eq!(picked(&[100, 200], 0, 1_000, false), None);
        assert_eq!(picked(&[100, 260], 0, 1_000, false), Some(Kind::Bottom(0)));
        assert_eq!(picked(&[20, 90], 0, 1_000, false), None);
        assert_eq!(picked(&[20, 90], 0, 1_000, true), Some(Kind::Bottom(0)));
        assert_eq!(picked(&[5], 0, 0, false), None);
        assert_eq!(picked(&[5], 0, 0, true), None);
        assert_eq!(picked(&[9], 0, 0, true), Some(Kind::Bottom(0)));
    }

    #[test]
    fn bottom_merge_continues_with_its_uppers_and_tier_merges_go_first() {
        assert_eq!(picked(&[10, 10, 300], 1, 1_000, false), Some(Kind::Bottom(2)));
        assert_eq!(picked(&[10, 10, 10, 10, 300], 1, 1_000, false), Some(Kind::Tier(0..4)));
    }

    #[test]
    fn many_uppers_of_unlike_or_large_sizes_are_merged_too() {
        let growing: Vec<u64> = (0..=MAX_UPPERS as u32).map(|n| 3_u64.pow(n.min(4))).collect();
        assert_eq!(picked(&growing, 0, 100_000, false), Some(Kind::Tier(0..MANY)));
        assert_eq!(picked(&[300; MAX_UPPERS + 1], 0, 100_000, false), Some(Kind::Tier(0..MANY)));
    }

    #[test]
    fn small_removals_of_much_data_make_a_bottom_merge_due() {
        let removal = Upper { bytes: 5 * MIB, removed_bytes: 400 * MIB, is_merging: false };
        assert_eq!(pick(&[removal], situation(1_000, false)), Some(Kind::Bottom(0)));
    }

    #[test]
    fn bottom_merge_continues_when_there_is_no_room_for_a_tier_merge() {
        let uppers = uppers(&[60, 60, 60, 60, 300], 1);
        let situation = Situation { room_bytes: 100 * MIB, ..situation(1_000, false) };
        assert_eq!(pick(&uppers, situation), Some(Kind::Bottom(4)));
    }
}
