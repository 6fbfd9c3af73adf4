//! Positions of the keys in a request.

/// Positions of the keys in a request. `first` 0: no keys there; `last` negative: counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    pub first: i32,
    pub last: i32,
    pub step: i32,
    /// Position of the word that counts further keys, which follow it; 0: there is none.
    pub counted_at: usize,
}

pub const NONE: Keys = Keys { first: 0, last: 0, step: 0, counted_at: 0 };
pub const ONE: Keys = Keys { first: 1, last: 1, step: 1, ..NONE };
pub const TWO: Keys = Keys { first: 1, last: 2, step: 1, ..NONE };
/// One key behind a subcommand.
pub const SECOND: Keys = Keys { first: 2, last: 2, step: 1, ..NONE };
pub const ALL: Keys = Keys { first: 1, last: -1, step: 1, ..NONE };
/// All words but the last, which is a timeout.
pub const BUT_LAST: Keys = Keys { first: 1, last: -2, step: 1, ..NONE };
pub const BITOP: Keys = Keys { first: 2, last: -1, step: 1, ..NONE };
pub const PAIRS: Keys = Keys { first: 1, last: -1, step: 2, ..NONE };
pub const COUNTED: Keys = Keys { counted_at: 1, ..NONE };
/// Counted keys behind a script or a timeout.
pub const COUNTED_SECOND: Keys = Keys { counted_at: 2, ..NONE };
/// Destination of the result, then the counted source keys.
pub const ONE_AND_COUNTED: Keys = Keys { counted_at: 2, ..ONE };

impl Keys {
    pub fn is_none(self) -> bool {
        self == NONE
    }

    /// Returns the positions of the keys in a request of `words` words, without the counted keys.
    pub fn positions(self, words: usize) -> impl Iterator<Item = usize> + Clone {
        let Self { first, last, step, .. } = self;
        let words = words as i32;
        let last = if last < 0 { words + last } else { last.min(words - 1) };
        let end = if first > 0 { last + 1 } else { 0 };
        (first..end).step_by(step.max(1) as usize).map(|position| position as usize)
    }

    /// Returns the positions of the counted keys; `None` if the count is no number or exceeds the words behind
    /// it.
    pub fn counted(self, words: &[impl AsRef<[u8]>]) -> Option<std::ops::Range<usize>> {
        if self.counted_at == 0 {
            return Some(0..0);
        }
        let count = std::str::from_utf8(words.get(self.counted_at)?.as_ref()).ok()?;
        let first = self.counted_at + 1;
        let end = first.checked_add(count.parse().ok()?)?;
        (end <= words.len()).then_some(first..end)
    }
}
