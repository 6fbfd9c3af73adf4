//! Commands that read and change strings; those that set them are in `set`.

use bytes::Bytes;
use helios_proto::v1::Call;
use helios_proto::v1::reply::Kind as Answer;

use super::super::chunks;
use super::super::command::{Failure, Outcome, invalid, require_string};
use super::super::events::Name;
use super::super::txn::Txn;
use super::super::value::Value;
use super::prepare::{Arguments, Misuse, expiry_option, set_expiry_ms};
use super::spec::{Events, Spec, commands, other};
use super::words::{Words, is, syntax};
use super::{bulk_or_nil, call, decimal, integer, lcs, list, nil};

pub static COMMANDS: &[Spec] = commands! { String:
    20 "append" 3 ONE [WRITE DENYOOM FAST] "2.0.0" append,
        "Appends to a string; returns its length.", "O(1)"
        { access: ["RW insert"; 2] };
    21 "get" 2 ONE [READONLY FAST] "1.0.0" get,
        "Returns the string value of a key.", "O(1)";
    22 "getdel" 2 ONE [WRITE FAST] "6.2.0" getdel,
        "Returns the value of a key and deletes the key.", "O(1)"
        { access: ["RW access delete"; 2], events: Events::None };
    23 "getex" -2 ONE [WRITE FAST] "6.2.0" getex,
        "Returns the value of a key and changes its expiration, with options EX PX EXAT PXAT PERSIST.",
        "O(1)"
        { prepare: Some(prepare_getex), events: Events::Of(getex_events) };
    24 "getrange" 4 ONE [READONLY] "2.4.0" getrange,
        "Returns a part of a string.", "O(N), N the bytes of the answer";
    25 "incrbyfloat" 3 ONE [WRITE DENYOOM FAST] "2.6.0" incrbyfloat,
        "Increments the number in a key by a floating-point number, exactly if both have at most 17 decimals.",
        "O(1)";
    26 "lcs" -3 TWO [READONLY] "7.0.0" lcs::lcs,
        "Returns the longest common subsequence of two strings.", "O(N * M), N and M the bytes of the values";
    27 "mget" -2 ALL [READONLY FAST] "1.0.0" mget,
        "Returns the string values of one or more keys.", "O(N), N the number of keys";
    28 "setrange" 4 ONE [WRITE DENYOOM] "2.2.0" setrange,
        "Overwrites a part of a string.", "O(N), N the bytes of the part"
        { access: ["RW update"; 2] };
    29 "strlen" 2 ONE [READONLY FAST] "2.2.0" strlen,
        "Returns the length of a value.", "O(1)"
        { access: ["RO"; 2] };
    0 "substr" 4 ONE [READONLY] "1.0.0" other,
        "Returns a part of a string; GETRANGE does the same.", "O(N), N the bytes of the answer"
        { prepare: Some(|args, _| Ok(call("getrange", args))) };
};

/// Maximum length of a string that a command extends.
const MAX_BYTES: usize = 8 << 20;

/// Loads the string `key`, without the content of one in chunks; fails if it has another type.
pub fn load(txn: &mut Txn<'_>, key: &Bytes) -> Result<Option<Value>, Failure> {
    let value = txn.load(key)?;
    require_string(value.as_ref())?;
    Ok(value)
}

/// Returns the content of the string `key`; `None` if there is none.
pub fn content(txn: &mut Txn<'_>, key: &Bytes) -> Result<Option<Bytes>, Failure> {
    let value = load(txn, key)?;
    Ok(value.map(|value| chunks::whole(txn, &value)).transpose()?)
}

pub fn check_size(bytes: usize) -> Result<(), Failure> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(invalid("string exceeds maximum allowed size (proto-max-bulk-len)"))
}

/// Writes a new string and keeps the expiry.
pub fn rewrite(txn: &mut Txn<'_>, key: &Bytes, old: Option<&Value>, data: Bytes) {
    let expire_at_ms = old.and_then(|old| old.expire_at_ms);
    txn.store(key, old, data, expire_at_ms);
}

/// Clips the range from `start` to `end` (both inclusive, counted from the end if negative) to a string of
/// `length`.
pub fn clip(start: i64, end: i64, length: usize) -> std::ops::Range<usize> {
    let length = length as i64;
    let from_end = |position: i64| if position < 0 { position.saturating_add(length) } else { position };
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let start = from_end(start).max(0);
    let end = from_end(end).max(0).min(length - 1);
    if start > end || length == 0 { 0..0 } else { start as usize..end as usize + 1 }
}

fn get(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    Ok(bulk_or_nil(content(txn, words.word()?)?))
}

/// Answers the strings of several keys. As in Redis, a key of another type counts as missing.
fn mget(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    let mut found = Vec::with_capacity(words.len());
    for key in words.rest() {
        let string = txn.load(key)?.filter(|value| value.kind.is_string());
        found.push(bulk_or_nil(string.map(|value| chunks::whole(txn, &value)).transpose()?));
    }
    Ok(list(found))
}

