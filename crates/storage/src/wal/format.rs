//! The byte format of a segment file, version 1. Pure. Integers are little-endian.
//!
//! ```text
//! segment   header, start frame, frames ..., then zeros or remnants of an earlier generation
//! header    0 magic "HELIOWAL"   8 version u32   12 generation u64   20 file length u64
//!           28 sequence of the first frame u64   36 end of the previous segment u64   44 crc u32
//! frame     0 magic u32   4 payload length u32   8 sequence u64   16 synced u64
//!           24 payload crc u32   28 header crc u32   32 payload, padded to 8 bytes
//! payload   operations, each a tag u8 and its fields:
//!   1 entry       index u64, term u64, length u32, bytes
//!   2 hard state  term u64, vote u64, commit u64
//!   3 reset       index u64, term u64
//!   4 base        index u64, term u64
//!   5 start       base (2 u64), last index u64, flag u8, hard state if the flag is 1 (3 u64)
//! ```
//!
//! Every CRC32C is seeded with the generation and the offset: a remnant in a recycled segment, or a
//! frame that was copied elsewhere, fails its checksum. `synced` is the offset up to which this segment
//! was durable before the frame was written. The frame header has a separate CRC, so it proves `synced`
//! even if its payload never reached the disk.

use super::state::State;
use super::{Base, HardState};
use crate::faults;

pub const VERSION: u32 = 1;
pub const SEGMENT_HEADER: usize = 48;
pub const FRAME_HEADER: usize = 32;

const ALIGN: usize = 8;
const SEGMENT_MAGIC: &[u8; 8] = b"HELIOWAL";
const FRAME_MAGIC: [u8; 4] = *b"HFRM";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub generation: u64,
    pub offset: u64,
}

