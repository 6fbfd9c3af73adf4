//! Encodings that the files share: varints, and checksums that depend on the place of the bytes.

use bytes::{Buf, BufMut};

/// Newest format of run and manifest files.
pub const FORMAT: u32 = 1;

/// Identity of a run, unique among all runs of all members: random, see [`crate::engine::Options::seed`].
pub type Id = u64;

/// Returns the CRC32C of `bytes` at `offset` of the file `id`.
pub fn crc_at(id: Id, offset: u64, bytes: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&id.to_be_bytes()), &offset.to_be_bytes());
    crc32c::crc32c_append(place, bytes)
}

/// Appends `number` in base 128, the low group first.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a varint and removes it from the front of `bytes`; `None` if it is incomplete or too long.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends `bytes` after their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Reads bytes that [`put_bytes`] wrote.
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    take(bytes, len)
}

/// Removes `len` bytes from the front of `bytes`.
pub fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(front)
}

pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    bytes.try_get_u64().ok()
}

pub fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    bytes.try_get_u32().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_read_back_and_incomplete_ones_are_rejected() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            let mut rest = out.as_slice();
            assert_eq!(take_varint(&mut rest), Some(number));
            assert!(rest.is_empty());
            assert_eq!(take_varint(&mut &out[..out.len() - 1]), None);
        }
        assert_eq!(take_varint(&mut [0xff; 11].as_slice()), None);
    }

    #[test]
    fn checksum_depends_on_file_and_offset() {
        assert_ne!(crc_at(1, 0, b"x"), crc_at(2, 0, b"x"));
        assert_ne!(crc_at(1, 0, b"x"), crc_at(1, 8, b"x"));
    }
}
