//! Positions of the entries on disk: a sparse index over all segments, which the writer maintains and readers share.
//!
//! A span begins at the frame that holds its first entry. Its other entries are in the frames after that one, up to the
//! frame of the next span. Each segment begins a span, and so does a frame that replaces earlier entries: the replaced
//! ones are behind the first index of a later span, where no reader looks for them.

use std::collections::VecDeque;

use super::format::{Op, Position};
use crate::faults;

/// Bytes of frames after which another span begins.
const SPAN_BYTES: u64 = 64 << 10;

#[derive(Debug, Default)]
pub struct Catalog {
    /// Ascending by index and by position.
    spans: VecDeque<Span>,
    /// Live segments, ascending: generation and offset of the end of the durable frames.
    segments: VecDeque<Position>,
    last: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first: u64,
    at: Position,
}

/// Frames to read in order to find an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub at: Position,
    /// Offset of the end of the frames.
    pub end: u64,
    /// First index that is not read here; `u64::MAX`: none.
    pub limit: u64,
}

/// A durable frame, in terms of the entries in it.
#[derive(Debug, Clone, Copy)]
pub struct Noted {
    pub at: Position,
    /// Offset of the end of the frame.
    pub end: u64,
    pub resets: bool,
    /// Lowest index of the entries, after the reset if there is one; `None` without entries.
    pub lowest: Option<u64>,
    /// Last index of the log after this frame.
    pub last: u64,
}

impl Noted {
    /// Counts an operation of the frame.
    pub fn op(&mut self, op: &Op<'_>) {
        match *op {
            Op::Reset(_) => (self.resets, self.lowest) = (true, None),
            Op::Entry { index, .. } => {
                self.lowest = Some(self.lowest.map_or(index, |lowest| lowest.min(index)));
            }
            Op::HardState(_) | Op::Base(_) | Op::Start(_) => {}
        }
    }
}

impl Catalog {
    pub fn note(&mut self, frame: &Noted) {
        let Noted { at, end, resets, lowest, last } = *frame;
        let is_first_of_segment = self.segments.back().is_none_or(|open| open.generation != at.generation);
        let end = Position { generation: at.generation, offset: end };
        if is_first_of_segment {
            self.segments.push_back(end);
        } else if let Some(open) = self.segments.back_mut() {
            *open = end;
        }
        if resets {
            self.spans.clear();
        }
        if let Some(lowest) = lowest {
            let replaces = faults::replaces(lowest <= self.last);
            if replaces {
                while self.spans.pop_back_if(|span| span.first >= lowest).is_some() {}
            }
            let is_near =
                |span: &Span| span.at.generation == at.generation && at.offset - span.at.offset < SPAN_BYTES;
            if replaces || !self.spans.back().is_some_and(is_near) {
                self.spans.push_back(Span { first: lowest, at });
            }
        }
        self.last = last;
    }

    /// Forgets entries up to `base`.
    pub fn purge(&mut self, base: u64) {
        while self.spans.get(1).is_some_and(|next| next.first <= base.saturating_add(1)) {
            self.spans.pop_front();
        }
    }

    /// Forgets a segment, before its file is removed or used again.
    pub fn remove(&mut self, generation: u64) {
        self.segments.retain(|segment| segment.generation != generation);
        self.spans.retain(|span| span.at.generation != generation);
    }

    pub fn has_segment(&self, generation: u64) -> bool {
        self.segments.iter().any(|segment| segment.generation == generation)
    }

    /// Returns the frames that hold entry `index`; `None` if the log does not have it.
    pub fn find(&self, index: u64) -> Option<Region> {
        if index > self.last {
            return None;
        }
        let after = self.spans.partition_point(|span| span.first <= index);
        let Span { at, .. } = *self.spans.get(after.checked_sub(1)?)?;
        let next = self.spans.get(after);
        let segment = self.segments.iter().find(|segment| segment.generation == at.generation)?;
        let end = next.filter(|next| next.at.generation == at.generation && next.at.offset > at.offset);
        Some(Region {
            at,
            end: end.map_or(segment.offset, |next| next.at.offset),
            limit: next.map_or(u64::MAX, |next| next.first),
        })
    }
}
