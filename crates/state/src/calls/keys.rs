//! Commands on keys of any type.

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::collection::{self, Collection};
use super::super::command::{Failure, Outcome, invalid};
use super::super::txn::Txn;
use super::super::value::{DATA_END, Kind, Value, data_key, user_key};
use super::words::{Words, syntax};
use super::{Verb, bulk_or_nil, done, gather, integer, nil, reads, shrinks, writes};

pub const VERBS: &[Verb] = &[
    writes("copy", copy),
    reads("dbsize", |txn, _| Ok(Answer::Integer(txn.key_count().cast_signed()))),
    reads("exists", exists),
    reads("memory|usage", memory_usage),
    reads("object|encoding", encoding),
    reads("object|freq", no_frequency),
    reads("object|idletime", idle_time),
    reads("object|refcount", |txn, words| of_object(txn, words, |_| Ok(Answer::Integer(1)))),
    reads("randomkey", random_key),
    shrinks("rename", |txn, words| rename(txn, words, false)),
    shrinks("renamenx", |txn, words| rename(txn, words, true)),
    reads("touch", exists),
    reads("type", type_of),
];

/// Estimated overhead in bytes of a key or an element.
const OVERHEAD_BYTES: usize = 96;
/// Maximum length of a string with Redis's encoding `embstr`.
const EMBEDDED_BYTES: usize = 44;
/// Maximum number of elements of a collection with one of Redis's small encodings.
const SMALL_COUNT: u64 = 128;
/// Maximum length of an element of such a collection.
const SMALL_ELEMENT_BYTES: usize = 64;
/// Maximum number of keys that RANDOMKEY reads to find one that has not expired.
const RANDOM_TRIES: usize = 100;
/// Bytes of values after which RANDOMKEY reads no further keys.
const RANDOM_BYTES: usize = 1 << 20;

fn exists(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    let mut count = 0;
    for key in words.rest() {
        count += usize::from(txn.load(key)?.is_some());
    }
    integer(count)
}

fn type_of(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let value = txn.load(words.word()?)?;
    Ok(Answer::Status(value.map_or("none", |value| value.kind.name()).to_owned()))
}

fn rename(txn: &mut Txn<'_>, mut words: Words<'_>, only_if_absent: bool) -> Outcome {
    let (from, to) = (words.word()?, words.word()?);
    let Some(old) = txn.load(from)? else { return Err(invalid("no such key")) };
    let replaced = if from == to { Some(old.clone()) } else { txn.load(to)? };
    if only_if_absent && replaced.is_some() {
        return integer(0);
    }
    if from != to {
        txn.erase(from, &old);
        let revision = txn.revision();
        txn.replace(to, replaced.as_ref(), Value { revision, ..old });
    }
    if only_if_absent { integer(1) } else { done() }
}

/// Copies a key; the cost is proportional to its elements.
fn copy(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (from, to) = (words.word()?, words.word()?);
    let mut replace = false;
    while let Some(option) = words.next() {
        if super::words::is(option, "replace") {
            replace = true;
        } else if super::words::is(option, "db") {
            if words.integer()? != 0 {
                return Err(invalid("DB index is out of range"));
            }
        } else {
            return Err(syntax());
        }
    }
    if from == to {
        return Err(invalid("source and destination objects are the same"));
    }
    let Some(source) = txn.load(from)? else { return integer(0) };
    if txn.load(to)?.is_some() && !replace {
        return integer(0);
    }
    match source.kind {
        Kind::String | Kind::Other(_) => {
            let old = txn.load(to)?;
            let revision = txn.revision();
            txn.replace(to, old.as_ref(), Value { revision, ..source });
        }
        kind => copy_collection(txn, from, to, kind, source.expire_at_ms)?,
    }
    integer(1)
}

fn copy_collection(
    txn: &mut Txn<'_>,
    from: &Bytes,
    to: &Bytes,
    kind: Kind,
    expire_at_ms: Option<u64>,
) -> Result<(), Failure> {
    let Some(source) = Collection::find(txn, from, kind)? else { return Ok(()) };
    let elements = gather(source.range(txn, b"", None))?;
    let mut target = Collection::in_place_of_any(txn, to, kind)?;
    (target.count, target.first) = (source.count, source.first);
    for (name, data) in elements {
        target.put(txn, &name, data);
    }
    target.save(txn);
    if let Some(copied) = txn.load(to)?
        && expire_at_ms.is_some()
    {
        txn.set_expiry(to, &copied, expire_at_ms);
    }
    Ok(())
}

