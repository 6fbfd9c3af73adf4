//! `DUMP` and `RESTORE`: the value of a key as one byte string.
//!
//! The payload is `HD`, a version, the kind of the value, its parts, each after its length (u32), and the
//! CRC-32C of all bytes before it. The format is specific to HeliosDB, because that of Redis changes between
//! its versions.

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::Call;
use helios_proto::v1::reply::Kind as Answer;

use super::super::chunks;
use super::super::collection::Collection;
use super::super::command::{Failure, Outcome, invalid, parse_integer};
use super::super::sizes;
use super::super::txn::Txn;
use super::super::value::{Kind, Value};
use super::number::{from_sortable, sortable};
use super::prepare::{Arguments, Misuse};
use super::spec::{Events, Spec, commands};
use super::words::{Words, is, no_integer};
use super::zsets::{Scored, SortedSet};
use super::{call, done, gather, lists, nil, sets};

pub static COMMANDS: &[Spec] = commands! { Generic:
    165 "dump" 2 ONE [READONLY] "2.6.0" dump,
        "Returns the value of a key as bytes for RESTORE, in a format specific to HeliosDB.",
        "O(N), N the size of the value"
        { format: |_| 3 };
    166 "restore" -4 ONE [WRITE DENYOOM] "2.6.0" restore,
        "Creates a key from the bytes that DUMP returned.", "O(N log N), N the size of the value"
        { access: ["OW update"; 2], format: |_| 3, elements: sizes::dump, prepare: Some(prepare_restore),
          events: Events::One("restore", 'g') };
};

const MAGIC: &[u8; 2] = b"HD";
const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;
const HEAD_BYTES: usize = MAGIC.len() + 2;

fn dump(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let Some(value) = txn.load(key)? else { return Ok(nil()) };
    let parts = parts(txn, key, &value)?;
    let bytes: usize = parts.iter().map(|part| size_of::<u32>() + part.len()).sum();
    txn.charge(0, bytes as u64)?;
    let mut payload = Vec::with_capacity(HEAD_BYTES + bytes + CRC_BYTES);
    payload.put_slice(MAGIC);
    payload.put_u8(VERSION);
    // How the string is stored is not part of the payload.
    payload.put_u8(value.kind.as_seen().code());
    for part in parts {
        payload.put_u32(part.len() as u32);
        payload.put_slice(&part);
    }
    let crc = crc32c::crc32c(&payload);
    payload.put_u32(crc);
    Ok(Answer::Bytes(payload.into()))
}

/// Returns the parts of a value: for a hash fields and values in turn, for a sorted set members and scores in
/// turn.
fn parts(txn: &mut Txn<'_>, key: &Bytes, value: &Value) -> Result<Vec<Bytes>, Failure> {
    match value.kind {
        Kind::String | Kind::Chunked => Ok(vec![chunks::whole(txn, value)?]),
        Kind::List => lists::elements(txn, key),
        Kind::Set => sets::members(txn, key),
        Kind::Hash => {
            let Some(hash) = Collection::find(txn, key, Kind::Hash)? else { return Ok(Vec::new()) };
            let fields = gather(hash.range(txn, b"", None))?;
            Ok(fields.into_iter().flat_map(|(field, value)| [field, value]).collect())
        }
        Kind::SortedSet => {
            let Some(set) = SortedSet::find(txn, key)? else { return Ok(Vec::new()) };
            let score = |score: f64| Bytes::copy_from_slice(&sortable(score));
            let pair = |scored: Scored| [scored.member, score(scored.score)];
            Ok(set.all(txn)?.into_iter().flat_map(pair).collect())
        }
        Kind::Other(_) => {
            Err(invalid("the key has a type that this version does not know: upgrade this member"))
        }
    }
}

/// Executes `RESTORE key expire-at-ms payload [REPLACE]`; 0 for no expiry. Answers nil if the key exists and
/// `REPLACE` is missing.
fn restore(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, at_ms, payload) = (words.word()?, words.integer()?, words.word()?);
    let replace = words.takes("replace");
    words.end()?;
    let old = txn.load(key)?;
    if old.is_some() && !replace {
        return Ok(nil());
    }
    let expire_at_ms = u64::try_from(at_ms).map_err(|_| no_integer())?;
    let (kind, parts) = decode(payload.clone())?;
    check(kind, &parts)?;
    if let Some(old) = &old {
        txn.remove(key, old);
    }
    write(txn, key, kind, parts)?;
    if let Some(written) = txn.load(key)?.filter(|_| expire_at_ms > 0) {
        txn.set_expiry(key, &written, Some(expire_at_ms));
    }
    done()
}

