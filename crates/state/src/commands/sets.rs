//! Set commands; a set has one element without data for each member.

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::collection::Collection;
use super::super::command::{Failure, Outcome, invalid};
use super::super::events::Name;
use super::super::sizes::{self, Made};
use super::super::txn::Txn;
use super::super::value::Kind;
use super::spec::{Events, Spec, commands};
use super::words::{Words, no_integer, syntax};
use super::{bulk_or_nil, bulks, gather, hashes, integer, list, nil, remove_elements, replies};

pub static COMMANDS: &[Spec] = commands! { Set:
    301 "sadd" -3 ONE [WRITE DENYOOM FAST] "1.0.0" sadd,
        "Adds members to a set.", "O(1) for each member"
        { access: ["RW insert"; 2], elements: sizes::behind_key };
    302 "scard" 2 ONE [READONLY FAST] "1.0.0" scard,
        "Returns the number of members.", "O(1)"
        { access: ["RO"; 2] };
    303 "sismember" 3 ONE [READONLY FAST] "1.0.0" sismember,
        "Returns whether a set has a member.", "O(1)"
        { access: ["RO"; 2] };
    304 "smembers" 2 ONE [READONLY] "1.0.0" smembers,
        "Returns all members, in byte order.", "O(N), N the size of the set";
    305 "smismember" -3 ONE [READONLY FAST] "6.2.0" smismember,
        "Returns which of several members a set has.", "O(N), N the number of given members";
    306 "smove" 4 TWO [WRITE FAST] "1.0.0" smove,
        "Moves a member to another set.", "O(1)"
        { access: ["RW access delete", "RW insert"], made: Made::FirstTwo, elements: sizes::third,
          events: Events::Of(smove_events) };
    307 "spop" -2 ONE [WRITE FAST] "1.0.0" spop,
        "Removes and returns random members.",
        "O(N), N the size of the set; Redis: the number of returned members"
        { access: ["RW access delete"; 2] };
    308 "srandmember" -2 ONE [READONLY] "1.0.0" srandmember,
        "Returns random members.", "O(N), N the size of the set; Redis: the number of returned members";
    309 "srem" -3 ONE [WRITE FAST] "1.0.0" srem,
        "Removes members of a set.", "O(N), N the number of given members"
        { access: ["RW delete"; 2] };
    310 "sscan" -3 ONE [READONLY] "2.8.0" |txn, words| hashes::scan(txn, words, Kind::Set),
        "Iterates over the members of a set.", "O(1) for each call, O(N) for all of a set of N members";
};

fn smove_events(args: &[Bytes], key: &Bytes) -> [Option<Name>; 2] {
    [Some((if args.first() == Some(key) { "srem" } else { "sadd" }, 's')), None]
}

/// Maximum number of elements that a command answers with repetitions.
const MAX_REPEATED: usize = 1 << 20;

fn find(txn: &mut Txn<'_>, key: &Bytes) -> Result<Option<Collection>, Failure> {
    Collection::find(txn, key, Kind::Set)
}

pub fn members(txn: &mut Txn<'_>, key: &Bytes) -> Result<Vec<Bytes>, Failure> {
    match find(txn, key)? {
        Some(set) => gather(set.range(txn, b"", None).map(|element| element.map(|(member, _)| member))),
        None => Ok(Vec::new()),
    }
}

fn sadd(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let mut set = Collection::find_or_new(txn, words.word()?, Kind::Set)?;
    let mut added = 0;
    for member in words.rest() {
        if set.get(txn, member)?.is_none() {
            set.put(txn, member, Bytes::new());
            added += 1;
        }
    }
    if added > 0 {
        set.count += added as u64;
        set.save(txn);
    }
    integer(added)
}

fn srem(txn: &mut Txn<'_>, words: Words<'_>) -> Outcome {
    remove_elements(txn, words, Kind::Set)
}

fn scard(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    Ok(Answer::Integer(find(txn, words.word()?)?.map_or(0, |set| set.count.cast_signed())))
}

fn holds(txn: &Txn<'_>, set: Option<&Collection>, member: &[u8]) -> Result<bool, Failure> {
    Ok(set.map(|set| set.get(txn, member)).transpose()?.flatten().is_some())
}

fn sismember(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let set = find(txn, words.word()?)?;
    integer(holds(txn, set.as_ref(), words.word()?)?.into())
}

