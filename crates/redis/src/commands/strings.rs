//! `GET`, `SET` and the rest of the string group.

use bytes::Bytes;
use helios_proto::v1::{Increment, KeyValue, MultiSet, Set, SetCondition, command::Op};

use super::super::error::Refusal;
use super::args::is;
use super::keyspace::{TimeUnit, absolute_expiry_ms};
use super::{Args, Request, Write};

pub fn set(mut args: Args) -> Result<Request, Refusal> {
    let mut set = Set { key: args.key()?, value: args.value()?, ..Set::default() };
    while let Some(option) = args.next() {
        let unconditional = set.condition() == SetCondition::Always;
        let expiry_open = set.expire_at_ms.is_none() && !set.keep_ttl;
        match option {
            word if is(&word, "nx") && unconditional => set.set_condition(SetCondition::IfAbsent),
            word if is(&word, "xx") && unconditional => set.set_condition(SetCondition::IfPresent),
            word if is(&word, "get") => set.return_previous = true,
            word if is(&word, "keepttl") && expiry_open => set.keep_ttl = true,
            word if expiry_open => {
                let (unit, relative) = expiry_option(&word).ok_or(Refusal::Syntax)?;
                set.expire_at_ms = Some(set_expiry_ms(&mut args, unit, relative)?);
            }
            _ => return Err(Refusal::Syntax),
        }
    }
    Ok(Write::plain(Op::Set(set)))
}

/// Returns the unit of an expiry option's argument, and whether it is relative to now.
pub fn expiry_option(word: &[u8]) -> Option<(TimeUnit, bool)> {
    let options = [
        ("ex", TimeUnit::Seconds, true),
        ("px", TimeUnit::Millis, true),
        ("exat", TimeUnit::Seconds, false),
        ("pxat", TimeUnit::Millis, false),
    ];
    options.into_iter().find(|(name, ..)| is(word, name)).map(|(_, unit, relative)| (unit, relative))
}

/// Parses the argument of an expiry option; unlike `EXPIRE`, `SET` rejects a time that is not positive.
pub fn set_expiry_ms(args: &mut Args, unit: TimeUnit, relative: bool) -> Result<u64, Refusal> {
    let name = args.spec.name;
    let time = args.integer()?;
    let base_ms = if relative { args.now_ms } else { 0 };
    if time <= 0 {
        return Err(Refusal::InvalidExpire(name));
    }
    absolute_expiry_ms(time, unit, base_ms).ok_or(Refusal::InvalidExpire(name))
}

pub fn setex(args: Args) -> Result<Request, Refusal> {
    set_with_expiry(args, TimeUnit::Seconds)
}

pub fn psetex(args: Args) -> Result<Request, Refusal> {
    set_with_expiry(args, TimeUnit::Millis)
}

fn set_with_expiry(mut args: Args, unit: TimeUnit) -> Result<Request, Refusal> {
    let key = args.key()?;
    let expire_at_ms = Some(set_expiry_ms(&mut args, unit, true)?);
    Ok(Write::plain(Op::Set(Set { key, value: args.value()?, expire_at_ms, ..Set::default() })))
}

pub fn setnx(mut args: Args) -> Result<Request, Refusal> {
    let (key, value) = (args.key()?, args.value()?);
    let condition = SetCondition::IfAbsent.into();
    Ok(Write::flag(Op::Set(Set { key, value, condition, ..Set::default() })))
}

pub fn getset(mut args: Args) -> Result<Request, Refusal> {
    let (key, value) = (args.key()?, args.value()?);
    Ok(Write::plain(Op::Set(Set { key, value, return_previous: true, ..Set::default() })))
}

pub fn mset(args: Args) -> Result<Request, Refusal> {
    Ok(Write::plain(Op::MultiSet(MultiSet { pairs: pairs(args)?, if_none_exist: false })))
}

pub fn msetnx(args: Args) -> Result<Request, Refusal> {
    Ok(Write::flag(Op::MultiSet(MultiSet { pairs: pairs(args)?, if_none_exist: true })))
}

fn pairs(mut args: Args) -> Result<Vec<KeyValue>, Refusal> {
    if !args.len().is_multiple_of(2) {
        return Err(Refusal::Arity(args.spec.name));
    }
    (0..args.len() / 2).map(|_| Ok(KeyValue { key: args.key()?, value: args.value()? })).collect()
}

pub fn incr(mut args: Args) -> Result<Request, Refusal> {
    Ok(increment(args.key()?, 1))
}

pub fn decr(mut args: Args) -> Result<Request, Refusal> {
    Ok(increment(args.key()?, -1))
}

pub fn incrby(mut args: Args) -> Result<Request, Refusal> {
    Ok(increment(args.key()?, args.integer()?))
}

pub fn decrby(mut args: Args) -> Result<Request, Refusal> {
    let (key, amount) = (args.key()?, args.integer()?);
    let delta = amount.checked_neg().ok_or(Refusal::other("ERR decrement would overflow"))?;
    Ok(increment(key, delta))
}

fn increment(key: Bytes, delta: i64) -> Request {
    Write::plain(Op::Increment(Increment { key, delta }))
}
