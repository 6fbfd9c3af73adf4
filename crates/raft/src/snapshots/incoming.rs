//! Incoming snapshot transfers. The received part is in `<index>-<term>-<bytes>-<checksum>.incoming`, a file, or a
//! directory for a set. It survives a broken stream and a restart, and the next stream resumes after it.
//!
//! It is not synced before the transfer is complete: a sender that resumes compares the checksum of the part.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Prefix, Snapshots};
use helios_state::{SetWriter, SnapshotMeta, StateError};
use helios_storage::disk::{DirEntry, DiskFile, Kind};

const SUFFIX: &str = ".incoming";

/// Identity of a snapshot. All members write the same file at the same index, so any of them may send the rest of it; a
/// set has the files of its member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotId {
    pub index: u64,
    pub term: u64,
    pub size_bytes: u64,
    /// See [`SnapshotMeta::crc32c`].
    pub crc32c: u32,
    pub is_set: bool,
}

impl From<&SnapshotMeta> for SnapshotId {
    fn from(meta: &SnapshotMeta) -> Self {
        let SnapshotMeta { index, term, membership: _, size_bytes, crc32c, version: _ } = meta;
        Self { index: *index, term: *term, size_bytes: *size_bytes, crc32c: *crc32c, is_set: meta.is_set() }
    }
}

/// Writer of one received snapshot, in the order of its bytes.
pub struct Incoming {
    pub(super) id: SnapshotId,
    path: PathBuf,
    target: Target,
    bytes: u64,
}

enum Target {
    File(Box<dyn DiskFile>),
    Set(Box<SetWriter>),
}

