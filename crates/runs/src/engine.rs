//! The engine: opens a directory, writes checkpoints and merges, and hands out views.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cache::BlockCache;
use crate::compaction::{Job, Merged};
use crate::error::{Error, Result};
use crate::format::Id;
use crate::manifest::{self, Frame, Listed, Manifest};
use crate::run::{Run, RunId};
use crate::set::Set;
use crate::view::{Slice, View};
use crate::writer::{RunWriter, Written};
use crate::{Slot, faults};
use helios_storage::disk::Disk;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Limit of the block cache in bytes.
    pub cache_bytes: u64,
    /// Size at which a data block ends, bytes. A little less than a power of two, which the allocator gives it.
    pub block_bytes: usize,
    /// Size at which a run of the bottom ends, bytes.
    pub file_bytes: u64,
    /// Random number from which the ids of new runs are derived. It must differ at every open and on every member: a
    /// run is known by its id.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, block_bytes: (8 << 10) - 16, file_bytes: 64 << 20, seed: 0 }
    }
}

/// The engine in one directory. Checkpoints, and commits of merges, must be called one at a time.
pub struct Runs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    cache: Arc<BlockCache>,
    inner: Mutex<Inner>,
}

struct Inner {
    view: View,
    /// `None` after the open and after a failed write: the next frame goes to a new file.
    manifest: Option<Manifest>,
    /// Number of the newest manifest file.
    number: u64,
    /// Number of ids that were drawn.
    ids: u64,
    /// New runs of frames that are not known to be durable. They are kept, because such a frame may be found at the next
    /// open, and removed after the next frame that does not name them.
    unlisted: Vec<Arc<Run>>,
}

impl Inner {
    fn next_id(&mut self, seed: u64) -> Id {
        self.ids += 1;
        xxh3_64_with_seed(&self.ids.to_be_bytes(), seed)
    }
}

