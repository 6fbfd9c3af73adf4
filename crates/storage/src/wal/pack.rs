//! Encodes the batches of one append as frames, one for each segment that they need. Pure: a batch that
//! contradicts the log is refused here, before anything is written.

use super::catalog::Noted;
use super::format::{FRAME_HEADER, FrameBuffer, Op, Position};
use super::state::State;
use super::{Batch, LogEntry, WalError, WalOptions};

/// The part of an append that is written to one segment as one frame; the first may be empty.
pub struct Piece {
    pub frame: FrameBuffer,
    /// State of the log once this frame is durable.
    pub after: State,
    /// Its entries; the writer adds the position.
    pub noted: Noted,
    /// Highest entry index in this frame; 0 for none. Recovery needs the segment until the base reaches it.
    pub max_index: u64,
}

impl Piece {
    fn new(frame: FrameBuffer, after: State) -> Self {
        let at = Position { generation: 0, offset: 0 };
        let noted = Noted { at, end: 0, resets: false, lowest: None, last: 0 };
        Self { frame, after, noted, max_index: 0 }
    }
}

pub struct Packer {
    full: Vec<Piece>,
    current: Piece,
    /// Payload bytes that fit into the segment of `current`.
    room: usize,
    /// Payload bytes that fit into a new segment.
    fresh_room: usize,
    max_entry_bytes: u64,
}

impl Packer {
    /// Creates a packer. `space` is the free bytes of the active segment; `buffer` is memory to reuse.
    pub fn new(state: State, space: u64, options: &WalOptions, buffer: Vec<u8>) -> Self {
        let room = |space: u64| (space as usize).saturating_sub(FRAME_HEADER);
        Self {
            full: Vec::new(),
            current: Piece::new(FrameBuffer::reuse(buffer), state),
            room: room(space),
            fresh_room: room(options.segment_bytes - FrameBuffer::LARGEST_START),
            max_entry_bytes: options.max_entry_bytes(),
        }
    }

    pub fn batch(&mut self, batch: &Batch) -> Result<(), WalError> {
        let Batch { reset, entries, hard_state } = batch;
        if let Some(base) = reset {
            self.push(&Op::Reset(*base))?;
        }
        if let Some(pair) =
            entries.windows(2).find(|pair| pair[0].index.checked_add(1) != Some(pair[1].index))
        {
            let (before, after) = (pair[0].index, pair[1].index);
            return Err(WalError::Refused(format!("entry {after} follows {before} in one batch")));
        }
        for entry in entries {
            self.entry(entry)?;
        }
        hard_state.map_or(Ok(()), |state| self.push(&Op::HardState(state)))
    }

    fn entry(&mut self, entry: &LogEntry) -> Result<(), WalError> {
        let LogEntry { index, term, ref payload } = *entry;
        let (bytes, limit) = (payload.len() as u64, self.max_entry_bytes);
        if bytes > limit {
            return Err(WalError::TooLarge { index, bytes, limit });
        }
        self.push(&Op::Entry { index, term, payload })
    }

    pub fn push(&mut self, op: &Op) -> Result<(), WalError> {
        let mut after = self.current.after;
        after.apply(op).map_err(WalError::Refused)?;
        if self.current.frame.payload_bytes() + op.encoded_bytes() > self.room {
            let next = Piece::new(FrameBuffer::new(), self.current.after);
            self.full.push(std::mem::replace(&mut self.current, next));
            self.room = self.fresh_room;
        }
        let piece = &mut self.current;
        piece.frame.push(op);
        piece.after = after;
        piece.noted.op(op);
        match *op {
            Op::Reset(_) => piece.max_index = 0,
            Op::Entry { index, .. } => piece.max_index = piece.max_index.max(index),
            Op::HardState(_) | Op::Base(_) | Op::Start(_) => {}
        }
        Ok(())
    }

    pub fn finish(self) -> Vec<Piece> {
        let mut pieces = self.full;
        pieces.push(self.current);
        pieces
    }
}
