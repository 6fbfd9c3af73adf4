//! Iterators over the slots of a run, in both directions.

use std::sync::Arc;

use bytes::Bytes;

use super::{Caching, Index, Place, Run};
use crate::Slot;
use crate::block::{BackCursor, Cursor};
use crate::error::Result;

/// An iterator over the slots of a run in key order.
pub struct RunIter {
    run: Arc<Run>,
    caching: Caching,
    /// Number of the part after that of `index`.
    next_part: usize,
    index: Option<Index>,
    /// Number of the block of `index` after that of `cursor`.
    next_block: usize,
    cursor: Option<Cursor>,
    /// Slots below this key are skipped.
    start: Bytes,
    /// First key that is not returned; `None`: to the last one.
    end: Option<Bytes>,
    is_done: bool,
}

impl RunIter {
    pub fn new(run: Arc<Run>, start: Bytes, end: Option<Bytes>, caching: Caching) -> Self {
        let next_part = run.parts.partition_point(|part| part.last_key < start);
        let is_done = end.as_ref().is_some_and(|end| *end <= start || *end <= run.first_key);
        Self { run, caching, next_part, index: None, next_block: 0, cursor: None, start, end, is_done }
    }

    fn step(&mut self) -> Result<Option<(Bytes, Slot)>> {
        loop {
            if let Some(cursor) = &mut self.cursor {
                match cursor.next().map_err(|_| self.run.malformed())? {
                    None => self.cursor = None,
                    Some((key, _)) if key < self.start.as_ref() => {}
                    Some((key, _)) if self.end.as_ref().is_some_and(|end| key >= end.as_ref()) => {
                        return Ok(None);
                    }
                    Some((key, slot)) => return Ok(Some((Bytes::copy_from_slice(key), slot))),
                }
            } else if let Some(index) = self.index.as_ref().filter(|index| self.next_block < index.len()) {
                let place = index.place(self.next_block).map_err(|_| self.run.malformed())?;
                let block = self.run.block(place, self.caching)?;
                self.cursor = Some(Cursor::seek(block, &self.start).map_err(|_| self.run.malformed())?);
                self.next_block += 1;
            } else {
                let Some(part) = self.run.parts.get(self.next_part) else { return Ok(None) };
                let index = self.run.index(part, self.caching)?.into_owned();
                self.next_block =
                    index.find(&self.start).map_err(|_| self.run.malformed())?.unwrap_or(index.len());
                self.index = Some(index);
                self.next_part += 1;
            }
        }
    }
}

impl Iterator for RunIter {
    type Item = Result<(Bytes, Slot)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let found = self.step().transpose();
        self.is_done = !matches!(found, Some(Ok(_)));
        found
    }
}

/// An iterator over the slots of a run in descending key order.
pub struct BackIter {
    run: Arc<Run>,
    caching: Caching,
    /// Number of parts that were not visited yet: those before that of `index`.
    parts_left: usize,
    index: Option<Index>,
    /// Number of blocks of `index` that were not visited yet.
    blocks_left: usize,
    cursor: Option<BackCursor>,
    /// Lowest key that is returned.
    start: Bytes,
    /// Slots from this key on are skipped.
    end: Option<Bytes>,
    is_done: bool,
}

impl BackIter {
    pub fn new(run: Arc<Run>, start: Bytes, end: Option<Bytes>, caching: Caching) -> Self {
        let parts_left = match &end {
            // The first part that ends at or after `end` may begin before it.
            Some(end) => run.parts.len().min(run.parts.partition_point(|part| part.last_key < *end) + 1),
            None => run.parts.len(),
        };
        let is_done = run.last_key < start || end.as_ref().is_some_and(|end| *end <= start);
        Self { run, caching, parts_left, index: None, blocks_left: 0, cursor: None, start, end, is_done }
    }

    fn step(&mut self) -> Result<Option<(Bytes, Slot)>> {
        loop {
            if let Some(cursor) = &mut self.cursor {
                match cursor.next().map_err(|_| self.run.malformed())? {
                    None => self.cursor = None,
                    Some((key, _)) if key < self.start => return Ok(None),
                    found => return Ok(found),
                }
            } else if let Some(number) = self.blocks_left.checked_sub(1) {
                let Some(place) = self.place(number)? else { return Ok(None) };
                let block = self.run.block(place, self.caching)?;
                let cursor = BackCursor::new(block, self.end.as_deref());
                self.cursor = Some(cursor.map_err(|_| self.run.malformed())?);
                self.blocks_left = number;
            } else {
                let Some(number) = self.parts_left.checked_sub(1) else { return Ok(None) };
                let part = &self.run.parts[number];
                if part.last_key < self.start {
                    return Ok(None);
                }
                let index = self.run.index(part, self.caching)?.into_owned();
                self.blocks_left = match &self.end {
                    Some(end) => {
                        let found = index.find(end).map_err(|_| self.run.malformed())?;
                        found.map_or(index.len(), |number| number + 1)
                    }
                    None => index.len(),
                };
                self.index = Some(index);
                self.parts_left = number;
            }
        }
    }

    /// Returns the place of a block; `None` if its keys are below the range.
    fn place(&self, number: usize) -> Result<Option<Place>> {
        let Some(index) = &self.index else { return Ok(None) };
        let (last_key, place) = index.entry(number).map_err(|_| self.run.malformed())?;
        Ok((last_key >= self.start.as_ref()).then_some(place))
    }
}

impl Iterator for BackIter {
    type Item = Result<(Bytes, Slot)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let found = self.step().transpose();
        self.is_done = !matches!(found, Some(Ok(_)));
        found
    }
}
