//! Incoming snapshot transfers. The received part is in `<index>-<term>-<bytes>-<checksum>.incoming`. It
//! survives a broken stream and a restart, and the next stream resumes after it.
//!
//! The file is not synced before the transfer is complete: a sender that resumes compares the checksum of the part.

use std::io;
use std::path::{Path, PathBuf};

use super::Snapshots;
use helios_state::{SnapshotMeta, StateError};
use helios_storage::disk::{DiskFile, read_full};

const SUFFIX: &str = ".incoming";
const BUFFER_BYTES: usize = 256 << 10;

/// Identity of a snapshot. All members write the same bytes at the same index, so any of them may send the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotId {
    pub index: u64,
    pub term: u64,
    pub size_bytes: u64,
    /// Checksum in the last four bytes of the file.
    pub crc32c: u32,
}

impl From<&SnapshotMeta> for SnapshotId {
    fn from(meta: &SnapshotMeta) -> Self {
        let SnapshotMeta { index, term, membership: _, size_bytes, crc32c, version: _ } = meta;
        Self { index: *index, term: *term, size_bytes: *size_bytes, crc32c: *crc32c }
    }
}

/// Length and checksum of the first bytes of a snapshot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefix {
    pub bytes: u64,
    pub crc32c: u32,
}

/// Writer of one received snapshot file, in the order of its bytes.
pub struct Incoming {
    pub(super) id: SnapshotId,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    bytes: u64,
}

impl Incoming {
    /// Appends `data`. Returns an error if the file would be larger than announced.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StateError> {
        let end = self.bytes + data.len() as u64;
        if end > self.id.size_bytes {
            return Err(self.damaged(format!("more than the {} bytes announced", self.id.size_bytes)));
        }
        let written = self.file.write_all_at(data, self.bytes);
        written.map_err(|source| self.failed("write", source))?;
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