/// Answers a random live key near a random prefix of two bytes, or near the first key if there is none. The
/// keys are not equally likely.
fn random_key(txn: &mut Txn<'_>, _: Words<'_>) -> Outcome {
    let starts = [data_key(&(txn.random(1 << 16) as u16).to_be_bytes()), data_key(b"")];
    for start in starts {
        let skipped = txn.random(RANDOM_TRIES as u64 / 2) as usize;
        // Reading a key also reads its value: stop early if values are large.
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for pair in txn.range_now(&start, DATA_END).take(RANDOM_TRIES) {
            let (raw, value) = pair?;
            bytes += value.len();
            keys.push(user_key(&raw));
            if bytes > RANDOM_BYTES {
                break;
            }
        }
        for position in 0..keys.len() {
            let key = &keys[(position + skipped) % keys.len()];
            if txn.load(key)?.is_some() {
                return Ok(Answer::Bytes(key.clone()));
            }
        }
    }
    Ok(nil())
}

fn of_object(txn: &mut Txn<'_>, mut words: Words<'_>, answer: impl FnOnce(&Value) -> Outcome) -> Outcome {
    match txn.load(words.word()?)? {
        Some(value) => answer(&value),
        None => Ok(nil()),
    }
}

/// Answers the encoding that Redis would use for the value. All values have the same encoding here.
fn encoding(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let Some(value) = txn.load(key)? else { return Ok(nil()) };
    let name = match value.kind {
        Kind::String if super::super::command::parse_integer(&value.data).is_some() => "int",
        Kind::String if value.data.len() <= EMBEDDED_BYTES => "embstr",
        Kind::String => "raw",
        Kind::List => "quicklist",
        kind => {
            let is_small = is_small(txn, key, kind)?;
            match kind {
                Kind::Hash if is_small => "listpack",
                Kind::SortedSet if is_small => "listpack",
                Kind::SortedSet => "skiplist",
                Kind::Set if is_small && holds_integers(txn, key)? => "intset",
                _ => "hashtable",
            }
        }
    };
    Ok(bulk_or_nil(Some(Bytes::from_static(name.as_bytes()))))
}

fn is_small(txn: &mut Txn<'_>, key: &Bytes, kind: Kind) -> Result<bool, Failure> {
    let Some(found) = Collection::find(txn, key, kind)? else { return Ok(false) };
    if found.count > SMALL_COUNT {
        return Ok(false);
    }
    let elements = gather(found.range(txn, b"", None))?;
    Ok(elements.iter().all(|(name, data)| name.len().max(data.len()) <= SMALL_ELEMENT_BYTES + 9))
}

fn holds_integers(txn: &mut Txn<'_>, key: &Bytes) -> Result<bool, Failure> {
    let Some(found) = Collection::find(txn, key, Kind::Set)? else { return Ok(false) };
    let elements = gather(found.range(txn, b"", None))?;
    Ok(elements.iter().all(|(name, _)| super::super::command::parse_integer(name).is_some()))
}

fn no_frequency(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    of_object(txn, words, |_| {
        Err(invalid(
            "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        ))
    })
}

/// Answers 0: reads do not record an access time.
fn idle_time(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    of_object(txn, words, |_| Ok(Answer::Integer(0)))
}

/// Answers an estimate; for a collection it is extrapolated from the first elements.
fn memory_usage(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    if words.takes("samples") {
        words.integer()?;
    }
    words.end()?;
    let Some(value) = txn.load(key)? else { return Ok(nil()) };
    let own = OVERHEAD_BYTES + key.len() + value.data.len();
    let Some(count) = collection::count_of(&value) else { return integer(own) };
    let Some(found) = Collection::find(txn, key, value.kind)? else { return integer(own) };
    let sample: Result<Vec<_>, _> = found.range(txn, b"", None).take(SMALL_COUNT as usize).collect();
    let sample = sample?;
    let bytes: usize = sample.iter().map(|(name, data)| OVERHEAD_BYTES + name.len() + data.len()).sum();
    integer(own + bytes / sample.len().max(1) * count as usize)
}
