//! Hash commands; a hash has one element for each field.

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::collection::{Collection, Element};
use super::super::command::{Failure, Outcome, invalid, not_an_integer, parse_integer};
use super::super::sizes;
use super::super::txn::Txn;
use super::super::value::Kind;
use super::number::parse_double;
use super::spec::{Events, Spec, commands};
use super::strings::sum_of;
use super::words::{Words, syntax};
use super::{bulk_or_nil, bulks, done, gather, integer, list, nil, remove_elements, replies, sets};

pub static COMMANDS: &[Spec] = commands! { Hash:
    201 "hdel" -3 ONE [WRITE FAST] "2.0.0" hdel,
        "Removes fields of a hash.", "O(N), N the number of given fields"
        { access: ["RW delete"; 2] };
    202 "hexists" 3 ONE [READONLY FAST] "2.0.0" hexists,
        "Returns whether a hash has a field.", "O(1)"
        { access: ["RO"; 2] };
    203 "hget" 3 ONE [READONLY FAST] "2.0.0" hget,
        "Returns the value of a field.", "O(1)";
    204 "hgetall" 2 ONE [READONLY] "2.0.0" hgetall,
        "Returns all fields and their values, in the order of the fields.", "O(N), N the size of the hash";
    205 "hincrby" 4 ONE [WRITE DENYOOM FAST] "2.0.0" hincrby,
        "Increments the integer in a field.", "O(1)"
        { elements: sizes::second };
    206 "hincrbyfloat" 4 ONE [WRITE DENYOOM FAST] "2.6.0" hincrbyfloat,
        "Increments the number in a field by a floating-point number.", "O(1)"
        { elements: sizes::second };
    207 "hkeys" 2 ONE [READONLY] "2.0.0" |txn, words| part(txn, words, |(field, _)| field),
        "Returns all fields of a hash.", "O(N), N the size of the hash";
    208 "hlen" 2 ONE [READONLY FAST] "2.0.0" hlen,
        "Returns the number of fields.", "O(1)"
        { access: ["RO"; 2] };
    209 "hmget" -3 ONE [READONLY FAST] "2.0.0" hmget,
        "Returns the values of several fields.", "O(N), N the number of given fields";
    210 "hmset" -4 ONE [WRITE DENYOOM FAST] "2.0.0" hmset,
        "Sets several fields; HSET does the same.", "O(N), N the number of given fields"
        { access: ["RW update"; 2], elements: sizes::fields, events: Events::One("hset", 'h') };
    211 "hrandfield" -2 ONE [READONLY] "6.2.0" hrandfield,
        "Returns random fields of a hash.",
        "O(N), N the size of the hash; Redis: the number of returned fields";
    212 "hscan" -3 ONE [READONLY] "2.8.0" |txn, words| scan(txn, words, Kind::Hash),
        "Iterates over the fields of a hash.", "O(1) for each call, O(N) for all of a hash of N fields";
    213 "hset" -4 ONE [WRITE DENYOOM FAST] "2.0.0" hset,
        "Sets fields of a hash; returns how many are new.", "O(1) for each field"
        { access: ["RW update"; 2], elements: sizes::fields };
    214 "hsetnx" 4 ONE [WRITE DENYOOM FAST] "2.0.0" hsetnx,
        "Sets a field unless it exists.", "O(1)"
        { access: ["RW insert"; 2], elements: sizes::second, events: Events::One("hset", 'h') };
    215 "hstrlen" 3 ONE [READONLY FAST] "3.2.0" hstrlen,
        "Returns the length of a field's value.", "O(1)"
        { access: ["RO"; 2] };
    216 "hvals" 2 ONE [READONLY] "2.0.0" |txn, words| part(txn, words, |(_, value)| value),
        "Returns all values of a hash.", "O(N), N the size of the hash";
};

fn find(txn: &mut Txn<'_>, key: &Bytes) -> Result<Option<Collection>, Failure> {
    Collection::find(txn, key, Kind::Hash)
}

fn field(txn: &mut Txn<'_>, mut words: Words<'_>) -> Result<Option<Bytes>, Failure> {
    let (key, field) = (words.word()?, words.word()?);
    let Some(hash) = find(txn, key)? else { return Ok(None) };
    Ok(hash.get(txn, field)?)
}

fn hget(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    field(txn, words).map(bulk_or_nil)
}

fn hexists(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    field(txn, words).and_then(|value| integer(value.is_some().into()))
}

fn hstrlen(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    field(txn, words).and_then(|value| integer(value.map_or(0, |value| value.len())))
}

fn hlen(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    Ok(Answer::Integer(find(txn, words.word()?)?.map_or(0, |hash| hash.count.cast_signed())))
}

fn hmget(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let hash = find(txn, words.word()?)?;
    let mut found = Vec::with_capacity(words.len());
    for field in words.rest() {
        let value = hash.as_ref().map(|hash| hash.get(txn, field)).transpose()?.flatten();
        found.push(bulk_or_nil(value));
    }
    Ok(list(found))
}

fn all(txn: &mut Txn<'_>, key: &Bytes) -> Result<Vec<Element>, Failure> {
    match find(txn, key)? {
        Some(hash) => gather(hash.range(txn, b"", None)),
        None => Ok(Vec::new()),
    }
}

