//! The content of one simulated file: what its readers see, and what a power cut may leave of it.

use std::collections::BTreeSet;

use super::Random;

/// What a disk writes whole, in bytes. Its neighbours are safe while it is written.
pub const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub struct Content {
    /// As in the page cache.
    pub seen: Vec<u8>,
    /// As on the platter.
    pub durable: Vec<u8>,
    /// Sectors of `seen` that were written since the last sync.
    unsynced: BTreeSet<usize>,
    /// The one of them that was written last.
    last: usize,
    /// Emptied since the last sync: what was written since has blocks of its own, and `durable` is
    /// what comes back if the emptying never reached the disk.
    emptied: bool,
}

impl Content {
    pub fn read(&self, buffer: &mut [u8], offset: usize) -> usize {
        let rest = self.seen.get(offset..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        read
    }

    pub fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if end > self.seen.len() {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.last = (end - 1) / SECTOR;
        self.unsynced.extend(offset / SECTOR..=self.last);
    }

    pub fn empty(&mut self) {
        self.seen.clear();
        self.unsynced.clear();
        self.emptied = true;
    }

    pub fn set_len(&mut self, len: usize) {
        let (old, new) = (self.seen.len(), len);
        self.seen.resize(new, 0);
        if new < old {
            // Should the file grow again, zeros take the place of what was cut off.
            self.unsynced.extend(new / SECTOR..old.div_ceil(SECTOR));
        }
    }

    pub fn sync(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if std::mem::take(&mut self.emptied) {
            self.durable.clear();
        }
        self.durable.resize(self.seen.len(), 0);
        for sector in unsynced {
            let start = (sector * SECTOR).min(self.seen.len());
            let range = start..((sector + 1) * SECTOR).min(self.seen.len());
            self.durable[range.clone()].copy_from_slice(&self.seen[range]);
        }
    }

    /// A sync that failed: readers go on seeing what no later sync will write (docs/design/node.md, pitfall 4).
    pub fn drop_unsynced(&mut self) {
        self.unsynced.clear();
    }

    /// A power cut: of what was not synced all is kept, or none, or each sector by chance, the last
    /// one perhaps in part.
    pub fn crash(&mut self, random: &mut Random) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if std::mem::take(&mut self.emptied) && random.coin() {
            self.durable.clear();
        }
        if self.seen.len() >= self.durable.len() {
            self.keep_some(&unsynced, random);
        }
        self.seen.clone_from(&self.durable);
    }

    fn keep_some(&mut self, unsynced: &BTreeSet<usize>, random: &mut Random) {
        let fate = random.below(3);
        if fate == 0 {
            return;
        }
        let keeps_all = fate == 1;
        let grown = (self.seen.len() - self.durable.len()) as u64;
        let kept = if keeps_all || random.coin() { grown } else { random.below(grown + 1) };
        self.durable.resize(self.durable.len() + kept as usize, 0);
        for &sector in unsynced {
            let start = (sector * SECTOR).min(self.durable.len());
            let mut end = ((sector + 1) * SECTOR).min(self.durable.len());
            if !keeps_all {
                match random.below(3) {
                    0 => continue,
                    1 if sector == self.last => end = start + random.below((end - start) as u64 + 1) as usize,
                    _ => {}
                }
            }
            self.durable[start..end].copy_from_slice(&self.seen[start..end]);
        }
    }

    /// The file as it would be if all that was not synced were lost.
    pub fn lose_unsynced(&mut self) {
        *self = Self {
            seen: self.durable.clone(),
            durable: std::mem::take(&mut self.durable),
            ..Self::default()
        };
    }

    /// Changes one bit of what was durable, silently.
    pub fn flip(&mut self, byte: usize, bit: u32) {
        self.durable[byte] ^= 1 << bit;
        if !self.emptied && !self.unsynced.contains(&(byte / SECTOR)) {
            self.seen[byte] ^= 1 << bit;
        }
    }

    /// Bytes up to the last one that is not zero: the part where a flipped bit can matter.
    pub fn durable_used(&self) -> usize {
        self.durable.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }
}
