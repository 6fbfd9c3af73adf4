//! A command answered from the local state.

use bytes::Bytes;

use super::super::cursor::Cursors;
use super::super::frame::Frame;
use super::super::stats::Stats;
use super::scan::Scan;
use crate::error::Error;
use crate::state::{Kind, Store, Value};
use helios_proto::v1::ErrorCode;

#[derive(Debug)]
pub enum Read {
    Get(Bytes),
    GetMany(Vec<Bytes>),
    Length(Bytes),
    Exists(Vec<Bytes>),
    Type(Bytes),
    Expiry { key: Bytes, form: ExpiryForm },
    Count,
    Scan(Scan),
    Keys { pattern: Bytes },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryForm {
    RemainingSeconds,
    RemainingMillis,
    UnixSeconds,
    UnixMillis,
}

/// What a read may look at.
pub struct Snapshot<'a> {
    pub store: &'a Store,
    pub wall_ms: u64,
    pub cursors: &'a Cursors,
    pub stats: &'a Stats,
}

impl Read {
    pub async fn execute(self, at: &Snapshot<'_>) -> Result<Frame, Error> {
        match self {
            Self::Get(key) => Ok(at.string(&key)?.map_or(Frame::Null, Frame::Bulk)),
            Self::GetMany(keys) => at.get_many(&keys),
            Self::Length(key) => {
                let length = at.string(&key)?.map_or(0, |data| data.len());
                Ok(Frame::Integer(length as i64))
            }
            Self::Exists(keys) => at.exists(&keys),
            Self::Type(key) => Ok(Frame::Simple(at.value(&key)?.as_ref().map_or("none", type_name).into())),
            Self::Expiry { key, form } => {
                let clock_ms = at.clock_ms();
                Ok(Frame::Integer(at.value(&key)?.map_or(-2, |value| form.of(&value, clock_ms))))
            }
            Self::Count => Ok(Frame::Integer(at.store.key_count().cast_signed())),
            Self::Scan(scan) => scan.execute(at).await,
            Self::Keys { pattern } => super::scan::all_keys(&pattern, at).await,
        }
    }
}

impl Snapshot<'_> {
    fn clock_ms(&self) -> u64 {
        self.wall_ms.max(self.store.clock_ms())
    }

    fn value(&self, key: &[u8]) -> Result<Option<Value>, Error> {
        let value = self.store.get(key, self.wall_ms)?;
        self.stats.looked_up(value.is_some());
        Ok(value)
    }

    fn string(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.value(key)? {
            None => Ok(None),
            Some(Value { kind: Kind::String, data, .. }) => Ok(Some(data)),
            Some(_) => Err(Error::new(ErrorCode::WrongType, "the key holds another type")),
        }
    }

    /// As in Redis, a key of another type counts as missing.
    fn get_many(&self, keys: &[Bytes]) -> Result<Frame, Error> {
        let string = |value: Option<Value>| match value {
            Some(Value { kind: Kind::String, data, .. }) => Frame::Bulk(data),
            _ => Frame::Null,
        };
        Ok(Frame::Array(self.values(keys)?.into_iter().map(string).collect()))
    }

    fn exists(&self, keys: &[Bytes]) -> Result<Frame, Error> {
        let found = self.values(keys)?.iter().flatten().count();
        Ok(Frame::Integer(found as i64))
    }

    /// All of them as of one moment.
    fn values(&self, keys: &[Bytes]) -> Result<Vec<Option<Value>>, Error> {
        let values = self.store.get_many(keys, self.wall_ms)?;
        values.iter().for_each(|value| self.stats.looked_up(value.is_some()));
        Ok(values)
    }
}

impl ExpiryForm {
    /// -1: the key does not expire.
    fn of(self, value: &Value, clock_ms: u64) -> i64 {
        let Some(at_ms) = value.expire_at_ms else { return -1 };
        let remaining_ms = at_ms.saturating_sub(clock_ms);
        let shown = match self {
            Self::RemainingSeconds => remaining_ms.saturating_add(500) / 1000,
            Self::RemainingMillis => remaining_ms,
            Self::UnixSeconds => at_ms.saturating_add(500) / 1000,
            Self::UnixMillis => at_ms,
        };
        i64::try_from(shown).unwrap_or(i64::MAX)
    }
}

/// The name `TYPE` gives a value.
pub fn type_name(value: &Value) -> &'static str {
    match value.kind {
        Kind::String => "string",
        Kind::Other(_) => "unknown",
    }
}