/// Prepares `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`; the last two are
/// checked and ignored.
fn prepare_restore(args: Vec<Bytes>, now_ms: u64) -> Result<Call, Misuse> {
    let mut args = Arguments::new(args);
    let (key, ttl_ms, payload) = (args.word()?, args.word()?, args.word()?);
    let (mut replaces, mut is_absolute, mut has_use) = (false, false, false);
    while let Some(option) = args.next() {
        match option {
            word if is(&word, "replace") => replaces = true,
            word if is(&word, "absttl") => is_absolute = true,
            word if is(&word, "idletime") && !has_use && args.len() > 0 => {
                has_use = true;
                if args.integer()? < 0 {
                    return Err(Misuse::Other("Invalid IDLETIME value, must be >= 0".into()));
                }
            }
            word if is(&word, "freq") && !has_use && args.len() > 0 => {
                has_use = true;
                if !(0..=255).contains(&args.integer()?) {
                    return Err(Misuse::Other("Invalid FREQ value, must be >= 0 and <= 255".into()));
                }
            }
            _ => return Err(Misuse::Syntax),
        }
    }
    let ttl_ms = parse_integer(&ttl_ms).ok_or(Misuse::NotAnInteger)?;
    let ttl_ms =
        u64::try_from(ttl_ms).map_err(|_| Misuse::Other("Invalid TTL value, must be >= 0".into()))?;
    let at_ms = if ttl_ms == 0 || is_absolute { ttl_ms } else { ttl_ms.saturating_add(now_ms) };
    let mut words = vec![key, at_ms.to_string().into(), payload];
    words.extend(replaces.then_some(Bytes::from_static(b"REPLACE")));
    Ok(call("restore", words))
}

fn decode(mut payload: Bytes) -> Result<(Kind, Vec<Bytes>), Failure> {
    let wrong = || invalid("DUMP payload version or checksum are wrong");
    if payload.len() < HEAD_BYTES + CRC_BYTES || !payload.starts_with(&[MAGIC[0], MAGIC[1], VERSION]) {
        return Err(wrong());
    }
    let mut crc = payload.split_off(payload.len() - CRC_BYTES);
    if crc32c::crc32c(&payload) != crc.get_u32() {
        return Err(wrong());
    }
    payload.advance(HEAD_BYTES - 1);
    let kind = Kind::of(payload.get_u8());
    let mut parts = Vec::new();
    while !payload.is_empty() {
        let length = payload.try_get_u32().map_err(|_| bad_data())? as usize;
        if length > payload.len() {
            return Err(bad_data());
        }
        parts.push(payload.split_to(length));
    }
    Ok((kind, parts))
}

/// Checks the decoded parts, before anything is changed.
fn check(kind: Kind, parts: &[Bytes]) -> Result<(), Failure> {
    let is_score = |raw: &Bytes| raw[..].try_into().is_ok_and(|raw: [u8; 8]| !from_sortable(raw).is_nan());
    let fits = match kind {
        Kind::String => parts.len() == 1,
        Kind::List | Kind::Set => !parts.is_empty(),
        Kind::Hash => !parts.is_empty() && parts.len().is_multiple_of(2),
        Kind::SortedSet => {
            !parts.is_empty() && parts.chunks(2).all(|pair| pair.len() == 2 && is_score(&pair[1]))
        }
        Kind::Chunked | Kind::Other(_) => false,
    };
    if fits { Ok(()) } else { Err(bad_data()) }
}

fn write(txn: &mut Txn<'_>, key: &Bytes, kind: Kind, parts: Vec<Bytes>) -> Result<(), Failure> {
    match kind {
        Kind::String | Kind::Chunked | Kind::Other(_) => {
            let data = parts.into_iter().next().unwrap_or_default();
            // Copied, because a slice would keep the whole request in memory.
            txn.store(key, None, Bytes::copy_from_slice(&data), None);
        }
        Kind::List => lists::store(txn, key, parts)?,
        Kind::SortedSet => {
            let mut set = SortedSet::in_place_of_any(txn, key)?;
            for pair in parts.chunks(2) {
                let score = pair[1][..].try_into().map(from_sortable).unwrap_or_default();
                set.put(txn, &pair[0], score)?;
            }
            set.save(txn);
        }
        Kind::Set | Kind::Hash => {
            let width = if kind == Kind::Hash { 2 } else { 1 };
            let mut target = Collection::in_place_of_any(txn, key, kind)?;
            for element in parts.chunks(width) {
                target.count += u64::from(target.get(txn, &element[0])?.is_none());
                target.put(txn, &element[0], element.get(1).cloned().unwrap_or_default());
            }
            target.save(txn);
        }
    }
    Ok(())
}

fn bad_data() -> Failure {
    invalid("Bad data format")
}
