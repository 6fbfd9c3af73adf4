//! How a key and its value are written down, in the overlay and in the engine alike.
//!
//! Raw keys are namespaced by their first byte: `d` + key holds the value, `e` + expiry (u64,
//! big-endian ms) + key is the expiry index, `m` holds the store's own record, `r` begins what is
//! remembered of requests (see `dedup`) and of the embedding program's state machine (see `machine`).

use bytes::{Buf, BufMut, Bytes};

pub(super) const META_KEY: &[u8] = b"m";
const DATA: u8 = b'd';
const EXPIRY: u8 = b'e';
const REQUESTS: u8 = b'r';

const FORMAT: u8 = 1;
const KIND_STRING: u8 = 1;
const FLAG_EXPIRES: u8 = 1;
const FIXED_BYTES: usize = 3 + 8;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub kind: Kind,
    pub data: Bytes,
    /// Log index of the entry that last changed the value or its expiry.
    pub revision: u64,
    /// Milliseconds since the Unix epoch.
    pub expire_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    String,
    /// A type of a newer version of this program.
    Other(u8),
}

impl Value {
    pub fn is_expired(&self, clock_ms: u64) -> bool {
        self.expire_at_ms.is_some_and(|at_ms| at_ms <= clock_ms)
    }

    pub(super) fn encode(&self) -> Bytes {
        let expiry_bytes = if self.expire_at_ms.is_some() { 8 } else { 0 };
        let mut raw = Vec::with_capacity(FIXED_BYTES + expiry_bytes + self.data.len());
        raw.put_u8(FORMAT);
        raw.put_u8(match self.kind {
            Kind::String => KIND_STRING,
            Kind::Other(kind) => kind,
        });
        raw.put_u8(if self.expire_at_ms.is_some() { FLAG_EXPIRES } else { 0 });
        raw.put_u64(self.revision);
        if let Some(at_ms) = self.expire_at_ms {
            raw.put_u64(at_ms);
        }
        raw.put_slice(&self.data);
        raw.into()
    }

    /// `None` if `raw` is not a value of a format this program knows.
    pub(super) fn decode(mut raw: Bytes) -> Option<Self> {
        if raw.len() < FIXED_BYTES || raw.get_u8() != FORMAT {
            return None;
        }
        let kind = match raw.get_u8() {
            KIND_STRING => Kind::String,
            other => Kind::Other(other),
        };
        let flags = raw.get_u8();
        let revision = raw.get_u64();
        let expire_at_ms = match flags {
            0 => None,
            FLAG_EXPIRES => Some(raw.try_get_u64().ok()?),
            _ => return None,
        };
        Some(Self { kind, data: raw, revision, expire_at_ms })
    }
}

pub(super) fn data_key(key: &[u8]) -> Bytes {
    let mut raw = Vec::with_capacity(1 + key.len());
    raw.put_u8(DATA);
    raw.put_slice(key);
    raw.into()
}

/// First raw key after the data namespace.
pub(super) const DATA_END: &[u8] = &[DATA + 1];

pub(super) fn is_data_key(raw: &[u8]) -> bool {
    raw.first() == Some(&DATA)
}

/// The user's key of a data key.
pub(super) fn user_key(raw: &Bytes) -> Bytes {
    raw.slice(1..)
}

pub(super) fn expiry_key(at_ms: u64, key: &[u8]) -> Bytes {
    let mut raw = Vec::with_capacity(9 + key.len());
    raw.put_u8(EXPIRY);
    raw.put_u64(at_ms);
    raw.put_slice(key);
    raw.into()
}

/// First raw key after the expiry namespace.
pub(super) const EXPIRY_END: &[u8] = &[EXPIRY + 1];

/// First raw key of the requests' namespace, and the first after it.
pub(super) const REQUESTS_START: &[u8] = &[REQUESTS];
pub(super) const REQUESTS_END: &[u8] = &[REQUESTS + 1];

pub(super) fn is_request_key(raw: &[u8]) -> bool {
    raw.first() == Some(&REQUESTS)
}

/// Expiry (ms) and user's key of an expiry key; `None` for a key of another namespace.
pub(super) fn split_expiry_key(raw: &Bytes) -> Option<(u64, Bytes)> {
    let mut rest = raw.clone();
    if rest.try_get_u8().ok()? != EXPIRY {
        return None;
    }
    let at_ms = rest.try_get_u64().ok()?;
    Some((at_ms, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_its_encoding() {
        for expire_at_ms in [None, Some(0), Some(u64::MAX)] {
            for (kind, data) in [(Kind::String, "x"), (Kind::String, ""), (Kind::Other(9), "later")] {
                let value = Value { kind, data: Bytes::from(data), revision: 7, expire_at_ms };
                assert_eq!(Value::decode(value.encode()), Some(value));
            }
        }
    }

    #[test]
    fn a_damaged_value_is_refused_without_a_panic() {
        let value = Value { kind: Kind::String, data: Bytes::new(), revision: 7, expire_at_ms: Some(9) };
        let raw = value.encode();
        for len in 0..raw.len() {
            assert_eq!(Value::decode(raw.slice(..len)), None, "{len} bytes");
        }
        for (position, byte) in [(0, 2), (2, 2)] {
            let mut damaged = raw.to_vec();
            damaged[position] = byte;
            assert_eq!(Value::decode(damaged.into()), None);
        }
    }

    #[test]
    fn expiry_keys_sort_by_time_before_key() {
        assert!(expiry_key(255, b"z") < expiry_key(256, b"a"));
        assert_eq!(split_expiry_key(&expiry_key(5, b"k")), Some((5, Bytes::from("k"))));
        assert_eq!(split_expiry_key(&data_key(b"k")), None);
    }
}
