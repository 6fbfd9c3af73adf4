//! Commands on keys of any type.

use bytes::Bytes;
use helios_proto::v1::Call;
use helios_proto::v1::reply::Kind as Answer;

use super::super::chunks::{self, Chunks};
use super::super::collection::{self, Collection};
use super::super::command::{Failure, Outcome, invalid};
use super::super::events::{Name, RENAME_FROM};
use super::super::sizes::Made;
use super::super::txn::Txn;
use super::super::value::{DATA_END, Kind, Value, data_key, user_key};
use super::prepare::{Arguments, Misuse};
use super::spec::{Events, Spec, commands, other};
use super::words::{Words, is, syntax};
use super::{bulk_or_nil, by_id_only, call, done, gather, integer, nil};

pub static COMMANDS: &[Spec] = commands! { Generic:
    101 "copy" -3 TWO [WRITE DENYOOM] "6.2.0" copy,
        "Copies a key, with REPLACE over an existing one; a collection element by element.",
        "O(N), N the size of the value"
        { access: ["RO access", "OW update"], made: Made::FirstTwo, events: Events::One("copy_to", 'g') };
    103 "del" -2 ALL [WRITE] "1.0.0" del,
        "Deletes one or more keys.",
        "O(N), N the number of keys; Redis: and of the elements of their collections"
        { access: ["RM delete"; 2], format: by_id_only, made: Made::None, events: Events::None };
    104 "exists" -2 ALL [READONLY FAST] "1.0.0" exists,
        "Returns how many of the given keys exist.", "O(N), N the number of keys"
        { access: ["RO"; 2] };
    107 "object|encoding" 3 SECOND [READONLY] "2.2.3" encoding,
        "Returns the encoding that Redis would use for the value.", "O(1)"
        { access: ["RO"; 2] };
    108 "object|freq" 3 SECOND [READONLY] "4.0.0" no_frequency,
        "Refused: the use of keys is not counted.", "O(1)"
        { access: ["RO"; 2] };
    109 "object|idletime" 3 SECOND [READONLY] "2.2.3" idle_time,
        "Returns 0: the use of keys is not recorded.", "O(1)"
        { access: ["RO"; 2] };
    110 "object|refcount" 3 SECOND [READONLY] "2.2.3"
        |txn, words| of_object(txn, words, |_| Ok(Answer::Integer(1))),
        "Returns 1.", "O(1)"
        { access: ["RO"; 2] };
    111 "randomkey" 1 NONE [READONLY] "1.0.0" random_key,
        "Returns some key; not every key is equally likely.", "O(1)";
    112 "rename" 3 TWO [WRITE] "1.0.0" |txn, words| rename(txn, words, false),
        "Renames a key; a key of the new name is overwritten.",
        "O(1)"
        { access: ["RW access delete", "OW update"], made: Made::FirstTwo, events: Events::Of(renamed) };
    113 "renamenx" 3 TWO [WRITE FAST] "1.0.0" |txn, words| rename(txn, words, true),
        "Renames a key unless the new name is taken.", "O(1)"
        { access: ["RW access delete", "OW insert"], made: Made::FirstTwo, events: Events::Of(renamed) };
    114 "touch" -2 ALL [READONLY FAST] "3.2.1" exists,
        "Returns how many of the given keys exist.", "O(N), N the number of keys"
        { access: ["RO"; 2] };
    115 "type" 2 ONE [READONLY FAST] "1.0.0" type_of,
        "Returns the type of the value of a key.", "O(1)"
        { access: ["RO"; 2] };
    0 "unlink" -2 ALL [WRITE FAST] "4.0.0" other,
        "Deletes one or more keys.", "O(N), N the number of keys"
        { access: ["RM delete"; 2], prepare: Some(|args, _| Ok(call("del", args))) };
};

