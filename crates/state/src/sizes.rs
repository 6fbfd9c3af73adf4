//! Size limits of keys and elements, checked before a write is proposed, on all ports.
//!
//! They are not checked when an entry is applied: larger keys that are in the log or the state already stay
//! readable and removable.

use bytes::{Buf, Bytes};
use helios_proto::v1::command::Op;
use helios_proto::v1::{Call, ErrorCode};

use super::commands;
use super::value::Kind;
use helios_proto::Error;

/// Maximum length of a key. Keys are part of the indexes of engine, snapshot and expiry, which are made for
/// short keys.
pub const MAX_KEY_BYTES: usize = 64 << 10;
/// Maximum length of a hash field or of a member of a set or sorted set: like a key it is part of an engine
/// key. The values of hash fields and the elements of lists are limited as values are.
pub const MAX_ELEMENT_BYTES: usize = 64 << 10;

/// Rejects a write that could create a key or an element over its limit.
pub fn check(op: &Op) -> Result<(), Error> {
    match op {
        Op::Set(set) => check_key(&set.key),
        Op::Increment(increment) => check_key(&increment.key),
        Op::MultiSet(multi) => multi.pairs.iter().try_for_each(|pair| check_key(&pair.key)),
        Op::Call(call) => check_call(call),
        Op::Transaction(transaction) => {
            transaction.steps.iter().filter_map(|step| step.op.as_ref()).try_for_each(check)
        }
        // These create no key.
        Op::Delete(_)
        | Op::Expire(_)
        | Op::Persist(_)
        | Op::FlushAll(_)
        | Op::PurgeExpired(_)
        | Op::RegisterMember(_)
        | Op::SkipEntry(_)
        | Op::Apply(_) => Ok(()),
    }
}

fn check_call(call: &Call) -> Result<(), Error> {
    let Some(spec) = commands::of(call) else { return Ok(()) };
    spec.made.of(&call.args).try_for_each(|key| check_key(key))?;
    (spec.elements)(&call.args)
}

/// Positions of the keys that a command may create.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Made {
    None,
    First,
    Second,
    FirstTwo,
    /// Every other argument.
    Pairs,
    /// The first, and the one after `STORE`.
    FirstAndStored,
}

impl Made {
    fn of(self, args: &[Bytes]) -> impl Iterator<Item = &Bytes> {
        let stored = || args.iter().position(|word| word.eq_ignore_ascii_case(b"store")).map(|at| at + 1);
        let (range, stored) = match self {
            Self::None => (0..0, None),
            Self::First => (0..1, None),
            Self::Second => (1..2, None),
            Self::FirstTwo => (0..2, None),
            Self::Pairs => (0..args.len(), None),
            Self::FirstAndStored => (0..1, stored()),
        };
        let step = if matches!(self, Self::Pairs) { 2 } else { 1 };
        range.step_by(step).chain(stored).filter_map(|at| args.get(at))
    }
}

pub(crate) fn no_elements(_: &[Bytes]) -> Result<(), Error> {
    Ok(())
}

/// Checks the fields of `key field value [field value ...]`.
pub(crate) fn fields(args: &[Bytes]) -> Result<(), Error> {
    args.iter().skip(1).step_by(2).try_for_each(|field| check_element(field))
}

pub(crate) fn second(args: &[Bytes]) -> Result<(), Error> {
    args.get(1).map_or(Ok(()), |field| check_element(field))
}

pub(crate) fn third(args: &[Bytes]) -> Result<(), Error> {
    args.get(2).map_or(Ok(()), |member| check_element(member))
}

/// Checks all arguments after the key: valid options and scores are shorter than the limit.
pub(crate) fn behind_key(args: &[Bytes]) -> Result<(), Error> {
    args.iter().skip(1).try_for_each(|member| check_element(member))
}

pub(crate) fn dump(args: &[Bytes]) -> Result<(), Error> {
    args.get(2).map_or(Ok(()), check_dump)
}

/// Checks the elements in a payload of `DUMP`. An invalid payload is refused by the command itself.
fn check_dump(payload: &Bytes) -> Result<(), Error> {
    let mut rest = &payload[..];
    if rest.len() < 4 {
        return Ok(());
    }
    let width = match Kind::of(rest[3]) {
        Kind::Hash | Kind::SortedSet => 2,
        Kind::Set => 1,
        Kind::String | Kind::Chunked | Kind::List | Kind::Other(_) => return Ok(()),
    };
    rest.advance(4);
    // A checksum of 4 bytes follows the last part and ends the loop.
    for part in 0.. {
        let Ok(length) = rest.try_get_u32().map(|length| length as usize) else { break };
        if length > rest.len() {
            break;
        }
        if part % width == 0 {
            check_element(&rest[..length])?;
        }
        rest.advance(length);
    }
    Ok(())
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    check_length("key", key, MAX_KEY_BYTES)
}

