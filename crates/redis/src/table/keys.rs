//! Positions of the keys in a request, and the access of its command to them.

use super::Spec;

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
    fn counted(self, words: &[impl AsRef<[u8]>]) -> Option<std::ops::Range<usize>> {
        if self.counted_at == 0 {
            return Some(0..0);
        }
        let count = std::str::from_utf8(words.get(self.counted_at)?.as_ref()).ok()?;
        let first = self.counted_at + 1;
        let end = first.checked_add(count.parse().ok()?)?;
        (end <= words.len()).then_some(first..end)
    }
}

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
        match self.name {
            "exists" | "hexists" | "hlen" | "hstrlen" | "llen" | "memory|usage" | "object|encoding"
            | "object|freq" | "object|idletime" | "object|refcount" | "scard" | "sismember" | "strlen"
            | "touch" | "type" | "watch" | "zcard" => ["RO"; 2],
            "sort" | "copy" => ["RO access", "OW update"],
            "bitop" | "sunionstore" | "zdiffstore" | "zinterstore" | "zrangestore" | "zunionstore" => {
                ["OW update", "RO access"]
            }
            "sdiffstore" | "sinterstore" => ["RW update", "RO access"],
            "blmove" | "brpoplpush" | "lmove" | "rpoplpush" | "smove" => ["RW access delete", "RW insert"],
            "rename" => ["RW access delete", "OW update"],
            "renamenx" => ["RW access delete", "OW insert"],
            "blmpop" | "blpop" | "brpop" | "bzmpop" | "bzpopmax" | "bzpopmin" | "getdel" | "lmpop"
            | "lpop" | "rpop" | "spop" | "zmpop" | "zpopmax" | "zpopmin" => ["RW access delete"; 2],
            "del" | "unlink" => ["RM delete"; 2],
            "hdel" | "lrem" | "ltrim" | "srem" | "zrem" | "zremrangebylex" | "zremrangebyrank"
            | "zremrangebyscore" => ["RW delete"; 2],
            "append" | "hsetnx" | "linsert" | "lpush" | "lpushx" | "rpush" | "rpushx" | "sadd" => {
                ["RW insert"; 2]
            }
            "mset" | "psetex" | "restore" | "set" | "setex" => ["OW update"; 2],
            "msetnx" | "setnx" => ["OW insert"; 2],
            "expire" | "expireat" | "hmset" | "hset" | "lset" | "persist" | "pexpire" | "pexpireat"
            | "setrange" | "zadd" => ["RW update"; 2],
            _ if self.has_flag("write") || matches!(self.name, "eval" | "evalsha") => ["RW access update"; 2],
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
