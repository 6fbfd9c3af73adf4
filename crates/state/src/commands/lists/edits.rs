//! Search for elements of a list from one end, and changes in its middle. A change renumbers the side with fewer
//! elements to move.

use std::ops::Range;

use bytes::Bytes;

use super::{End, List};
use crate::budget::Halt;
use crate::collection::Element;
use crate::command::Failure;
use crate::txn::Txn;

/// Elements with their positions, from one end on.
pub type Walk<'t> = Box<dyn Iterator<Item = Result<(usize, Bytes), Failure>> + 't>;

/// Elements of a list that a search visited.
pub struct Visited {
    range: Range<usize>,
    elements: Vec<Bytes>,
}

impl List {
    /// Returns the elements with their positions, from `end` on.
    pub fn walk<'t>(&self, txn: &'t Txn<'_>, end: End) -> Walk<'t> {
        let at = |position: usize, element: Result<Element, Halt>| -> Result<_, Failure> {
            Ok((position, element?.1))
        };
        let last = self.len().wrapping_sub(1);
        match end {
            End::Left => {
                let elements = self.0.range(txn, b"", None).enumerate();
                Box::new(elements.map(move |(number, element)| at(number, element)))
            }
            End::Right => {
                let elements = self.0.range_back(txn, b"", None).enumerate();
                Box::new(elements.map(move |(number, element)| at(last.wrapping_sub(number), element)))
            }
        }
    }

    /// Visits the elements from `end` on until `wanted` of them are equal to `element`; returns their positions in
    /// ascending order.
    pub fn search(
        &self,
        txn: &Txn<'_>,
        end: End,
        element: &Bytes,
        wanted: usize,
    ) -> Result<(Vec<usize>, Visited), Failure> {
        let (mut found, mut elements) = (Vec::new(), Vec::new());
        for visited in self.walk(txn, end) {
            let (position, other) = visited?;
            if other == *element {
                found.push(position);
            }
            elements.push(other);
            if found.len() == wanted {
                break;
            }
        }
        let mut range = 0..elements.len();
        if end == End::Right {
            found.reverse();
            elements.reverse();
            range = self.len() - elements.len()..self.len();
        }
        Ok((found, Visited { range, elements }))
    }

    /// Returns the elements of `range`; reads those that were not visited.
    fn complete(&self, txn: &Txn<'_>, visited: &Visited, range: Range<usize>) -> Result<Vec<Bytes>, Failure> {
        let (start, end) = (visited.range.start, visited.range.end);
        let mut elements = self.slice(txn, range.start..range.end.min(start).max(range.start))?;
        let known = range.start.clamp(start, end)..range.end.clamp(start, end);
        elements.extend_from_slice(&visited.elements[known.start - start..known.end - start]);
        elements.extend(self.slice(txn, range.start.max(end).min(range.end)..range.end)?);
        Ok(elements)
    }

    /// Inserts `element` at `position`.
    pub fn insert(
        &mut self,
        txn: &mut Txn<'_>,
        visited: &Visited,
        position: usize,
        element: Bytes,
    ) -> Result<(), Failure> {
        let moves_left = position <= self.len() - position;
        let side = if moves_left { 0..position } else { position..self.len() };
        let mut moved = self.complete(txn, visited, side.clone())?;
        if moves_left {
            moved.push(element);
            self.0.first = self.0.first.wrapping_sub(1);
        } else {
            moved.insert(0, element);
        }
        self.0.count += 1;
        self.write(txn, side.start, moved);
        Ok(())
    }

    /// Removes the elements at `positions`, which are in ascending order.
    pub fn remove(
        &mut self,
        txn: &mut Txn<'_>,
        visited: &Visited,
        positions: &[usize],
    ) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return Ok(()) };
        let removed = positions.len();
        let moves_left = last + 1 - removed <= self.len() - first - removed;
        let side = if moves_left { 0..last + 1 } else { *first..self.len() };
        let old = self.complete(txn, visited, side.clone())?;
        let is_kept = |(position, _): &(usize, Bytes)| positions.binary_search(position).is_err();
        let kept = side.clone().zip(old).filter(is_kept).map(|(_, element)| element).collect();
        let end = if moves_left { End::Left } else { End::Right };
        (0..removed).for_each(|_| self.drop_end(txn, end));
        self.write(txn, side.start, kept);
        Ok(())
    }

    fn write(&self, txn: &mut Txn<'_>, start: usize, elements: Vec<Bytes>) {
        for (position, element) in (start..).zip(elements) {
            self.set(txn, position, element);
        }
    }
}