fn check_element(element: &[u8]) -> Result<(), Error> {
    check_length("hash field or set member", element, MAX_ELEMENT_BYTES)
}

fn check_length(what: &str, bytes: &[u8], limit: usize) -> Result<(), Error> {
    if bytes.len() <= limit {
        return Ok(());
    }
    let message = format!("{what} of {} bytes exceeds the limit of {limit} bytes (fixed limit)", bytes.len());
    Err(Error::new(ErrorCode::TooLarge, message))
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Command, Delete, Increment, KeyValue, MultiSet, Set, Transaction};

    use super::*;

    fn long() -> Bytes {
        vec![b'x'; MAX_KEY_BYTES + 1].into()
    }

    fn call(name: &str, args: &[&[u8]]) -> Op {
        let args = args.iter().map(|word| Bytes::copy_from_slice(word)).collect();
        Op::Call(commands::call(name, args))
    }

    fn code(op: &Op) -> Option<ErrorCode> {
        check(op).err().map(|error| error.code)
    }

    #[test]
    fn a_key_over_the_limit_is_refused_in_every_operation_that_makes_one() {
        let set = Op::Set(Set { key: long(), ..Set::default() });
        let step = Command { op: Some(set.clone()), ..Command::default() };
        let pairs = vec![KeyValue { key: long(), ..KeyValue::default() }];
        for op in [
            set,
            Op::Increment(Increment { key: long(), delta: 1 }),
            Op::MultiSet(MultiSet { pairs, ..MultiSet::default() }),
            Op::Transaction(Transaction { steps: vec![step], ..Transaction::default() }),
            call("rename", &[b"a", &long()]),
            call("bitop", &[b"and", &long(), b"a"]),
            call("sort", &[b"a", b"STORE", &long()]),
        ] {
            assert_eq!(code(&op), Some(ErrorCode::TooLarge), "{op:.80?}");
        }
        assert_eq!(
            code(&Op::Delete(Delete { keys: vec![long()] })),
            None,
            "an existing long key can be removed"
        );
        assert_eq!(code(&call("set", &[&long()[1..], b"v"])), None);
    }

    #[test]
    fn every_call_that_writes_refuses_a_first_key_over_the_limit() {
        for spec in commands::all().filter(|spec| spec.id != 0 && spec.grows() && spec.name != "bitop") {
            assert_eq!(
                code(&call(spec.name, &[&long(), b"a", b"b"])),
                Some(ErrorCode::TooLarge),
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn a_field_or_a_member_over_the_limit_is_refused_and_a_value_is_not() {
        let long = long();
        for (name, args) in [
            ("hset", vec![&b"k"[..], b"f", b"v", &long, b"v"]),
            ("hsetnx", vec![b"k", &long, b"v"]),
            ("hincrby", vec![b"k", &long, b"1"]),
            ("sadd", vec![b"k", b"a", &long]),
            ("zadd", vec![b"k", b"NX", b"1", &long]),
            ("zincrby", vec![b"k", b"1", &long]),
            ("smove", vec![b"k", b"l", &long]),
        ] {
            assert_eq!(code(&call(name, &args)), Some(ErrorCode::TooLarge), "{name}");
        }
        for (name, args) in [
            ("hset", vec![&b"k"[..], b"f", &long]),
            ("rpush", vec![b"k", &long]),
            ("srem", vec![b"k", &long]),
            ("hdel", vec![b"k", &long]),
        ] {
            assert_eq!(code(&call(name, &args)), None, "{name}");
        }
    }

    #[test]
    fn a_dump_with_an_element_over_the_limit_is_refused() {
        let dump = |kind: Kind, parts: &[&[u8]]| {
            let mut payload = vec![b'H', b'D', 1, kind.code()];
            for part in parts {
                payload.extend((part.len() as u32).to_be_bytes());
                payload.extend(*part);
            }
            payload.extend([0; 4]);
            call("restore", &[b"k", b"0", &payload])
        };
        let long = long();
        assert_eq!(code(&dump(Kind::Set, &[b"a", &long])), Some(ErrorCode::TooLarge));
        assert_eq!(code(&dump(Kind::Hash, &[b"a", b"b", &long, b"c"])), Some(ErrorCode::TooLarge));
        assert_eq!(code(&dump(Kind::Hash, &[b"a", &long])), None);
        assert_eq!(code(&dump(Kind::List, &[&long])), None);
        assert_eq!(code(&call("restore", &[b"k", b"0", b"HD\x01\x03\xff\xff\xff\xff"])), None);
    }
}
