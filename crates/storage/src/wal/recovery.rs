//! Reads the log back, and distinguishes an interrupted write from damage. Writes nothing.
//!
//! Frames are read in order up to the first one that is incomplete. In a segment that has a successor,
//! this end must be at the offset that the successor's header records. In the last segment it is the end
//! of the log, unless a later frame header proves by its `synced` that bytes beyond it were durable. The
//! mere presence of later frames proves nothing: sectors of the interrupted append reach the disk in any
//! order.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::catalog::{Catalog, Noted};
use super::directory::Directory;
use super::format::{Frame, HeaderError, Op, Position, SEGMENT_HEADER, SegmentHeader, VERSION, proven_after};
use super::outline::Outline;
use super::state::State;
use super::{Base, HardState, WalError};
use crate::disk::Disk;
use crate::faults;

/// Overhead of an entry in addition to its payload, for sizes only.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub generation: u64,
    /// Length of the file, in bytes.
    pub length: u64,
    /// Offset of the end of its frames.
    pub end: u64,
    /// Highest entry index in the segment: recovery needs the segment until the base reaches it. 0 if it
    /// holds no entry that is needed.
    pub max_index: u64,
}

/// A recovered log.
pub struct Log {
    /// Segments in order, never empty; the last is the active one.
    pub segments: VecDeque<Segment>,
    pub state: State,
    pub outline: Outline,
    pub catalog: Catalog,
    pub next_sequence: u64,
    pub tail: Tail,
}

/// The bytes that the writer must durably rewrite in the active segment before it appends: the frames not
/// proven durable (they may be in the page cache only, marked clean by a failed sync), and zeros over
/// whatever follows, so that no remnant can be taken for a frame later.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tail {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// The result of [`verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub segments: usize,
    /// Bytes in use in those segments.
    pub size_bytes: u64,
    /// Bytes of the last segment that are proven to have been durable: damage there is reported as
    /// corruption and not taken for an interrupted write.
    pub proven_bytes: u64,
    pub base: Base,
    pub hard_state: Option<HardState>,
    pub entries: u64,
    pub last_index: u64,
}

/// Reads the whole log in `dir` as [`super::Wal::open`] does, but changes nothing. Returns the same errors;
/// [`WalError::Locked`] if a node has the log open.
pub fn verify(disk: Arc<dyn Disk>, dir: &Path) -> Result<Report, WalError> {
    let dir = Directory::open_to_read(disk, dir)?;
    let generations = dir.list()?.generations;
    Ok(recover(&dir, &generations)?.map_or_else(Report::default, |log| Report {
        segments: log.segments.len(),
        size_bytes: log.segments.iter().map(|segment| segment.end).sum(),
        proven_bytes: log.tail.offset,
        base: log.state.base,
        hard_state: log.state.hard_state,
        entries: log.state.last_index - log.state.base.index,
        last_index: log.state.last_index,
    }))
}

/// Recovers the log in `dir`; `None` if it has no segment. `generations` are those of the segment files,
/// ascending.
pub fn recover(dir: &Directory, generations: &[u64]) -> Result<Option<Log>, WalError> {
    let Some((&last, earlier)) = generations.split_last() else { return Ok(None) };
    if let Some(pair) = generations.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(corrupt(pair[0] + 1, 0, "the segment is missing"));
    }
    let mut replay = Replay::default();
    for &generation in earlier {
        replay.segment(generation, &read(dir, generation)?)?;
    }
    let image = read(dir, last)?;
    let proven = replay.segment(last, &image)?;
    replay.finish(image, proven).map(Some)
}

fn read(dir: &Directory, generation: u64) -> Result<Vec<u8>, WalError> {
    let path = dir.segment_path(generation);
    dir.disk().read(&path).map_err(WalError::io("read", &path))
}

fn corrupt(segment: u64, offset: u64, what: impl Into<String>) -> WalError {
    WalError::Corrupt { segment, offset, what: what.into() }
}

#[derive(Default)]
struct Replay {
    segments: VecDeque<Segment>,
    /// State of the log; set by the first start frame.
    state: Option<State>,
    /// The entries found. Its base may be far above the log's until the operation that raises that one is read.
    outline: Outline,
    catalog: Catalog,
    next_sequence: u64,
}

