//! Terms and sizes of the entries of a log, without the entries: what Raft has to know at once of entries that are on
//! disk only. Pure; its memory grows with the number of terms and with the bytes of the log, 16 bytes for each 64 KiB.

use std::collections::VecDeque;

use super::Base;
use crate::faults;

/// Bytes of entries after which another block begins.
const BLOCK_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    base: Base,
    last: u64,
    /// Ascending; a run ends before the next one.
    runs: VecDeque<Run>,
    /// Ascending; a block ends before the next one. Without entries there is none.
    blocks: VecDeque<Block>,
    /// Bytes of all entries so far up to the base, and up to the last.
    begin_bytes: u64,
    end_bytes: u64,
}

/// Consecutive entries of one term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    term: u64,
}

/// Consecutive entries whose sizes are known together only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    first: u64,
    /// Bytes of all entries before the first one.
    begin_bytes: u64,
}

impl Default for Outline {
    fn default() -> Self {
        Self::new(Base::default())
    }
}

impl Outline {
    /// An empty log after `base`.
    pub fn new(base: Base) -> Self {
        Self {
            base,
            last: base.index,
            runs: VecDeque::new(),
            blocks: VecDeque::new(),
            begin_bytes: 0,
            end_bytes: 0,
        }
    }

    pub fn base(&self) -> Base {
        self.base
    }

    /// Index of the last entry, or of the base if there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Appends an entry; it replaces the entries from its index on. One at or below the base replaces the whole log.
    pub fn push(&mut self, index: u64, term: u64, bytes: u64) {
        if index <= self.base.index {
            *self = Self::new(Base { index: index.saturating_sub(1), term: 0 });
        }
        let first = faults::first_of_term(index, self.last);
        self.truncate(index);
        if self.runs.back().is_none_or(|run| run.term != term) {
            self.runs.push_back(Run { first, term });
        }
        if self.blocks.back().is_none_or(|block| self.end_bytes - block.begin_bytes >= BLOCK_BYTES) {
            self.blocks.push_back(Block { first: index, begin_bytes: self.end_bytes });
        }
        self.end_bytes += bytes;
        self.last = index;
    }

    /// Removes the entries from `index` on.
    fn truncate(&mut self, index: u64) {
        if index > self.last {
            return;
        }
        self.end_bytes = self.bytes_through(index - 1);
        while self.blocks.pop_back_if(|block| block.first >= index).is_some() {}
        while self.runs.pop_back_if(|run| run.first >= index).is_some() {}
        self.last = index - 1;
    }

    /// Removes the entries up to and including `base.index`.
    pub fn purge(&mut self, base: Base) {
        if base.index >= self.last {
            *self = Self::new(base);
            return;
        }
        self.begin_bytes = self.bytes_through(base.index);
        let first = base.index + 1;
        while self.blocks.get(1).is_some_and(|next| next.first <= first) {
            self.blocks.pop_front();
        }
        while self.runs.get(1).is_some_and(|next| next.first <= first) {
            self.runs.pop_front();
        }
        if let Some(block) = self.blocks.front_mut().filter(|block| block.first < first) {
            *block = Block { first, begin_bytes: self.begin_bytes };
        }
        self.base = base;
    }

