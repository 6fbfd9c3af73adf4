//! Positions of the keys in a request, and the access of its command to them.

use super::{Flags, Spec};

impl Spec {
    /// Returns the positions of all keys of a request (its words, the name first); `None` if its count of keys
    /// is invalid.
    pub fn key_positions(&self, words: &[impl AsRef<[u8]>]) -> Option<Vec<usize>> {
        let counted = self.keys.counted(words)?;
        let stored = (self.name == "sort").then(|| stored_at(words)).flatten();
        Some(self.keys.positions(words.len()).chain(counted).chain(stored).collect())
    }

    /// Whether a request may have no key at all, although its command takes keys.
    pub fn may_lack_keys(&self) -> bool {
        self.name.starts_with("eval")
    }

    /// Returns the access flags of the first key and of the other keys, in Redis's terms: RO, RW, OW
    /// (overwrites), RM.
    pub fn key_access(&self) -> [&'static str; 2] {
        if let Some(state) = self.state {
            return state.access;
        }
        match self.name {
            "watch" => ["RO"; 2],
            "blmove" | "brpoplpush" => ["RW access delete", "RW insert"],
            "blmpop" | "blpop" | "brpop" | "bzmpop" | "bzpopmax" | "bzpopmin" => ["RW access delete"; 2],
            _ if self.has(Flags::WRITE) || matches!(self.name, "eval" | "evalsha") => ["RW access update"; 2],
            _ => ["RO access"; 2],
        }
    }
}

/// Returns the position of the key that `SORT` stores its result under: the last `STORE` counts.
fn stored_at(words: &[impl AsRef<[u8]>]) -> Option<usize> {
    let is = |word: &[u8], option: &str| word.eq_ignore_ascii_case(option.as_bytes());
    let (mut at, mut stored) = (2, None);
    while let Some(word) = words.get(at) {
        at += match word.as_ref() {
            word if is(word, "store") => {
                stored = Some(at + 1).filter(|at| *at < words.len());
                2
            }
            word if is(word, "limit") => 3,
            word if is(word, "by") || is(word, "get") => 2,
            _ => 1,
        };
    }
    stored
}
