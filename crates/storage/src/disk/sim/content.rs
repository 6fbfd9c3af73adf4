//! The content of one simulated file: the page cache that readers see, and the durable bytes.

use std::collections::BTreeSet;

use super::Random;

/// Unit of a disk write, in bytes. A power cut during the write does not damage neighbouring sectors.
pub const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Content in the page cache.
    pub seen: Vec<u8>,
    /// Content on the platter.
    pub durable: Vec<u8>,
    /// Sectors of `seen` that were written since the last sync.
    unsynced: BTreeSet<usize>,
    /// The last written sector.
    last: usize,
    /// Whether the file was truncated to zero since the last sync. Later writes then use new blocks, and a
    /// power cut restores `durable` if the truncation never reached the disk.
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
            // If the file grows again, zeros replace the truncated bytes.
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

    /// Simulates a failed sync: readers still see the data, but no later sync writes it (docs/design/node.md,
    /// pitfall 4).
    pub fn drop_unsynced(&mut self) {
        self.unsynced.clear();
    }

    /// Simulates a power cut: keeps all unsynced sectors, none, or a random choice of them, the last written
    /// one possibly torn.
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

    /// Drops all unsynced changes.
    pub fn lose_unsynced(&mut self) {
        *self = Self {
            seen: self.durable.clone(),
            durable: std::mem::take(&mut self.durable),
            ..Self::default()
        };
    }

    /// Flips one bit of a durable byte without reporting an error.
    pub fn flip(&mut self, byte: usize, bit: u32) {
        self.durable[byte] ^= 1 << bit;
        if !self.emptied && !self.unsynced.contains(&(byte / SECTOR)) {
            self.seen[byte] ^= 1 << bit;
        }
    }

    /// Returns the number of durable bytes up to the last nonzero one: the part where a flipped bit can
    /// matter.
    pub fn durable_used(&self) -> usize {
        self.durable.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }
}
