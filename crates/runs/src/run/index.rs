//! The index of a part of a run.

use std::sync::Arc;

use bytes::Bytes;

use super::{Place, take_place};
use crate::block::Malformed;
use crate::fence::Fence;
use crate::format::{take_bytes, take_u32};

/// The index of a part: the last key and the place of each data block.
#[derive(Debug, Clone)]
pub struct Index {
    bytes: Bytes,
    /// End of the entries.
    end: usize,
    len: usize,
    /// Fence of the last keys; only in an index that stays in memory.
    fence: Option<Arc<Fence>>,
}

impl Index {
    pub fn new(bytes: Bytes) -> Result<Self, Malformed> {
        let positions = bytes.len().checked_sub(4).ok_or(Malformed)?;
        let len = take_u32(&mut &bytes[positions..]).ok_or(Malformed)? as usize;
        let end = len.checked_mul(4).and_then(|count| positions.checked_sub(count)).ok_or(Malformed)?;
        Ok(Self { bytes, end, len, fence: None })
    }

    /// Prepares [`Index::find_within`] for keys from `low` on, which is not above any key of the part.
    pub fn with_fence(self, low: &[u8]) -> Result<Self, Malformed> {
        let keys: Vec<&[u8]> = (0..self.len).map(|at| Ok(self.entry(at)?.0)).collect::<Result<_, _>>()?;
        let fence = Some(Arc::new(Fence::new(low, keys.iter().copied())));
        Ok(Self { fence, ..self.clone() })
    }

    /// Returns the number of blocks.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the first block whose last key is not below `key`; `None` if all keys are below.
    pub fn find(&self, key: &[u8]) -> Result<Option<usize>, Malformed> {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = (low + high) / 2;
            if self.entry(middle)?.0 < key { low = middle + 1 } else { high = middle }
        }
        Ok((low < self.len).then_some(low))
    }

    /// Returns the result of [`Index::find`] for a key of the part or between two of them.
    pub fn find_within(&self, key: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(fence) = &self.fence else { return self.find(key) };
        let number = fence.below(key, |at| self.entry(at).map_or(&[], |(last_key, _)| last_key));
        Ok((number < self.len).then_some(number))
    }

    pub fn place(&self, number: usize) -> Result<Place, Malformed> {
        Ok(self.entry(number)?.1)
    }

    pub fn entry(&self, number: usize) -> Result<(&[u8], Place), Malformed> {
        let at = take_u32(&mut &self.bytes[self.end + 4 * number..]).ok_or(Malformed)? as usize;
        let mut rest = self.bytes[..self.end].get(at..).ok_or(Malformed)?;
        let mut decode = || {
            let last_key = take_bytes(&mut rest)?;
            Some((last_key, take_place(&mut rest)?))
        };
        decode().ok_or(Malformed)
    }
}
