//! Checkpoint: the overlay goes to the engine.

mod in_place;
mod runs;

use std::sync::Arc;

use super::engines::Backend;
use super::overlay::Overlay;
use super::shared::{Frozen, State};
use super::store::Image;
use super::{Applied, StateError, Store};
use helios_storage::disk::SetApart;

/// Free space in bytes that a checkpoint needs beyond its writes: for the engine's overhead, and for the
/// few small files without which a node does not start.
const HEADROOM_BYTES: u64 = 8 << 20;

impl Store {
    /// Writes the applied state to the engine and returns its applied index once it is durable. Called by
    /// the checkpoint thread only; entries are applied and read meanwhile.
    ///
    /// An error with [`StateError::is_disk_full`] changed nothing: call again when space is free. After any
    /// other error all further checkpoints fail until the node restarts; entries are still applied and read,
    /// and the log must be kept from the last successful checkpoint on.
    pub fn checkpoint(&self) -> Result<Applied, StateError> {
        self.check()?;
        let mut image = self.inner.image();
        if let Some(reason) = &image.failure {
            return Err(StateError::Stopped(reason.clone()));
        }
        if !self.is_behind(&image) {
            return Ok(image.record.meta.applied);
        }
        // Frozen before the space check, so that the overlay cannot grow after it.
        let frozen = self.freeze(&image.backend);
        let room = self.check_room(&image, &frozen)?;
        let _set_apart = SetApart::new(self.inner.disk.as_ref(), room);
        match image.backend.clone() {
            Backend::InPlace(engine) => self.checkpoint_in_place(&mut image, engine, frozen),
            Backend::Runs(runs) => self.checkpoint_runs(&mut image, &runs, frozen),
        }
    }

    fn is_behind(&self, image: &Image) -> bool {
        let state = self.inner.state();
        state.frozen.is_some() || state.meta.applied != image.record.meta.applied
    }

    /// Checks the disk space for a checkpoint and returns the bytes it needs. A run is smaller than its overlay. In
    /// place: the journal is smaller than the overlay, and sled writes up to twice the overlay. Checked before either
    /// is written: an engine that meets a full disk in the middle of a write is unusable until a restart.
    fn check_room(&self, image: &Image, frozen: &Frozen) -> Result<u64, StateError> {
        let factor = if matches!(image.backend, Backend::Runs(_)) { 1 } else { 3 };
        let needed_bytes = factor * frozen.overlay.bytes() as u64 + HEADROOM_BYTES;
        let Some(home) = &image.home else { return Ok(needed_bytes) };
        home.check_room("checkpoint the state", needed_bytes)?;
        Ok(needed_bytes)
    }

    /// Freezes the active overlay and returns it. An overlay whose checkpoint failed for lack of space is
    /// still frozen, and is returned first.
    fn freeze(&self, backend: &Backend) -> Frozen {
        let published = &self.inner.published;
        let writer = published.writer();
        let state = published.peek(State::clone);
        if let Some(frozen) = state.frozen {
            return frozen;
        }
        let frozen = Frozen { overlay: Arc::new(state.active), meta: state.meta.clone() };
        let next = State { active: Overlay::default(), frozen: Some(frozen.clone()), ..state };
        let earlier = published.publish_epoch(&writer, next);
        drop(writer);
        // An engine that is modified in place waits for all readers of a state without the frozen overlay.
        if matches!(backend, Backend::InPlace(_)) {
            earlier.wait();
        }
        frozen
    }

    /// Publishes the engine of `image` without the overlay that is in it now.
    fn publish_checkpoint(&self, image: &Image) {
        let published = &self.inner.published;
        let writer = published.writer();
        let State { frozen, engine: written, .. } = published.peek(State::clone);
        let next = State { frozen: None, engine: image.backend.reader(), ..published.peek(State::clone) };
        let earlier = published.publish_epoch(&writer, next);
        drop(writer);
        if matches!(image.backend, Backend::InPlace(_)) {
            earlier.wait();
        }
        // Tens of megabytes are freed; nothing waits for the checkpoint thread.
        drop((frozen, written));
    }
}
