//! The disk marker `<data>/node.json`, and the lock that excludes a second process from the data directory.

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskLock, LockMode};

const FORMAT: u32 = 1;
/// Format of the same content for a disk whose state has the engine `runs`: builds that do not know the engine would
/// take the state for a damaged one.
const FORMAT_WITH_RUNS: u32 = 2;
/// Format of the same content for a disk whose log or state may have what only builds of log format 8 know, whatever the
/// engine: earlier builds would apply its entries as refused writes.
const FORMAT_WITH_CHUNKS: u32 = 3;
const LOCK: &str = "LOCK";
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A node's identity, read from the disk before anything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    pub format: u32,
    /// Random id, generated once for a blank disk; never changes.
    pub disk_id: String,
    pub name: String,
    /// Number of starts. A lower value than before reveals a restored older copy of the disk.
    pub boot_epoch: u64,
    /// The cluster that this disk belongs to; `None` for a blank node.
    pub member: Option<Belonging>,
    /// A pending force-new-cluster: the next start makes this member the only one before it does anything
    /// else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_new: Option<ForceNew>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForceNew {
    pub fencing_token: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Belonging {
    pub cluster_id: String,
    pub member_id: u64,
    /// Whether the cluster has removed this member. The disk cannot be used again.
    #[serde(default)]
    pub removed: bool,
    /// Number of force-new-cluster operations before this disk joined or on this disk. Members of different
    /// incarnations reject each other.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub incarnation: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("data directory {0} is in use by another heliosd process; stop it or choose another data_dir")]
    Locked(PathBuf),
    #[error("{path} cannot be read by this version: {reason}; nothing was changed")]
    Unreadable { path: PathBuf, reason: String },
    #[error(
        "data directory {dir} belongs to node {found}, not {wanted}: \
         start it as {found}, or give {wanted} a separate data_dir"
    )]
    OtherNode { dir: PathBuf, found: String, wanted: String },
    #[error(
        "data directory {dir} belongs to cluster {found}, not {wanted}: \
         point data_dir at the right disk, or use an empty one"
    )]
    OtherCluster { dir: PathBuf, found: String, wanted: String },
}

/// A locked data directory and the marker in it.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    marker: Arc<Mutex<Marker>>,
    _lock: DiskLock,
}

/// Changes the format of a marker, from any thread.
#[derive(Clone)]
pub struct FormatMark {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    marker: Arc<Mutex<Marker>>,
}

impl DataDir {
    /// Opens or creates the data directory of node `name`. `cluster_id`, if given, must be the cluster
    /// that the disk belongs to. Waits up to `patience` for another process to release the directory:
    /// after the forced deletion of a pod, its process may still hand over leadership when the replacement
    /// starts. An error leaves an existing disk unchanged.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        name: &str,
        cluster_id: Option<&str>,
        patience: Duration,
    ) -> Result<Self, MarkerError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| MarkerError::Io { path, source }
        };
        disk.make_dir(dir).map_err(io(dir))?;
        let lock_path = dir.join(LOCK);
        let lock = take(disk.as_ref(), &lock_path, patience).map_err(|error| match error {
            TryLockError::WouldBlock => MarkerError::Locked(dir.to_owned()),
            TryLockError::Error(source) => io(&lock_path)(source),
        })?;
        let mut marker = match read(disk.as_ref(), dir)? {
            Some(marker) => marker,
            None => Marker {
                format: FORMAT,
                disk_id: format!("{:032x}", rand::random::<u128>()),
                name: name.to_owned(),
                boot_epoch: 0,
                member: None,
                force_new: None,
            },
        };
        check(dir, &marker, name, cluster_id)?;
        marker.boot_epoch += 1;
        write(disk.as_ref(), dir, &marker)?;
        Ok(Self { disk, dir: dir.to_owned(), marker: Arc::new(Mutex::new(marker)), _lock: lock })
    }

    /// Returns the marker of a directory that no process uses, and a shared lock on it. Changes nothing.
    pub fn inspect(disk: &dyn Disk, dir: &Path) -> Result<(DiskLock, Option<Marker>), MarkerError> {
        let path = dir.join(LOCK);
        let lock = disk.try_lock(&path, LockMode::Shared).map_err(|error| match error {
            TryLockError::WouldBlock => MarkerError::Locked(dir.to_owned()),
            TryLockError::Error(source) => MarkerError::Io { path, source },
        })?;
        Ok((lock, read(disk, dir)?))
    }

    /// Durably records whether the state has the engine `runs`: called before such a state is made, and after one was
    /// converted to another engine.
    pub fn record_runs(&mut self, has_runs: bool) -> Result<(), MarkerError> {
        let format = if has_runs { FORMAT_WITH_RUNS } else { FORMAT };
        match self.marker().format {
            FORMAT_WITH_CHUNKS => Ok(()),
            _ => self.change(|marker| marker.format = format),
        }
    }

    /// Returns the handle that records strings in chunks.
    pub fn format_mark(&self) -> FormatMark {
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        FormatMark { disk, dir, marker: Arc::clone(&self.marker) }
    }

    pub fn marker(&self) -> Marker {
        locked(&self.marker).clone()
    }

    fn change(&mut self, change: impl FnOnce(&mut Marker)) -> Result<(), MarkerError> {
        replace(self.disk.as_ref(), &self.dir, &self.marker, change)
    }

    /// Durably records the cluster that this disk now belongs to.
    pub fn join(&mut self, member: Belonging) -> Result<(), MarkerError> {
        self.change(|marker| marker.member = Some(member))
    }

    /// Durably records that the next start must make this member the only one of its cluster.
    pub fn force_new(&mut self, mark: ForceNew) -> Result<(), MarkerError> {
        self.change(|marker| marker.force_new = Some(mark))
    }

    /// Durably records that the force-new-cluster is complete. One write clears the request and increments
    /// the incarnation, so that a crash cannot count it twice.
    pub fn forced_new(&mut self) -> Result<(), MarkerError> {
        self.change(|marker| {
            marker.force_new = None;
            if let Some(member) = &mut marker.member {
                member.incarnation += 1;
            }
        })
    }
}

