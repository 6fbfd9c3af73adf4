//! The merge of sorted sources: for equal keys the newest source decides.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use bytes::Bytes;

use crate::error::Result;
use crate::{Slot, faults};

pub type Source<'a> = Box<dyn Iterator<Item = Result<(Bytes, Slot)>> + Send + 'a>;

/// The order in which sources return their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

pub struct Merge<'a> {
    order: Order,
    sources: Vec<Source<'a>>,
    heads: BinaryHeap<Head>,
    /// Error of a source, returned before anything else.
    failed: Option<crate::Error>,
    is_done: bool,
}

struct Head {
    order: Order,
    key: Bytes,
    slot: Slot,
    /// Position of its source; 0 is the newest.
    rank: usize,
}

impl<'a> Merge<'a> {
    /// Merges `sources`, the newest first.
    pub fn new(sources: Vec<Source<'a>>, order: Order) -> Self {
        let heads = BinaryHeap::with_capacity(sources.len());
        let mut merge = Self { order, heads, sources, failed: None, is_done: false };
        for rank in 0..merge.sources.len() {
            merge.advance(rank);
        }
        merge
    }

    fn advance(&mut self, rank: usize) {
        match self.sources[rank].next() {
            Some(Ok((key, slot))) => {
                self.heads.push(Head { order: self.order, key, slot, rank: faults::merge_rank(rank) });
            }
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
    }

    fn pop(&mut self) -> Option<Head> {
        let head = self.heads.pop()?;
        self.advance(faults::merge_rank(head.rank));
        Some(head)
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<(Bytes, Slot)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let newest = self.pop();
        while let Some(newest) = &newest
            && self.heads.peek().is_some_and(|head| head.key == newest.key)
        {
            self.pop();
        }
        // Checked after the older slots of the key: a source that failed may have a newer one.
        if let Some(error) = self.failed.take() {
            self.is_done = true;
            return Some(Err(error));
        }
        newest.map(|head| Ok((head.key, head.slot)))
    }
}

impl Ord for Head {
    /// The greatest head, which the heap returns first, has the first key in the order and the newest source.
    fn cmp(&self, other: &Self) -> Ordering {
        let keys = match self.order {
            Order::Ascending => other.key.cmp(&self.key),
            Order::Descending => self.key.cmp(&other.key),
        };
        keys.then_with(|| other.rank.cmp(&self.rank))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}
