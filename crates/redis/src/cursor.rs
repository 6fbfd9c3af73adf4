//! Cursors of `SCAN` without state on the server.
//!
//! A cursor is a 53-bit hash of the key to return next (every client can represent 53 bits; cursor 0 means
//! start or end). The node that issued a cursor finds its key in a small table. Another node, or the same node
//! after the table dropped it, finds the key by a walk over its own keys. The cursor is rejected only if that
//! key was deleted too; the client then starts again at 0.
//!
//! A step moves strictly forward in key order. So an iteration ends, and a key that exists throughout is
//! returned, whatever is written meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

const REMEMBERED: usize = 4096;
const MAX_KEY_BYTES: usize = 1024;
const CURSOR_BITS: u32 = 53;
/// Walk over the keys; a walk over the elements of a key has its cursor, which is never 0.
const KEYS: u64 = 0;

/// Cursors that this node issued: the newest 4,096, at most 4 MiB of keys.
#[derive(Debug, Default)]
pub struct Cursors {
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    /// By what is walked over, and the cursor.
    keys: HashMap<(u64, u64), Bytes>,
    order: VecDeque<(u64, u64)>,
}

impl Cursors {
    /// Issues the cursor that resumes a walk over the keys at `key`.
    pub fn issue(&self, key: &[u8]) -> u64 {
        self.issue_in(KEYS, key)
    }

    /// Issues the cursor that resumes a walk over the elements of `key` at `element`.
    pub fn issue_element(&self, key: &[u8], element: &[u8]) -> u64 {
        self.issue_in(cursor_of(key), element)
    }

    fn issue_in(&self, walked: u64, key: &[u8]) -> u64 {
        let cursor = cursor_of(key);
        if key.len() <= MAX_KEY_BYTES {
            let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
            // Copied: a slice would keep the whole block in memory that it was read from.
            if issued.keys.insert((walked, cursor), Bytes::copy_from_slice(key)).is_none() {
                issued.order.push_back((walked, cursor));
            }
            if issued.order.len() > REMEMBERED
                && let Some(oldest) = issued.order.pop_front()
            {
                issued.keys.remove(&oldest);
            }
        }
        cursor
    }

    /// Returns the key that `cursor` resumes at, if it is still in the table.
    pub fn key(&self, cursor: u64) -> Option<Bytes> {
        self.key_in(KEYS, cursor)
    }

    /// Returns the element of `key` that `cursor` resumes at, if it is still in the table.
    pub fn element(&self, key: &[u8], cursor: u64) -> Option<Bytes> {
        self.key_in(cursor_of(key), cursor)
    }

    fn key_in(&self, walked: u64, cursor: u64) -> Option<Bytes> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.keys.get(&(walked, cursor)).cloned()
    }
}

/// Returns the cursor of `key`, the same on every node: FNV-1a folded to 53 bits, never 0.
pub fn cursor_of(key: &[u8]) -> u64 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let folded = (hash ^ (hash >> CURSOR_BITS)) & ((1 << CURSOR_BITS) - 1);
    folded.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_table_is_bounded_and_drops_the_oldest() {
        let cursors = Cursors::default();
        let issued: Vec<u64> =
            (0..REMEMBERED + 1).map(|number| cursors.issue(format!("key-{number}").as_bytes())).collect();
        assert_eq!(cursors.key(issued[0]), None);
        assert_eq!(cursors.key(issued[1]), Some(Bytes::from("key-1")));
        assert_eq!(cursors.key(issued[REMEMBERED]), Some(Bytes::from(format!("key-{REMEMBERED}"))));
        assert_eq!(cursors.issued.lock().unwrap().keys.len(), REMEMBERED);
        assert_eq!(cursors.key(cursors.issue(&[b'x'; MAX_KEY_BYTES + 1])), None);
    }

    #[test]
    fn a_cursor_fits_a_double_and_is_never_zero() {
        for key in ["", "a", "user:1", "user:2"] {
            let cursor = cursor_of(key.as_bytes());
            assert!(cursor > 0 && cursor < 1 << CURSOR_BITS, "{key}");
        }
    }
}