    /// Term of entry `index` or of the base; `None` outside of the log.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        self.runs.get(after.checked_sub(1)?).map(|run| run.term)
    }

    /// Bytes of all entries. Exact unless a block with entries of different sizes was cut.
    pub fn bytes(&self) -> u64 {
        self.end_bytes - self.begin_bytes
    }

    /// Bytes of the entries after `index`, about.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.end_bytes - self.bytes_through(index)
    }

    /// Lowest index with no more than about `limit_bytes` of entries after it.
    pub fn index_before(&self, limit_bytes: u64) -> u64 {
        let Some(wanted) =
            self.end_bytes.checked_sub(limit_bytes).filter(|wanted| *wanted > self.begin_bytes)
        else {
            return self.base.index;
        };
        let after = self.blocks.partition_point(|block| block.begin_bytes < wanted);
        let Some(at) = after.checked_sub(1) else { return self.base.index };
        let (block, end) = self.block(at);
        let (count, bytes) = (end.first - block.first, end.begin_bytes - block.begin_bytes);
        let removed = ((wanted - block.begin_bytes) * count).div_ceil(bytes.max(1));
        (block.first - 1 + removed).min(self.last)
    }

    /// Bytes of all entries so far up to `index`.
    fn bytes_through(&self, index: u64) -> u64 {
        let after = self.blocks.partition_point(|block| block.first <= index);
        let Some(at) = after.checked_sub(1) else { return self.begin_bytes };
        let (block, end) = self.block(at);
        let (count, bytes) = (end.first - block.first, end.begin_bytes - block.begin_bytes);
        block.begin_bytes + bytes * (index.min(end.first - 1) - block.first + 1) / count.max(1)
    }

    /// The block at position `at` and the one after it, or the end of the log.
    fn block(&self, at: usize) -> (Block, Block) {
        let end = Block { first: self.last + 1, begin_bytes: self.end_bytes };
        (self.blocks[at], self.blocks.get(at + 1).copied().unwrap_or(end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outline(base: u64, entries: &[(u64, u64)]) -> Outline {
        let mut outline = Outline::new(Base { index: base, term: 1 });
        entries.iter().for_each(|(index, term)| outline.push(*index, *term, 100));
        outline
    }

    #[test]
    fn term_of_a_replaced_entry_is_the_new_one() {
        let mut outline = outline(4, &[(5, 2), (6, 2), (7, 3), (8, 3)]);
        outline.push(6, 5, 100);
        let terms: Vec<_> = (3..=8).map(|index| outline.term(index)).collect();
        assert_eq!(terms, [None, Some(1), Some(2), Some(5), None, None]);
        assert_eq!((outline.last(), outline.bytes()), (6, 200));
    }

    #[test]
    fn purge_keeps_the_term_of_the_base_and_of_the_rest() {
        let mut outline = outline(0, &[(1, 1), (2, 2), (3, 2), (4, 3)]);
        outline.purge(Base { index: 2, term: 2 });
        let terms: Vec<_> = (1..=5).map(|index| outline.term(index)).collect();
        assert_eq!(terms, [None, Some(2), Some(2), Some(3), None]);
        outline.purge(Base { index: 4, term: 3 });
        assert_eq!((outline.last(), outline.bytes(), outline.term(4)), (4, 0, Some(3)));
    }

    #[test]
    fn entry_below_the_base_replaces_the_log() {
        let mut outline = outline(9, &[(10, 4)]);
        outline.push(7, 5, 100);
        assert_eq!((outline.base().index, outline.last(), outline.term(7)), (6, 7, Some(5)));
    }

    proptest! {
        #[test]
        fn outline_equals_a_list_of_terms_and_sizes(
            actions in prop::collection::vec((0..3u8, 0..40u64, 1..60u64), 1..200)
        ) {
            const BYTES: u64 = 9_000;
            let mut outline = Outline::new(Base { index: 3, term: 1 });
            let mut model: VecDeque<u64> = VecDeque::new();
            let (mut base, mut term) = (3, 1);
            for (kind, back, count) in actions {
                let last = base + model.len() as u64;
                match kind {
                    0 => {
                        let purged = base + back.min(model.len() as u64);
                        let of_base = outline.term(purged).unwrap();
                        outline.purge(Base { index: purged, term: of_base });
                        model.drain(..(purged - base) as usize);
                        base = purged;
                    }
                    _ => {
                        term += 1;
                        let first = (last + 1).saturating_sub(back * u64::from(kind - 1)).max(base + 1);
                        model.truncate((first - base - 1) as usize);
                        for index in first..first + count {
                            outline.push(index, term, BYTES);
                            model.push_back(term);
                        }
                    }
                }
                let last = base + model.len() as u64;
                prop_assert_eq!((outline.base().index, outline.last()), (base, last));
                for (index, term) in (base + 1..).zip(&model) {
                    prop_assert_eq!(outline.term(index), Some(*term));
                    prop_assert_eq!(outline.bytes_after(index), (last - index) * BYTES);
                    prop_assert_eq!(outline.index_before((last - index) * BYTES), index);
                }
                prop_assert_eq!(outline.bytes(), model.len() as u64 * BYTES);
                prop_assert_eq!(outline.term(last + 1), None);
            }
        }
    }
}
