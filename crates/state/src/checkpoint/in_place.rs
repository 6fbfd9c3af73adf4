//! Checkpoints of an engine that is modified in place: the difference of the overlay to the engine is journaled, then
//! written, so that a crash leaves all of it or none.

use std::sync::Arc;

use super::super::engines::{InPlaceEngine, RawWrite};
use super::super::meta::{Digest, Record};
use super::super::shared::Frozen;
use super::super::store::Image;
use super::super::{Applied, StateError, Store, journal};
use crate::engines::Backend;
use crate::faults;

/// A checkpoint whose journal is on disk.
struct Planned {
    generation: u64,
    engine: Arc<dyn InPlaceEngine>,
    record: Record,
    writes: Vec<RawWrite>,
}

impl Store {
    pub(super) fn checkpoint_in_place(
        &self,
        image: &mut Image,
        engine: Arc<dyn InPlaceEngine>,
        frozen: Frozen,
    ) -> Result<Applied, StateError> {
        let planned = match self.plan(image, engine, frozen) {
            Ok(planned) => planned,
            Err(error) => {
                self.abandon(image, &error);
                return Err(error);
            }
        };
        let result = self.write_out(image, planned);
        if let Err(error) = &result {
            image.failure = Some(error.to_string());
        }
        result
    }

    /// Computes the writes of the checkpoint and makes their journal durable. Does not modify the engine.
    fn plan(
        &self,
        image: &Image,
        mut engine: Arc<dyn InPlaceEngine>,
        frozen: Frozen,
    ) -> Result<Planned, StateError> {
        let Frozen { overlay, meta } = frozen;
        let mut record = Record { meta, digest: image.record.digest };
        let mut generation = image.generation;
        if faults::replaces_engine(overlay.is_cleared()) {
            // A new engine instead of a removal for every key: atomic, and it frees the disk space.
            let (next, backend) = self.next_generation(image)?;
            if let Backend::InPlace(blank) = backend {
                (generation, engine) = (next, blank);
            }
            record.digest = Digest::default();
        }
        let mut writes = Vec::new();
        for (key, slot) in overlay.slots() {
            let old = engine.get(&key).map_err(StateError::engine("read"))?;
            if old == slot {
                continue;
            }
            if let Some(old) = &old {
                record.digest.remove(&key, old);
            }
            if let Some(new) = &slot {
                record.digest.add(&key, new);
            }
            writes.push((key, slot));
        }
        record.meta.applied.index = faults::checkpoint_index(record.meta.applied.index);
        writes.push((Record::key(), Some(record.encode())));
        if let Some(home) = &image.home
            && faults::needs_journal(image.is_committed && generation == image.generation)
        {
            journal::write(home.disk().as_ref(), &home.journal(), generation, &writes)?;
            home.sync()?;
        }
        Ok(Planned { generation, engine, record, writes })
    }

    /// Cleans up after a failed plan. On a full disk the overlay stays frozen for the next attempt; any other
    /// error ends all checkpoints.
    fn abandon(&self, image: &mut Image, error: &StateError) {
        if !error.is_disk_full() {
            image.failure = Some(error.to_string());
        } else if let Some(home) = &image.home
            && let Err(error) = home.remove_journal()
        {
            tracing::warn!(%error, "cannot remove an incomplete journal; the next checkpoint overwrites it");
        }
    }

    fn write_out(&self, image: &mut Image, planned: Planned) -> Result<Applied, StateError> {
        let Planned { generation, engine, record, writes } = planned;
        engine.write(&writes).map_err(StateError::engine("write"))?;
        engine.sync().map_err(StateError::engine("sync"))?;

        let applied = record.meta.applied;
        self.commit(image, generation, Backend::InPlace(engine), record)?;
        self.publish_checkpoint(image);
        self.remove_replaced(image);
        Ok(applied)
    }
}
