//! Files of a restore, in `<data>/restore`: the base as it is received, `begun` while the node is neither blank nor a
//! member, and `restored` for a caller that repeats its call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use helios_proto::Error;
use helios_proto::v1::{RestoreHeader, Restored};
use prost::Message as _;

use crate::faults;
use crate::snapshots::{SnapshotId, Snapshots};
use helios_state::StateError;
use helios_storage::disk::{Disk, Kind};
use helios_storage::wal;

const BEGUN: &str = "begun";
/// The boot of the machine in which a part of the base was received. It is not synced, so that a power cut may have
/// damaged it.
const BOOT: &str = "boot";
const RESTORED: &str = "restored";

pub struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    links_sets: bool,
    staging: Option<Snapshots>,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, links_sets: bool) -> Self {
        Self { disk, dir: dir.to_owned(), links_sets, staging: None }
    }

    /// Returns the snapshots in the directory: the base, or a part of it.
    pub fn staging(&mut self) -> Result<&Snapshots, Error> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => Snapshots::open(Arc::clone(&self.disk), &self.dir, self.links_sets)
                .map_err(|error| failed("open", &self.dir, error))?,
        };
        Ok(self.staging.insert(staging))
    }

    /// Returns the number of bytes of `base` that are here. Another base is removed.
    pub fn held(&mut self, base: &SnapshotId) -> Result<u64, Error> {
        let dir = self.dir.clone();
        let staging = self.staging()?;
        if let Some((_, meta)) = staging.newest() {
            if SnapshotId::from(&meta) == *base {
                return Ok(base.size_bytes);
            }
            staging.clear().map_err(|error| failed("clear", &dir, error))?;
        }
        let boot = self.disk.boot_id().to_be_bytes();
        if self.disk.read(&dir.join(BOOT)).ok().as_deref() != Some(&boot) {
            self.staging()?.clear().map_err(|error| failed("clear", &dir, error))?;
            self.write(BOOT, &boot).map_err(|error| failed("write to", &dir, error))?;
        }
        let held_bytes = self.staging()?.held(base).bytes;
        // A part with all bytes was received before a crash, and not verified.
        Ok(if held_bytes < base.size_bytes { held_bytes } else { 0 })
    }

    /// Records that the node is not blank any more; durable when it returns.
    pub fn begin(&self) -> Result<(), Error> {
        self.write(BEGUN, b"").map_err(|error| failed("write to", &self.dir, error))
    }

    /// Records the result for callers of the next process; durable when it returns.
    pub fn record(&self, cluster_id: &str, restored: &Restored) -> Result<(), Error> {
        let header = RestoreHeader { cluster_id: cluster_id.to_owned(), ..RestoreHeader::default() };
        let mut content = header.encode_length_delimited_to_vec();
        content.extend(restored.encode_length_delimited_to_vec());
        content.extend(crc32c::crc32c(&content).to_be_bytes());
        self.write(RESTORED, &content).map_err(|error| failed("write to", &self.dir, error))
    }

    /// Records that the node is blank again; durable when it returns.
    pub fn end(&self) -> Result<(), Error> {
        remove_records(self.disk.as_ref(), &self.dir).map_err(|error| failed("remove from", &self.dir, error))
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let draft = self.dir.join(format!("{name}.tmp"));
        let file = self.disk.create(&draft)?;
        file.write_all_at(content, 0)?;
        file.sync_all()?;
        self.disk.rename(&draft, &self.dir.join(name))?;
        self.disk.sync_dir(&self.dir)
    }
}

/// Returns the result of the restore that made this node the first member of the cluster `cluster_id`; `None` if there was
/// none, or if its record cannot be read.
pub fn restored(disk: &dyn Disk, dir: &Path, cluster_id: &str) -> Option<Restored> {
    let content = disk.read(&dir.join(RESTORED)).ok()?;
    let (mut body, crc) = content.split_at_checked(content.len().checked_sub(4)?)?;
    if crc32c::crc32c(body).to_be_bytes() != crc {
        return None;
    }
    let header = RestoreHeader::decode_length_delimited(&mut body).ok()?;
    let restored = Restored::decode_length_delimited(&mut body).ok()?;
    (header.cluster_id == cluster_id).then_some(restored)
}

/// Removes what an interrupted restore left in the log, the state and the snapshots of a node that is no member; called
/// at its start, before any of them is opened. The received bytes of the base stay. Durable when it returns, and a crash
/// before repeats it.
pub fn discard(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    wal_dir: &Path,
    [state_dir, snapshots_dir]: [&Path; 2],
) -> Result<bool, Error> {
    if !faults::discards_restore(disk.exists(&dir.join(BEGUN))) {
        return Ok(false);
    }
    wal::remove(Arc::clone(disk), wal_dir).map_err(super::wal_error)?;
    let remove = || {
        for dir in [state_dir, snapshots_dir].into_iter().filter(|dir| disk.is_dir(dir)) {
            disk.remove_dir_all(dir)?;
            disk.sync_dir(dir.parent().unwrap_or(Path::new("")))?;
        }
        remove_records(disk.as_ref(), dir)
    };
    remove().map_err(|error| failed("remove from", dir, error)).map(|()| true)
}

/// Removes the files of a restore from the disk of a member, apart from the record of its result.
pub fn clean(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    if !disk.is_dir(dir) {
        return Ok(());
    }
    let is_kept = |name: &str| name == RESTORED || name == BEGUN;
    for entry in
        disk.list(dir)?.into_iter().filter(|entry| entry.name.to_str().is_none_or(|name| !is_kept(name)))
    {
        let path = dir.join(entry.name);
        match entry.kind {
            Kind::Dir => disk.remove_dir_all(&path)?,
            Kind::File => disk.remove_file(&path)?,
        }
    }
    remove(disk, &dir.join(BEGUN))?;
    disk.sync_dir(dir)
}

/// Removes the result first: without `begun` it would be that of a member.
fn remove_records(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    remove(disk, &dir.join(RESTORED))?;
    disk.sync_dir(dir)?;
    remove(disk, &dir.join(BEGUN))?;
    disk.sync_dir(dir)
}

fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> Error {
    StateError::Io { doing, path: path.to_owned(), source }.into()
}
