//! Opening of the state that an earlier process left: used only if its content matches its record.

use std::path::Path;
use std::sync::Arc;

#[cfg(any(test, feature = "simulation"))]
use super::engines::SimulatedEngine;
use super::engines::{EngineKind, MemoryEngine, RedbEngine, SledEngine, StateEngine};
use super::home::Home;
use super::meta::{Digest, Record};
use super::value::{META_KEY, is_data_key};
use super::{StateError, StoreOptions, journal};
use helios_storage::disk::Disk;

/// The state on disk, or the blank one that replaced it.
pub(super) struct Recovered {
    pub home: Home,
    pub engine: Arc<dyn StateEngine>,
    pub generation: u64,
    /// Whether `CURRENT` on disk names `generation`.
    pub is_committed: bool,
    pub record: Record,
    pub was_rebuilt: bool,
}

const FIRST_GENERATION: u64 = 1;

/// Opens the state in `dir`. A damaged state is set aside and replaced by a blank one.
pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, options: &StoreOptions) -> Result<Recovered, StateError> {
    let home = Home::open(disk, dir)?;
    let damage = match load(&home, options) {
        Ok(Some((engine, generation, record))) => {
            home.remove_generations_but(Some(generation))?;
            home.end_open()?;
            return Ok(Recovered {
                home,
                engine,
                generation,
                is_committed: true,
                record,
                was_rebuilt: false,
            });
        }
        Ok(None) => None,
        Err(error) if error.is_damage() => Some(error),
        Err(error) => {
            // The cause is the machine, not the state: the attempt does not count.
            home.end_open()?;
            return Err(error);
        }
    };
    let was_rebuilt = damage.is_some();
    let home = match damage {
        Some(error) => {
            tracing::error!(dir = %dir.display(), %error, "the state is damaged; rebuilding it from snapshot and log");
            home.set_aside()?
        }
        None => home,
    };
    home.remove_generations_but(None)?;
    home.remove_journal()?;
    let engine = open_generation(&home, FIRST_GENERATION, options)?;
    home.end_open()?;
    let record = Record::default();
    Ok(Recovered { home, engine, generation: FIRST_GENERATION, is_committed: false, record, was_rebuilt })
}

pub(super) fn open_generation(
    home: &Home,
    number: u64,
    options: &StoreOptions,
) -> Result<Arc<dyn StateEngine>, StateError> {
    let path = home.generation(number);
    let engine: Arc<dyn StateEngine> = match options.engine {
        EngineKind::Sled => {
            Arc::new(SledEngine::open(&path, options.cache_bytes).map_err(StateError::engine("open"))?)
        }
        EngineKind::Redb => {
            let opened = RedbEngine::open(home.disk().as_ref(), &path, options.cache_bytes);
            Arc::new(opened.map_err(StateError::engine("open"))?)
        }
        EngineKind::Memory => Arc::new(MemoryEngine::default()),
        #[cfg(any(test, feature = "simulation"))]
        EngineKind::Simulated => {
            let opened = SimulatedEngine::open(Arc::clone(home.disk()), &path);
            Arc::new(opened.map_err(StateError::engine("open"))?)
        }
    };
    Ok(engine)
}

type Loaded = (Arc<dyn StateEngine>, u64, Record);

/// Opens and verifies the current generation, after a replay of the journal; `None` if no checkpoint ever
/// completed.
pub(super) fn load(home: &Home, options: &StoreOptions) -> Result<Option<Loaded>, StateError> {
    home.begin_open()?;
    let Some(generation) = home.current()? else { return Ok(None) };
    let found = EngineKind::of(home.disk().as_ref(), &home.generation(generation));
    if found != options.engine {
        let wanted = options.engine;
        return Err(StateError::Damaged(format!(
            "written by {found:?}, but the engine is set to {wanted:?}"
        )));
    }
    let engine = open_generation(home, generation, options)?;
    if let Some(writes) = journal::read(home.disk().as_ref(), &home.journal(), generation)? {
        engine.write(&writes).map_err(StateError::engine("write"))?;
        engine.sync().map_err(StateError::engine("sync"))?;
    }
    let record = verify(engine.as_ref())?;
    home.remove_journal()?;
    Ok(Some((engine, generation, record)))
}

/// Reads the whole content and compares it with the record: after damage, sled may open with some pages older
/// than others and report no error.
fn verify(engine: &dyn StateEngine) -> Result<Record, StateError> {
    let raw = engine.get(META_KEY).map_err(StateError::engine("read"))?;
    let raw = raw.ok_or_else(|| StateError::Damaged("its record is missing".to_owned()))?;
    let record = Record::decode(&raw).map_err(|reason| StateError::Damaged(reason.to_owned()))?;
    let mut digest = Digest::default();
    let mut key_count = 0;
    for pair in engine.range(b"", None) {
        let (key, value) = pair.map_err(StateError::engine("read"))?;
        if key == META_KEY {
            continue;
        }
        digest.add(&key, &value);
        key_count += u64::from(is_data_key(&key));
    }
    let expected = record.meta.key_count;
    if key_count != expected {
        return Err(StateError::Damaged(format!("it has {key_count} keys, its record says {expected}")));
    }
    if digest != record.digest {
        return Err(StateError::Damaged("its content does not match the digest in its record".to_owned()));
    }
    Ok(record)
}
