//! Opening of the state that an earlier process left: used only if it is whole. The content of an engine that is modified
//! in place is compared with its record; `runs` checks each block when it is read.

use std::path::Path;
use std::sync::Arc;

#[cfg(any(test, feature = "simulation"))]
use super::engines::SimulatedEngine;
use super::engines::{Backend, EngineKind, RedbEngine, SledEngine, StateEngine};
use super::home::Home;
use super::meta::{Digest, Record};
use super::restore::Loader;
use super::snapshot_set::copy_pairs;
use super::value::{META_KEY, is_data_key};
use super::{StateError, StoreOptions, journal};
use helios_runs::Runs;
use helios_storage::disk::Disk;

/// The state on disk, or the blank one that replaced it.
pub(super) struct Recovered {
    pub home: Home,
    pub backend: Backend,
    pub generation: u64,
    /// Whether `CURRENT` on disk names `generation`.
    pub is_committed: bool,
    pub record: Record,
    pub was_rebuilt: bool,
}

const FIRST_GENERATION: u64 = 1;
/// Free space in bytes that a conversion leaves.
const CONVERSION_HEADROOM_BYTES: u64 = 64 << 20;

/// Opens the state in `dir`. A damaged state is set aside and replaced by a blank one.
pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, options: &StoreOptions) -> Result<Recovered, StateError> {
    let home = Home::open(disk, dir)?;
    let damage = match load(&home, options) {
        Ok(Some((backend, generation, record))) => {
            home.remove_generations_but(Some(generation))?;
            home.end_open()?;
            return Ok(Recovered {
                home,
                backend,
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
    let backend = open_generation(&home, FIRST_GENERATION, options)?;
    home.end_open()?;
    let record = Record::default();
    Ok(Recovered { home, backend, generation: FIRST_GENERATION, is_committed: false, record, was_rebuilt })
}

/// Opens the engine in a generation, or creates a blank one.
pub(super) fn open_generation(
    home: &Home,
    number: u64,
    options: &StoreOptions,
) -> Result<Backend, StateError> {
    let path = home.generation(number);
    let failed = StateError::engine("open");
    Ok(match options.engine {
        EngineKind::Sled => Backend::in_place(SledEngine::open(&path, options.cache_bytes).map_err(failed)?),
        EngineKind::Redb => {
            let opened = RedbEngine::open(home.disk().as_ref(), &path, options.cache_bytes);
            Backend::in_place(opened.map_err(failed)?)
        }
        EngineKind::Runs => {
            let opened = Runs::open(Arc::clone(home.disk()), &path, runs_options(options, number));
            Backend::Runs(Arc::new(opened.map_err(|error| failed(error.into()))?))
        }
        EngineKind::Memory => Backend::in_memory(),
        #[cfg(any(test, feature = "simulation"))]
        EngineKind::Simulated => {
            Backend::in_place(SimulatedEngine::open(Arc::clone(home.disk()), &path).map_err(failed)?)
        }
    })
}

/// Generations do not share the ids of their runs.
pub(super) fn runs_options(options: &StoreOptions, generation: u64) -> helios_runs::Options {
    let seed = options.seed ^ generation.wrapping_mul(0xd6e8_feb8_6659_fd93);
    helios_runs::Options { cache_bytes: options.cache_bytes, seed, ..options.runs }
}

type Loaded = (Backend, u64, Record);

/// Opens and verifies the current generation; `None` if no checkpoint ever completed. The content of another engine than
/// that of `options` is copied to a new generation.
pub(super) fn load(home: &Home, options: &StoreOptions) -> Result<Option<Loaded>, StateError> {
    home.check_damage()?;
    let Some(generation) = home.current()? else { return Ok(None) };
    let found = EngineKind::of(home.disk().as_ref(), &home.generation(generation));
    // `runs` may be the only copy, and its code does not end the process: an open that was killed does not count.
    if found != EngineKind::Runs {
        home.begin_open()?;
    }
    let (backend, record) =
        load_generation(home, generation, &StoreOptions { engine: found, ..options.clone() })?;
    if found == options.engine {
        return Ok(Some((backend, generation, record)));
    }
    let (backend, record) =
        convert(home, backend.reader().as_ref(), generation + 1, record, options).map_err(|error| {
            StateError::NotConverted { from: found, to: options.engine, reason: error.to_string() }
        })?;
    Ok(Some((backend, generation + 1, record)))
}

/// Copies the content of `source` to the engine of `options`, in the generation `next`, and makes that the current one.
fn convert(
    home: &Home,
    source: &dyn StateEngine,
    next: u64,
    record: Record,
    options: &StoreOptions,
) -> Result<(Backend, Record), StateError> {
    tracing::info!(to = ?options.engine, keys = record.meta.key_count, "converting the state to another engine");
    home.remove_generations_but(Some(next - 1))?;
    home.check_room("convert the state", source.size_bytes() + CONVERSION_HEADROOM_BYTES)?;
    let converted = open_generation(home, next, options)?;
    let mut loader = Loader::new(converted.clone());
    let digest = copy_pairs(source, &mut loader)?;
    let record = Record { digest, ..record };
    loader.finish(&record)?;
    home.commit(next)?;
    Ok((converted, record))
}

fn load_generation(
    home: &Home,
    generation: u64,
    options: &StoreOptions,
) -> Result<(Backend, Record), StateError> {
    let backend = open_generation(home, generation, options)?;
    let record = match &backend {
        Backend::InPlace(engine) => {
            if let Some(writes) = journal::read(home.disk().as_ref(), &home.journal(), generation)? {
                engine.write(&writes).map_err(StateError::engine("write"))?;
                engine.sync().map_err(StateError::engine("sync"))?;
            }
            let record = verify(backend.reader().as_ref())?;
            home.remove_journal()?;
            record
        }
        Backend::Runs(runs) => decode(runs.view().record())?,
    };
    Ok((backend, record))
}

pub(super) fn decode(raw: &[u8]) -> Result<Record, StateError> {
    Record::decode(raw).map_err(|reason| StateError::Damaged(reason.to_owned()))
}

/// Reads the whole content and compares it with the record: after damage, sled may open with some pages older
/// than others and report no error.
fn verify(engine: &dyn StateEngine) -> Result<Record, StateError> {
    let raw = engine.get(META_KEY).map_err(StateError::engine("read"))?;
    let raw = raw.ok_or_else(|| StateError::Damaged("its record is missing".to_owned()))?;
    let record = decode(&raw)?;
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