impl Incoming {
    /// Appends `data`. Returns an error if the snapshot would be larger than announced.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StateError> {
        let end = self.bytes + data.len() as u64;
        if end > self.id.size_bytes {
            return Err(self.damaged(format!("more than the {} bytes announced", self.id.size_bytes)));
        }
        match &mut self.target {
            Target::File(file) => {
                let written = file.write_all_at(data, self.bytes);
                written.map_err(|source| self.failed("write", source))?;
            }
            Target::Set(set) => set.write(data)?,
        }
        self.bytes = end;
        Ok(())
    }

    /// Returns an error if bytes are missing at the end.
    pub(super) fn check_whole(&self) -> Result<(), StateError> {
        if self.bytes == self.id.size_bytes {
            return Ok(());
        }
        Err(self.damaged(format!("ended after {} of {} bytes", self.bytes, self.id.size_bytes)))
    }

    /// Syncs all files; their content is durable when this returns.
    pub(super) fn sync(&self) -> Result<(), StateError> {
        match &self.target {
            Target::File(file) => file.sync_all().map_err(|source| self.failed("sync", source)),
            Target::Set(set) => set.sync(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn damaged(&self, reason: String) -> StateError {
        StateError::BadSnapshot { path: self.path.clone(), reason }
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> StateError {
        StateError::Io { doing, path: self.path.clone(), source }
    }
}

impl Snapshots {
    /// Returns the received part of a snapshot.
    pub fn held(&self, id: &SnapshotId) -> Prefix {
        // If it cannot be read, the transfer starts again at byte 0.
        self.prefix(&self.incoming_path(id), id.size_bytes).unwrap_or_default()
    }

    /// Returns the newest snapshot of which a part was received, and that part.
    pub fn interrupted(&self) -> Option<(SnapshotId, Prefix)> {
        let entries = self.disk.list(&self.dir).ok()?;
        let id_of = |entry: &DirEntry| {
            let mut fields = entry.name.to_str()?.strip_suffix(SUFFIX)?.split('-');
            let mut next = || fields.next();
            Some(SnapshotId {
                index: next()?.parse().ok()?,
                term: next()?.parse().ok()?,
                size_bytes: next()?.parse().ok()?,
                crc32c: u32::from_str_radix(next()?, 16).ok()?,
                is_set: entry.kind == Kind::Dir,
            })
        };
        let newest = entries.iter().filter_map(id_of).max_by_key(|id| id.index)?;
        let held = self.held(&newest);
        Some((newest, held))
    }

    /// Opens the target of an incoming snapshot, whose first `from_bytes` are already here.
    pub fn incoming(&self, id: SnapshotId, from_bytes: u64) -> Result<Incoming, StateError> {
        let path = self.incoming_path(&id);
        self.make_room_for(&id, from_bytes)?;
        let disk = &self.disk;
        let target = match (id.is_set, from_bytes) {
            (true, 0) => Target::Set(SetWriter::create(Arc::clone(disk), &path)?.into()),
            (true, _) => Target::Set(SetWriter::resume(Arc::clone(disk), &path, from_bytes)?.into()),
            (false, _) => Target::File(self.incoming_file(&path, from_bytes)?),
        };
        Ok(Incoming { id, path, target, bytes: from_bytes })
    }

    fn incoming_file(&self, path: &Path, from_bytes: u64) -> Result<Box<dyn DiskFile>, StateError> {
        let failed = |doing, source| StateError::Io { doing, path: path.to_owned(), source };
        if from_bytes == 0 {
            return self.disk.create(path).map_err(|source| failed("create", source));
        }
        let file = self.disk.open_to_write(path).map_err(|source| failed("open", source))?;
        if file.len().map_err(|source| failed("read", source))? < from_bytes {
            let reason = format!("its first {from_bytes} bytes are not here any more");
            return Err(StateError::BadSnapshot { path: path.to_owned(), reason });
        }
        file.set_len(from_bytes).map_err(|source| failed("cut", source))?;
        Ok(file)
    }

    /// Removes all other partly received snapshots, because two may need more room than there is.
    ///
    /// # Errors
    /// There is no room for the rest of the snapshot and for the state restored from it, which is somewhat larger, unless
    /// it links the files of a set. The remaining space is left to the log.
    pub fn make_room_for(&self, id: &SnapshotId, held_bytes: u64) -> Result<(), StateError> {
        let path = self.incoming_path(id);
        let others = self.remove_incoming(|found, _| found != path);
        others.map_err(|source| StateError::Io { doing: "make room for", path, source })?;
        let bytes = id.size_bytes;
        let needed_bytes =
            if id.is_set && !self.copies_sets { bytes + bytes / 8 } else { bytes.saturating_mul(5) / 2 };
        self.check_room(needed_bytes.saturating_sub(held_bytes))
    }

    /// Removes the partly received snapshots that `is_obsolete` selects by file and index.
    pub(super) fn remove_incoming(&self, is_obsolete: impl Fn(&Path, u64) -> bool) -> io::Result<()> {
        for entry in self.disk.list(&self.dir)? {
            let name = entry.name.to_string_lossy();
            let Some(stem) = name.strip_suffix(SUFFIX) else { continue };
            let path = self.dir.join(&*name);
            let index = stem.split_once('-').and_then(|(index, _)| index.parse().ok()).unwrap_or(0);
            if is_obsolete(&path, index) {
                self.remove_at(&path)?;
            }
        }
        Ok(())
    }

    fn incoming_path(&self, id: &SnapshotId) -> PathBuf {
        let SnapshotId { index, term, size_bytes, crc32c, is_set: _ } = id;
        self.dir.join(format!("{index:020}-{term:020}-{size_bytes}-{crc32c:08x}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use helios_proto::v1::command::Op;
    use helios_proto::v1::{Command, Membership, Set};

    use super::*;
    use helios_state::{EngineKind, Store, StoreOptions};
    use helios_storage::disk::{Disk, SimDisk};

    const DIR: &str = "/data/snapshots";

    /// Writes a snapshot at `index` on a new disk. Returns its path, identity and content.
    fn snapshot(index: u64, as_set: bool) -> (Snapshots, PathBuf, SnapshotId, Vec<u8>) {
        let disk = Arc::new(SimDisk::new(index));
        let engine = if as_set { EngineKind::Runs } else { EngineKind::Memory };
        let options = StoreOptions { engine, ..StoreOptions::default() };
        let store = Store::open_with(disk.clone(), Path::new("/state"), options).unwrap();
        for at in 1..index {
            let set =
                Set { key: format!("key-{at}").into(), value: vec![at as u8; 500].into(), ..Set::default() };
            store.apply(at, 1, &Command { op: Some(Op::Set(set)), ..Command::default() });
        }
        store.apply_membership(index, 1, Membership { voters: vec![1, 2, 3], ..Default::default() });
        store.checkpoint().unwrap();
        let snapshots = Snapshots::open(disk.clone(), Path::new(DIR), true).unwrap();
        let id = SnapshotId::from(&snapshots.write(&store, as_set).unwrap());
        let path = snapshots.find(index).unwrap();
        assert_eq!(disk.is_dir(&path), as_set);
        let mut content = vec![0; id.size_bytes as usize];
        let (mut outgoing, mut at) = (snapshots.outgoing(&path).unwrap(), 0);
        while at < content.len() {
            at += outgoing.read(&mut content[at..]).unwrap();
        }
        assert_eq!(outgoing.read(&mut [0]).unwrap(), 0);
        (snapshots, path, id, content)
    }

    fn receiver(disk: &SimDisk) -> Snapshots {
        Snapshots::open(Arc::new(disk.clone()), Path::new(DIR), true).unwrap()
    }

    fn receive(snapshots: &Snapshots, id: &SnapshotId, from: usize, sent: &[u8]) -> Result<(), StateError> {
        let mut incoming = snapshots.incoming(id.clone(), from as u64)?;
        sent.chunks(100).try_for_each(|chunk| incoming.write(chunk))?;
        snapshots.receive(incoming)
    }

    fn files(disk: &SimDisk) -> usize {
        disk.list(Path::new(DIR)).unwrap().len()
    }

    #[test]
    fn interrupted_transfer_resumes_after_the_received_part_even_after_a_restart() {
        for as_set in [false, true] {
            let (sender, path, id, content) = snapshot(7, as_set);
            let disk = SimDisk::new(1);
            assert_eq!(receiver(&disk).held(&id), Prefix::default());
            receive(&receiver(&disk), &id, 0, &content[..1_000]).unwrap_err();
            let restarted = receiver(&disk);
            let from = sender.resume_at(&path, restarted.held(&id)).unwrap();
            assert_eq!(from, 1_000);
            receive(&restarted, &id, 1_000, &content[1_000..]).unwrap();
            assert_eq!(restarted.newest().unwrap().1.index, 7);
            assert_eq!(files(&disk), 1, "the part was left behind");
        }
    }

    #[test]
    fn transfer_of_a_set_resumes_at_any_byte_after_its_head() {
        let (sender, path, id, content) = snapshot(7, true);
        for at in 1..content.len() {
            let disk = SimDisk::new(1);
            let snapshots = receiver(&disk);
            receive(&snapshots, &id, 0, &content[..at]).unwrap_err();
            let from = sender.resume_at(&path, snapshots.held(&id)).unwrap() as usize;
            assert!(from == at || from == 0 && at < 500, "{from} instead of {at}");
            receive(&snapshots, &id, from, &content[from..]).unwrap();
            assert_eq!(snapshots.newest().unwrap().1.index, 7);
        }
    }

    #[test]
    fn corrupt_part_or_one_of_another_snapshot_is_sent_again() {
        for as_set in [false, true] {
            let (sender, path, id, content) = snapshot(7, as_set);
            let disk = SimDisk::new(1);
            let snapshots = receiver(&disk);
            let mut damaged = content[..1_000].to_vec();
            damaged[900] ^= 1;
            receive(&snapshots, &id, 0, &damaged).unwrap_err();
            assert_eq!(sender.resume_at(&path, snapshots.held(&id)).unwrap(), 0);
            let (_, _, other, other_content) = snapshot(8, as_set);
            assert_eq!(snapshots.held(&other), Prefix::default());
            receive(&snapshots, &other, 0, &other_content[..900]).unwrap_err();
            assert_eq!(snapshots.held(&id), Prefix::default(), "two parts are kept");
            receive(&snapshots, &id, 0, &content).unwrap();
            assert_eq!(snapshots.newest().unwrap().1.index, 7);
        }
    }

    #[test]
    fn complete_but_corrupt_snapshot_is_removed() {
        for as_set in [false, true] {
            let (_, _, id, content) = snapshot(7, as_set);
            for byte in (0..content.len()).step_by(97) {
                let disk = SimDisk::new(1);
                let mut content = content.clone();
                content[byte] ^= 1;
                receive(&receiver(&disk), &id, 0, &content).unwrap_err();
                // The next attempt begins at byte 0: nothing, or a head that is not that of the snapshot, is left.
                receive(&receiver(&disk), &id, 0, &content).unwrap_err();
                assert!(receiver(&disk).newest().is_none(), "byte {byte}");
            }
        }
    }

    #[test]
    fn transfer_without_room_on_the_disk_is_rejected_before_the_first_byte() {
        for as_set in [false, true] {
            let (_, _, id, content) = snapshot(7, as_set);
            let disk = SimDisk::new(1);
            disk.set_free_bytes(Some(id.size_bytes));
            assert!(receive(&receiver(&disk), &id, 0, &content).unwrap_err().is_disk_full());
            assert_eq!(files(&disk), 0);
            disk.set_free_bytes(Some(2 * id.size_bytes));
            let received = receive(&receiver(&disk), &id, 0, &content);
            assert_eq!(received.is_ok(), as_set, "a set is linked, a file is copied");
        }
    }

    #[test]
    fn partly_received_snapshot_is_removed_when_a_newer_one_is_complete() {
        for as_set in [false, true] {
            let (_, _, id, content) = snapshot(7, as_set);
            let (_, _, later, later_content) = snapshot(8, as_set);
            let disk = SimDisk::new(1);
            let snapshots = receiver(&disk);
            receive(&snapshots, &id, 0, &content[..1_000]).unwrap_err();
            receive(&snapshots, &later, 0, &later_content).unwrap();
            assert_eq!(files(&disk), 1);
        }
    }
}
