//! The log, open for appending. One thread owns it and makes all calls.

use std::collections::VecDeque;
use std::mem;
use std::path::Path;
use std::sync::Arc;

use super::catalog::{Catalog, Noted};
use super::directory::{Directory, Listing};
use super::format::{FrameBuffer, Op, Position, SEGMENT_HEADER, SegmentHeader};
use super::pack::{Packer, Piece};
use super::reader::{Reader, SharedCatalog, lock};
use super::recovery::{self, Log, Segment, Tail};
use super::spare::Spares;
use super::state::State;
use super::{Base, Batch, HardState, Recovered, WalError, WalOptions};
use crate::disk::{Disk, DiskFile};
use crate::faults;

/// Maximum size of the buffer that is reused by the next append, in bytes.
const BUFFER_KEPT: usize = 8 << 20;

pub struct Wal {
    dir: Directory,
    options: WalOptions,
    spares: Spares,
    /// Live segments, never empty; `active` is the file of the last.
    segments: VecDeque<Segment>,
    active: Box<dyn DiskFile>,
    catalog: SharedCatalog,
    state: State,
    next_sequence: u64,
    buffer: Vec<u8>,
    poisoned: bool,
}

impl Wal {
    /// Opens the log in `dir`, or creates one. When it returns, everything recovered is durable and the
    /// remnants of an interrupted append are erased.
    ///
    /// [`WalError::Corrupt`], [`WalError::Version`] and [`WalError::Locked`] leave the disk unchanged.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<(Self, Recovered), WalError> {
        options.validate()?;
        let dir = Directory::open(disk, dir)?;
        let listing = dir.list()?;
        match recovery::recover(&dir, &listing.generations)? {
            Some(log) => Self::resume(dir, options, &listing, log),
            None => Self::create(dir, options, &listing).map(|wal| (wal, Recovered::default())),
        }
    }

    fn create(dir: Directory, options: WalOptions, listing: &Listing) -> Result<Self, WalError> {
        // Spares without a log may contain frames of the generations that the new log will use again.
        for &number in &listing.spares {
            dir.remove(&dir.spare_path(number))?;
        }
        let mut spares = Spares::open(&dir, &[], &options)?;
        let state = State::default();
        let header = SegmentHeader {
            generation: 1,
            length: options.segment_bytes,
            first_sequence: 1,
            previous_end: 0,
        };
        let (segment, active) = begin_segment(&dir, &mut spares, header, state)?;
        let mut catalog = Catalog::default();
        catalog.note(&begun(&segment, state));
        Ok(Self {
            dir,
            options,
            spares,
            segments: VecDeque::from([segment]),
            active,
            catalog: Arc::new(catalog.into()),
            state,
            next_sequence: 2,
            buffer: Vec::new(),
            poisoned: false,
        })
    }

    fn resume(
        dir: Directory,
        options: WalOptions,
        listing: &Listing,
        log: Log,
    ) -> Result<(Self, Recovered), WalError> {
        // An earlier process may have died between a rename and its sync: the file names must be durable
        // before anything is appended.
        dir.sync()?;
        let Log { segments, state, outline, catalog, next_sequence, tail } = log;
        let generation = segments.back().map_or(0, |segment| segment.generation);
        let active = dir.open_to_write(&dir.segment_path(generation))?;
        faults::erase_tail(|| rewrite(active.as_ref(), &dir.segment_path(generation), &tail))?;
        let spares = Spares::open(&dir, &listing.spares, &options)?;
        let mut wal = Self {
            dir,
            options,
            spares,
            segments,
            active,
            catalog: Arc::new(catalog.into()),
            state,
            next_sequence,
            buffer: Vec::new(),
            poisoned: false,
        };
        // An earlier process may also have died after the base was durable and before the segments below it
        // were recycled.
        wal.recycle()?;
        let State { base, last_index, hard_state } = wal.state;
        tracing::info!(base = base.index, last_index, segments = wal.segments.len(), "log recovered");
        Ok((wal, Recovered { hard_state, outline }))
    }

    /// Appends `batches` in order, with one write and one `fdatasync` (one more for each segment that it
    /// fills). Everything is durable when it returns.
    ///
    /// After [`WalError::Io`] any prefix may be on disk, and the log is poisoned. After every other
    /// error nothing was written. [`WalError::NoSpare`]: the last spare is reserved for votes and purges.
    pub fn append(&mut self, batches: &[Batch]) -> Result<(), WalError> {
        let mut packer = self.packer()?;
        for batch in batches {
            packer.batch(batch)?;
        }
        self.commit(packer.finish(), batches.iter().any(|batch| !batch.entries.is_empty()))
    }

    /// Moves the start of the log to `base`, which a durable snapshot covers, and recycles the segments that
    /// hold only entries up to it. A base at or below the current one changes nothing.
    pub fn purge(&mut self, base: Base) -> Result<(), WalError> {
        let mut packer = self.packer()?;
        if base.index <= self.state.base.index {
            return Ok(());
        }
        packer.push(&Op::Base(base))?;
        self.commit(packer.finish(), false)
    }

    /// Does a bounded part (1 MiB, one sync) of creating the spare segments; returns whether work is left.
    /// Called when idle: an append that finds no spare creates a complete one first.
    ///
    /// [`WalError::NoSpare`] on a full disk; the log stays usable.
    pub fn prepare_spare(&mut self) -> Result<bool, WalError> {
        self.check_usable()?;
        let result = self.spares.step(&self.dir);
        self.poisoned = matches!(result, Err(WalError::Io { .. }));
        result
    }

    /// Returns [`WalError::NoSpare`] if a spare segment is missing and the disk has no space for it: the
    /// remaining spares are then a reserve, and writes that grow the state must wait. Writes nothing.
    pub fn check_room(&self) -> Result<(), WalError> {
        self.spares.check_room(&self.dir)
    }

    /// Returns the number of spare segments that are ready.
    pub fn spare_segments(&self) -> usize {
        self.spares.ready()
    }

    /// Returns the index of the first entry, or of the next one if the log is empty.
    pub fn first_index(&self) -> u64 {
        self.state.base.index.saturating_add(1)
    }

    /// Returns the index of the last entry, or of the base if the log is empty.
    pub fn last_index(&self) -> u64 {
        self.state.last_index
    }

    pub fn base(&self) -> Base {
        self.state.base
    }

    pub fn hard_state(&self) -> Option<HardState> {
        self.state.hard_state
    }

    /// Returns a reader of the durable entries, for any thread.
    pub fn reader(&self) -> Reader {
        self.dir.reader(Arc::clone(&self.catalog))
    }

    /// Returns the bytes in use in the live segments, including purged entries that share a segment with
    /// live ones.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    fn check_usable(&self) -> Result<(), WalError> {
        if self.poisoned { Err(WalError::Poisoned) } else { Ok(()) }
    }

    fn packer(&mut self) -> Result<Packer, WalError> {
        self.check_usable()?;
        let active = self.active_segment();
        let space = active.length - active.end;
        Ok(Packer::new(self.state, space, &self.options, mem::take(&mut self.buffer)))
    }

    fn active_segment(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("a log has a segment from its creation on")
    }

    fn commit(&mut self, pieces: Vec<Piece>, has_entries: bool) -> Result<(), WalError> {
        let begun = pieces.len() - 1;
        // On a full disk, entries do not use the last spare: a purge may need it, and frees many segments.
        let kept = usize::from(begun > 0 && has_entries && self.check_room().is_err());
        // The segments that the append needs are created first: a full disk is detected while the whole
        // append can still be refused.
        let reserved = self.spares.reserve(&self.dir, begun + kept);
        self.poisoned = matches!(reserved, Err(WalError::Io { .. }));
        reserved?;
        let written = self.write(pieces);
        self.poisoned = written.is_err();
        written
    }

    fn write(&mut self, pieces: Vec<Piece>) -> Result<(), WalError> {
        for (nth, piece) in pieces.into_iter().enumerate() {
            if nth > 0 {
                self.roll()?;
            }
            self.write_piece(piece)?;
        }
        self.recycle()
    }

    fn write_piece(&mut self, piece: Piece) -> Result<(), WalError> {
        let Piece { frame, after, noted, max_index } = piece;
        if frame.payload_bytes() == 0 {
            return Ok(());
        }
        let Segment { generation, end: offset, .. } = *self.active_segment();
        // Every earlier append was synced before it returned, so everything before `offset` is durable.
        let frame = frame.seal(Position { generation, offset }, self.next_sequence, offset);
        let path = || self.dir.segment_path(generation);
        self.active.write_all_at(&frame, offset).map_err(|e| WalError::io("write", &path())(e))?;
        faults::sync_log(|| self.active.sync_data()).map_err(|e| WalError::io("sync", &path())(e))?;
        self.state = after;
        self.next_sequence += 1;
        if noted.resets {
            self.segments.iter_mut().for_each(|segment| segment.max_index = 0);
        }
        let segment = self.active_segment();
        segment.end += frame.len() as u64;
        segment.max_index = segment.max_index.max(max_index);
        let (at, end) = (Position { generation, offset }, segment.end);
        let mut catalog = lock(&self.catalog);
        catalog.note(&Noted { at, end, last: after.last_index, ..noted });
        catalog.purge(after.base.index);
        drop(catalog);
        if frame.capacity() <= BUFFER_KEPT {
            self.buffer = frame;
        }
        Ok(())
    }

    /// Starts a new segment. Everything in the old one is durable by now: recovery relies on a segment with
    /// a successor being complete.
    fn roll(&mut self) -> Result<(), WalError> {
        let Segment { generation, end: previous_end, .. } = *self.active_segment();
        let header = SegmentHeader {
            generation: generation + 1,
            length: self.options.segment_bytes,
            first_sequence: self.next_sequence,
            previous_end,
        };
        let (segment, active) = begin_segment(&self.dir, &mut self.spares, header, self.state)?;
        lock(&self.catalog).note(&begun(&segment, self.state));
        self.segments.push_back(segment);
        self.active = active;
        self.next_sequence += 1;
        Ok(())
    }

    /// Recycles the segments below the base, which is durable by now. Oldest first, and each one durably
    /// before the next, so that a crash cannot leave a gap between segments.
    fn recycle(&mut self) -> Result<(), WalError> {
        let through = faults::recycled_through(self.state.base.index);
        while self.segments.len() > 1 && self.segments[0].max_index <= through {
            let Segment { generation, length, .. } = self.segments[0];
            lock(&self.catalog).remove(generation);
            self.spares.recycle(&self.dir, &self.dir.segment_path(generation), length)?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
impl Wal {
    pub(super) fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces the active file by one whose writes fail.
    pub(super) fn replace_active(&mut self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        mem::replace(&mut self.active, file)
    }
}

/// The start frame of a new segment, for the catalog.
fn begun(segment: &Segment, state: State) -> Noted {
    let at = Position { generation: segment.generation, offset: SEGMENT_HEADER as u64 };
    Noted { at, end: segment.end, resets: false, lowest: None, last: state.last_index }
}

/// Turns a spare into the segment of `header`, with a start frame of `state`.
fn begin_segment(
    dir: &Directory,
    spares: &mut Spares,
    header: SegmentHeader,
    state: State,
) -> Result<(Segment, Box<dyn DiskFile>), WalError> {
    let SegmentHeader { generation, length, first_sequence, .. } = header;
    let spare = dir.spare_path(spares.take(dir)?);
    let mut start = FrameBuffer::new();
    start.push(&Op::Start(state));
    let mut image = header.encode().to_vec();
    let offset = SEGMENT_HEADER as u64;
    image.extend(start.seal(Position { generation, offset }, first_sequence, 0));
    let file = dir.open_to_write(&spare)?;
    rewrite(file.as_ref(), &spare, &Tail { offset: 0, bytes: image.clone() })?;
    // Renamed only now: a file with the name of a segment has a durable header and start frame.
    dir.rename(&spare, &dir.segment_path(generation))?;
    Ok((Segment { generation, length, end: image.len() as u64, max_index: 0 }, file))
}

fn rewrite(file: &dyn DiskFile, path: &Path, tail: &Tail) -> Result<(), WalError> {
    if tail.bytes.is_empty() {
        return Ok(());
    }
    file.write_all_at(&tail.bytes, tail.offset).map_err(WalError::io("write", path))?;
    file.sync_data().map_err(WalError::io("sync", path))
}