fn strlen(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    integer(load(txn, words.word()?)?.as_ref().map_or(0, chunks::length_of))
}

fn getrange(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, start, end) = (words.word()?, words.integer()?, words.integer()?);
    let Some(value) = load(txn, key)? else { return Ok(Answer::Bytes(Bytes::new())) };
    let range = clip(start, end, chunks::length_of(&value));
    Ok(Answer::Bytes(chunks::part(txn, &value, range)?))
}

fn append(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, tail) = (words.word()?, words.word()?);
    let old = load(txn, key)?;
    let head = old.as_ref().map_or(0, chunks::length_of);
    let end = head + tail.len();
    check_size(end)?;
    let (length, ()) = chunks::edit(txn, key, old.as_ref(), head..end, |bytes| bytes.copy_from_slice(tail))?;
    integer(length)
}

fn setrange(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, offset, piece) = (words.word()?, words.integer()?, words.word()?);
    let offset = usize::try_from(offset).map_err(|_| invalid("offset is out of range"))?;
    let old = load(txn, key)?;
    if piece.is_empty() {
        return integer(old.as_ref().map_or(0, chunks::length_of));
    }
    let end = offset.saturating_add(piece.len());
    check_size(end)?;
    let write = |bytes: &mut [u8]| bytes.copy_from_slice(piece);
    let (length, ()) = chunks::edit(txn, key, old.as_ref(), offset..end, write)?;
    integer(length)
}

fn getdel(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let Some(old) = load(txn, key)? else { return Ok(nil()) };
    let data = chunks::whole(txn, &old)?;
    txn.remove(key, &old);
    Ok(Answer::Bytes(data))
}

/// Executes `GETEX key [PXAT ms | PERSIST]`; the other forms are prepared as this one.
fn getex(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let expire_at_ms = if words.takes("pxat") {
        Some(Some(u64::try_from(words.integer()?).map_err(|_| syntax())?))
    } else if words.takes("persist") {
        Some(None)
    } else {
        None
    };
    words.end()?;
    let Some(old) = load(txn, key)? else { return Ok(nil()) };
    let data = chunks::whole(txn, &old)?;
    if let Some(at_ms) = expire_at_ms.filter(|at_ms| *at_ms != old.expire_at_ms) {
        txn.set_expiry(key, &old, at_ms);
    }
    Ok(Answer::Bytes(data))
}

fn prepare_getex(args: Vec<Bytes>, now_ms: u64) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    let mut words = vec![args.word()?];
    if let Some(option) = args.next() {
        if is(&option, "persist") {
            words.push(option);
        } else {
            let (unit, base_ms) = expiry_option(&option, now_ms).ok_or(Misuse::Syntax)?;
            let at_ms = set_expiry_ms(args.integer()?, unit, base_ms, "getex")?;
            words.extend([Bytes::from_static(b"PXAT"), at_ms.to_string().into()]);
        }
    }
    args.end().map(|()| call("getex", words))
}

fn getex_events(args: &[Bytes], _: &Bytes) -> [Option<Name>; 2] {
    let persists = args.get(1).is_some_and(|option| is(option, "persist"));
    [Some((if persists { "persist" } else { "expire" }, 'g')), None]
}

fn incrbyfloat(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, delta) = (words.word()?, words.word()?);
    let old = load(txn, key)?;
    let current = old.as_ref().map(|old| chunks::whole(txn, old)).transpose()?;
    let current = current.unwrap_or(Bytes::from_static(b"0"));
    let sum = Bytes::from(sum_of(&current, delta, "value is not a valid float")?);
    rewrite(txn, key, old.as_ref(), sum.clone());
    Ok(Answer::Bytes(sum))
}

/// Returns the text of a sum; `wrong` is the error message if `current` is not a number.
pub fn sum_of(current: &[u8], delta: &[u8], wrong: &str) -> Result<String, Failure> {
    let number = |text: &[u8]| super::number::parse_double(text);
    let added = number(delta).ok_or_else(super::words::no_double)?;
    let current_number = number(current).ok_or_else(|| invalid(wrong))?;
    if !(added + current_number).is_finite() {
        return Err(invalid("increment would produce NaN or Infinity"));
    }
    decimal::add(current, delta).ok_or_else(|| invalid(wrong))
}

#[cfg(test)]
mod tests {
    use super::clip;

    #[test]
    fn ranges_are_clipped_as_in_redis() {
        for (start, end, length, expected) in [
            (0, -1, 5, 0..5),
            (-3, -1, 5, 2..5),
            (1, 2, 5, 1..3),
            (0, 100, 5, 0..5),
            (5, 9, 5, 0..0),
            (3, 1, 5, 0..0),
            (-1, -3, 5, 0..0),
            (-100, 0, 5, 0..1),
            (0, -1, 0, 0..0),
            (i64::MIN, i64::MAX, 3, 0..3),
        ] {
            assert_eq!(clip(start, end, length), expected, "{start} {end} of {length}");
        }
    }
}
