//! sled 0.34 under the rules of docs/design/node.md, decision 3: it is never the log and never the only copy,
//! its flush is not trusted to reach the disk, and its panics are caught.

use std::fs::{self, File};
use std::io::{self, ErrorKind::WouldBlock};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::{EngineError, InPlaceEngine, PairIter, RawWrite, StateEngine, guarded};

/// Maximum number of attempts to take the file lock, which an engine that was just closed in this process may
/// still hold.
const LOCK_ATTEMPTS: u32 = 40;
const LOCK_RETRY: Duration = Duration::from_millis(25);

/// Takes the first or the last pair of a range.
type Step = fn(&mut sled::Iter) -> Option<<sled::Iter as Iterator>::Item>;

pub struct SledEngine {
    path: PathBuf,
    /// The database; `None` only within `drop`.
    db: Option<sled::Db>,
}

impl SledEngine {
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        // No flusher thread: only a checkpoint makes anything durable.
        let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
        let mut attempt = 1;
        loop {
            match guarded(|| config.open()) {
                Ok(db) => return Ok(Self { path: path.to_owned(), db: Some(db) }),
                Err(EngineError::Io(error)) if error.kind() == WouldBlock && attempt < LOCK_ATTEMPTS => {
                    attempt += 1;
                    thread::sleep(LOCK_RETRY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("taken only by drop")
    }

    /// Returns the pairs from `start` to `end` that `step` takes from the range.
    fn pairs<'a>(&'a self, start: &[u8], end: Option<&[u8]>, step: Step) -> PairIter<'a> {
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        let mut pairs = match end {
            Some(end) => self.db().range(start..end),
            None => self.db().range(start..),
        };
        Box::new(std::iter::from_fn(move || match guarded(|| step(&mut pairs).transpose()) {
            Ok(pair) => pair.map(|(key, value)| Ok((to_bytes(key), to_bytes(value)))),
            Err(error) => Some(Err(error)),
        }))
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(error) = guarded(|| {
            drop(db);
            Ok::<_, sled::Error>(())
        }) {
            tracing::warn!(%error, "sled failed to close");
        }
    }
}

impl StateEngine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(guarded(|| self.db().get(key))?.map(to_bytes))
    }

    fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        self.pairs(start, end, Iterator::next)
    }

    fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        self.pairs(start, end, DoubleEndedIterator::next_back)
    }

    fn size_bytes(&self) -> u64 {
        guarded(|| self.db().size_on_disk()).unwrap_or(0)
    }
}

impl InPlaceEngine for SledEngine {
    // One write at a time: during a batch of sled, every `get` of every database in the process waits.
    fn write(&self, writes: &[RawWrite]) -> Result<(), EngineError> {
        for (key, value) in writes {
            guarded(|| match value {
                Some(value) => self.db().insert(key, value.as_ref()),
                None => self.db().remove(key),
            })?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        guarded(|| self.db().flush())?;
        // sled 0.34.7 flushes its pages with sync_file_range, which does not guarantee durability.
        Ok(sync_tree(&self.path)?)
    }
}

/// Makes every file under `dir` and its name durable.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            match File::open(entry.path()) {
                Ok(file) => file.sync_data()?,
                // sled removes its old blobs and snapshots in the background.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    File::open(dir)?.sync_all()
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        match error {
            // sled reports a held lock only in the text of an error of kind `Other`.
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
                Self::Io(io::Error::new(WouldBlock, error))
            }
            sled::Error::Io(error) => Self::Io(error),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

fn to_bytes(raw: sled::IVec) -> Bytes {
    Bytes::copy_from_slice(&raw)
}
