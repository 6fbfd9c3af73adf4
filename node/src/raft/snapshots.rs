//! The snapshot files of a node: `<data>/snapshots/<index>-<term>.snap`, the newest two kept (C9).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use crate::state::{SnapshotMeta, StateError, Store};

const KEEP: usize = 2;

pub struct Snapshots {
    dir: PathBuf,
    incoming: AtomicU64,
}

impl Snapshots {
    /// Opens the directory and removes what a crash left half-written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), incoming: AtomicU64::new(0) })
    }

    /// Writes a snapshot of the state as last checkpointed; durable when it returns.
    pub fn write(&self, store: &Store) -> Result<SnapshotMeta, StateError> {
        let draft = self.dir.join("draft.part");
        let meta = store.write_snapshot(&draft)?;
        self.adopt(&draft, &meta).map_err(|source| StateError::Io {
            doing: "name snapshot",
            path: draft,
            source,
        })?;
        Ok(meta)
    }

    /// A place for a snapshot that is being received.
    pub fn incoming(&self) -> PathBuf {
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("incoming-{number}.tmp"))
    }

    /// Takes over a complete, synced file under its final name; durable when it returns.
    pub fn adopt(&self, file: &Path, meta: &SnapshotMeta) -> io::Result<()> {
        fs::rename(file, self.path(meta.index, meta.term))?;
        self.remove_old()?;
        fs::File::open(&self.dir)?.sync_all()
    }

    pub fn find(&self, index: u64) -> Option<PathBuf> {
        let (index, term) = self.list().ok()?.into_iter().find(|(at, _)| *at == index)?;
        Some(self.path(index, term))
    }

    /// The newest snapshot whose content is whole.
    pub fn newest(&self) -> Option<(PathBuf, SnapshotMeta)> {
        let mut found = self.list().ok()?;
        found.sort_unstable();
        while let Some((index, term)) = found.pop() {
            let path = self.path(index, term);
            match SnapshotMeta::verify_file(&path) {
                Ok(meta) => return Some((path, meta)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "snapshot is damaged; trying an older one");
                }
            }
        }
        None
    }

    fn path(&self, index: u64, term: u64) -> PathBuf {
        self.dir.join(format!("{index:020}-{term:020}.snap"))
    }

    fn list(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let parsed = name
                .to_str()
                .and_then(|name| name.strip_suffix(".snap"))
                .and_then(|stem| stem.split_once('-'))
                .and_then(|(index, term)| Some((index.parse().ok()?, term.parse().ok()?)));
            found.extend(parsed);
        }
        Ok(found)
    }

    fn remove_old(&self) -> io::Result<()> {
        let mut found = self.list()?;
        found.sort_unstable();
        for (index, term) in found.iter().rev().skip(KEEP) {
            fs::remove_file(self.path(*index, *term))?;
        }
        Ok(())
    }
}
