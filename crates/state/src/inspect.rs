//! A read-only check of a stopped node's state, the same as at an open.

use std::path::Path;
use std::sync::Arc;

use super::home::Home;
use super::meta::Record;
use super::{Applied, EngineKind, StateError, StoreOptions, recovery};
use helios_storage::disk::{self, Disk};

/// The summary of a state whose content matches its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub generation: u64,
    pub applied: Applied,
    pub key_count: u64,
}

/// Checks the state in `dir`; returns `None` if it has no checkpoint. An engine writes to the files that it
/// opens, so it opens a copy in `scratch`, an empty directory with enough space.
pub fn inspect(disk: &Arc<dyn Disk>, dir: &Path, scratch: &Path) -> Result<Option<Inspection>, StateError> {
    if !disk.is_dir(dir) {
        return Ok(None);
    }
    let home = Home::open_to_read(Arc::clone(disk), dir)?;
    let Some(generation) = home.current()? else { return Ok(None) };
    home.copy_current(generation, scratch)?;
    let copy = Home::open(disk::real(), scratch)?;
    let engine = EngineKind::of(disk.as_ref(), &home.generation(generation));
    let loaded = recovery::load(&copy, &StoreOptions { engine, ..StoreOptions::default() })?;
    Ok(loaded.map(|(_, generation, Record { meta, .. })| Inspection {
        generation,
        applied: meta.applied,
        key_count: meta.key_count,
    }))
}
