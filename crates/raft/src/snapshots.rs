//! Snapshots of a node: `<data>/snapshots/<index>-<term>.snap`, of which the newest two are kept (C9). Each is a file, or
//! with the engine `runs` a directory of files, a set (`helios_state::SnapshotMeta::is_set`).

mod incoming;
mod outgoing;
mod pinned;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use helios_state::{SnapshotMeta, StateError, Store};
use helios_storage::disk::{self, Disk, Kind};

pub use incoming::{Incoming, SnapshotId};
pub use outgoing::{Outgoing, Prefix};
pub use pinned::Pinned;

const KEEP: usize = 2;

/// Number of received snapshots that are kept, even if newer ones arrived: Raft may still install any of them.
const KEEP_RECEIVED: usize = 4;

/// Number of snapshots kept in addition to the newest, because an interrupted transfer may resume.
const KEEP_UNFINISHED: usize = 2;

pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Index and term of received snapshots that may still be installed, the newest arrival last.
    received: Mutex<VecDeque<(u64, u64)>>,
    /// Member and index of outgoing transfers that are not complete, the newest attempt last.
    unfinished: Mutex<VecDeque<(u64, u64)>>,
    /// See [`Snapshots::pinned`].
    pinned: Mutex<Vec<u64>>,
    newest: Mutex<Option<Newest>>,
    /// Whether a restore copies the content of a set, instead of linking its files.
    copies_sets: bool,
    /// Whether a set was found to be damaged: its files are perhaps those of the state.
    found_damage: AtomicBool,
}

/// The newest local snapshot, as status and metrics report it.
#[derive(Debug, Clone, Copy)]
pub struct Newest {
    index: u64,
    pub size_bytes: u64,
    /// Time at which it was written or received.
    pub written_at: SystemTime,
}