impl Position {
    /// Returns the CRC seed of this position. Injective over the offsets of one generation and over 2^32
    /// generations at one offset: a CRC distinguishes any two inputs that differ within 32 bits.
    fn seed(self) -> u32 {
        let generation = crc32c::crc32c(&self.generation.to_le_bytes());
        faults::frame_seed(crc32c::crc32c_append(generation, &self.offset.to_le_bytes()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub generation: u64,
    /// Length of the file, in bytes.
    pub length: u64,
    pub first_sequence: u64,
    /// Offset of the end of the frames in the previous segment; 0 in the first segment of a log.
    pub previous_end: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum HeaderError {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let fields = [self.generation, self.length, self.first_sequence, self.previous_end];
        for (slot, field) in out[12..44].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..44]);
        out[44..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(segment: &[u8]) -> Result<Self, HeaderError> {
        let mut fields = Reader(segment.get(..SEGMENT_HEADER).ok_or(HeaderError::Damaged)?);
        if crc32c::crc32c(&segment[..44]).to_le_bytes() != segment[44..SEGMENT_HEADER]
            || fields.take(8) != Some(SEGMENT_MAGIC)
        {
            return Err(HeaderError::Damaged);
        }
        match fields.u32().ok_or(HeaderError::Damaged)? {
            VERSION => fields.segment_header().ok_or(HeaderError::Damaged),
            newer => Err(HeaderError::Version(newer)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub payload_bytes: u32,
    pub sequence: u64,
    pub synced: u64,
    payload_crc: u32,
}

impl FrameHeader {
    /// Decodes the frame header at `at`; `None` if none was written there in this generation.
    pub fn decode(segment: &[u8], at: Position) -> Option<Self> {
        Self::decode_at(segment.get(usize::try_from(at.offset).ok()?..)?, at)
    }

    /// Decodes the frame header at the front of `bytes`, which are at position `at` of the segment.
    fn decode_at(bytes: &[u8], at: Position) -> Option<Self> {
        let header = bytes.get(..FRAME_HEADER)?;
        if header[..4] != FRAME_MAGIC
            || crc32c::crc32c_append(at.seed(), &header[..28]).to_le_bytes() != header[28..]
        {
            return None;
        }
        let mut fields = Reader(&header[4..]);
        Some(Self {
            payload_bytes: fields.u32()?,
            sequence: fields.u64()?,
            synced: fields.u64()?,
            payload_crc: fields.u32()?,
        })
    }
}

/// A complete frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub header: FrameHeader,
    pub payload: &'a [u8],
    /// Offset of the next frame.
    pub end: u64,
}

impl<'a> Frame<'a> {
    /// Decodes the frame at `at`; `None` if it is incomplete or damaged.
    pub fn decode(segment: &'a [u8], at: Position) -> Option<Self> {
        Self::decode_at(segment.get(usize::try_from(at.offset).ok()?..)?, at)
    }

    /// Decodes the frame at the front of `bytes`, which are at position `at` of the segment.
    pub fn decode_at(bytes: &'a [u8], at: Position) -> Option<Self> {
        let header = FrameHeader::decode_at(bytes, at)?;
        let end = FRAME_HEADER.checked_add(header.payload_bytes as usize)?;
        let payload = bytes.get(FRAME_HEADER..end)?;
        let intact = crc32c::crc32c_append(at.seed(), payload) == header.payload_crc;
        let end = at.offset + end.next_multiple_of(ALIGN) as u64;
        intact.then_some(Self { header, payload, end })
    }
}

/// A frame under construction. Space for the header is reserved in front of the payload, so that the
/// frame is one write.
#[derive(Debug, Default)]
pub struct FrameBuffer(Vec<u8>);

impl FrameBuffer {
    /// Bytes of a segment that its header and the largest start frame use.
    pub const LARGEST_START: u64 = (SEGMENT_HEADER + (FRAME_HEADER + 50).next_multiple_of(ALIGN)) as u64;

    /// Creates an empty frame in the memory of `buffer`.
    pub fn reuse(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(FRAME_HEADER, 0);
        Self(buffer)
    }

    pub fn new() -> Self {
        Self::reuse(Vec::new())
    }

    pub fn payload_bytes(&self) -> usize {
        self.0.len() - FRAME_HEADER
    }

    pub fn push(&mut self, op: &Op) {
        op.encode(&mut self.0);
    }

    /// Fills in the header and the padding; returns the bytes to write at `at`.
    pub fn seal(mut self, at: Position, sequence: u64, synced: u64) -> Vec<u8> {
        let seed = at.seed();
        let length = self.payload_bytes() as u32;
        let payload_crc = crc32c::crc32c_append(seed, &self.0[FRAME_HEADER..]);
        self.0[..4].copy_from_slice(&FRAME_MAGIC);
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        self.0[8..16].copy_from_slice(&sequence.to_le_bytes());
        self.0[16..24].copy_from_slice(&synced.to_le_bytes());
        self.0[24..28].copy_from_slice(&payload_crc.to_le_bytes());
        let header_crc = crc32c::crc32c_append(seed, &self.0[..28]);
        self.0[28..32].copy_from_slice(&header_crc.to_le_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        self.0
    }
}

/// Returns the highest `synced` offset of the frame headers at or after `from`. Every aligned offset is
/// tried, because damage may break the chain of frames that leads to a header.
pub fn proven_after(segment: &[u8], generation: u64, from: u64) -> Option<u64> {
    (from..segment.len() as u64)
        .step_by(ALIGN)
        .filter_map(|offset| FrameHeader::decode(segment, Position { generation, offset }))
        .map(|header| header.synced)
        .max()
}

/// One operation on the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    Entry {
        index: u64,
        term: u64,
        payload: &'a [u8],
    },
    HardState(HardState),
    Reset(Base),
    Base(Base),
    /// First operation of every segment: the state before it, so that earlier segments can be removed.
    Start(State),
}

impl<'a> Op<'a> {
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Op::Entry { payload, .. } => 21 + payload.len(),
            Op::HardState(_) => 25,
            Op::Reset(_) | Op::Base(_) => 17,
            Op::Start(state) => 26 + if state.hard_state.is_some() { 24 } else { 0 },
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Op::Entry { index, term, payload } => {
                put(out, 1, &[*index, *term]);
                out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
                out.extend_from_slice(payload);
            }
            Op::HardState(state) => put(out, 2, &[state.term, state.vote, state.commit]),
            Op::Reset(base) => put(out, 3, &[base.index, base.term]),
            Op::Base(base) => put(out, 4, &[base.index, base.term]),
            Op::Start(State { base, last_index, hard_state }) => {
                put(out, 5, &[base.index, base.term, *last_index]);
                match hard_state {
                    Some(state) => put(out, 1, &[state.term, state.vote, state.commit]),
                    None => out.push(0),
                }
            }
        }
    }

    /// Decodes one operation and removes it from the front of `payload`; `None` if it is malformed.
    pub fn decode(payload: &mut &'a [u8]) -> Option<Self> {
        let mut fields = Reader(payload);
        let op = match fields.u8()? {
            1 => {
                let (index, term, length) = (fields.u64()?, fields.u64()?, fields.u32()?);
                Op::Entry { index, term, payload: fields.take(length as usize)? }
            }
            2 => Op::HardState(fields.hard_state()?),
            3 => Op::Reset(fields.base()?),
            4 => Op::Base(fields.base()?),
            5 => Op::Start(State {
                base: fields.base()?,
                last_index: fields.u64()?,
                hard_state: match fields.u8()? {
                    0 => None,
                    1 => Some(fields.hard_state()?),
                    _ => return None,
                },
            }),
            _ => return None,
        };
        *payload = fields.0;
        Some(op)
    }
}

fn put(out: &mut Vec<u8>, tag: u8, fields: &[u64]) {
    out.push(tag);
    for field in fields {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn base(&mut self) -> Option<Base> {
        Some(Base { index: self.u64()?, term: self.u64()? })
    }

    fn hard_state(&mut self) -> Option<HardState> {
        Some(HardState { term: self.u64()?, vote: self.u64()?, commit: self.u64()? })
    }

    fn segment_header(&mut self) -> Option<SegmentHeader> {
        Some(SegmentHeader {
            generation: self.u64()?,
            length: self.u64()?,
            first_sequence: self.u64()?,
            previous_end: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { generation: 7, offset: 64 };

    fn ops() -> Vec<Op<'static>> {
        let hard_state = HardState { term: 3, vote: 2, commit: 9 };
        let base = Base { index: 4, term: 1 };
        vec![
            Op::Start(State { base, last_index: 9, hard_state: None }),
            Op::Start(State { base, last_index: 9, hard_state: Some(hard_state) }),
            Op::Entry { index: 10, term: 3, payload: b"ten" },
            Op::Entry { index: 11, term: 3, payload: b"" },
            Op::HardState(hard_state),
            Op::Reset(base),
            Op::Base(base),
        ]
    }

    fn frame_at(at: Position) -> Vec<u8> {
        let mut buffer = FrameBuffer::new();
        ops().iter().for_each(|op| buffer.push(op));
        let mut segment = vec![0; at.offset as usize];
        segment.extend(buffer.seal(at, 5, 48));
        segment
    }

    #[test]
    fn a_frame_reads_back_as_written() {
        let segment = frame_at(AT);
        let frame = Frame::decode(&segment, AT).unwrap();
        assert_eq!((frame.header.sequence, frame.header.synced, frame.end), (5, 48, segment.len() as u64));
        assert_eq!(frame.payload.len(), ops().iter().map(Op::encoded_bytes).sum::<usize>());
        let mut rest = frame.payload;
        let read: Vec<Op> = std::iter::from_fn(|| Op::decode(&mut rest)).collect();
        assert_eq!((read, rest), (ops(), &[][..]));
    }

    #[test]
    fn frame_of_another_generation_or_offset_is_not_decoded() {
        let segment = frame_at(AT);
        for generation in (0..2000).filter(|generation| *generation != AT.generation) {
            assert_eq!(FrameHeader::decode(&segment, Position { generation, ..AT }), None);
        }
        let mut moved = vec![0; 8];
        moved.extend(&segment);
        assert_eq!(FrameHeader::decode(&moved, Position { offset: 72, ..AT }), None);
    }

    #[test]
    fn frame_header_proves_earlier_bytes_durable_without_its_payload() {
        let segment = frame_at(AT);
        let torn = &segment[..AT.offset as usize + FRAME_HEADER];
        assert_eq!(Frame::decode(torn, AT), None);
        assert_eq!(proven_after(torn, AT.generation, 8), Some(48));
        assert_eq!(proven_after(torn, AT.generation + 1, 8), None);
    }

    #[test]
    fn segment_header_reads_back_and_any_flipped_bit_is_detected() {
        let header = SegmentHeader { generation: 3, length: 4096, first_sequence: 17, previous_end: 4000 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(HeaderError::Damaged));
        }
    }

    #[test]
    fn newer_format_version_is_reported() {
        let header = SegmentHeader { generation: 3, length: 4096, first_sequence: 17, previous_end: 4000 };
        let mut bytes = header.encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Version(2)));
    }
}
