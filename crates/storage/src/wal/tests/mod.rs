//! Tests of the log with crashes and damage, on real files (`power` and `full`: on the simulated disk).

mod basics;
mod bench;
mod crash;
mod damage;
mod full;
mod model;
mod power;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::directory::Directory;
use super::recovery::{self, Log};
use super::{Base, Batch, HardState, LogEntry, Recovered, Wal, WalError, WalOptions};
use crate::disk;

const SMALL: WalOptions = WalOptions { segment_bytes: 4096, spare_segments: 1 };

/// Creates a directory in memory (`/dev/shm`) if there is one: the tests sync thousands of times and need no
/// durability.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn open(dir: &Path) -> (Wal, Recovered) {
    Wal::open(disk::real(), dir, SMALL).unwrap()
}

fn reopen(wal: Wal) -> (Wal, Recovered) {
    let dir = wal.directory().to_owned();
    drop(wal);
    open(&dir)
}

/// Returns entries of `term` whose payloads differ in index, term and length.
fn entries(indices: impl IntoIterator<Item = u64>, term: u64) -> Vec<LogEntry> {
    let payload = |index| format!("{term}/{index}:").repeat(1 + (index % 3) as usize).into();
    indices.into_iter().map(|index| LogEntry { index, term, payload: payload(index) }).collect()
}

/// Returns entries of one size that fill small segments quickly.
fn large(indices: impl IntoIterator<Item = u64>, term: u64) -> Vec<LogEntry> {
    let payload = |index: u64| vec![(index % 250) as u8 + 1; 500].into();
    indices.into_iter().map(|index| LogEntry { index, term, payload: payload(index) }).collect()
}

fn append(entries: Vec<LogEntry>) -> Batch {
    Batch { entries, ..Batch::default() }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

/// Reads a log as recovery does, without the repair that opening a writer makes.
fn read(dir: &Path) -> Result<Recovered, WalError> {
    let log = read_log(dir)?;
    let Log { state, entries, .. } = log;
    Ok(Recovered { base: state.base, hard_state: state.hard_state, entries })
}

fn read_log(dir: &Path) -> Result<Log, WalError> {
    let dir = Directory::open_to_read(disk::real(), dir)?;
    let generations = dir.list()?.generations;
    Ok(recovery::recover(&dir, &generations)?.expect("the test began a log"))
}

/// The content of every file of a directory at one moment.
#[derive(Clone, PartialEq)]
struct Image(BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    fn of(dir: &Path) -> Self {
        let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        Self(paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect())
    }

    /// Replaces the content of `dir` by this image.
    fn restore(&self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.0.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }

    fn segments(&self) -> Vec<PathBuf> {
        self.0.keys().filter(|path| path.extension().is_some_and(|e| e == "wal")).cloned().collect()
    }
}