impl Snapshots {
    /// Opens the directory and removes half-written files that a crash left. Partly received snapshots stay. `links_sets`:
    /// whether a restore links the files of a set, as the engine `runs` does.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, links_sets: bool) -> io::Result<Self> {
        disk.make_dir(dir)?;
        let snapshots = Self { copies_sets: !links_sets, ..Self::at(disk, dir) };
        for entry in snapshots.disk.list(dir)? {
            let path = dir.join(entry.name);
            if path.extension().is_some_and(|extension| extension == "tmp") {
                snapshots.remove_at(&path)?;
            }
        }
        if let Some(newest) = snapshots.list()?.into_iter().max() {
            snapshots.note(newest);
        }
        Ok(snapshots)
    }

    /// Returns the newest snapshot, for status and metrics; `None` if there is none yet, or if its size or time could
    /// not be read.
    pub fn newest_reported(&self) -> Option<Newest> {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a complete snapshot as the newest, unless it is older. If its size or time cannot be read, it is not
    /// recorded: only reports depend on it.
    fn note(&self, (index, term): (u64, u64)) {
        let path = self.path(index, term);
        let Ok(written_at) = self.disk.modified(&path) else { return };
        let Ok(SnapshotMeta { size_bytes, .. }) = self.read(&path) else { return };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.is_none_or(|newest| newest.index <= index) {
            *newest = Some(Newest { index, size_bytes, written_at });
        }
    }

    fn at(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            received: Mutex::default(),
            unfinished: Mutex::default(),
            pinned: Mutex::default(),
            newest: Mutex::default(),
            copies_sets: false,
            found_damage: AtomicBool::new(false),
        }
    }

    /// Verifies every snapshot in `dir`, oldest first. Returns the metadata or the error of each and changes nothing.
    pub fn verify_all(
        disk: Arc<dyn Disk>,
        dir: &Path,
    ) -> io::Result<Vec<(PathBuf, Result<SnapshotMeta, StateError>)>> {
        let snapshots = Self::at(disk, dir);
        let mut found = snapshots.list()?;
        found.sort_unstable();
        let checked = found.into_iter().map(|(index, term)| {
            let path = snapshots.path(index, term);
            let meta = snapshots.verify(&path);
            (path, meta)
        });
        Ok(checked.collect())
    }

    /// Writes a snapshot of the last checkpoint; durable when it returns. With `as_set` it is a set, if the engine can
    /// make one.
    pub fn write(&self, store: &Store, as_set: bool) -> Result<SnapshotMeta, StateError> {
        let naming = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { doing: "name snapshot", path, source }
        };
        if as_set {
            let draft = self.dir.join("draft.tmp");
            self.remove_at(&draft).map_err(naming(&draft))?;
            let verifies = self.found_damage.swap(false, Ordering::Relaxed);
            if let Some(meta) = store.link_snapshot(&draft, verifies)? {
                self.adopt(&draft, &meta).map_err(naming(&draft))?;
                return Ok(meta);
            }
        }
        self.make_room(store.bytes())?;
        let draft = self.dir.join("draft.part");
        let meta = store.write_snapshot(&draft)?;
        self.adopt(&draft, &meta).map_err(naming(&draft))?;
        Ok(meta)
    }

    /// Removes all snapshots but the newest, and the partly received ones, if the volume has no room for one more.
    ///
    /// # Errors
    /// There is still not enough room.
    fn make_room(&self, state_bytes: u64) -> Result<(), StateError> {
        let Some((index, term)) = self.list().ok().and_then(|found| found.into_iter().max()) else {
            return self.check_room(state_bytes);
        };
        let newest = self.path(index, term);
        let size_bytes = self.read(&newest).map_or(0, |meta| meta.size_bytes);
        let needed_bytes = size_bytes + size_bytes / 4;
        if self.check_room(needed_bytes).is_err() && self.verify(&newest).is_ok() {
            self.unfinished().clear();
            let removed = self.remove_but(1).and_then(|()| self.remove_incoming(|_, _| true));
            removed.map_err(|source| StateError::Io {
                doing: "remove from",
                path: self.dir.clone(),
                source,
            })?;
        }
        self.check_room(needed_bytes)
    }

    /// Returns the free bytes of the volume that holds the snapshots; `None` if they cannot be determined.
    pub fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes(&self.dir).ok()
    }

    /// Returns an error if the volume has less than `needed_bytes` free.
    pub fn check_room(&self, needed_bytes: u64) -> Result<(), StateError> {
        let (doing, dir) = ("keep a snapshot", self.dir.clone());
        match disk::short_of(self.disk.as_ref(), &self.dir, needed_bytes) {
            Some(free_bytes) => Err(StateError::NoRoom { doing, dir, free_bytes, needed_bytes }),
            None => Ok(()),
        }
    }

    /// Removes the snapshots below `index`, apart from those that are being sent or may still be installed.
    pub fn remove_before(&self, index: u64) {
        let removed =
            self.list().and_then(|found| self.remove(found.into_iter().filter(|(at, _)| *at < index)));
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove outdated snapshots; the next purge of the log retries");
        }
    }

    /// Removes all snapshots and all partly received ones.
    pub fn clear(&self) -> io::Result<()> {
        self.received().clear();
        self.unfinished().clear();
        self.remove_but(0)?;
        self.remove_incoming(|_, _| true)?;
        self.disk.sync_dir(&self.dir)?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Takes over a received snapshot, if it is complete and the announced one; durable when it returns. It is kept
    /// until the state is restored from it or a newer one: a leader of an old term may have sent newer ones that Raft
    /// does not accept.
    pub fn receive(&self, incoming: Incoming) -> Result<(), StateError> {
        incoming.check_whole()?;
        let file = incoming.path();
        let verified = incoming.sync().and_then(|()| self.verify_received(file, &incoming.id));
        let meta = verified.inspect_err(|_| {
            // A transfer that resumed from this file would fail again, or trust data that a failed sync lost.
            if let Err(error) = self.remove_at(file) {
                tracing::error!(path = %file.display(), %error, "cannot remove a damaged snapshot");
            }
        })?;
        {
            let mut received = self.received();
            received.push_back((meta.index, meta.term));
            if received.len() > KEEP_RECEIVED {
                received.pop_front();
            }
        }
        let io = |source| StateError::Io { doing: "name snapshot", path: file.to_owned(), source };
        self.adopt(file, &meta).map_err(io)
    }

    fn verify_received(&self, file: &Path, announced: &SnapshotId) -> Result<SnapshotMeta, StateError> {
        let meta = self.verify(file)?;
        let mut held = SnapshotId::from(&meta);
        if announced.crc32c == 0 {
            held.crc32c = 0;
        }
        if held != *announced {
            return Err(StateError::Damaged(format!("announced {announced:?} but holds {held:?}")));
        }
        Ok(meta)
    }

    /// Forgets received snapshots up to `index`: the state was restored at `index` and no longer needs them.
    pub fn restored(&self, index: u64) {
        self.received().retain(|(received, _)| *received > index);
    }

    fn received(&self) -> MutexGuard<'_, VecDeque<(u64, u64)>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a complete, synced snapshot under its final name; durable when it returns.
    fn adopt(&self, file: &Path, meta: &SnapshotMeta) -> io::Result<()> {
        let path = self.path(meta.index, meta.term);
        if self.read(&path).is_ok_and(|known| known == *meta) && file.extension() == Some("tmp".as_ref()) {
            // It may be in use.
            return self.remove_at(file);
        }
        let pinned = self.pinned();
        if pinned.contains(&meta.index) && self.read(&path).is_ok() {
            return self.remove_at(file);
        }
        // A directory cannot be replaced by a rename.
        if self.disk.is_dir(&path) || self.disk.is_dir(file) {
            self.remove_at(&path)?;
        }
        self.disk.rename(file, &path)?;
        drop(pinned);
        self.note((meta.index, meta.term));
        self.remove_but(KEEP)?;
        self.remove_incoming(|_, index| index <= meta.index)?;
        self.disk.sync_dir(&self.dir)
    }

    /// Returns the snapshot at `index` for a transfer to member `to`. It is kept until [`Snapshots::sent`], or until later
    /// transfers exceed the limit. It is verified as in [`Snapshots::whole`]; a set only for the second attempt, because
    /// the receiver verifies it, and reading a large one takes time.
    pub fn begin_sending(&self, to: u64, index: u64) -> Option<PathBuf> {
        let found = self.find(index)?;
        let is_first = !self.unfinished().contains(&(to, index));
        let path = if is_first && self.disk.is_dir(&found) { found } else { self.whole(index)? };
        let mut unfinished = self.unfinished();
        unfinished.retain(|(member, _)| *member != to);
        unfinished.push_back((to, index));
        if unfinished.len() > KEEP_UNFINISHED {
            unfinished.pop_front();
        }
        Some(path)
    }

    /// Records that the transfer to member `to` is complete.
    pub fn sent(&self, to: u64) {
        self.unfinished().retain(|(member, _)| *member != to);
    }

    fn unfinished(&self) -> MutexGuard<'_, VecDeque<(u64, u64)>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the snapshot at `index` if its content is valid. A corrupt file is removed, so that the next snapshot
    /// can take its place.
    pub fn whole(&self, index: u64) -> Option<PathBuf> {
        let path = self.find(index)?;
        match self.verify(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "snapshot is damaged; removing it");
                self.found_damage.store(true, Ordering::Relaxed);
                if let Err(error) = self.remove_at(&path) {
                    tracing::error!(path = %path.display(), %error, "cannot remove a damaged snapshot");
                }
                None
            }
        }
    }

    pub fn find(&self, index: u64) -> Option<PathBuf> {
        let (index, term) = self.list().ok()?.into_iter().find(|(at, _)| *at == index)?;
        Some(self.path(index, term))
    }

    /// Returns the newest snapshot whose content is valid.
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

    /// Reads the metadata of a snapshot; only its header is checked.
    pub fn read(&self, file: &Path) -> Result<SnapshotMeta, StateError> {
        SnapshotMeta::read(self.disk.as_ref(), file)
    }

    /// Reads and checks the whole snapshot.
    pub fn verify(&self, file: &Path) -> Result<SnapshotMeta, StateError> {
        SnapshotMeta::verify(&self.disk, file)
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
        self.remove(found.into_iter().rev().skip(kept))
    }

    /// Removes `snapshots`, apart from those that are pinned, are being sent or may still be installed.
    fn remove(&self, snapshots: impl Iterator<Item = (u64, u64)>) -> io::Result<()> {
        let (received, unfinished, pinned) = (self.received(), self.unfinished(), self.pinned());
        let is_wanted = |named: &(u64, u64)| {
            received.contains(named)
                || pinned.contains(&named.0)
                || unfinished.iter().any(|(_, index)| *index == named.0)
        };
        for (index, term) in snapshots.filter(|named| !is_wanted(named)) {
            self.remove_at(&self.path(index, term))?;
        }
        Ok(())
    }

    /// Removes a file or a directory, if there is one. A directory is renamed before, so that a crash leaves no part of
    /// it under its name.
    fn remove_at(&self, path: &Path) -> io::Result<()> {
        match self.disk.kind(path) {
            None => Ok(()),
            Some(Kind::File) => self.disk.remove_file(path),
            Some(Kind::Dir) => {
                if path.extension() == Some("tmp".as_ref()) {
                    return self.disk.remove_dir_all(path);
                }
                let mut removed = path.as_os_str().to_owned();
                removed.push(".tmp");
                let removed = Path::new(&removed);
                self.remove_at(removed)?;
                self.disk.rename(path, removed)?;
                self.disk.remove_dir_all(removed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Membership;

    use super::*;
    use helios_state::{EngineKind, StoreOptions};
    use helios_storage::disk::SimDisk;

    const DIR: &str = "/data/snapshots";

    fn snapshots(disk: &SimDisk) -> io::Result<Snapshots> {
        Snapshots::open(Arc::new(disk.clone()), Path::new(DIR), true)
    }

    /// Writes five snapshots; returns the index of the last one whose write succeeded.
    fn run(disk: &SimDisk) -> u64 {
        let options = StoreOptions { engine: EngineKind::Memory, ..StoreOptions::default() };
        let store = Store::open_with(Arc::new(disk.clone()), Path::new("/"), options).unwrap();
        let Ok(snapshots) = snapshots(disk) else { return 0 };
        for index in 1..=5 {
            store.apply_membership(index, 1, Membership { voters: vec![index; 300], ..Default::default() });
            store.checkpoint().unwrap();
            if snapshots.write(&store, true).is_err() {
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
    fn a_corrupt_snapshot_is_replaced_by_the_previous_one() {
        let disk = SimDisk::new(3);
        run(&disk);
        disk.flip_synced_bit(|path| path.to_string_lossy().contains("5-")).unwrap();
        assert_eq!(snapshots(&disk).unwrap().newest().unwrap().1.index, 4);
    }
    #[test]
    fn all_snapshots_but_the_newest_are_removed_when_the_disk_is_full_and_a_new_one_is_postponed() {
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
        assert!(snapshots.write(&store, true).unwrap_err().is_disk_full());
        assert_eq!(snapshots.list().unwrap(), [(5, 1)]);
        disk.set_free_bytes(Some(2 * size_bytes));
        assert_eq!(snapshots.write(&store, true).unwrap().index, 9);
        assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 2);
    }
}