    /// Syncs the file; its content is durable when this returns.
    pub(super) fn sync(&self) -> Result<(), StateError> {
        self.file.sync_all().map_err(|source| self.failed("sync", source))
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

    /// Returns the first byte of `file` to send to a peer that has `held`: 0 if that part is corrupt or of another
    /// snapshot.
    pub fn resume_at(&self, file: &Path, held: Prefix) -> io::Result<u64> {
        let own = self.prefix(file, held.bytes)?;
        Ok(if own == held { held.bytes } else { 0 })
    }

    /// Reads length and checksum of the first bytes of a file, at most `limit_bytes`.
    fn prefix(&self, path: &Path, limit_bytes: u64) -> io::Result<Prefix> {
        let file = self.disk.open(path)?;
        let mut prefix = Prefix::default();
        let mut buffer = vec![0; BUFFER_BYTES];
        while prefix.bytes < limit_bytes {
            let wanted = (limit_bytes - prefix.bytes).min(BUFFER_BYTES as u64) as usize;
            let read = read_full(file.as_ref(), &mut buffer[..wanted], prefix.bytes)?;
            if read == 0 {
                break;
            }
            prefix.crc32c = crc32c::crc32c_append(prefix.crc32c, &buffer[..read]);
            prefix.bytes += read as u64;
        }
        Ok(prefix)
    }

    /// Opens the file of an incoming snapshot, whose first `from_bytes` are already here.
    pub fn incoming(&self, id: SnapshotId, from_bytes: u64) -> Result<Incoming, StateError> {
        let path = self.incoming_path(&id);
        let failed = |doing, source| StateError::Io { doing, path: path.clone(), source };
        self.make_room_for(&id, from_bytes)?;
        let file = if from_bytes == 0 {
            self.disk.create(&path).map_err(|source| failed("create", source))?
        } else {
            let file = self.disk.open_to_write(&path).map_err(|source| failed("open", source))?;
            if file.len().map_err(|source| failed("read", source))? < from_bytes {
                let reason = format!("its first {from_bytes} bytes are not here any more");
                return Err(StateError::BadSnapshot { path, reason });
            }
            file.set_len(from_bytes).map_err(|source| failed("cut", source))?;
            file
        };
        Ok(Incoming { id, path, file, bytes: from_bytes })
    }

    /// Removes all other partly received snapshots, because two may need more room than there is.
    ///
    /// # Errors
    /// There is no room for the rest of the file and for the state restored from it, which is somewhat larger. The
    /// remaining space is left to the log.
    pub fn make_room_for(&self, id: &SnapshotId, held_bytes: u64) -> Result<(), StateError> {
        let path = self.incoming_path(id);
        let others = self.remove_incoming(|found, _| found != path);
        others.map_err(|source| StateError::Io { doing: "make room for", path, source })?;
        self.check_room((id.size_bytes.saturating_mul(5) / 2).saturating_sub(held_bytes))
    }

    /// Removes the partly received snapshots that `is_obsolete` selects by file and index.
    pub(super) fn remove_incoming(&self, is_obsolete: impl Fn(&Path, u64) -> bool) -> io::Result<()> {
        for entry in self.disk.list(&self.dir)? {
            let name = entry.name.to_string_lossy();
            let Some(stem) = name.strip_suffix(SUFFIX) else { continue };
            let path = self.dir.join(&*name);
            let index = stem.split_once('-').and_then(|(index, _)| index.parse().ok()).unwrap_or(0);
            if is_obsolete(&path, index) {
                self.disk.remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn incoming_path(&self, id: &SnapshotId) -> PathBuf {
        let SnapshotId { index, term, size_bytes, crc32c } = id;
        self.dir.join(format!("{index:020}-{term:020}-{size_bytes}-{crc32c:08x}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use helios_proto::v1::Membership;

    use super::*;
    use helios_state::{EngineKind, Store, StoreOptions};
    use helios_storage::disk::{Disk, SimDisk};

    const DIR: &str = "/data/snapshots";

    /// Writes a snapshot at `index` on a new disk. Returns its path, identity and content.
    fn snapshot(index: u64) -> (Snapshots, PathBuf, SnapshotId, Vec<u8>) {
        let disk = Arc::new(SimDisk::new(index));
        let options = StoreOptions { engine: EngineKind::Memory, ..StoreOptions::default() };
        let store = Store::open_with(disk.clone(), Path::new("/"), options).unwrap();
        store.apply_membership(index, 1, Membership { voters: vec![index; 3_000], ..Default::default() });
        store.checkpoint().unwrap();
        let snapshots = Snapshots::open(disk.clone(), Path::new(DIR)).unwrap();
        let id = SnapshotId::from(&snapshots.write(&store).unwrap());
        let path = snapshots.find(index).unwrap();
        let content = disk.read(&path).unwrap();
        (snapshots, path, id, content)
    }

    fn receiver(disk: &SimDisk) -> Snapshots {
        Snapshots::open(Arc::new(disk.clone()), Path::new(DIR)).unwrap()
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
    fn an_interrupted_transfer_resumes_after_the_received_part_even_after_a_restart() {
        let (sender, path, id, content) = snapshot(7);
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

    #[test]
    fn a_corrupt_part_or_one_of_another_snapshot_is_sent_again() {
        let (sender, path, id, content) = snapshot(7);
        let disk = SimDisk::new(1);
        let snapshots = receiver(&disk);
        let mut damaged = content[..1_000].to_vec();
        damaged[500] ^= 1;
        receive(&snapshots, &id, 0, &damaged).unwrap_err();
        assert_eq!(sender.resume_at(&path, snapshots.held(&id)).unwrap(), 0);
        let (_, _, other, other_content) = snapshot(8);
        assert_eq!(snapshots.held(&other), Prefix::default());
        receive(&snapshots, &other, 0, &other_content[..900]).unwrap_err();
        assert_eq!(snapshots.held(&id), Prefix::default(), "two parts are kept");
        receive(&snapshots, &id, 0, &content).unwrap();
        assert_eq!(snapshots.newest().unwrap().1.index, 7);
    }

    #[test]
    fn a_complete_but_corrupt_snapshot_is_removed() {
        let (_, _, id, mut content) = snapshot(7);
        let disk = SimDisk::new(1);
        content[500] ^= 1;
        receive(&receiver(&disk), &id, 0, &content).unwrap_err();
        assert_eq!(files(&disk), 0);
    }

    #[test]
    fn a_transfer_without_room_on_the_disk_is_rejected_before_the_first_byte() {
        let (_, _, id, content) = snapshot(7);
        let disk = SimDisk::new(1);
        disk.set_free_bytes(Some(2 * id.size_bytes));
        assert!(receive(&receiver(&disk), &id, 0, &content).unwrap_err().is_disk_full());
        assert_eq!(files(&disk), 0);
    }

    #[test]
    fn a_partly_received_snapshot_is_removed_when_a_newer_one_is_complete() {
        let (_, _, id, content) = snapshot(7);
        let (_, _, later, later_content) = snapshot(8);
        let disk = SimDisk::new(1);
        let snapshots = receiver(&disk);
        receive(&snapshots, &id, 0, &content[..1_000]).unwrap_err();
        receive(&snapshots, &later, 0, &later_content).unwrap();
        assert_eq!(files(&disk), 1);
    }
}
