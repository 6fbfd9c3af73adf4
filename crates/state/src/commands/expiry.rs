//! Commands that read or change the expiry of a key.

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Call, Expire, ExpireCondition};

use super::super::command::{Failure, Outcome, invalid, parse_integer};
use super::super::sizes::Made;
use super::super::txn::Txn;
use super::prepare::{Arguments, Misuse, Unit, absolute_ms};
use super::spec::{Events, Spec, commands, other};
use super::words::{Words, is, syntax};
use super::{by_id_only, call};

pub static COMMANDS: &[Spec] = commands! { Generic:
    0 "expire" -3 ONE [WRITE FAST] "1.0.0" other,
        "Sets the expiration time of a key in seconds.", "O(1)"
        { access: ["RW update"; 2],
          prepare: Some(|args, now_ms| prepare_expire(args, now_ms, "expire", Unit::Seconds)) };
    0 "expireat" -3 ONE [WRITE FAST] "1.2.0" other,
        "Sets the expiration time of a key to a Unix timestamp in seconds.",
        "O(1)"
        { access: ["RW update"; 2],
          prepare: Some(|args, _| prepare_expire(args, 0, "expireat", Unit::Seconds)) };
    140 "expiretime" 2 ONE [READONLY FAST] "7.0.0" |txn, words| answer(txn, words, |at_ms, _| seconds(at_ms)),
        "Returns the expiration time of a key as a Unix timestamp in seconds.", "O(1)";
    141 "persist" 2 ONE [WRITE FAST] "2.2.0" persist,
        "Removes the expiration time of a key.", "O(1)"
        { access: ["RW update"; 2], format: by_id_only, made: Made::None };
    0 "pexpire" -3 ONE [WRITE FAST] "2.6.0" other,
        "Sets the expiration time of a key in milliseconds.",
        "O(1)"
        { access: ["RW update"; 2],
          prepare: Some(|args, now_ms| prepare_expire(args, now_ms, "pexpire", Unit::Millis)) };
    142 "pexpireat" -3 ONE [WRITE FAST] "2.6.0" pexpireat,
        "Sets the expiration time of a key to a Unix timestamp in milliseconds.",
        "O(1)"
        { access: ["RW update"; 2], format: by_id_only, made: Made::None,
          prepare: Some(|args, _| prepare_expire(args, 0, "pexpireat", Unit::Millis)),
          events: Events::One("expire", 'g') };
    143 "pexpiretime" 2 ONE [READONLY FAST] "7.0.0" |txn, words| answer(txn, words, |at_ms, _| at_ms),
        "Returns the expiration time of a key as a Unix timestamp in milliseconds.", "O(1)";
    144 "pttl" 2 ONE [READONLY FAST] "2.6.0" |txn, words| answer(txn, words, |at_ms, now_ms| at_ms - now_ms),
        "Returns the remaining time to live of a key in milliseconds.", "O(1)";
    145 "ttl" 2 ONE [READONLY FAST] "1.0.0"
        |txn, words| answer(txn, words, |at_ms, now_ms| seconds(at_ms - now_ms)),
        "Returns the remaining time to live of a key in seconds.", "O(1)";
};

/// Returns the seconds of a time in milliseconds, rounded as in Redis.
fn seconds(ms: u64) -> u64 {
    ms.saturating_add(500) / 1000
}

/// Answers -2 if the key does not exist, -1 if it does not expire, else `shown(at_ms, now_ms)`; `at_ms` is
/// after `now_ms`.
fn answer(txn: &mut Txn<'_>, mut words: Words<'_>, shown: fn(u64, u64) -> u64) -> Outcome {
    let now_ms = txn.clock_ms();
    Ok(Answer::Integer(match txn.load(words.word()?)?.map(|value| value.expire_at_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(at_ms)) => i64::try_from(shown(at_ms, now_ms)).unwrap_or(i64::MAX),
    }))
}

fn pexpireat(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    apply_expire(txn, &parse_expire(words)?)
}

/// Parses `key at-ms [NX | XX | GT | LT | XX LT]`, the words of PEXPIREAT in the log.
pub(crate) fn parse_expire(mut words: Words<'_>) -> Result<Expire, Failure> {
    let key = words.word()?.clone();
    let at_ms = u64::try_from(words.integer()?).map_err(|_| syntax())?;
    let options = words.rest().iter().map(|option| option.to_ascii_lowercase());
    let condition = match &options.collect::<Vec<_>>().iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [] => ExpireCondition::ExpireAlways,
        [b"nx"] => ExpireCondition::ExpireNx,
        [b"xx"] => ExpireCondition::ExpireXx,
        [b"gt"] => ExpireCondition::ExpireGt,
        [b"lt"] => ExpireCondition::ExpireLt,
        [b"xx", b"lt"] => ExpireCondition::ExpireXxLt,
        _ => return Err(syntax()),
    };
    Ok(Expire { key, at_ms, condition: condition.into() })
}