impl Replay {
    /// Replays one segment; returns the offset up to which it is proven to have been durable.
    fn segment(&mut self, generation: u64, image: &[u8]) -> Result<u64, WalError> {
        let header = self.header(generation, image)?;
        let mut segment =
            Segment { generation, length: header.length, end: SEGMENT_HEADER as u64, max_index: 0 };
        let mut proven = 0;
        while let Some(frame) = Frame::decode(image, Position { generation, offset: segment.end }) {
            self.frame(&mut segment, &frame).map_err(|what| corrupt(generation, segment.end, what))?;
            // A segment gets its name only after its first frame was synced.
            proven = if proven == 0 { frame.end } else { proven.max(frame.header.synced) };
        }
        if proven == 0 {
            return Err(corrupt(generation, segment.end, "the start frame is damaged"));
        }
        self.segments.push_back(segment);
        Ok(proven)
    }

    fn header(&mut self, generation: u64, image: &[u8]) -> Result<SegmentHeader, WalError> {
        let header = SegmentHeader::decode(image).map_err(|error| match error {
            HeaderError::Damaged => corrupt(generation, 0, "the segment header is damaged"),
            HeaderError::Version(found) => {
                WalError::Version { segment: generation, found, supported: VERSION }
            }
        })?;
        if (header.generation, header.length) != (generation, image.len() as u64) {
            let SegmentHeader { generation: named, length, .. } = header;
            let what = format!(
                "the file has {} bytes; its header records segment {named}, {length} bytes",
                image.len()
            );
            return Err(corrupt(generation, 0, what));
        }
        match self.segments.back() {
            None => self.next_sequence = header.first_sequence,
            Some(previous) if previous.end != header.previous_end => {
                let what = format!("frames end here; the next segment records {}", header.previous_end);
                return Err(corrupt(previous.generation, previous.end, what));
            }
            Some(_) => {}
        }
        Ok(header)
    }

    fn frame(&mut self, segment: &mut Segment, frame: &Frame) -> Result<(), String> {
        if frame.header.sequence != self.next_sequence {
            return Err(format!("frame {} found, {} expected", frame.header.sequence, self.next_sequence));
        }
        self.next_sequence += 1;
        let at = Position { generation: segment.generation, offset: segment.end };
        let mut noted = Noted { at, end: frame.end, resets: false, lowest: None, last: 0 };
        let mut rest = frame.payload;
        while !rest.is_empty() {
            let op = Op::decode(&mut rest).ok_or("an operation is malformed")?;
            self.op(segment, op)?;
            noted.op(&op);
        }
        noted.last = self.state.map_or(0, |state| state.last_index);
        self.catalog.note(&noted);
        segment.end = frame.end;
        Ok(())
    }

    fn op(&mut self, segment: &mut Segment, op: Op) -> Result<(), String> {
        match (&mut self.state, &op) {
            (Some(state), op) => state.apply(op)?,
            (start @ None, Op::Start(state)) => {
                *start = Some(*state);
                self.outline = Outline::new(Base { index: state.last_index, term: 0 });
            }
            (None, _) => return Err("the first frame is not a start frame".to_owned()),
        }
        match op {
            Op::Entry { index, term, payload } => {
                self.outline.push(index, term, payload.len() as u64 + ENTRY_OVERHEAD_BYTES);
                segment.max_index = segment.max_index.max(index);
            }
            Op::Reset(base) => {
                self.outline = Outline::new(base);
                self.segments.iter_mut().for_each(|segment| segment.max_index = 0);
                segment.max_index = 0;
            }
            Op::HardState(_) | Op::Base(_) | Op::Start(_) => {}
        }
        Ok(())
    }

    fn finish(self, image: Vec<u8>, proven: u64) -> Result<Log, WalError> {
        let Self { segments, state, mut outline, mut catalog, next_sequence } = self;
        let (Some(oldest), Some(active), Some(state)) = (segments.front(), segments.back(), state) else {
            return Err(corrupt(0, 0, "no segment was read"));
        };
        if let Some(durable) = proven_after(&image, active.generation, active.end)
            .filter(|durable| faults::is_damage(*durable > active.end))
        {
            let what = format!("damaged, although it was durable up to byte {durable}");
            return Err(corrupt(active.generation, active.end, what));
        }
        let (first_wanted, found_after) = (state.base.index.saturating_add(1), outline.base().index);
        if found_after >= first_wanted {
            let what = format!("entries {first_wanted} to {found_after} are missing before it");
            return Err(corrupt(oldest.generation, 0, what));
        }
        outline.purge(state.base);
        catalog.purge(state.base.index);
        let tail = Tail::of(image, proven, active.end);
        Ok(Log { segments, state, outline, catalog, next_sequence, tail })
    }
}

impl Tail {
    fn of(mut image: Vec<u8>, proven: u64, end: u64) -> Self {
        let (start, end) = (proven as usize, end as usize);
        let used = image.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        image.truncate(used.max(end));
        image[end..].fill(0);
        Self { offset: proven, bytes: image.split_off(start) }
    }
}
