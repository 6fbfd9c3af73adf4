//! Commands that set strings: SET and its relatives, MSET, INCR.

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Call, Increment, KeyValue, MultiSet, Set, SetCondition};

use super::super::chunks;
use super::super::command::{Failure, Outcome, invalid, not_an_integer, parse_integer, require_string};
use super::super::events::Name;
use super::super::sizes::Made;
use super::super::txn::Txn;
use super::super::value::Kind;
use super::prepare::{Arguments, Misuse, Unit, expiry_option, set_expiry_ms};
use super::spec::{Events, Spec, commands, other};
use super::words::{Words, is, syntax};
use super::{by_id_only, call, done, nil};
use crate::faults;

pub static COMMANDS: &[Spec] = commands! { String:
    0 "decr" 2 ONE [WRITE DENYOOM FAST] "1.0.0" other,
        "Decrements the integer value of a key by one.", "O(1)"
        { prepare: Some(|args, _| prepare_step(args, -1)) };
    0 "decrby" 3 ONE [WRITE DENYOOM FAST] "1.0.0" other,
        "Decrements the integer value of a key by a number.", "O(1)"
        { prepare: Some(prepare_decrby) };
    0 "getset" 3 ONE [WRITE DENYOOM FAST] "1.0.0" other,
        "Sets a key and returns its previous value.", "O(1)"
        { prepare: Some(prepare_getset) };
    0 "incr" 2 ONE [WRITE DENYOOM FAST] "1.0.0" other,
        "Increments the integer value of a key by one.", "O(1)"
        { prepare: Some(|args, _| prepare_step(args, 1)) };
    1 "incrby" 3 ONE [WRITE DENYOOM FAST] "1.0.0" incrby,
        "Increments the integer value of a key by a number.", "O(1)"
        { format: by_id_only, prepare: Some(prepare_incrby) };
    2 "mset" -3 PAIRS [WRITE DENYOOM] "1.0.1" mset,
        "Sets several keys at once.", "O(N), N the number of keys"
        { access: ["OW update"; 2], format: by_id_only, made: Made::Pairs,
          prepare: Some(|args, _| prepare_pairs(args, "mset")), events: Events::One("set", '$') };
    3 "msetnx" -3 PAIRS [WRITE DENYOOM] "1.0.1" msetnx,
        "Sets several keys at once if none of them exists.", "O(N), N the number of keys"
        { access: ["OW insert"; 2], format: by_id_only, made: Made::Pairs,
          prepare: Some(|args, _| prepare_pairs(args, "msetnx")), events: Events::One("set", '$') };
    0 "psetex" 4 ONE [WRITE DENYOOM] "2.6.0" other,
        "Sets a key with an expiration time in milliseconds.", "O(1)"
        { access: ["OW update"; 2],
          prepare: Some(|args, now_ms| prepare_set_until(args, now_ms, "psetex", Unit::Millis)) };
    4 "set" -3 ONE [WRITE DENYOOM] "1.0.0" set,
        "Sets the string value of a key, with options EX PX EXAT PXAT NX XX KEEPTTL GET.", "O(1)"
        { access: ["OW update"; 2], format: by_id_only, prepare: Some(prepare_set),
          events: Events::Of(set_events) };
    0 "setex" 4 ONE [WRITE DENYOOM] "2.0.0" other,
        "Sets a key with an expiration time in seconds.", "O(1)"
        { access: ["OW update"; 2],
          prepare: Some(|args, now_ms| prepare_set_until(args, now_ms, "setex", Unit::Seconds)) };
    0 "setnx" 3 ONE [WRITE DENYOOM FAST] "1.0.0" other,
        "Sets a key if it does not exist.", "O(1)"
        { access: ["OW insert"; 2], prepare: Some(|args, _| Ok(call("msetnx", args))) };
};