/// Sets the expiry of a key under a condition. A key without expiry compares as one that never expires
/// (EXPIRE, Redis 7.0).
pub(crate) fn apply_expire(txn: &mut Txn<'_>, op: &Expire) -> Outcome {
    let condition = ExpireCondition::try_from(op.condition)
        .map_err(|_| invalid("EXPIRE has a condition that this version does not know"))?;
    let Some(old) = txn.load(&op.key)? else { return Ok(Answer::Integer(0)) };
    let is_met = match (condition, old.expire_at_ms) {
        (ExpireCondition::ExpireAlways, _) => true,
        (ExpireCondition::ExpireNx, current_ms) => current_ms.is_none(),
        (ExpireCondition::ExpireXx, current_ms) => current_ms.is_some(),
        (ExpireCondition::ExpireGt, current_ms) => current_ms.is_some_and(|current_ms| op.at_ms > current_ms),
        (ExpireCondition::ExpireLt, current_ms) => current_ms.is_none_or(|current_ms| op.at_ms < current_ms),
        (ExpireCondition::ExpireXxLt, current_ms) => {
            current_ms.is_some_and(|current_ms| op.at_ms < current_ms)
        }
    };
    if is_met {
        txn.set_expiry(&op.key, &old, Some(op.at_ms));
    }
    Ok(Answer::Integer(is_met.into()))
}

/// Returns the call of a PEXPIREAT.
pub(crate) fn call_of_expire(expire: Expire) -> Call {
    let options: &[&str] = match expire.condition() {
        ExpireCondition::ExpireAlways => &[],
        ExpireCondition::ExpireNx => &["NX"],
        ExpireCondition::ExpireXx => &["XX"],
        ExpireCondition::ExpireGt => &["GT"],
        ExpireCondition::ExpireLt => &["LT"],
        ExpireCondition::ExpireXxLt => &["XX", "LT"],
    };
    let mut args = vec![expire.key, expire.at_ms.to_string().into()];
    args.extend(options.iter().map(|option| Bytes::from_static(option.as_bytes())));
    call("pexpireat", args)
}

fn prepare_expire(args: Vec<Bytes>, base_ms: u64, name: &'static str, unit: Unit) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    let (key, time) = (args.word()?, args.word()?);
    let condition = expire_condition(args)?.into();
    let time = parse_integer(&time).ok_or(Misuse::NotAnInteger)?;
    let at_ms = absolute_ms(time, unit, base_ms).ok_or(Misuse::InvalidExpire(name))?;
    Ok(call_of_expire(Expire { key, at_ms, condition }))
}

fn expire_condition(mut args: Arguments) -> Result<ExpireCondition, Misuse> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    while let Some(word) = args.next() {
        let option = match word {
            word if is(&word, "nx") => &mut nx,
            word if is(&word, "xx") => &mut xx,
            word if is(&word, "gt") => &mut gt,
            word if is(&word, "lt") => &mut lt,
            word => {
                let shown = String::from_utf8_lossy(&word[..word.len().min(128)]).into_owned();
                return Err(Misuse::Other(format!("Unsupported option {shown}").into()));
            }
        };
        *option = true;
    }
    match (nx, xx, gt, lt) {
        (true, true, ..) | (true, _, true, _) | (true, _, _, true) => {
            Err(Misuse::Other("NX and XX, GT or LT options at the same time are not compatible".into()))
        }
        (_, _, true, true) => {
            Err(Misuse::Other("GT and LT options at the same time are not compatible".into()))
        }
        // LT alone also sets an expiry on a key that has none.
        (_, true, _, true) => Ok(ExpireCondition::ExpireXxLt),
        (true, ..) => Ok(ExpireCondition::ExpireNx),
        // A key without an expiry never passes GT, so GT implies XX.
        (_, _, true, _) => Ok(ExpireCondition::ExpireGt),
        (_, _, _, true) => Ok(ExpireCondition::ExpireLt),
        (_, true, ..) => Ok(ExpireCondition::ExpireXx),
        _ => Ok(ExpireCondition::ExpireAlways),
    }
}

fn persist(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    words.end()?;
    apply_persist(txn, key)
}

pub(crate) fn apply_persist(txn: &mut Txn<'_>, key: &Bytes) -> Outcome {
    match txn.load(key)? {
        Some(old) if old.expire_at_ms.is_some() => {
            txn.set_expiry(key, &old, None);
            Ok(Answer::Integer(1))
        }
        _ => Ok(Answer::Integer(0)),
    }
}