fn hgetall(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let fields = all(txn, words.word()?)?.into_iter();
    Ok(Answer::Map(replies(fields.flat_map(|(field, value)| [field, value]).map(Answer::Bytes))))
}

fn part(txn: &mut Txn<'_>, mut words: Words<'_>, part: fn(Element) -> Bytes) -> Outcome {
    Ok(bulks(all(txn, words.word()?)?.into_iter().map(part)))
}

fn set_fields(txn: &mut Txn<'_>, mut words: Words<'_>, name: &str) -> Result<usize, Failure> {
    let key = words.word()?;
    if words.is_empty() || !words.len().is_multiple_of(2) {
        return Err(invalid(format!("wrong number of arguments for '{name}' command")));
    }
    let mut hash = Collection::find_or_new(txn, key, Kind::Hash)?;
    let mut added = 0;
    for pair in words.rest().chunks(2) {
        added += usize::from(hash.get(txn, &pair[0])?.is_none());
        hash.put(txn, &pair[0], pair[1].clone());
    }
    hash.count += added as u64;
    hash.save(txn);
    Ok(added)
}

fn hset(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    integer(set_fields(txn, words, "hset")?)
}

fn hmset(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    set_fields(txn, words, "hmset")?;
    done()
}

fn hsetnx(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, field, value) = (words.word()?, words.word()?, words.word()?);
    let mut hash = Collection::find_or_new(txn, key, Kind::Hash)?;
    if hash.get(txn, field)?.is_some() {
        return integer(0);
    }
    hash.put(txn, field, value.clone());
    hash.count += 1;
    hash.save(txn);
    integer(1)
}

fn hdel(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    remove_elements(txn, words, Kind::Hash)
}

/// Replaces a field's value by the result of `change`, and returns the answer of `change`.
fn change(
    txn: &mut Txn<'_>,
    words: &mut Words<'_>,
    change: impl FnOnce(Option<&Bytes>) -> Result<(Bytes, Answer), Failure>,
) -> Outcome {
    let (key, field) = (words.word()?, words.word()?);
    let mut hash = Collection::find_or_new(txn, key, Kind::Hash)?;
    let old = hash.get(txn, field)?;
    let (new, answer) = change(old.as_ref())?;
    hash.put(txn, field, new);
    hash.count += u64::from(old.is_none());
    hash.save(txn);
    Ok(answer)
}

fn hincrby(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let mut tail = words.clone();
    tail.several(2)?;
    let delta = tail.integer()?;
    change(txn, &mut words, |old| {
        let current = match old {
            Some(old) => parse_integer(old).ok_or_else(|| not_an_integer("hash value is not an integer"))?,
            None => 0,
        };
        let sum = current
            .checked_add(delta)
            .ok_or_else(|| not_an_integer("increment or decrement would overflow"))?;
        Ok((sum.to_string().into(), Answer::Integer(sum)))
    })
}

fn hincrbyfloat(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let mut tail = words.clone();
    tail.several(2)?;
    let delta = tail.word()?;
    if parse_double(delta).is_some_and(f64::is_infinite) {
        return Err(invalid("value is NaN or Infinity"));
    }
    change(txn, &mut words, |old| {
        let sum = sum_of(old.map_or(b"0", |old| old), delta, "hash value is not a float")?;
        let sum = Bytes::from(sum);
        Ok((sum.clone(), Answer::Bytes(sum)))
    })
}

fn hrandfield(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    if words.is_empty() {
        let fields = all(txn, key)?;
        return Ok(match fields.len() {
            0 => nil(),
            count => Answer::Bytes(fields[txn.random(count as u64) as usize].0.clone()),
        });
    }
    let count = words.integer()?;
    let with_values = words.takes("withvalues");
    words.end()?;
    let fields = all(txn, key)?;
    let chosen = sets::choose(txn, &fields, count, |(field, value)| field.len() + value.len())?;
    Ok(match with_values {
        false => bulks(chosen.into_iter().map(|(field, _)| field)),
        true => Answer::Pairs(replies(
            chosen.into_iter().flat_map(|(field, value)| [field, value]).map(Answer::Bytes),
        )),
    })
}

/// Executes a scan `key count [first]`: answers `count` elements from the one named `first` on, and the name
/// of the next one (nil after the last). The Redis connection converts that name to a cursor.
pub fn scan(txn: &mut Txn<'_>, mut words: Words<'_>, kind: Kind) -> Outcome {
    let (key, count) = (words.word()?, words.positive()?);
    let first = words.next().cloned().unwrap_or_default();
    if count == 0 {
        return Err(syntax());
    }
    let Some(found) = Collection::find(txn, key, kind)? else { return Ok(list([nil(), list([])])) };
    let elements: Result<Vec<_>, _> = found.range(txn, &first, None).take(count + 1).collect();
    let mut elements = elements?;
    let next = if elements.len() > count { elements.pop().map(|(name, _)| name) } else { None };
    let elements = elements.into_iter().flat_map(|(name, data)| [name, data]);
    Ok(list([bulk_or_nil(next), bulks(elements)]))
}