impl Runs {
    /// Opens the engine in `dir`, or an empty one, and removes the files of interrupted checkpoints and merges. Reads
    /// the manifest and the footer of each run.
    ///
    /// The manifest is written again: a process that ended after a failed sync may have left a frame that is in the page
    /// cache only, and no sync writes it any more (docs/design/node.md, pitfall 4). On a full disk that is left to the
    /// next checkpoint, and nothing is removed.
    ///
    /// # Errors
    /// [`Error::is_damage`] if a file is missing or not the one that was written.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Self> {
        disk.make_dir(dir).map_err(Error::io("create", dir))?;
        let runs = Self::open_to_read(disk, dir, options)?;
        runs.renew_manifest()?;
        Ok(runs)
    }

    /// Like [`Runs::open`], but changes nothing on the disk.
    pub fn open_to_read(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Self> {
        let cache = Arc::new(BlockCache::new(options.cache_bytes));
        let (number, frame) = manifest::read(disk.as_ref(), dir)?.unwrap_or_default();
        let view = open_view(&disk, dir, &frame, &cache)?;
        let inner = Inner { view, manifest: None, number, ids: 0, unlisted: Vec::new() };
        Ok(Self { disk, dir: dir.to_owned(), options, cache, inner: Mutex::new(inner) })
    }

    fn renew_manifest(&self) -> Result<()> {
        let mut inner = self.inner();
        let frame = frame_of(&inner.view);
        if inner.number > 0 {
            inner.number += 1;
            match Manifest::create(&self.disk, &self.dir, inner.number, &frame) {
                Ok(manifest) => inner.manifest = Some(manifest),
                Err(error) if error.is_disk_full() => {
                    tracing::warn!(%error, "the manifest is renewed by the next checkpoint");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        manifest::remove_others(self.disk.as_ref(), &self.dir, inner.number, &frame)
    }

    /// Returns the newest view.
    pub fn view(&self) -> View {
        self.inner().view.clone()
    }

    /// Writes `slots`, in key order, and `record` as one checkpoint; durable when it returns. `clears` removes
    /// everything before it.
    ///
    /// # Errors
    /// After an error the content is that of the last checkpoint, and the call may be repeated, unless a sync failed:
    /// then it is unknown which of the two a restart finds.
    pub fn checkpoint(
        &self,
        slots: impl Iterator<Item = (Bytes, Slot)>,
        clears: bool,
        record: Bytes,
    ) -> Result<View> {
        // A tombstone of a key that no run may have hides nothing.
        let older = if clears { View::default() } else { self.view() };
        let mut slots = slots.peekable();
        let added = match slots.peek() {
            Some(_) => self.write(slots, |key| Ok(faults::keeps_tombstone(older.may_contain(key)?)))?,
            None => None,
        };
        let mut inner = self.inner();
        let (mut uppers, bottom) = if clears {
            (Vec::new(), faults::kept_by_clear(inner.view.bottom()))
        } else {
            (inner.view.uppers().to_vec(), inner.view.bottom().to_vec())
        };
        if let Some(added) = added {
            inner.unlisted.push(Arc::clone(&added));
            uppers.insert(0, Slice::whole(added));
        }
        self.install(&mut inner, View::new(uppers, bottom, record))
    }

    /// Writes one run that is part of no view before [`Runs::install_runs`] names it.
    pub fn write_run(&self, slots: impl Iterator<Item = (Bytes, Slot)>) -> Result<Pending> {
        let run = self.write(slots, |_| Ok(true))?;
        Ok(Pending(run))
    }

    /// Replaces the content by `runs`, which have no key in common; durable when it returns. Those that do not overlap
    /// become the bottom.
    pub fn install_runs(&self, runs: Vec<Pending>, record: Bytes) -> Result<View> {
        let mut runs: Vec<_> = runs.into_iter().filter_map(|Pending(run)| run).collect();
        runs.sort_by(|a, b| a.first_key.cmp(&b.first_key));
        let (mut uppers, mut bottom) = (Vec::new(), Vec::<Slice>::new());
        for run in runs {
            let is_next = bottom.last().is_none_or(|last| last.run.last_key < run.first_key);
            if is_next { bottom.push(Slice::whole(run)) } else { uppers.push(Slice::whole(run)) }
        }
        self.install(&mut self.inner(), View::new(uppers, bottom, record))
    }

    /// Replaces the content by that of `set`, whose files are linked from `dir`; durable when it returns.
    pub fn install_set(&self, set: &Set, dir: &Path) -> Result<View> {
        for run in set.runs() {
            let (from, to) = (dir.join(run.file_name()), self.dir.join(run.file_name()));
            self.disk.link(&from, &to).map_err(Error::io("link", &from))?;
        }
        faults::sync_run_name(|| self.disk.sync_dir(&self.dir)).map_err(Error::io("sync", &self.dir))?;
        let view = open_view(&self.disk, &self.dir, &faults::installed(set.frame()), &self.cache)?;
        self.install(&mut self.inner(), view)
    }

    /// Writes one run, without the tombstones that `keeps` does not need; `None` if nothing is left.
    fn write(
        &self,
        mut slots: impl Iterator<Item = (Bytes, Slot)>,
        mut keeps: impl FnMut(&Bytes) -> Result<bool>,
    ) -> Result<Option<Arc<Run>>> {
        let id = self.inner().next_id(self.options.seed);
        let path = self.path(id);
        let mut writer = RunWriter::create(self.disk.as_ref(), &path, id, self.options.block_bytes)?;
        let mut add = |key: &Bytes, slot: &Slot| {
            if slot.is_some() || keeps(key)? { writer.add(key, slot) } else { Ok(()) }
        };
        match slots.try_for_each(|(key, slot)| add(&key, &slot)) {
            Ok(()) => writer.finish()?.map(|written| self.open_written(written)).transpose(),
            Err(error) => {
                writer.abandon();
                Err(error)
            }
        }
    }

    fn open_written(&self, Written { id, len, crc }: Written) -> Result<Arc<Run>> {
        let id = RunId { id, len, crc };
        faults::sync_run_name(|| self.disk.sync_dir(&self.dir)).map_err(Error::io("sync", &self.dir))?;
        Ok(Arc::new(Run::open(Arc::clone(&self.disk), &self.dir, id, Arc::clone(&self.cache))?))
    }

    /// Returns the merge that is due and needs no more than `room_bytes` of free space. With `is_idle`, merges that only
    /// save disk space are due earlier.
    pub fn pick(&self, room_bytes: u64, is_idle: bool) -> Option<Job> {
        Job::of(&self.view(), self.options.file_bytes, room_bytes, is_idle)
    }

    /// Executes a merge, beside checkpoints and reads. `pace` is called with the bytes of each slot that was read, and
    /// may wait; if it breaks, the result is `None`.
    pub fn merge(&self, job: &Job, pace: impl FnMut(u64) -> ControlFlow<()>) -> Result<Option<Merged>> {
        let id = self.inner().next_id(self.options.seed);
        let path = self.path(id);
        let writer = RunWriter::create(self.disk.as_ref(), &path, id, self.options.block_bytes)?;
        job.run(writer, pace)
    }

    /// Makes the output of a merge part of the content; durable when it returns. `None` if the inputs were cleared
    /// meanwhile: then nothing changes.
    pub fn commit(&self, job: &Job, merged: Merged) -> Result<Option<View>> {
        let Merged { run, next } = merged;
        let output = run.map(|written| self.open_written(written)).transpose()?.map(Slice::whole);
        let mut inner = self.inner();
        if !job.is_valid_in(&inner.view) {
            if let Some(output) = output {
                output.run.set_obsolete();
            }
            return Ok(None);
        }
        inner.unlisted.extend(output.as_ref().map(|output| Arc::clone(&output.run)));
        let (uppers, bottom) = job.apply(&inner.view, output, next.as_ref());
        let view = View::new(uppers, bottom, inner.view.record().clone());
        self.install(&mut inner, view).map(Some)
    }

    /// Reads run `id` from the disk, past the cache, and checks all of it. `pace` is called with the bytes that were
    /// read, and may wait; if it breaks, the check ends early.
    ///
    /// # Errors
    /// [`Error::is_damage`] if the run is part of the content and not what was written.
    pub fn check_run(&self, id: RunId, pace: impl FnMut(u64) -> ControlFlow<()>) -> Result<Checked> {
        // Held until the end, so that the file is not removed meanwhile.
        let Some(_live) = self.live_run(id) else { return Ok(Checked::Replaced) };
        let checked = Run::open(Arc::clone(&self.disk), &self.dir, id, Arc::clone(&self.cache))
            .and_then(|run| run.verify(pace));
        match checked {
            Ok(ControlFlow::Continue(())) => Ok(Checked::Whole),
            Ok(ControlFlow::Break(())) => Ok(Checked::Interrupted),
            Err(_) if self.live_run(id).is_none() => Ok(Checked::Replaced),
            Err(error) => Err(error),
        }
    }

    fn live_run(&self, id: RunId) -> Option<Arc<Run>> {
        self.inner().view.slices().find(|slice| slice.run.id == id).map(|slice| Arc::clone(&slice.run))
    }

    /// Writes the frame of `next` and makes it the newest view.
    fn install(&self, inner: &mut Inner, next: View) -> Result<View> {
        let frame = frame_of(&next);
        match inner.manifest.take().filter(|manifest| !manifest.is_full(&frame)) {
            Some(mut manifest) => {
                manifest.append(&frame)?;
                inner.manifest = Some(manifest);
            }
            None => {
                let replaced = inner.number;
                inner.number += 1;
                inner.manifest = Some(Manifest::create(&self.disk, &self.dir, inner.number, &frame)?);
                if replaced > 0 {
                    manifest::remove(self.disk.as_ref(), &self.dir, replaced);
                }
            }
        }
        let replaced = std::mem::replace(&mut inner.view, next.clone());
        let unlisted = std::mem::take(&mut inner.unlisted);
        for run in replaced.slices().map(|slice| &slice.run).chain(&unlisted) {
            if !next.slices().any(|kept| kept.run.id == run.id) {
                run.set_obsolete();
            }
        }
        Ok(next)
    }

    fn path(&self, id: Id) -> PathBuf {
        self.dir.join(RunId { id, len: 0, crc: 0 }.file_name())
    }

    // A poisoned lock is harmless: the view is replaced as a whole.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of [`Runs::check_run`] without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Whole,
    /// The run is no part of the content any more.
    Replaced,
    /// `pace` ended the check.
    Interrupted,
}

/// A run that is durable but not part of the content yet.
pub struct Pending(Option<Arc<Run>>);

/// Opens the runs in `dir` that `frame` lists. Reads the footer of each.
pub(crate) fn open_view(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    frame: &Frame,
    cache: &Arc<BlockCache>,
) -> Result<View> {
    let open = |listed: &Listed| {
        let run = Run::open(Arc::clone(disk), dir, listed.run, Arc::clone(cache))?;
        Ok(Slice { run: Arc::new(run), from: listed.from.clone() })
    };
    let uppers = frame.uppers.iter().map(open).collect::<Result<_>>()?;
    let bottom = frame.bottom.iter().map(open).collect::<Result<_>>()?;
    Ok(View::new(uppers, bottom, frame.record.clone()))
}

pub(crate) fn frame_of(view: &View) -> Frame {
    let listed = |slice: &Slice| Listed { run: slice.run.id, from: slice.from.clone() };
    Frame {
        record: view.record().clone(),
        uppers: view.uppers().iter().map(listed).collect(),
        bottom: view.bottom().iter().map(listed).collect(),
    }
}
