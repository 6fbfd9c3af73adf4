//! Tests of the whole engine, on a simulated disk.

mod damage;
mod figures;
mod model;
mod power;
mod set;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use helios_storage::disk::{Disk, SimDisk};

use crate::{Job, Merged, Options, Result, Runs, Slot, View};

const DIR: &str = "/state";

/// Small blocks and files, so that little content has many of them.
fn options(seed: u64) -> Options {
    Options { cache_bytes: 4 << 10, block_bytes: 128, file_bytes: 1 << 10, seed }
}

fn open(disk: &SimDisk, seed: u64) -> Result<Runs> {
    Runs::open(Arc::new(disk.clone()), Path::new(DIR), options(seed))
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key:{n:04}"))
}

/// A value that names its checkpoint.
fn value(n: u64, at: u64) -> Slot {
    Some(Bytes::from(format!("{n}@{at}").repeat(1 + (n % 4) as usize)))
}

/// The slots of a checkpoint: every `step`-th of `count` keys is written, every tenth of those removed.
fn slots(at: u64, count: u64, step: u64) -> Vec<(Bytes, Slot)> {
    let written = (0..count).filter(|n| (n + at).is_multiple_of(step));
    written.map(|n| (key(n), if (n + at).is_multiple_of(10 * step) { None } else { value(n, at) })).collect()
}

/// Number of files of runs.
fn run_files(disk: &SimDisk) -> usize {
    let files = disk.list(Path::new(DIR)).unwrap();
    files.iter().filter(|entry| entry.name.to_string_lossy().ends_with(".run")).count()
}

fn checkpoint(runs: &Runs, slots: &[(Bytes, Slot)], clears: bool, record: u64) -> Result<View> {
    let record = Bytes::copy_from_slice(&record.to_be_bytes());
    runs.checkpoint(slots.iter().map(|(key, slot)| (key.clone(), slot.clone())), clears, record)
}

fn execute(runs: &Runs, job: &Job) -> Result<Merged> {
    Ok(runs.merge(job, |_| ControlFlow::Continue(()))?.expect("it is not cancelled"))
}

/// Executes the merge that is due; returns whether there was one.
fn merge(runs: &Runs) -> Result<bool> {
    let Some(job) = runs.pick(u64::MAX, true) else { return Ok(false) };
    let merged = execute(runs, &job)?;
    runs.commit(&job, merged)?;
    Ok(true)
}

fn record(view: &View) -> u64 {
    view.record().as_ref().try_into().map_or(0, u64::from_be_bytes)
}

fn content(view: &View) -> Vec<(Bytes, Bytes)> {
    view.range(b"", None).collect::<Result<_>>().unwrap()
}
