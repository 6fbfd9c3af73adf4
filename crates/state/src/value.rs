//! The encoding of keys and values, the same in overlay and engine.
//!
//! The first byte of a raw key is its namespace: `d` + key holds the value, `e` + expiry (u64, big-endian
//! ms) + key is the expiry index, `m` holds the store's own record, `r` is the prefix of the records of
//! requests (see `dedup`) and of the embedding application's state machine (see `machine`), `s` +
//! collection id + element holds an element of a hash, set, list or sorted set, or a chunk of a string (see
//! `chunks`), and `g` + id marks an id that no key refers to any more (see `collection`).

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::ErrorCode;

use super::chunks;
use helios_proto::Error;

pub(super) const META_KEY: &[u8] = b"m";
const DATA: u8 = b'd';
const EXPIRY: u8 = b'e';
const GARBAGE: u8 = b'g';
const REQUESTS: u8 = b'r';
const ELEMENT: u8 = b's';

const FORMAT: u8 = 1;
const FLAG_EXPIRES: u8 = 1;
const FIXED_BYTES: usize = 3 + 8;
/// Length of the id of a collection or of a string in chunks: log index of the entry that created it (u64), number within that entry (u32).
pub(super) const ID_BYTES: usize = 12;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub kind: Kind,
    pub data: Bytes,
    /// Log index of the entry that last changed the value or its expiry.
    pub revision: u64,
    /// Expiry in milliseconds since the Unix epoch; `None` for no expiry.
    pub expire_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    String,
    Hash,
    Set,
    List,
    SortedSet,
    /// A string in chunks: the data is its header (`chunks`). `Store` returns such a string whole, as [`Kind::String`].
    Chunked,
    /// A type that this version does not know.
    Other(u8),
}

impl Kind {
    /// Returns the name that `TYPE` answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::String | Self::Chunked => "string",
            Self::Hash => "hash",
            Self::Set => "set",
            Self::List => "list",
            Self::SortedSet => "zset",
            Self::Other(_) => "unknown",
        }
    }

    /// Returns the kind that users see.
    pub(super) fn as_seen(self) -> Self {
        if self == Self::Chunked { Self::String } else { self }
    }

    /// Whether users see a string.
    pub(super) fn is_string(self) -> bool {
        matches!(self, Self::String | Self::Chunked)
    }

    /// Whether the data is a header that begins with the id of elements.
    fn has_elements(self) -> bool {
        match self {
            Self::Hash | Self::Set | Self::List | Self::SortedSet | Self::Chunked => true,
            Self::String | Self::Other(_) => false,
        }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Other(code) => code,
            Self::String => 1,
            Self::Hash => 2,
            Self::Set => 3,
            Self::List => 4,
            Self::SortedSet => 5,
            Self::Chunked => 6,
        }
    }

    pub(super) fn of(code: u8) -> Self {
        let known = [Self::String, Self::Hash, Self::Set, Self::List, Self::SortedSet, Self::Chunked];
        known.into_iter().find(|kind| kind.code() == code).unwrap_or(Self::Other(code))
    }
}

impl Value {
    /// Returns this value if it is a string, else an error: other types are readable over the Redis protocol
    /// only.
    pub fn into_string(self) -> Result<Self, Error> {
        match self.kind {
            Kind::String => Ok(self),
            kind => Err(Error::new(
                ErrorCode::WrongType,
                format!("the key holds a {}, not a string: read it over the Redis protocol", kind.name()),
            )),
        }
    }

    pub fn is_expired(&self, clock_ms: u64) -> bool {
        self.expire_at_ms.is_some_and(|at_ms| at_ms <= clock_ms)
    }

    /// Returns the id of the elements, or chunks, whose header this value is; `None` for a value in one record.
    pub(super) fn elements_id(&self) -> Option<&[u8]> {
        self.data.get(..ID_BYTES).filter(|_| self.kind.has_elements())
    }

