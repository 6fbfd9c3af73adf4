//! The store's own record: the applied position in the log, and the digest of the content.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::Membership;
use prost::Message;

use super::Applied;
use super::value::META_KEY;

const FORMAT: u8 = 1;
/// The same content, of a state that may have strings in chunks: builds that do not know them refuse it.
const FORMAT_WITH_CHUNKS: u8 = 2;
const FIXED_BYTES: usize = 1 + 5 * 8 + 4;
const CRC_BYTES: usize = 4;

/// Everything that an entry can change besides the keys.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Meta {
    pub applied: Applied,
    /// The log's clock: the greatest `now_ms` of any entry, milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// Number of keys, including expired ones that are not purged yet.
    pub key_count: u64,
    pub membership: Arc<Membership>,
    /// Whether an entry has written a string in chunks; never unset.
    pub has_chunks: bool,
}

/// A digest of all raw pairs, independent of their order: the sum of their CRC32Cs. It detects an engine that
/// lost a page or kept an outdated one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Digest(u64);

impl Digest {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_add(Self::of(key, value));
    }

    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_sub(Self::of(key, value));
    }

    pub fn value(self) -> u64 {
        self.0
    }

    fn of(key: &[u8], value: &[u8]) -> u64 {
        let crc = crc32c::crc32c(&(key.len() as u64).to_be_bytes());
        u64::from(crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value))
    }
}

/// The record that a checkpoint writes to the engine.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Record {
    pub meta: Meta,
    pub digest: Digest,
}

impl Record {
    pub fn key() -> Bytes {
        Bytes::from_static(META_KEY)
    }

    pub fn encode(&self) -> Bytes {
        let Meta { applied, clock_ms, key_count, membership, has_chunks } = &self.meta;
        let membership = membership.encode_to_vec();
        let mut raw = Vec::with_capacity(FIXED_BYTES + membership.len() + CRC_BYTES);
        raw.put_u8(if *has_chunks { FORMAT_WITH_CHUNKS } else { FORMAT });
        raw.put_u64(applied.index);
        raw.put_u64(applied.term);
        raw.put_u64(*clock_ms);
        raw.put_u64(*key_count);
        raw.put_u64(self.digest.0);
        raw.put_u32(membership.len() as u32);
        raw.put_slice(&membership);
        let crc = crc32c::crc32c(&raw);
        raw.put_u32(crc);
        raw.into()
    }

    /// Decodes a record; the error is the reason for a message.
    pub fn decode(raw: &[u8]) -> Result<Self, &'static str> {
        if raw.len() < FIXED_BYTES + CRC_BYTES {
            return Err("its record is truncated");
        }
        let (mut body, mut crc) = raw.split_at(raw.len() - CRC_BYTES);
        if crc32c::crc32c(body) != crc.get_u32() {
            return Err("its record has a wrong checksum");
        }
        let has_chunks = match body.get_u8() {
            FORMAT => false,
            FORMAT_WITH_CHUNKS => true,
            _ => return Err("its record has a format that this version does not know"),
        };
        let applied = Applied { index: body.get_u64(), term: body.get_u64() };
        let clock_ms = body.get_u64();
        let key_count = body.get_u64();
        let digest = Digest(body.get_u64());
        if body.get_u32() as usize != body.len() {
            return Err("its record has a wrong length");
        }
        let membership = Membership::decode(body).map_err(|_| "its membership cannot be decoded")?;
        let meta = Meta { applied, clock_ms, key_count, membership: Arc::new(membership), has_chunks };
        Ok(Self { meta, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_reads_back_and_any_damage_is_detected() {
        let membership = Membership { index: 3, voters: vec![1, 2, 3], ..Default::default() };
        let meta = Meta {
            applied: Applied { index: 9, term: 2 },
            clock_ms: 77,
            key_count: 4,
            membership: Arc::new(membership),
            has_chunks: false,
        };
        for has_chunks in [false, true] {
            let record = Record { meta: Meta { has_chunks, ..meta.clone() }, digest: Digest(5) };
            let raw = record.encode();
            assert_eq!(Record::decode(&raw), Ok(record));
            for position in 0..raw.len() {
                let mut damaged = raw.to_vec();
                damaged[position] ^= 4;
                assert!(Record::decode(&damaged).is_err(), "byte {position}");
                assert!(Record::decode(&raw[..position]).is_err(), "{position} bytes");
            }
        }
    }

    #[test]
    fn digest_removal_undoes_addition() {
        let mut digest = Digest::default();
        digest.add(b"ab", b"c");
        assert_ne!(Digest::of(b"ab", b"c"), Digest::of(b"a", b"bc"));
        digest.add(b"x", b"y");
        digest.remove(b"ab", b"c");
        digest.remove(b"x", b"y");
        assert_eq!(digest, Digest::default());
    }
}
