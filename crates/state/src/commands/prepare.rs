//! Preparation of a request's arguments for the log: syntax is checked early, and relative times become absolute,
//! so that they count from the arrival of the request.

use std::borrow::Cow;

use bytes::Bytes;

use super::super::command::parse_integer;
use super::words::is;

/// The reason why the arguments of a request are rejected before they reach the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misuse {
    /// Wrong number of arguments of the named command.
    Arity(&'static str),
    Syntax,
    NotAnInteger,
    /// Time of the named command that is not positive or out of range.
    InvalidExpire(&'static str),
    /// Text that only one command uses.
    Other(Cow<'static, str>),
}

/// Arguments of one request, parsed from the left.
pub(super) struct Arguments(std::vec::IntoIter<Bytes>);

impl Arguments {
    pub fn new(args: Vec<Bytes>) -> Self {
        Self(args.into_iter())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn next(&mut self) -> Option<Bytes> {
        self.0.next()
    }

    /// Takes the next argument; a syntax error if there is none.
    pub fn word(&mut self) -> Result<Bytes, Misuse> {
        self.0.next().ok_or(Misuse::Syntax)
    }

    pub fn integer(&mut self) -> Result<i64, Misuse> {
        parse_integer(&self.word()?).ok_or(Misuse::NotAnInteger)
    }

    /// Fails with a syntax error if arguments remain.
    pub fn end(mut self) -> Result<(), Misuse> {
        if self.next().is_none() { Ok(()) } else { Err(Misuse::Syntax) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

/// Returns the unit of an expiry option's argument, and the time in milliseconds that it counts from.
pub(super) fn expiry_option(word: &[u8], now_ms: u64) -> Option<(Unit, u64)> {
    let options = [
        ("ex", Unit::Seconds, now_ms),
        ("px", Unit::Millis, now_ms),
        ("exat", Unit::Seconds, 0),
        ("pxat", Unit::Millis, 0),
    ];
    options.into_iter().find(|(name, ..)| is(word, name)).map(|(_, unit, base_ms)| (unit, base_ms))
}

/// Returns the absolute time of an expiry option; unlike `EXPIRE`, `SET` rejects a time that is not positive.
pub(super) fn set_expiry_ms(time: i64, unit: Unit, base_ms: u64, name: &'static str) -> Result<u64, Misuse> {
    if time <= 0 {
        return Err(Misuse::InvalidExpire(name));
    }
    absolute_ms(time, unit, base_ms).ok_or(Misuse::InvalidExpire(name))
}

/// Returns `base_ms + time` in milliseconds; times before the Unix epoch become the epoch. `None` on overflow
/// of Redis's range, `i64`.
pub(super) fn absolute_ms(time: i64, unit: Unit, base_ms: u64) -> Option<u64> {
    let time_ms = match unit {
        Unit::Seconds => time.checked_mul(1000)?,
        Unit::Millis => time,
    };
    let at_ms = time_ms.checked_add_unsigned(base_ms)?;
    Some(u64::try_from(at_ms).unwrap_or(0))
}