    pub(super) fn encode(&self) -> Bytes {
        let expiry_bytes = if self.expire_at_ms.is_some() { 8 } else { 0 };
        let mut raw = Vec::with_capacity(FIXED_BYTES + expiry_bytes + self.data.len());
        raw.put_u8(FORMAT);
        raw.put_u8(self.kind.code());
        raw.put_u8(if self.expire_at_ms.is_some() { FLAG_EXPIRES } else { 0 });
        raw.put_u64(self.revision);
        if let Some(at_ms) = self.expire_at_ms {
            raw.put_u64(at_ms);
        }
        raw.put_slice(&self.data);
        raw.into()
    }

    /// Decodes a value; `None` if it is damaged or has an unknown format.
    pub(super) fn decode(mut raw: Bytes) -> Option<Self> {
        if raw.len() < FIXED_BYTES || raw.get_u8() != FORMAT {
            return None;
        }
        let kind = Kind::of(raw.get_u8());
        let flags = raw.get_u8();
        let revision = raw.get_u64();
        let expire_at_ms = match flags {
            0 => None,
            FLAG_EXPIRES => Some(raw.try_get_u64().ok()?),
            _ => return None,
        };
        let is_damaged = kind == Kind::Chunked && raw.len() != chunks::HEADER_BYTES;
        (!is_damaged).then_some(Self { kind, data: raw, revision, expire_at_ms })
    }
}

pub(super) fn data_key(key: &[u8]) -> Bytes {
    let mut raw = Vec::with_capacity(1 + key.len());
    raw.put_u8(DATA);
    raw.put_slice(key);
    raw.into()
}

/// Returns [`Value::elements_id`] of the encoded value `raw`.
pub(super) fn encoded_elements_id(raw: &[u8]) -> Option<&[u8]> {
    let (&kind, &flags) = (raw.get(1)?, raw.get(2)?);
    let data = FIXED_BYTES + if flags == FLAG_EXPIRES { 8 } else { 0 };
    raw.get(data..data + ID_BYTES).filter(|_| Kind::of(kind).has_elements())
}

/// Whether the encoded value `raw` is a string in chunks.
pub(super) fn is_in_chunks(raw: &[u8]) -> bool {
    raw.get(1) == Some(&Kind::Chunked.code())
}

/// Returns the id that an element's raw key is of; `None` for a key of another namespace.
pub(super) fn element_id(raw: &[u8]) -> Option<&[u8]> {
    raw.strip_prefix(&[ELEMENT]).and_then(|rest| rest.get(..ID_BYTES))
}

/// First raw key of the data namespace, and the first after it.
pub(super) const DATA_START: &[u8] = &[DATA];
pub(super) const DATA_END: &[u8] = &[DATA + 1];

pub(super) fn is_data_key(raw: &[u8]) -> bool {
    raw.first() == Some(&DATA)
}

/// Returns the user key of a data key.
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

/// Whether a snapshot stores the record unchanged, after the keys.
pub(super) fn is_record_key(raw: &[u8]) -> bool {
    matches!(raw.first(), Some(&(GARBAGE | REQUESTS | ELEMENT)))
}

/// Returns the prefix of the raw keys of a collection's elements.
pub(super) fn element_prefix(id: &[u8]) -> Vec<u8> {
    [&[ELEMENT], id].concat()
}

/// Returns the first raw key after all that begin with `prefix`, which begins with the byte of a namespace.
pub(super) fn first_after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

pub(super) fn garbage_key(id: &[u8]) -> Bytes {
    [&[GARBAGE], id].concat().into()
}

/// First raw key of the garbage marks, and the first after them.
pub(super) const GARBAGE_START: &[u8] = &[GARBAGE];
pub(super) const GARBAGE_END: &[u8] = &[GARBAGE + 1];
/// First raw key of the elements of all collections, and the first after them.
pub(super) const ELEMENTS_START: &[u8] = &[ELEMENT];
pub(super) const ELEMENTS_END: &[u8] = &[ELEMENT + 1];

/// Returns the expiry (ms) and the user key of an expiry key; `None` for a key of another namespace.
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
