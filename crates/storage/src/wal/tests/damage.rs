//! Every single flipped bit and every truncation of a small log: the durable content is recovered
//! exactly, or the log is reported as corrupt.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::*;
use crate::wal::format::{FRAME_HEADER, Frame, FrameBuffer, Op, Position, SEGMENT_HEADER};

/// A log of one segment, with the state and the end of the frames after each append.
struct Sample {
    dir: TempDir,
    segment: PathBuf,
    states: Vec<Content>,
    ends: Vec<u64>,
}

impl Sample {
    fn new() -> Self {
        let dir = scratch();
        let (mut wal, first) = open(dir.path());
        let (mut states, mut ends) = (vec![first], vec![wal.size_bytes()]);
        let batches = [
            Batch { hard_state: Some(hard_state(1, 1, 1)), ..append(entries(1..=3, 1)) },
            append(entries(4..=6, 1)),
            Batch { hard_state: Some(hard_state(2, 3, 2)), ..append(entries(5..=5, 2)) },
            Batch { hard_state: Some(hard_state(2, 3, 5)), ..append(entries(6..=7, 2)) },
            append(entries(8..=9, 2)),
        ];
        for batch in batches {
            wal.append(&[batch]).unwrap();
            ends.push(wal.size_bytes());
            drop(wal);
            states.push(read(dir.path()).unwrap());
            wal = open(dir.path()).0;
        }
        drop(wal);
        let segment = Image::of(dir.path()).segments().pop().unwrap();
        assert_eq!(states[5].entries, [entries(1..=4, 1), entries(5..=9, 2)].concat());
        Self { dir, segment, states, ends }
    }

    fn last(&self) -> usize {
        self.states.len() - 1
    }

    /// Returns the ranges of bytes that carry data: neither padding nor after the end.
    fn covered(&self) -> Vec<Range<u64>> {
        let image = fs::read(&self.segment).unwrap();
        let starts = [SEGMENT_HEADER as u64].into_iter().chain(self.ends.clone());
        let frames = starts.map_while(|offset| {
            let frame = Frame::decode(&image, Position { generation: 1, offset })?;
            Some(offset..offset + (FRAME_HEADER + frame.payload.len()) as u64)
        });
        let covered: Vec<_> = std::iter::once(0..SEGMENT_HEADER as u64).chain(frames).collect();
        assert_eq!(covered.len(), 2 + self.last());
        covered
    }