/// Parses `key value [NX | XX] [GET] [KEEPTTL | PXAT ms]`, the words of SET in the log.
pub(crate) fn parse_set(mut words: Words<'_>) -> Result<Set, Failure> {
    let mut set = Set { key: words.word()?.clone(), value: words.word()?.clone(), ..Set::default() };
    while let Some(option) = words.next() {
        match option {
            word if is(word, "nx") => set.set_condition(SetCondition::IfAbsent),
            word if is(word, "xx") => set.set_condition(SetCondition::IfPresent),
            word if is(word, "get") => set.return_previous = true,
            word if is(word, "keepttl") => set.keep_ttl = true,
            word if is(word, "pxat") => {
                set.expire_at_ms = Some(u64::try_from(words.integer()?).map_err(|_| syntax())?);
            }
            _ => return Err(syntax()),
        }
    }
    Ok(set)
}

fn set(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    apply_set(txn, &parse_set(words)?)
}

pub(crate) fn apply_set(txn: &mut Txn<'_>, op: &Set) -> Outcome {
    let condition = SetCondition::try_from(op.condition)
        .map_err(|_| invalid("SET has a condition that this version does not know"))?;
    if op.keep_ttl && op.expire_at_ms.is_some() {
        return Err(invalid("SET cannot both keep the expiry and set one"));
    }
    let old = txn.load(&op.key)?;
    if op.return_previous {
        require_string(old.as_ref())?;
    }
    let is_met = match condition {
        SetCondition::Always => true,
        SetCondition::IfAbsent => old.is_none(),
        SetCondition::IfPresent => old.is_some(),
    };
    let previous =
        old.as_ref().filter(|_| op.return_previous).map(|old| chunks::whole(txn, old)).transpose()?;
    if is_met {
        let kept_ms =
            old.as_ref().and_then(|old| old.expire_at_ms).filter(|_| faults::keeps_expiry(op.keep_ttl));
        txn.store(&op.key, old.as_ref(), op.value.clone(), op.expire_at_ms.or(kept_ms));
    }
    match previous {
        Some(previous) => Ok(Answer::Bytes(previous)),
        None if is_met && !op.return_previous => done(),
        None => Ok(nil()),
    }
}

/// Returns the call of a SET.
pub(crate) fn call_of_set(set: Set) -> Call {
    let condition = match set.condition() {
        SetCondition::Always => None,
        SetCondition::IfAbsent => Some("NX"),
        SetCondition::IfPresent => Some("XX"),
    };
    let options = [condition, set.return_previous.then_some("GET"), set.keep_ttl.then_some("KEEPTTL")];
    let mut args = vec![set.key, set.value];
    args.extend(options.into_iter().flatten().map(|option| Bytes::from_static(option.as_bytes())));
    if let Some(at_ms) = set.expire_at_ms {
        args.extend([Bytes::from_static(b"PXAT"), at_ms.to_string().into()]);
    }
    call("set", args)
}

fn set_events(args: &[Bytes], _: &Bytes) -> [Option<Name>; 2] {
    let expires = parse_set(Words::new(args)).is_ok_and(|set| set.expire_at_ms.is_some());
    [Some(("set", '$')), expires.then_some(("expire", 'g'))]
}

fn prepare_set(args: Vec<Bytes>, now_ms: u64) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    let mut set = Set { key: args.word()?, value: args.word()?, ..Set::default() };
    while let Some(option) = args.next() {
        let unconditional = set.condition() == SetCondition::Always;
        let expiry_open = set.expire_at_ms.is_none() && !set.keep_ttl;
        match option {
            word if is(&word, "nx") && unconditional => set.set_condition(SetCondition::IfAbsent),
            word if is(&word, "xx") && unconditional => set.set_condition(SetCondition::IfPresent),
            word if is(&word, "get") => set.return_previous = true,
            word if is(&word, "keepttl") && expiry_open => set.keep_ttl = true,
            word if expiry_open => {
                let (unit, base_ms) = expiry_option(&word, now_ms).ok_or(Misuse::Syntax)?;
                set.expire_at_ms = Some(set_expiry_ms(args.integer()?, unit, base_ms, "set")?);
            }
            _ => return Err(Misuse::Syntax),
        }
    }
    Ok(call_of_set(set))
}

