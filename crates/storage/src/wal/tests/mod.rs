//! Tests of the log with crashes and damage, on real files (`power` and `full`: on the simulated disk).

mod basics;
mod bench;
mod crash;
mod damage;
mod full;
mod model;
mod power;
mod reader;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::directory::Directory;
use super::recovery::{self, Log};
use super::{Base, Batch, HardState, LogEntry, Outline, Reader, Recovered, Wal, WalError, WalOptions};
use crate::disk::{self, Disk};

const SMALL: WalOptions = WalOptions { segment_bytes: 4096, spare_segments: 1 };

/// Creates a directory in memory (`/dev/shm`) if there is one: the tests sync thousands of times and need no
/// durability.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// All that a log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Content {
    base: Base,
    hard_state: Option<HardState>,
    entries: Vec<LogEntry>,
}

impl Content {
    /// Reads the entries of `outline`, and compares both.
    fn read(reader: &Reader, outline: &Outline, hard_state: Option<HardState>) -> Result<Self, WalError> {
        let base = outline.base();
        let entries = reader.read_all(base.index, outline.last())?;
        for entry in &entries {
            assert_eq!(Some(entry.term), outline.term(entry.index), "entry {}", entry.index);
        }
        Ok(Self { base, hard_state, entries })
    }
}

/// Opens a log and reads all of it.
fn open_in(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<(Wal, Content), WalError> {
    let (wal, Recovered { hard_state, outline }) = Wal::open(disk, dir, options)?;
    let content = Content::read(&wal.reader(), &outline, hard_state)?;
    Ok((wal, content))
}

fn open(dir: &Path) -> (Wal, Content) {
    open_in(disk::real(), dir, SMALL).unwrap()
}

fn reopen(wal: Wal) -> (Wal, Content) {
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
fn read(dir: &Path) -> Result<Content, WalError> {
    let Log { state, outline, catalog, .. } = read_log(dir)?;
    let reader = Reader::new(disk::real(), dir.to_owned(), Arc::new(catalog.into()));
    Content::read(&reader, &outline, state.hard_state)
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
