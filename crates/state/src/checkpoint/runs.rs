//! Checkpoints and merges of the engine `runs`.

use std::ops::ControlFlow;
use std::sync::Arc;

use helios_runs::Runs;

use super::super::home::Home;
use super::super::meta::{Digest, Record};
use super::super::shared::{Frozen, State};
use super::super::store::Image;
use super::super::{Applied, StateError, Store};
use super::HEADROOM_BYTES;
use crate::engines::Backend;
use crate::faults;

impl Store {
    pub(super) fn checkpoint_runs(
        &self,
        image: &mut Image,
        runs: &Arc<Runs>,
        frozen: Frozen,
    ) -> Result<Applied, StateError> {
        let Frozen { overlay, mut meta } = frozen;
        meta.applied.index = faults::checkpoint_index(meta.applied.index);
        let applied = meta.applied;
        // Checksums of the blocks replace the digest, which would need the old value of every key.
        let record = Record { meta, digest: Digest::default() };
        let written = runs.checkpoint(overlay.slots(), overlay.is_cleared(), record.encode());
        let written = written.map_err(|error| StateError::engine("write")(error.into()));
        let committed = written.and_then(|_| {
            let backend = Backend::Runs(Arc::clone(runs));
            self.commit(image, image.generation, backend, record)
        });
        // It reads filters, for the tombstones that may be left out.
        if let Err(error) = committed.map_err(|error| self.note_damage(error)) {
            if !error.is_disk_full() {
                image.failure = Some(error.to_string());
            }
            return Err(error);
        }
        self.publish_checkpoint(image);
        // Freed here and not by a reader: tens of megabytes.
        drop(overlay);
        Ok(applied)
    }

    /// Executes the merge that is due in the engine `runs`, beside checkpoints and reads. Returns false if none is due
    /// or the disk has no room for one. Called by one thread only. With `is_idle`, merges that only save disk space are
    /// due earlier. `pace` is called with the bytes that were read, and may wait; if it breaks, nothing is merged.
    pub fn merge_runs(
        &self,
        is_idle: bool,
        pace: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<bool, StateError> {
        self.check()?;
        let (runs, job) = {
            let image = self.inner.image();
            let Backend::Runs(runs) = &image.backend else { return Ok(false) };
            let free = image.home.as_ref().map_or(u64::MAX, Home::free_bytes);
            let Some(job) = runs.pick(free.saturating_sub(HEADROOM_BYTES), is_idle) else { return Ok(false) };
            (Arc::clone(runs), job)
        };
        let merged = runs.merge(&job, pace);
        let image = self.inner.image();
        let is_current = matches!(&image.backend, Backend::Runs(current) if Arc::ptr_eq(current, &runs));
        // A restore may have replaced the engine and removed its files meanwhile.
        if image.failure.is_some() || !is_current {
            return Ok(false);
        }
        let committed = merged.and_then(|merged| merged.map_or(Ok(None), |merged| runs.commit(&job, merged)));
        let committed =
            committed.map_err(|error| self.note_damage(StateError::engine("merge")(error.into())))?;
        let is_merged = committed.is_some();
        if is_merged {
            let published = &self.inner.published;
            let writer = published.writer();
            let next = State { engine: image.backend.reader(), ..published.peek(State::clone) };
            published.publish(&writer, next);
        }
        Ok(is_merged)
    }
}
