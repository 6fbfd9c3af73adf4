//! redb: a copy-on-write B-tree with atomic commits. Its input and output use the node's [`Disk`].

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};

use super::{EngineError, InPlaceEngine, PairIter, RawWrite, StateEngine, guarded};
use helios_storage::disk::{Disk, DiskFile, read_full};

const PAIRS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("pairs");

type Range = redb::Range<'static, &'static [u8], &'static [u8]>;
/// Takes the first or the last pair of a range.
type Step = fn(&mut Range) -> Option<<Range as Iterator>::Item>;

pub struct RedbEngine {
    /// The database; `None` only within `drop`.
    db: Option<Database>,
    file: Arc<dyn DiskFile>,
}

impl RedbEngine {
    /// Name of its file in the engine's directory.
    pub const FILE: &str = "pairs.redb";

    /// Opens the engine in the directory `path`, or creates one.
    pub fn open(disk: &dyn Disk, path: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        let file_path = path.join(Self::FILE);
        let file = if disk.exists(&file_path) {
            disk.open_to_write(&file_path)?
        } else {
            disk.create_dir_all(path)?;
            let file = disk.create(&file_path)?;
            disk.sync_dir(path)?;
            file
        };
        let file: Arc<dyn DiskFile> = Arc::from(file);
        let backend = Backend(Arc::clone(&file));
        let db = guarded(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(usize::try_from(cache_bytes).unwrap_or(usize::MAX));
            let db = builder.create_with_backend(backend)?;
            let begin = db.begin_write()?;
            begin.open_table(PAIRS)?;
            begin.commit()?;
            Ok::<_, redb::Error>(db)
        })?;
        Ok(Self { db: Some(db), file })
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("taken only by drop")
    }

    /// Returns the pairs from `start` to `end` that `step` takes from the range.
    fn pairs<'a>(&'a self, start: &[u8], end: Option<&[u8]>, step: Step) -> PairIter<'a> {
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        let opened = guarded(|| {
            let table = self.db().begin_read()?.open_table(PAIRS)?;
            Ok::<_, redb::Error>(match end {
                Some(end) => table.range(start..end)?,
                None => table.range(start..)?,
            })
        });
        let mut pairs = match opened {
            Ok(pairs) => pairs,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        Box::new(std::iter::from_fn(move || {
            let next = guarded(|| Ok::<_, redb::Error>(step(&mut pairs).transpose()?)).transpose()?;
            Some(next.map(|(key, value)| {
                (Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value()))
            }))
        }))
    }
}

impl Drop for RedbEngine {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(error) = guarded(|| {
            drop(db);
            Ok::<_, redb::Error>(())
        }) {
            tracing::warn!(%error, "redb failed to close");
        }
    }
}

impl StateEngine for RedbEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        guarded(|| {
            let table = self.db().begin_read()?.open_table(PAIRS)?;
            let value = table.get(key)?;
            Ok::<_, redb::Error>(value.map(|value| Bytes::copy_from_slice(value.value())))
        })
    }

    fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        self.pairs(start, end, Iterator::next)
    }

    fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a> {
        self.pairs(start, end, DoubleEndedIterator::next_back)
    }

    fn size_bytes(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }
}

impl InPlaceEngine for RedbEngine {
    fn write(&self, writes: &[RawWrite]) -> Result<(), EngineError> {
        guarded(|| {
            let mut transaction = self.db().begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut table = transaction.open_table(PAIRS)?;
                for (key, value) in writes {
                    match value {
                        Some(value) => drop(table.insert(&key[..], &value[..])?),
                        None => drop(table.remove(&key[..])?),
                    }
                }
            }
            Ok::<_, redb::Error>(transaction.commit()?)
        })
    }

    fn sync(&self) -> Result<(), EngineError> {
        // An empty durable commit makes the commits before it durable.
        guarded(|| Ok::<_, redb::Error>(self.db().begin_write()?.commit()?))
    }
}

impl From<redb::Error> for EngineError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => Self::Io(error),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

struct Backend(Arc<dyn DiskFile>);

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a file of the node's disk")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = read_full(self.0.as_ref(), out, offset)?;
        if read == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
