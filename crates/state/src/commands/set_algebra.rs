//! Unions, intersections and differences of sets.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::collection::Collection;
use super::super::command::{Failure, Outcome, invalid};
use super::super::txn::Txn;
use super::super::value::Kind;
use super::sets::members;
use super::spec::{Spec, commands};
use super::words::Words;
use super::{integer, replies};

pub static COMMANDS: &[Spec] = commands! { Set:
    350 "sdiff" -2 ALL [READONLY] "1.0.0" |txn, words| answer(txn, words, Operation::Difference),
        "Returns the members of the first set that are in no other.",
        "O(N * M), N the size of the first set, M the number of sets; Redis: O(N), N the size of all sets";
    351 "sdiffstore" -3 ALL [WRITE DENYOOM] "1.0.0" |txn, words| store(txn, words, Operation::Difference),
        "Stores the members of the first set that are in no other.",
        "O(N * M), N the size of the first set, M the number of sets; Redis: O(N), N the size of all sets"
        { access: ["RW update", "RO access"] };
    352 "sinter" -2 ALL [READONLY] "1.0.0" |txn, words| answer(txn, words, Operation::Intersection),
        "Returns the intersection of the sets.",
        "O(N * M), N the size of the smallest set, M the number of sets";
    353 "sintercard" -3 COUNTED [READONLY MOVABLEKEYS] "7.0.0" sintercard,
        "Counts the members of the intersection of the sets.",
        "O(N * M), N the size of the smallest set, M the number of sets";
    354 "sinterstore" -3 ALL [WRITE DENYOOM] "1.0.0" |txn, words| store(txn, words, Operation::Intersection),
        "Stores the intersection of the sets.", "O(N * M), N the size of the smallest set, M the number of sets"
        { access: ["RW update", "RO access"] };
    355 "sunion" -2 ALL [READONLY] "1.0.0" |txn, words| answer(txn, words, Operation::Union),
        "Returns the union of the sets.", "O(N log N), N the size of all sets; Redis: O(N)";
    356 "sunionstore" -3 ALL [WRITE DENYOOM] "1.0.0" |txn, words| store(txn, words, Operation::Union),
        "Stores the union of the sets.", "O(N log N), N the size of all sets; Redis: O(N)"
        { access: ["OW update", "RO access"] };
};

/// A set operation, on sets and on sorted sets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Union,
    Intersection,
    Difference,
}

/// Returns the keys without repetitions: a repeated set does not change the result.
pub fn named_once(keys: &[Bytes], operation: Operation) -> Vec<Bytes> {
    let (first, others) = match (operation, keys.split_first()) {
        // The first set of a difference must stay, even if it is repeated: the others are subtracted from it.
        (Operation::Difference, Some((first, others))) => (Some(first), others),
        _ => (None, keys),
    };
    let mut seen = HashSet::with_capacity(others.len());
    first.into_iter().chain(others.iter().filter(|key| seen.insert(*key))).cloned().collect()
}

fn combine(txn: &mut Txn<'_>, keys: &[Bytes], operation: Operation) -> Result<BTreeSet<Bytes>, Failure> {
    let keys = &named_once(keys, operation)[..];
    let mut sets = Vec::with_capacity(keys.len());
    for key in keys {
        sets.push(Collection::find(txn, key, Kind::Set)?);
    }
    let mut result = BTreeSet::new();
    match operation {
        Operation::Union => {
            for key in keys {
                result.extend(members(txn, key)?);
            }
        }
        Operation::Intersection => {
            let is_empty = sets.iter().any(Option::is_none);
            let smallest = (0..keys.len()).min_by_key(|at| sets[*at].as_ref().map_or(0, |set| set.count));
            if let Some(smallest) = smallest.filter(|_| !is_empty) {
                for member in members(txn, &keys[smallest])? {
                    if in_all(txn, sets.iter().flatten(), &member)? {
                        result.insert(member);
                    }
                }
            }
        }
        Operation::Difference => {
            let Some((first, others)) = keys.split_first() else { return Ok(result) };
            for member in members(txn, first)? {
                if !in_any(txn, sets[1..=others.len()].iter().flatten(), &member)? {
                    result.insert(member);
                }
            }
        }
    }
    Ok(result)
}

fn in_all<'s>(
    txn: &Txn<'_>,
    mut sets: impl Iterator<Item = &'s Collection>,
    member: &[u8],
) -> Result<bool, Failure> {
    let missing =
        sets.find_map(|set| set.get(txn, member).map(|found| found.is_none().then_some(())).transpose());
    Ok(missing.transpose()?.is_none())
}

fn in_any<'s>(
    txn: &Txn<'_>,
    mut sets: impl Iterator<Item = &'s Collection>,
    member: &[u8],
) -> Result<bool, Failure> {
    let found = sets.find_map(|set| set.get(txn, member).map(|found| found.map(drop)).transpose());
    Ok(found.transpose()?.is_some())
}

fn answer(txn: &mut Txn<'_>, words: Words<'_>, operation: Operation) -> Outcome {
    let result = combine(txn, words.rest(), operation)?;
    Ok(Answer::Set(replies(result.into_iter().map(Answer::Bytes))))
}

fn store(txn: &mut Txn<'_>, mut words: Words<'_>, operation: Operation) -> Outcome {
    let target = words.word()?;
    let result = combine(txn, words.rest(), operation)?;
    let mut set = Collection::in_place_of_any(txn, target, Kind::Set)?;
    set.count = result.len() as u64;
    let count = result.len();
    for member in result {
        set.put(txn, &member, Bytes::new());
    }
    set.save(txn);
    integer(count)
}

fn sintercard(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let keys = words.counted_keys()?;
    let limit = limit(&mut words)?;
    let count = combine(txn, keys, Operation::Intersection)?.len();
    integer(if limit == 0 { count } else { count.min(limit) })
}

/// Parses `[LIMIT limit]`; 0 for no limit.
pub fn limit(words: &mut Words<'_>) -> Result<usize, Failure> {
    if words.is_empty() {
        return Ok(0);
    }
    if words.len() < 2 || !words.takes("limit") {
        return Err(super::words::syntax());
    }
    let limit = words.integer().ok().and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.ok_or_else(|| invalid("LIMIT can't be negative"))?;
    words.end()?;
    Ok(limit)
}