impl FormatMark {
    /// Durably records that builds from before log format 8 cannot read this disk: called before the first entry of that
    /// format is in the log, or its effect in the state.
    pub fn record_chunks(&self) -> Result<(), MarkerError> {
        replace(self.disk.as_ref(), &self.dir, &self.marker, |marker| marker.format = FORMAT_WITH_CHUNKS)
    }
}

fn locked(marker: &Mutex<Marker>) -> MutexGuard<'_, Marker> {
    // A marker is replaced as a whole.
    marker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Durably changes the marker; writes nothing if it stays the same.
fn replace(
    disk: &dyn Disk,
    dir: &Path,
    marker: &Mutex<Marker>,
    change: impl FnOnce(&mut Marker),
) -> Result<(), MarkerError> {
    let mut marker = locked(marker);
    let mut next = marker.clone();
    change(&mut next);
    if next != *marker {
        write(disk, dir, &next)?;
        *marker = next;
    }
    Ok(())
}

/// Takes the lock, polling until `patience` has passed: a file lock with a timeout does not exist.
fn take(disk: &dyn Disk, path: &Path, patience: Duration) -> Result<DiskLock, TryLockError> {
    let deadline = Instant::now() + patience;
    let mut logged = false;
    loop {
        match disk.try_lock(path, LockMode::Exclusive) {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                if !logged {
                    tracing::warn!(lock = %path.display(), "waiting for another process to release the data directory");
                    logged = true;
                }
                std::thread::sleep(LOCK_POLL);
            }
            outcome => return outcome,
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("node.json")
}

fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Marker>, MarkerError> {
    let path = path(dir);
    let text = match disk.read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MarkerError::Io { path, source }),
    };
    let unreadable = |reason: String| MarkerError::Unreadable { path: path.clone(), reason };
    let marker: Marker = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if !(FORMAT..=FORMAT_WITH_CHUNKS).contains(&marker.format) {
        let reason = format!("format {}, this version knows up to {FORMAT_WITH_CHUNKS}", marker.format);
        return Err(unreadable(reason));
    }
    Ok(Some(marker))
}