fn smismember(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let set = find(txn, words.word()?)?;
    let found: Result<Vec<_>, _> =
        words.rest().iter().map(|member| holds(txn, set.as_ref(), member)).collect();
    Ok(list(found?.into_iter().map(|found| Answer::Integer(found.into()))))
}

fn smembers(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    Ok(Answer::Set(replies(members(txn, words.word()?)?.into_iter().map(Answer::Bytes))))
}

fn smove(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (from, to, member) = (words.word()?, words.word()?, words.word()?);
    let source = find(txn, from)?;
    let target = find(txn, to)?;
    let Some(mut source) = source else { return integer(0) };
    if source.get(txn, member)?.is_none() {
        return integer(0);
    }
    if from == to {
        return integer(1);
    }
    let mut target = match target {
        Some(target) => target,
        None => Collection::find_or_new(txn, to, Kind::Set)?,
    };
    source.remove(txn, member);
    source.count -= 1;
    source.save(txn);
    if target.get(txn, member)?.is_none() {
        target.put(txn, member, Bytes::new());
        target.count += 1;
        target.save(txn);
    }
    integer(1)
}

/// Removes random members. It iterates over the members, so the cost is proportional to the set.
fn spop(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let count = if words.is_empty() { None } else { Some(words.positive()?) };
    words.end()?;
    let Some(mut set) = find(txn, key)? else {
        return Ok(if count.is_some() { Answer::Set(replies([])) } else { nil() });
    };
    let wanted = count.unwrap_or(1).min(set.count as usize);
    txn.charge_items(wanted as u64, 0)?;
    let chosen = positions(txn, set.count as usize, wanted);
    let mut popped = Vec::with_capacity(wanted);
    for (position, element) in set.range(txn, b"", None).enumerate() {
        if popped.len() == wanted {
            break;
        }
        // An error counts at any position: the element that cannot be read may be a chosen one.
        let (member, _) = element?;
        if chosen.contains(&position) {
            popped.push(member);
        }
    }
    for member in &popped {
        set.remove(txn, member);
    }
    set.count -= popped.len() as u64;
    if wanted > 0 {
        set.save(txn);
    }
    Ok(match count {
        None => bulk_or_nil(popped.pop()),
        Some(_) => Answer::Set(replies(popped.into_iter().map(Answer::Bytes))),
    })
}

/// Returns `wanted` different positions below `count`, uniformly at random (Floyd's algorithm).
fn positions(txn: &mut Txn<'_>, count: usize, wanted: usize) -> std::collections::HashSet<usize> {
    let mut chosen = std::collections::HashSet::with_capacity(wanted);
    for last in count - wanted..count {
        let position = txn.random(last as u64 + 1) as usize;
        if !chosen.insert(position) {
            chosen.insert(last);
        }
    }
    chosen
}

/// Returns `count` random elements of `all` without repetitions, or `-count` with repetitions if it is
/// negative.
///
/// `bytes` returns the size of an element on the wire.
pub fn choose<T: Clone>(
    txn: &mut Txn<'_>,
    all: &[T],
    count: i64,
    bytes: fn(&T) -> usize,
) -> Result<Vec<T>, Failure> {
    if count == i64::MIN {
        return Err(invalid("value is out of range"));
    }
    let wanted = count.unsigned_abs() as usize;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    if count < 0 {
        if wanted > MAX_REPEATED {
            return Err(invalid("value is out of range"));
        }
        let mut chosen = Vec::new();
        for _ in 0..wanted {
            let item = &all[txn.random(all.len() as u64) as usize];
            txn.charge_items(1, bytes(item) as u64)?;
            chosen.push(item.clone());
        }
        return Ok(chosen);
    }
    let mut chosen: Vec<_> = positions(txn, all.len(), wanted.min(all.len())).into_iter().collect();
    // Sorted, because the iteration order of a HashSet differs between processes.
    chosen.sort_unstable();
    Ok(chosen.into_iter().map(|position| all[position].clone()).collect())
}

fn srandmember(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let count = match words.next() {
        None => None,
        Some(count) => Some(super::super::command::parse_integer(count).ok_or_else(no_integer)?),
    };
    if !words.is_empty() {
        return Err(syntax());
    }
    let all = members(txn, key)?;
    match count {
        None => Ok(bulk_or_nil(choose(txn, &all, 1, Bytes::len)?.pop())),
        Some(count) => Ok(bulks(choose(txn, &all, count, Bytes::len)?)),
    }
}
