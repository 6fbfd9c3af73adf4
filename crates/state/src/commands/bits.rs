//! Bit commands on strings.

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::chunks;
use super::super::command::{Failure, Outcome, invalid};
use super::super::sizes::Made;
use super::super::txn::Txn;
use super::super::value::Value;
use super::integer;
use super::spec::{Events, Spec, commands};
use super::strings::{check_size, clip, content, load};
use super::words::{Words, is, syntax};

pub static COMMANDS: &[Spec] = commands! { String:
    50 "bitcount" -2 ONE [READONLY] "2.6.0" bitcount,
        "Counts the set bits of a string, or of a range of it.", "O(N), N the bytes of the range";
    51 "bitop" -4 BITOP [WRITE DENYOOM] "2.6.0" bitop,
        "Combines strings bit by bit, AND, OR, XOR or NOT, into another.",
        "O(N), N the bytes of the longest value"
        { access: ["OW update", "RO access"], made: Made::Second, events: Events::One("set", '$') };
    52 "bitpos" -3 ONE [READONLY] "2.8.7" bitpos,
        "Returns the position of the first bit that is 0 or 1.", "O(N), N the bytes of the range";
    53 "getbit" 3 ONE [READONLY FAST] "2.2.0" getbit,
        "Returns a bit of a string.", "O(1)";
    54 "setbit" 4 ONE [WRITE DENYOOM] "2.2.0" setbit,
        "Sets a bit of a string; returns its previous value.", "O(1)";
};

fn offset(words: &mut Words<'_>) -> Result<usize, Failure> {
    let wrong = || invalid("bit offset is not an integer or out of range");
    let offset = words.integer().map_err(|_| wrong())?;
    // The limit of Redis, independent of the maximum length of a string.
    usize::try_from(offset).ok().filter(|offset| *offset < 1 << 32).ok_or_else(wrong)
}

fn bit(words: &mut Words<'_>, wrong: &str) -> Result<u8, Failure> {
    match words.integer() {
        Ok(bit @ (0 | 1)) => Ok(bit as u8),
        _ => Err(invalid(wrong)),
    }
}

fn getbit(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, offset) = (words.word()?, offset(&mut words)?);
    let held = load(txn, key)?.filter(|value| offset / 8 < chunks::length_of(value));
    let Some(value) = held else { return integer(0) };
    let byte = chunks::part(txn, &value, offset / 8..offset / 8 + 1)?[0];
    integer((byte >> (7 - offset % 8) & 1).into())
}

fn setbit(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, offset) = (words.word()?, offset(&mut words)?);
    let bit = bit(&mut words, "bit is not an integer or out of range")?;
    let old = load(txn, key)?;
    check_size(offset / 8 + 1)?;
    let shift = 7 - offset % 8;
    let set = |bytes: &mut [u8]| {
        let before = bytes[0] >> shift & 1;
        bytes[0] = bytes[0] & !(1 << shift) | bit << shift;
        before
    };
    let (_, before) = chunks::edit(txn, key, old.as_ref(), offset / 8..offset / 8 + 1, set)?;
    integer(before.into())
}

/// Returns the range of bits of a string of `length` bytes for `start end [BYTE | BIT]`.
fn bit_range(
    start: i64,
    end: i64,
    words: &mut Words<'_>,
    length: usize,
) -> Result<std::ops::Range<usize>, Failure> {
    let in_bits = words.takes("bit");
    if !in_bits {
        words.takes("byte");
    }
    words.end()?;
    if in_bits {
        return Ok(clip(start, end, length * 8));
    }
    let bytes = clip(start, end, length);
    Ok(bytes.start * 8..bytes.end * 8)
}

/// Returns the bytes that `bits` of a string touch, and the position of the first of their bits.
fn touched(txn: &Txn<'_>, value: &Value, bits: &std::ops::Range<usize>) -> Result<(Bytes, usize), Failure> {
    if bits.is_empty() {
        return Ok((Bytes::new(), bits.start));
    }
    let bytes = bits.start / 8..bits.end.div_ceil(8);
    let first = bytes.start * 8;
    Ok((chunks::part(txn, value, bytes)?, first))
}

fn is_set(data: &[u8], position: usize) -> bool {
    data[position / 8] >> (7 - position % 8) & 1 == 1
}