fn prepare_set_until(args: Vec<Bytes>, now_ms: u64, name: &'static str, unit: Unit) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    let key = args.word()?;
    let expire_at_ms = Some(set_expiry_ms(args.integer()?, unit, now_ms, name)?);
    Ok(call_of_set(Set { key, value: args.word()?, expire_at_ms, ..Set::default() }))
}

fn prepare_getset(args: Vec<Bytes>, _: u64) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    let (key, value) = (args.word()?, args.word()?);
    Ok(call_of_set(Set { key, value, return_previous: true, ..Set::default() }))
}

fn mset(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    apply_mset(txn, &pairs(words.rest(), false)?)
}

fn msetnx(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    apply_mset(txn, &pairs(words.rest(), true)?)
}

/// Parses `key value [key value ...]`.
pub(crate) fn pairs(args: &[Bytes], if_none_exist: bool) -> Result<MultiSet, Failure> {
    if !args.len().is_multiple_of(2) {
        return Err(syntax());
    }
    let pair = |pair: &[Bytes]| KeyValue { key: pair[0].clone(), value: pair[1].clone() };
    Ok(MultiSet { pairs: args.chunks(2).map(pair).collect(), if_none_exist })
}

pub(crate) fn apply_mset(txn: &mut Txn<'_>, op: &MultiSet) -> Outcome {
    if op.if_none_exist {
        for pair in &op.pairs {
            if txn.load(&pair.key)?.is_some() {
                return Ok(Answer::Integer(0));
            }
        }
    }
    for pair in &op.pairs {
        let old = txn.load(&pair.key)?;
        txn.store(&pair.key, old.as_ref(), pair.value.clone(), None);
    }
    if op.if_none_exist { Ok(Answer::Integer(1)) } else { done() }
}

fn prepare_pairs(args: Vec<Bytes>, name: &'static str) -> Result<Call, Misuse> {
    if args.len().is_multiple_of(2) { Ok(call(name, args)) } else { Err(Misuse::Arity(name)) }
}

fn incrby(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    apply_increment(txn, &parse_increment(words)?)
}

/// Parses `key delta`.
pub(crate) fn parse_increment(mut words: Words<'_>) -> Result<Increment, Failure> {
    let increment = Increment { key: words.word()?.clone(), delta: words.integer()? };
    words.end().map(|()| increment)
}

pub(crate) fn apply_increment(txn: &mut Txn<'_>, op: &Increment) -> Outcome {
    let old = txn.load(&op.key)?;
    require_string(old.as_ref())?;
    let current = match &old {
        // The header of a string in chunks, which is longer than any integer, is none.
        Some(old) => parse_integer(&old.data)
            .filter(|_| old.kind == Kind::String)
            .ok_or_else(|| not_an_integer("value is not an integer or out of range"))?,
        None => 0,
    };
    let sum = current
        .checked_add(op.delta)
        .ok_or_else(|| not_an_integer("increment or decrement would overflow"))?;
    let expire_at_ms = old.as_ref().and_then(|old| old.expire_at_ms);
    txn.store(&op.key, old.as_ref(), Bytes::from(sum.to_string()), expire_at_ms);
    Ok(Answer::Integer(sum))
}

/// Returns the call of an INCRBY.
pub(crate) fn call_of_increment(key: Bytes, delta: i64) -> Call {
    call("incrby", vec![key, delta.to_string().into()])
}

fn prepare_step(args: Vec<Bytes>, delta: i64) -> Result<Call, Misuse> {
    Arguments::new(args).word().map(|key| call_of_increment(key, delta))
}

fn prepare_incrby(args: Vec<Bytes>, _: u64) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    Ok(call_of_increment(args.word()?, args.integer()?))
}

fn prepare_decrby(args: Vec<Bytes>, _: u64) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    let (key, amount) = (args.word()?, args.integer()?);
    let delta = amount.checked_neg().ok_or(Misuse::Other("decrement would overflow".into()))?;
    Ok(call_of_increment(key, delta))
}
