//! Bytes of the file, with the position, the checksum, and the primitives of the format: lengths and strings.

use std::io::{ErrorKind, Read};

use crc::{CRC_64_REDIS, Crc, Digest, Table};

use crate::error::{Located, Problem};

const BUFFER_BYTES: usize = 64 << 10;
/// Largest string, that of Redis (`proto-max-bulk-len`).
pub const MAX_STRING_BYTES: u64 = 512 << 20;
/// Capacity of a buffer before its bytes are read.
const FIRST_CAPACITY: u64 = 4 << 10;

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

pub type Result<T> = std::result::Result<T, Located>;

pub struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    /// First byte of the buffer that was not consumed yet, and the end of its bytes.
    next: usize,
    end: usize,
    /// First byte of the buffer that the checksum does not have yet.
    unhashed: usize,
    digest: Digest<'static, u64, Table<16>>,
    /// Position of the first byte of the buffer in the file.
    base: u64,
}

/// A length, or the encoding of a string that follows.
pub enum Length {
    Plain(u64),
    Encoded(u8),
}

impl<R: Read> Input<R> {
    pub fn new(source: R) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { source, buffer, next: 0, end: 0, unhashed: 0, digest: CRC.digest(), base: 0 }
    }

    pub fn position(&self) -> u64 {
        self.base + self.next as u64
    }

    pub fn fail<T>(&self, problem: Problem) -> Result<T> {
        Err(Located { at: self.position(), problem })
    }

    pub fn corrupt<T>(&self, what: &'static str) -> Result<T> {
        self.fail(Problem::Corrupt(what))
    }

    /// Checksum of all bytes that were consumed.
    pub fn checksum(&mut self) -> u64 {
        self.hash();
        self.digest.clone().finalize()
    }

    fn hash(&mut self) {
        self.digest.update(&self.buffer[self.unhashed..self.next]);
        self.unhashed = self.next;
    }

    /// Reads more into the empty buffer.
    fn fill(&mut self) -> Result<()> {
        self.hash();
        self.base += self.next as u64;
        (self.next, self.end, self.unhashed) = (0, 0, 0);
        loop {
            match self.source.read(&mut self.buffer) {
                Ok(0) => return self.fail(Problem::Truncated),
                Ok(count) => {
                    self.end = count;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.fail(Problem::Read(error)),
            }
        }
    }

    /// The next bytes, at least one and at most `limit`, which must not be 0.
    fn chunk(&mut self, limit: u64) -> Result<&[u8]> {
        if self.next == self.end {
            self.fill()?;
        }
        let count = ((self.end - self.next) as u64).min(limit) as usize;
        self.next += count;
        Ok(&self.buffer[self.next - count..self.next])
    }

    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.chunk(1)?[0])
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            let chunk = self.chunk((N - filled) as u64)?;
            bytes[filled..filled + chunk.len()].copy_from_slice(chunk);
            filled += chunk.len();
        }
        Ok(bytes)
    }

    pub fn bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        if length > MAX_STRING_BYTES {
            return self.corrupt("a string is longer than 512 MiB");
        }
        let mut bytes = Vec::with_capacity(length.min(FIRST_CAPACITY) as usize);
        let mut left = length;
        while left > 0 {
            let chunk = self.chunk(left)?;
            bytes.extend_from_slice(chunk);
            left -= chunk.len() as u64;
        }
        Ok(bytes)
    }

    pub fn skip(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        while left > 0 {
            left -= self.chunk(left)?.len() as u64;
        }
        Ok(())
    }

    fn any_length(&mut self) -> Result<Length> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(first & 0x3f)),
            1 => Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            2 => return self.corrupt("a length of an unknown form"),
            _ => Length::Encoded(first & 0x3f),
        })
    }

    pub fn length(&mut self) -> Result<u64> {
        match self.any_length()? {
            Length::Plain(length) => Ok(length),
            Length::Encoded(_) => self.corrupt("a string in the place of a length"),
        }
    }

    /// Reads a string: plain, an integer, or compressed by LZF.
    pub fn string(&mut self) -> Result<Vec<u8>> {
        Ok(match self.any_length()? {
            Length::Plain(length) => self.bytes(length)?,
            Length::Encoded(0) => decimal(i64::from(self.byte()?.cast_signed())),
            Length::Encoded(1) => decimal(i64::from(i16::from_le_bytes(self.array()?))),
            Length::Encoded(2) => decimal(i64::from(i32::from_le_bytes(self.array()?))),
            Length::Encoded(3) => {
                let (packed, length) = (self.length()?, self.length()?);
                if length > MAX_STRING_BYTES {
                    return self.corrupt("a string is longer than 512 MiB");
                }
                let packed = self.bytes(packed)?;
                match decompress(&packed, length as usize) {
                    Some(bytes) => bytes,
                    None => return self.corrupt("a compressed string is no LZF"),
                }
            }
            Length::Encoded(_) => return self.corrupt("a string of an unknown encoding"),
        })
    }

    pub fn skip_string(&mut self) -> Result<()> {
        match self.any_length()? {
            Length::Plain(length) => self.skip(length),
            Length::Encoded(kind @ 0..=2) => self.skip(1 << kind),
            Length::Encoded(3) => {
                let packed = self.length()?;
                self.length()?;
                self.skip(packed)
            }
            Length::Encoded(_) => self.corrupt("a string of an unknown encoding"),
        }
    }
}

pub fn decimal(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// Decompresses LZF: runs of literals, and references to at most 8 KiB before. `None` if the result does not have exactly
/// `length` bytes. The output is at most 132 times as long as the input, and it is not allocated before it is produced.
fn decompress(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::with_capacity(length.min(packed.len().saturating_mul(4)));
    let mut rest = packed;
    let byte = |rest: &mut &[u8]| {
        let (first, after) = rest.split_first()?;
        *rest = after;
        Some(usize::from(*first))
    };
    while let Some(control) = byte(&mut rest) {
        if control < 32 {
            let (run, after) = rest.split_at_checked(control + 1)?;
            bytes.extend_from_slice(run);
            rest = after;
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += byte(&mut rest)?;
            }
            let distance = ((control & 0x1f) << 8) + byte(&mut rest)? + 1;
            let start = bytes.len().checked_sub(distance)?;
            for at in start..start + count + 2 {
                bytes.push(bytes[at]);
            }
        }
        if bytes.len() > length {
            return None;
        }
    }
    (bytes.len() == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_redis() {
        assert_eq!(CRC.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn lzf_copies_runs_and_overlapping_references() {
        // Literal "ab", then 9 bytes from 2 before.
        assert_eq!(decompress(&[1, b'a', b'b', 0xe0, 0, 1], 11).unwrap(), b"abababababa");
        for wrong in [&[1, b'a'][..], &[0x20, 0], &[0, b'a', 0x20], &[0, b'a', 0xe0]] {
            assert_eq!(decompress(wrong, 11), None, "{wrong:?}");
        }
        assert_eq!(decompress(&[1, b'a', b'b'], 3), None);
    }
}
