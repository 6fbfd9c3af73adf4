//! Expiries during an import from a running source.
//!
//! The source may extend the life of a key shortly before its expiry, and the target applies that later. So that the key is
//! still there, a near expiry is shifted by a constant into the far future; the source sends DEL for a key that expires.
//! Before the cut-over the shift is taken back, by a script in the target, where RENAME and COPY have carried it along.

use redis::{Pipeline, Value, cmd};

use super::target::Target;
use crate::error::Error;

/// The shift, in milliseconds: 35 000 years. A shifted expiry is between it and twice as much.
const SHIFT_MS: u64 = 1 << 50;
/// Expiries within a week are shifted while the target is far behind.
pub const COPYING_MS: u64 = 7 * 24 * 3600 * 1000;
/// Expiries within two minutes are shifted after it has caught up.
pub const FOLLOWING_MS: u64 = 120 * 1000;
/// Keys of one script or page.
const PAGE: usize = 1000;

/// Takes back the shift of keys that expire at `ARGV[2]` or later. Returns those that stay shifted.
const SCRIPT: &str = r"
local shift, least, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for _, key in ipairs(KEYS) do
  local at = redis.call('PEXPIRETIME', key)
  if at >= shift and at < 2 * shift then
    if at - shift >= least then
      redis.call('PEXPIREAT', key, string.format('%.0f', at - shift))
    else
      kept[#kept + 1] = key
    end
  end
end
return kept";

/// Returns the shifted expiry, if one before `limit_ms` is to be shifted.
pub fn shifted(at_ms: u64, limit_ms: u64) -> Option<u64> {
    (at_ms <= limit_ms).then_some(at_ms + SHIFT_MS)
}

/// Takes back the shift of those of the keys that expire at `least_ms` or later; returns those that stay shifted.
///
/// # Errors
/// When the target does not answer.
pub async fn settle(target: &mut Target, names: Vec<Vec<u8>>, least_ms: u64) -> Result<Vec<Vec<u8>>, Error> {
    let mut kept = Vec::new();
    let mut pending: Vec<_> = names.chunks(PAGE).collect();
    while let Some(page) = pending.pop() {
        let mut pipe = Pipeline::new();
        let mut script = cmd("EVAL");
        script.arg(SCRIPT).arg(page.len()).arg(page).arg(SHIFT_MS).arg(least_ms);
        pipe.add_command(script);
        match target.affordably("set expiries", &pipe).await? {
            Ok(answers) => kept.extend(answers.into_iter().flat_map(strings)),
            // The cost of an expiry is that of its string.
            Err(_) if page.len() > 1 => pending.extend([&page[..page.len() / 2], &page[page.len() / 2..]]),
            Err(message) => return Err(Error::Impossible(format!("an expiry cannot be set: {message}"))),
        }
    }
    Ok(kept)
}

fn strings(answer: Value) -> Vec<Vec<u8>> {
    let Value::Array(values) = answer else { return Vec::new() };
    let string = |value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    };
    values.into_iter().filter_map(string).collect()
}

/// Position of a walk over all keys of the target.
#[derive(Debug, Default)]
pub struct Walk {
    cursor: Option<Vec<u8>>,
}

impl Walk {
    /// Settles one page of keys; returns those that stay shifted, and whether it was the last page.
    ///
    /// # Errors
    /// When the target does not answer.
    pub async fn step(&mut self, target: &mut Target, least_ms: u64) -> Result<(Vec<Vec<u8>>, bool), Error> {
        let mut pipe = Pipeline::new();
        let cursor = self.cursor.take().unwrap_or_else(|| b"0".to_vec());
        pipe.add_command(cmd("SCAN").arg(cursor).arg("COUNT").arg(PAGE).clone());
        let answer = target.patiently("list keys", &pipe).await?.pop().unwrap_or(Value::Nil);
        let (cursor, names): (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(answer)
            .map_err(|error| Error::Output(format!("SCAN was answered with {error}")))?;
        let is_last = cursor == b"0";
        self.cursor = Some(cursor);
        Ok((settle(target, names, least_ms).await?, is_last))
    }
}
