//! The snapshot files of a node: `<data>/snapshots/<index>-<term>.snap`, the newest two kept (C9).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::Disk;
use crate::state::{SnapshotMeta, StateError, Store};

const KEEP: usize = 2;

pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    incoming: AtomicU64,
}

impl Snapshots {
    /// Opens the directory and removes what a crash left half-written.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        disk.make_dir(dir)?;
        for entry in disk.list(dir)? {
            let path = dir.join(entry.name);
            if path.extension().is_some_and(|extension| extension == "tmp") {
                disk.remove_file(&path)?;
            }
        }
        Ok(Self { disk, dir: dir.to_owned(), incoming: AtomicU64::new(0) })
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
        self.disk.rename(file, &self.path(meta.index, meta.term))?;
        self.remove_old()?;
        self.disk.sync_dir(&self.dir)
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
            match self.verify(&path) {
                Ok(meta) => return Some((path, meta)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "snapshot is damaged; trying an older one");
                }
            }
        }
        None
    }

    /// What the file says of itself; only its header is checked.
    pub fn read(&self, file: &Path) -> Result<SnapshotMeta, StateError> {
        SnapshotMeta::read(self.disk.as_ref(), file)
    }

    /// Reads and checks the whole file.
    pub fn verify(&self, file: &Path) -> Result<SnapshotMeta, StateError> {
        SnapshotMeta::verify_file(self.disk.as_ref(), file)
    }

    fn path(&self, index: u64, term: u64) -> PathBuf {
        self.dir.join(format!("{index:020}-{term:020}.snap"))
    }

    fn list(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in self.disk.list(&self.dir)? {
            let parsed = entry
                .name
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
            self.disk.remove_file(&self.path(*index, *term))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Membership;

    use super::*;
    use crate::disk::SimDisk;
    use crate::state::{EngineKind, StoreOptions};

    const DIR: &str = "/data/snapshots";

    fn snapshots(disk: &SimDisk) -> io::Result<Snapshots> {
        Snapshots::open(Arc::new(disk.clone()), Path::new(DIR))
    }

    /// Takes five snapshots; answers the index of the last one that was promised.
    fn run(disk: &SimDisk) -> u64 {
        let options = StoreOptions { engine: EngineKind::Memory, ..StoreOptions::default() };
        let store = Store::open_with(Arc::new(disk.clone()), Path::new("/"), options).unwrap();
        let Ok(snapshots) = snapshots(disk) else { return 0 };
        for index in 1..=5 {
            store.apply_membership(index, 1, Membership { voters: vec![index; 300], ..Default::default() });
            store.checkpoint().unwrap();
            if snapshots.write(&store).is_err() {
                return index - 1;
            }
        }
        5
    }

    #[test]
    fn a_power_cut_before_any_operation_keeps_the_last_snapshot_and_never_half_a_one() {
        let disk = SimDisk::new(0);
        assert_eq!(run(&disk), 5);
        let operations = disk.stats().operations;
        for (at, seed) in (0..operations).flat_map(|at| (0..20).map(move |seed| (at, seed))) {
            let disk = SimDisk::new(seed << 32 | at);
            disk.cut_power_after(at);
            let promised = run(&disk);
            disk.crash();
            let snapshots = snapshots(&disk).unwrap();
            let found = snapshots.newest().map_or(0, |(_, meta)| meta.index);
            assert!(found == promised || found == promised + 1, "operation {at}: {found}, not {promised}");
            for (index, term) in snapshots.list().unwrap() {
                assert_eq!(snapshots.verify(&snapshots.path(index, term)).unwrap().index, index);
            }
        }
    }

    #[test]
    fn a_snapshot_that_rotted_gives_way_to_the_one_before() {
        let disk = SimDisk::new(3);
        run(&disk);
        disk.flip_synced_bit(|path| path.to_string_lossy().contains("5-")).unwrap();
        assert_eq!(snapshots(&disk).unwrap().newest().unwrap().1.index, 4);
    }
}