pub static SERVER: &[Spec] = commands! { Server:
    102 "dbsize" 1 NONE [READONLY FAST] "1.0.0" |txn, _| Ok(Answer::Integer(txn.key_count().cast_signed())),
        "Returns the number of keys; expired keys count until they are purged.", "O(1)";
    105 "flushall" -1 NONE [WRITE] "1.0.0" flushall,
        "Removes all keys.", "O(1); Redis: O(N), N the number of keys"
        { format: by_id_only, made: Made::None, prepare: Some(prepare_flush), events: Events::None };
    0 "flushdb" -1 NONE [WRITE] "1.0.0" other,
        "Removes all keys.", "O(1); Redis: O(N), N the number of keys"
        { prepare: Some(prepare_flush) };
    106 "memory|usage" -3 SECOND [READONLY] "4.0.0" memory_usage,
        "Returns an estimate of the bytes that a key and its value take.", "O(N), N the number of samples"
        { access: ["RO"; 2] };
};

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

fn del(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    apply_del(txn, words.rest())
}

pub(crate) fn apply_del(txn: &mut Txn<'_>, keys: &[Bytes]) -> Outcome {
    let mut removed = 0;
    for key in keys {
        if let Some(old) = txn.load(key)? {
            txn.remove(key, &old);
            removed += 1;
        }
    }
    integer(removed)
}

fn flushall(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    words.end()?;
    apply_flush(txn)
}

pub(crate) fn apply_flush(txn: &mut Txn<'_>) -> Outcome {
    txn.remove_all()?;
    done()
}

/// `ASYNC` and `SYNC` are the same here: the reply is sent when the flush is applied.
fn prepare_flush(args: Vec<Bytes>, _: u64) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    match args.next() {
        Some(option) if !(is(&option, "async") || is(&option, "sync")) => Err(Misuse::Syntax),
        _ => args.end().map(|()| call("flushall", Vec::new())),
    }
}

fn renamed(args: &[Bytes], key: &Bytes) -> [Option<Name>; 2] {
    [Some(if args.first() == Some(key) { RENAME_FROM } else { ("rename_to", 'g') }), None]
}

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
        if is(option, "replace") {
            replace = true;
        } else if is(option, "db") {
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
        Kind::String | Kind::Chunked => copy_string(txn, to, source)?,
        Kind::Other(_) => {
            let old = txn.load(to)?;
            let revision = txn.revision();
            txn.replace(to, old.as_ref(), Value { revision, ..source });
        }
        kind => copy_collection(txn, from, to, kind, source.expire_at_ms)?,
    }
    integer(1)
}

/// Copies a string, in the layout that this entry writes. Chunks that are missing stay missing.
fn copy_string(txn: &mut Txn<'_>, to: &Bytes, source: Value) -> Result<(), Failure> {
    let old = txn.load(to)?;
    match Chunks::of(&source).filter(|_| txn.writes_chunks()) {
        Some(held) => {
            let (data, revision) = (chunks::copy(txn, &held)?, txn.revision());
            txn.replace(to, old.as_ref(), Value { data, revision, ..source });
        }
        None => {
            let data = chunks::whole(txn, &source)?;
            txn.store(to, old.as_ref(), data, source.expire_at_ms);
        }
    }
    Ok(())
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
        Kind::Chunked => "raw",
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
    let own = OVERHEAD_BYTES + key.len() + chunks::length_of(&value);
    if let Some(chunks) = Chunks::of(&value) {
        return integer(own + chunks.count() * OVERHEAD_BYTES);
    }
    let Some(count) = collection::count_of(&value) else { return integer(own) };
    let Some(found) = Collection::find(txn, key, value.kind)? else { return integer(own) };
    let sample: Result<Vec<_>, _> = found.range(txn, b"", None).take(SMALL_COUNT as usize).collect();
    let sample = sample?;
    let bytes: usize = sample.iter().map(|(name, data)| OVERHEAD_BYTES + name.len() + data.len()).sum();
    integer(own + bytes / sample.len().max(1) * count as usize)
}