    /// Returns the number of the last append that was recovered; `None` if the log was reported as corrupt.
    fn recovered(&self) -> Option<usize> {
        match read(self.dir.path()) {
            Ok(found) => {
                let known = self.states.iter().position(|state| *state == found);
                Some(known.unwrap_or_else(|| panic!("never written: {found:?}")))
            }
            Err(WalError::Corrupt { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let sample = Sample::new();
    let clean = fs::read(&sample.segment).unwrap();
    let file = File::options().write(true).open(&sample.segment).unwrap();
    let covered = sample.covered();
    let last_frame = sample.ends[sample.last() - 1];
    for (offset, byte) in (0..).zip(&clean) {
        let expected = match covered.iter().any(|range| range.contains(&offset)) {
            false => Some(sample.last()),
            true if offset >= last_frame => Some(sample.last() - 1),
            true => None,
        };
        for bit in 0..8 {
            file.write_all_at(&[byte ^ (1 << bit)], offset).unwrap();
            assert_eq!(sample.recovered(), expected, "bit {bit} of byte {offset}");
        }
        file.write_all_at(&[*byte], offset).unwrap();
    }
}

/// Zeroes the file from each offset on, as if that part had never been written: all frames below remain.
#[test]
fn log_with_a_lost_end_recovers_its_whole_frames() {
    let sample = Sample::new();
    let clean = fs::read(&sample.segment).unwrap();
    for offset in 0..=sample.ends[sample.last()] + 16 {
        let mut bytes = clean.clone();
        bytes[offset as usize..].fill(0);
        fs::write(&sample.segment, &bytes).unwrap();
        let whole = sample.ends.iter().filter(|end| **end <= offset).count().checked_sub(1);
        let found = sample.recovered();
        // A frame that ends with zeros loses nothing when they are overwritten by zeros.
        let next = whole.map_or(0, |whole| (whole + 1).min(sample.last()));
        assert!(found == whole || found == Some(next), "{found:?} at {offset}, not {whole:?}");
        let Some(found) = found else { continue };

        let (mut wal, _) = open(sample.dir.path());
        let next = wal.last_index() + 1;
        wal.append(&[append(entries(next..=next + 1, 9))]).unwrap();
        let expected = [sample.states[found].entries.clone(), entries(next..=next + 1, 9)].concat();
        assert_eq!(reopen(wal).1.entries, expected);
    }
}

/// A segment gets its name only at its full, durable length: a shorter file has lost durable bytes.
#[test]
fn truncated_segment_file_is_corrupt_and_left_unchanged() {
    let sample = Sample::new();
    let clean = fs::read(&sample.segment).unwrap();
    for length in 0..clean.len() {
        fs::write(&sample.segment, &clean[..length]).unwrap();
        let before = Image::of(sample.dir.path());
        let result = Wal::open(disk::real(), sample.dir.path(), SMALL).map(|_| ());
        assert!(matches!(result, Err(WalError::Corrupt { segment: 1, .. })), "{length}: {result:?}");
        assert!(Image::of(sample.dir.path()) == before);
    }
}

#[test]
fn corruption_error_names_the_offset_and_changes_nothing() {
    let sample = Sample::new();
    let mut bytes = fs::read(&sample.segment).unwrap();
    bytes[sample.ends[1] as usize + 40] ^= 1;
    fs::write(&sample.segment, &bytes).unwrap();
    let before = Image::of(sample.dir.path());
    let error = Wal::open(disk::real(), sample.dir.path(), SMALL).map(|_| ()).unwrap_err();
    let WalError::Corrupt { segment, offset, .. } = &error else { panic!("{error}") };
    assert_eq!((*segment, *offset), (1, sample.ends[1]));
    assert!(Image::of(sample.dir.path()) == before);
}

#[test]
fn flipped_bit_in_any_segment_but_the_last_is_corrupt() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    (1..=25).for_each(|index| wal.append(&[append(large([index], 1))]).unwrap());
    drop(wal);
    let log = read_log(dir.path()).unwrap();
    assert!(log.segments.len() >= 3);
    let segments = Image::of(dir.path()).segments();
    for (path, segment) in segments.iter().zip(&log.segments).take(log.segments.len() - 1) {
        let clean = fs::read(path).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        for offset in 0..clean.len() as u64 {
            let byte = clean[offset as usize];
            file.write_all_at(&[byte ^ (1 << (offset % 8))], offset).unwrap();
            match read(dir.path()) {
                Err(WalError::Corrupt { segment: named, .. }) => {
                    assert!(offset < segment.end && named == segment.generation);
                }
                Ok(found) => {
                    assert!(offset >= segment.end || byte == 0, "byte {offset} was overlooked");
                    assert_eq!(found.entries, large(1..=25, 1));
                }
                Err(error) => panic!("{error}"),
            }
            file.write_all_at(&[byte], offset).unwrap();
        }
    }
}

#[test]
fn a_missing_segment_is_corrupt() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    (1..=25).for_each(|index| wal.append(&[append(large([index], 1))]).unwrap());
    drop(wal);
    let image = Image::of(dir.path());
    let segments = image.segments();
    assert!(segments.len() > 3);
    for (missing, path) in (1..).zip(&segments[..segments.len() - 1]) {
        image.restore(dir.path());
        fs::remove_file(path).unwrap();
        let error = read(dir.path()).unwrap_err();
        // Without the oldest segment, the next one reports missing entries: a purge may have removed the
        // oldest.
        let expected = if missing == 1 { 2 } else { missing };
        let WalError::Corrupt { segment, offset: 0, .. } = error else { panic!("{error}") };
        assert_eq!(segment, expected, "without segment {missing}");
    }
}

#[test]
fn a_whole_frame_out_of_sequence_is_corrupt() {
    let sample = Sample::new();
    let offset = sample.ends[sample.last()];
    let mut frame = FrameBuffer::new();
    frame.push(&Op::HardState(hard_state(9, 9, 9)));
    let frame = frame.seal(Position { generation: 1, offset }, 40, offset);
    File::options().write(true).open(&sample.segment).unwrap().write_all_at(&frame, offset).unwrap();
    assert_eq!(sample.recovered(), None);
}