/// Returns the number of set bits in a range; counts whole bytes between its first and its last byte.
fn count_ones(data: &[u8], bits: std::ops::Range<usize>) -> usize {
    let (first, last) = (bits.start.next_multiple_of(8), bits.end / 8 * 8);
    if first >= last {
        return bits.filter(|position| is_set(data, *position)).count();
    }
    let ends = (bits.start..first).chain(last..bits.end).filter(|position| is_set(data, *position)).count();
    let whole: usize = data[first / 8..last / 8].iter().map(|byte| byte.count_ones() as usize).sum();
    ends + whole
}

/// Returns the position of the first bit with the value `wanted`; skips bytes without one.
fn first_bit(data: &[u8], bits: &mut std::ops::Range<usize>, wanted: bool) -> Option<usize> {
    let other = if wanted { 0 } else { u8::MAX };
    while let Some(position) = bits.next() {
        if is_set(data, position) == wanted {
            return Some(position);
        }
        if (position + 1).is_multiple_of(8) {
            let byte = (position + 1) / 8;
            let skipped = data[byte..].iter().take_while(|byte| **byte == other).count();
            bits.start = (bits.start + skipped * 8).min(bits.end);
        }
    }
    None
}

fn bitcount(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let range =
        (!words.is_empty()).then(|| Ok::<_, Failure>((words.integer()?, words.integer()?))).transpose()?;
    let value = load(txn, key)?;
    let (start, end) = range.unwrap_or((0, -1));
    let bits = bit_range(start, end, &mut words, value.as_ref().map_or(0, chunks::length_of))?;
    let Some(value) = value else { return integer(0) };
    let (data, first) = touched(txn, &value, &bits)?;
    integer(count_ones(&data, bits.start - first..bits.end - first))
}

fn bitpos(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let wanted = bit(&mut words, "The bit argument must be 1 or 0.")? == 1;
    let start = if words.is_empty() { 0 } else { words.integer()? };
    let end = if words.is_empty() { None } else { Some(words.integer()?) };
    let Some(value) = load(txn, key)? else {
        words = skip_unit(words)?;
        words.end()?;
        return Ok(Answer::Integer(if wanted { -1 } else { 0 }));
    };
    let length = chunks::length_of(&value);
    let bits = bit_range(start, end.unwrap_or(-1), &mut words, length)?;
    let (data, first) = touched(txn, &value, &bits)?;
    match first_bit(&data, &mut (bits.start - first..bits.end - first), wanted) {
        Some(position) => integer(first + position),
        // Bits after the end of the string count as zeros, unless an end was given.
        None if !wanted && end.is_none() && !bits.is_empty() => integer(length * 8),
        None => Ok(Answer::Integer(-1)),
    }
}

fn skip_unit(mut words: Words<'_>) -> Result<Words<'_>, Failure> {
    if !words.is_empty() && !words.takes("bit") && !words.takes("byte") {
        return Err(syntax());
    }
    Ok(words)
}

fn bitop(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (operation, target) = (words.word()?, words.word()?);
    let combine: fn(u8, u8) -> u8 = match operation {
        word if is(word, "and") => |left, right| left & right,
        word if is(word, "or") => |left, right| left | right,
        word if is(word, "xor") => |left, right| left ^ right,
        word if is(word, "not") => |left, _| left,
        _ => return Err(syntax()),
    };
    if is(operation, "not") && words.len() != 1 {
        return Err(invalid("BITOP NOT must be called with a single source key."));
    }
    // Beyond its end a source counts as zeros, which change the result of AND only: so the work for each
    // source is its length, which was charged.
    let clears = is(operation, "and");
    let mut result: Vec<u8> = Vec::new();
    let mut significant = 0;
    for (position, key) in words.rest().iter().enumerate() {
        let source = content(txn, key)?.unwrap_or_default();
        if source.len() > result.len() {
            txn.charge(0, source.len() as u64)?;
            result.resize(source.len(), 0);
        }
        if position == 0 {
            result.copy_from_slice(&source);
            significant = source.len();
            continue;
        }
        for (left, right) in result.iter_mut().zip(source.iter()) {
            *left = combine(*left, *right);
        }
        if clears && source.len() < significant {
            result[source.len()..significant].fill(0);
            significant = source.len();
        }
    }
    if is(operation, "not") {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    let length = result.len();
    let old = txn.load(target)?;
    match old {
        Some(old) if result.is_empty() => txn.remove(target, &old),
        old if !result.is_empty() => txn.store(target, old.as_ref(), result.into(), None),
        _ => {}
    }
    integer(length)
}
