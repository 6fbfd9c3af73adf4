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

    /// Every snapshot in `dir`, oldest first, whole or not. Changes nothing.
    pub fn look(
        disk: Arc<dyn Disk>,
        dir: &Path,
    ) -> io::Result<Vec<(PathBuf, Result<SnapshotMeta, StateError>)>> {
        let snapshots = Self { disk, dir: dir.to_owned(), incoming: AtomicU64::new(0) };
        let mut found = snapshots.list()?;
        found.sort_unstable();
        let checked = found.into_iter().map(|(index, term)| {
            let path = snapshots.path(index, term);
            let meta = snapshots.verify(&path);
            (path, meta)
        });
        Ok(checked.collect())
    }

    /// Writes a snapshot of the state as last checkpointed; durable when it returns.
    pub fn write(&self, store: &Store) -> Result<SnapshotMeta, StateError> {
        self.make_room()?;
        let draft = self.dir.join("draft.part");
        let meta = store.write_snapshot(&draft)?;
        self.adopt(&draft, &meta).map_err(|source| StateError::Io {
            doing: "name snapshot",
            path: draft,
            source,
        })?;
        Ok(meta)
    }

    /// On a volume that is short of room for one more snapshot all but the newest is given up; an
    /// error if that is not enough.
    fn make_room(&self) -> Result<(), StateError> {
        let Some((index, term)) = self.list().ok().and_then(|found| found.into_iter().max()) else {
            return Ok(());
        };
        let newest = self.path(index, term);
        let size_bytes = self.disk.open(&newest).and_then(|file| file.len()).unwrap_or(0);
        let needed_bytes = size_bytes + size_bytes / 4;
        if self.check_room(needed_bytes).is_err() && self.verify(&newest).is_ok() {
            let removed = self.remove_but(1);
            removed.map_err(|source| StateError::Io {
                doing: "remove from",
                path: self.dir.clone(),
                source,
            })?;
        }
        self.check_room(needed_bytes)
    }

    /// An error if the volume has less than `needed_bytes` left.
    pub fn check_room(&self, needed_bytes: u64) -> Result<(), StateError> {
        match self.disk.free_bytes(&self.dir) {
            Ok(free_bytes) if free_bytes < needed_bytes => Err(StateError::NoRoom {
                doing: "keep a snapshot",
                dir: self.dir.clone(),
                free_bytes,
                needed_bytes,
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// A place for a snapshot that is being received.
    pub fn incoming(&self) -> PathBuf {
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("incoming-{number}.tmp"))
    }

    /// Takes over a complete, synced file under its final name; durable when it returns.
    pub fn adopt(&self, file: &Path, meta: &SnapshotMeta) -> io::Result<()> {
        self.disk.rename(file, &self.path(meta.index, meta.term))?;
        self.remove_but(KEEP)?;
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

    fn remove_but(&self, kept: usize) -> io::Result<()> {
        let mut found = self.list()?;
        found.sort_unstable();
        for (index, term) in found.iter().rev().skip(kept) {
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
    #[test]
    fn short_of_room_all_but_the_newest_are_given_up_and_a_snapshot_is_put_off() {
        let disk = SimDisk::new(1);
        run(&disk);
        let store = Store::open_with(
            Arc::new(disk.clone()),
            Path::new("/"),
            StoreOptions { engine: EngineKind::Memory, ..StoreOptions::default() },
        );
        let store = store.unwrap();
        let snapshots = snapshots(&disk).unwrap();
        let size_bytes = snapshots.newest().unwrap().1.size_bytes;
        store.apply_membership(9, 1, Membership { voters: vec![9; 300], ..Default::default() });
        store.checkpoint().unwrap();
        disk.set_free_bytes(Some(0));
        assert!(snapshots.write(&store).unwrap_err().is_disk_full());
        assert_eq!(snapshots.list().unwrap(), [(5, 1)]);
        disk.set_free_bytes(Some(2 * size_bytes));
        assert_eq!(snapshots.write(&store).unwrap().index, 9);
        assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 2);
    }
}
