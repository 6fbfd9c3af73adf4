//! A read-only check of a stopped node's state, the same as at an open.

use std::path::Path;
use std::sync::Arc;

use super::home::Home;
use super::meta::{Meta, Record};
use super::{Applied, EngineKind, StateError, StoreOptions, recovery, value};
use helios_runs::Runs;
use helios_storage::disk::{self, Disk};

/// The summary of a state whose content matches its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub generation: u64,
    pub applied: Applied,
    pub key_count: u64,
}

/// Checks the state in `dir`; returns `None` if it has no checkpoint. An engine that is modified in place writes to the
/// files that it opens, so it opens a copy in `scratch`, an empty directory with enough space.
pub fn inspect(disk: &Arc<dyn Disk>, dir: &Path, scratch: &Path) -> Result<Option<Inspection>, StateError> {
    if !disk.is_dir(dir) {
        return Ok(None);
    }
    let home = Home::open_to_read(Arc::clone(disk), dir)?;
    let Some(generation) = home.current()? else { return Ok(None) };
    let engine = EngineKind::of(disk.as_ref(), &home.generation(generation));
    if engine == EngineKind::Runs {
        return inspect_runs(disk, &home, generation).map(Some);
    }
    home.copy_current(generation, scratch)?;
    let copy = Home::open(disk::real(), scratch)?;
    let loaded = recovery::load(&copy, &StoreOptions { engine, ..StoreOptions::default() })?;
    Ok(loaded.map(|(_, generation, Record { meta, .. })| Inspection {
        generation,
        applied: meta.applied,
        key_count: meta.key_count,
    }))
}

/// Reads every block of every run.
fn inspect_runs(disk: &Arc<dyn Disk>, home: &Home, generation: u64) -> Result<Inspection, StateError> {
    let failed = |error: helios_runs::Error| StateError::engine("read")(error.into());
    let options = recovery::runs_options(&StoreOptions::default(), generation);
    let runs = Runs::open_to_read(Arc::clone(disk), &home.generation(generation), options).map_err(failed)?;
    let view = runs.view();
    view.verify().map_err(failed)?;
    let Meta { applied, key_count, .. } = recovery::decode(view.record())?.meta;
    let keys = view.range(value::DATA_START, Some(value::DATA_END));
    let found = keys.map(|pair| pair.map(|_| 1)).sum::<Result<u64, _>>().map_err(failed)?;
    if found != key_count {
        return Err(StateError::Damaged(format!("it has {found} keys, its record says {key_count}")));
    }
    Ok(Inspection { generation, applied, key_count })
}