fn check(dir: &Path, marker: &Marker, name: &str, cluster_id: Option<&str>) -> Result<(), MarkerError> {
    if marker.name != name {
        return Err(MarkerError::OtherNode {
            dir: dir.to_owned(),
            found: marker.name.clone(),
            wanted: name.to_owned(),
        });
    }
    match (&marker.member, cluster_id) {
        (Some(member), Some(wanted)) if member.cluster_id != wanted => Err(MarkerError::OtherCluster {
            dir: dir.to_owned(),
            found: member.cluster_id.clone(),
            wanted: wanted.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn write(disk: &dyn Disk, dir: &Path, marker: &Marker) -> Result<(), MarkerError> {
    let path = path(dir);
    let replace = || {
        let draft = dir.join("node.json.tmp");
        let file = disk.create(&draft)?;
        file.write_all_at(&serde_json::to_vec_pretty(marker)?, 0)?;
        file.sync_all()?;
        disk.rename(&draft, &path)?;
        disk.sync_dir(dir)
    };
    replace().map_err(|source| MarkerError::Io { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk;

    fn open(dir: &tempfile::TempDir, name: &str, cluster_id: Option<&str>) -> Result<DataDir, MarkerError> {
        DataDir::open(disk::real(), dir.path(), name, cluster_id, Duration::ZERO)
    }

    fn member(cluster_id: &str) -> Belonging {
        Belonging { cluster_id: cluster_id.into(), member_id: 3, removed: false, incarnation: 0 }
    }

    #[test]
    fn identity_survives_and_the_boot_epoch_grows() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = open(&dir, "a", None).unwrap();
        first.join(member("c1")).unwrap();
        let before = first.marker();
        drop(first);
        let second = open(&dir, "a", Some("c1")).unwrap();
        assert_eq!(second.marker().disk_id, before.disk_id);
        assert_eq!(second.marker().member, Some(member("c1")));
        assert_eq!(second.marker().boot_epoch, before.boot_epoch + 1);
    }

    #[test]
    fn disk_of_another_node_or_cluster_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir, "a", None).unwrap().join(member("c1")).unwrap();
        let text = fs::read(path(dir.path())).unwrap();
        assert!(matches!(open(&dir, "b", None), Err(MarkerError::OtherNode { .. })));
        assert!(matches!(open(&dir, "a", Some("c2")), Err(MarkerError::OtherCluster { .. })));
        assert_eq!(fs::read(path(dir.path())).unwrap(), text);
    }

    #[test]
    fn second_process_is_refused_while_the_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(&dir, "a", None).unwrap();
        assert!(matches!(open(&dir, "a", None), Err(MarkerError::Locked(_))));
    }

    #[test]
    fn open_waits_for_the_lock_of_an_ending_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(&dir, "a", None).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                DataDir::open(disk::real(), dir.path(), "a", None, Duration::from_secs(30)).map(drop)
            });
            drop(first);
            assert!(second.join().unwrap().is_ok());
        });
    }

    #[test]
    fn marker_has_another_format_while_the_state_has_the_engine_runs() {
        let dir = tempfile::tempdir().unwrap();
        let format = || DataDir::inspect(&disk::RealDisk::default(), dir.path()).unwrap().1.unwrap().format;
        for (has_runs, expected) in [(true, FORMAT_WITH_RUNS), (true, FORMAT_WITH_RUNS), (false, FORMAT)] {
            open(&dir, "a", None).unwrap().record_runs(has_runs).unwrap();
            assert_eq!(format(), expected);
        }
    }

    #[test]
    fn marker_keeps_the_format_of_chunks_whatever_the_engine() {
        let dir = tempfile::tempdir().unwrap();
        let format = || read(&disk::RealDisk::default(), dir.path()).unwrap().unwrap().format;
        let mut opened = open(&dir, "a", None).unwrap();
        let mark = opened.format_mark();
        opened.join(member("c1")).unwrap();
        std::thread::spawn(move || mark.record_chunks().unwrap()).join().unwrap();
        assert_eq!((format(), opened.marker().format), (FORMAT_WITH_CHUNKS, FORMAT_WITH_CHUNKS));
        opened.record_runs(true).unwrap();
        opened.record_runs(false).unwrap();
        drop(opened);
        assert_eq!(format(), FORMAT_WITH_CHUNKS);
        assert_eq!(open(&dir, "a", None).unwrap().marker().member, Some(member("c1")));
    }

    #[test]
    fn a_marker_of_an_unknown_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&dir, "a", None).unwrap());
        let text = fs::read_to_string(path(dir.path())).unwrap().replace("\"format\": 1", "\"format\": 9");
        fs::write(path(dir.path()), text).unwrap();
        assert!(matches!(open(&dir, "a", None), Err(MarkerError::Unreadable { .. })));
    }
}
