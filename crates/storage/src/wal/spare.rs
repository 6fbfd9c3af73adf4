//! Spare segments: files written to their full length in advance, so that an append allocates no blocks
//! and its `fdatasync` writes no metadata. `fallocate` is not enough: the first write of each block then
//! still changes the extent tree.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use super::directory::Directory;
use super::{WalError, WalOptions};
use crate::disk::{self, DiskFile, Kind};

/// Number of segments beyond the target that are kept as spares when they are purged. The next segments of the log take
/// them. Without it a spare is built as soon as a segment begins, and the segment that a purge frees a moment later is
/// one too many: every byte of the log is then written twice, the first time as a zero.
const KEPT_BEYOND_TARGET: usize = 2;
/// Bytes written and synced in one [`Spares::step`]; limits the time by which a step delays an append.
const STEP_BYTES: usize = 1 << 20;

pub struct Spares {
    ready: VecDeque<u64>,
    draft: Option<Draft>,
    segment_bytes: u64,
    target: usize,
}

struct Draft {
    file: Box<dyn DiskFile>,
    written: u64,
    left: u64,
}

impl Spares {
    /// Adopts the spares in `found` that have the configured size, as many as are kept, and removes the rest.
    pub fn open(dir: &Directory, found: &[u64], options: &WalOptions) -> Result<Self, WalError> {
        let WalOptions { segment_bytes, spare_segments: target } = *options;
        let mut spares = Self { ready: VecDeque::new(), draft: None, segment_bytes, target };
        for &number in found {
            let path = dir.spare_path(number);
            let length =
                dir.disk().open(&path).and_then(|file| file.len()).map_err(WalError::io("inspect", &path))?;
            if length == segment_bytes && spares.ready.len() < target + KEPT_BEYOND_TARGET {
                spares.ready.push_back(number);
            } else {
                dir.remove(&path)?;
            }
        }
        if dir.disk().kind(&dir.draft_path()) == Some(Kind::File) {
            dir.remove(&dir.draft_path())?;
        }
        Ok(spares)
    }

    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Does a bounded part of the work towards the target count; returns whether work is left.
    pub fn step(&mut self, dir: &Directory) -> Result<bool, WalError> {
        if self.ready.len() >= self.target {
            return Ok(false);
        }
        self.check_room(dir)?;
        self.build_part(dir)?;
        Ok(self.ready.len() < self.target)
    }

    /// Checks that the disk has space for a missing spare and as much again: a smaller remainder is left to
    /// snapshots and the state. [`WalError::NoSpare`] if it has not.
    pub fn check_room(&self, dir: &Directory) -> Result<(), WalError> {
        if self.ready.len() >= self.target || self.draft.is_some() {
            return Ok(());
        }
        require_space(dir, 2 * self.segment_bytes)
    }

    /// Creates spares until `count` are ready, even above the target count.
    pub fn reserve(&mut self, dir: &Directory, count: usize) -> Result<(), WalError> {
        while self.ready.len() < count {
            self.build_part(dir)?;
        }
        Ok(())
    }

    /// Removes the next spare from the ready ones and returns its number, creating one if there is none. The
    /// file keeps its spare name.
    pub fn take(&mut self, dir: &Directory) -> Result<u64, WalError> {
        loop {
            match self.ready.pop_front() {
                Some(number) => return Ok(number),
                None => self.build_part(dir)?,
            }
        }
    }

    /// Turns a segment that the log no longer needs into a spare, or removes it if its size differs or there
    /// are enough spares. A disk with little space keeps no more than the target.
    pub fn recycle(&mut self, dir: &Directory, segment: &Path, length: u64) -> Result<(), WalError> {
        let ready = self.ready.len();
        let has_room = || check_free(dir, 2 * self.segment_bytes).is_ok();
        let is_kept = length == self.segment_bytes
            && (ready < self.target || ready < self.target + KEPT_BEYOND_TARGET && has_room());
        if is_kept { self.publish(dir, segment) } else { dir.remove(segment) }
    }

    /// Writes the next part of a spare, and publishes it when it is complete. Nothing depends on the file
    /// before: after a failure it is removed, and the log stays usable.
    fn build_part(&mut self, dir: &Directory) -> Result<(), WalError> {
        let draft_path = dir.draft_path();
        let draft = match self.draft.take() {
            Some(draft) => check_free(dir, draft.left).map(|()| draft),
            None => {
                require_space(dir, self.segment_bytes)?;
                let file = dir.disk().create(&draft_path);
                file.map(|file| Draft { file, written: 0, left: self.segment_bytes })
            }
        };
        match draft.and_then(Draft::fill) {
            Ok(Some(draft)) => self.draft = Some(draft),
            Ok(None) => self.publish(dir, &draft_path)?,
            Err(source) => {
                // Frees the blocks. If this fails too, the next draft truncates the file.
                let _ = dir.disk().remove_file(&draft_path);
                return Err(WalError::NoSpare { dir: dir.path().to_owned(), source });
            }
        }
        Ok(())
    }

    fn publish(&mut self, dir: &Directory, file: &Path) -> Result<(), WalError> {
        let number = self.ready.back().map_or(1, |last| last + 1);
        dir.rename(file, &dir.spare_path(number))?;
        self.ready.push_back(number);
        Ok(())
    }
}

fn require_space(dir: &Directory, bytes: u64) -> Result<(), WalError> {
    check_free(dir, bytes).map_err(|source| WalError::NoSpare { dir: dir.path().to_owned(), source })
}

/// Fails with `StorageFull` if the disk has fewer free bytes than `bytes`. Checked before the write: a
/// half-written segment of zeros would use up the remaining space.
fn check_free(dir: &Directory, bytes: u64) -> io::Result<()> {
    match disk::short_of(dir.disk(), dir.path(), bytes) {
        Some(_) => Err(io::ErrorKind::StorageFull.into()),
        None => Ok(()),
    }
}

impl Draft {
    /// Writes and syncs the next part; returns `None` when the file is complete and durable.
    fn fill(mut self) -> io::Result<Option<Self>> {
        static ZEROS: [u8; STEP_BYTES] = [0; STEP_BYTES];
        let part = self.left.min(STEP_BYTES as u64);
        self.file.write_all_at(&ZEROS[..part as usize], self.written)?;
        self.written += part;
        self.left -= part;
        self.file.sync_all()?;
        Ok((self.left > 0).then_some(self))
    }
}
