//! Unions, intersections and differences of sorted sets, and of sets, whose members have the score 1.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::command::{Failure, Outcome, invalid, wrong_type};
use super::super::txn::Txn;
use super::super::value::Kind;
use super::number::parse_double;
use super::set_algebra::{Operation, limit, named_once};
use super::spec::{Spec, commands};
use super::words::{Words, is, syntax};
use super::zsets::{Scored, SortedSet, scored_answer};
use super::{integer, sets};

pub static COMMANDS: &[Spec] = commands! { SortedSet:
    560 "zdiff" -3 COUNTED [READONLY MOVABLEKEYS] "6.2.0"
        |txn, words| answer(txn, words, Operation::Difference),
        "Returns the members of the first set that are in no other.",
        "O(N log N), N the size of all sets; Redis: O(L + (N - K) log N)";
    561 "zdiffstore" -4 ONE_AND_COUNTED [WRITE DENYOOM MOVABLEKEYS] "6.2.0"
        |txn, words| store(txn, words, Operation::Difference),
        "Stores the members of the first set that are in no other.",
        "O(N log N), N the size of all sets; Redis: O(L + (N - K) log N)"
        { access: ["OW update", "RO access"] };
    562 "zinter" -3 COUNTED [READONLY MOVABLEKEYS] "6.2.0"
        |txn, words| answer(txn, words, Operation::Intersection),
        "Returns the intersection of the sets.",
        "O(N log N), N the size of all sets; Redis: O(N * K + M log M), N the size of the smallest of K sets";
    563 "zintercard" -3 COUNTED [READONLY MOVABLEKEYS] "7.0.0" zintercard,
        "Counts the members of the intersection of the sets.",
        "O(N log N), N the size of all sets; Redis: O(N * K), N the size of the smallest of K sets";
    564 "zinterstore" -4 ONE_AND_COUNTED [WRITE DENYOOM MOVABLEKEYS] "2.0.0"
        |txn, words| store(txn, words, Operation::Intersection),
        "Stores the intersection of the sets.",
        "O(N log N), N the size of all sets; Redis: O(N * K + M log M), N the size of the smallest of K sets"
        { access: ["OW update", "RO access"] };
    565 "zunion" -3 COUNTED [READONLY MOVABLEKEYS] "6.2.0" |txn, words| answer(txn, words, Operation::Union),
        "Returns the union of the sets.", "O(N log N), N the size of all sets; Redis: O(N + M log M)";
    566 "zunionstore" -4 ONE_AND_COUNTED [WRITE DENYOOM MOVABLEKEYS] "2.0.0"
        |txn, words| store(txn, words, Operation::Union),
        "Stores the union of the sets.", "O(N log N), N the size of all sets; Redis: O(N + M log M)"
        { access: ["OW update", "RO access"] };
};

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Union => "zunion",
            Self::Intersection => "zinter",
            Self::Difference => "zdiff",
        }
    }
}

type Members = BTreeMap<Bytes, f64>;

struct Options {
    weights: Vec<f64>,
    aggregate: fn(f64, f64) -> f64,
    with_scores: bool,
}

fn members(txn: &mut Txn<'_>, key: &Bytes) -> Result<Members, Failure> {
    match txn.load(key)?.map(|value| value.kind) {
        None => Ok(Members::new()),
        Some(Kind::Set) => Ok(sets::members(txn, key)?.into_iter().map(|member| (member, 1.0)).collect()),
        Some(Kind::SortedSet) => match SortedSet::find(txn, key)? {
            Some(set) => Ok(set.all(txn)?.into_iter().map(|scored| (scored.member, scored.score)).collect()),
            None => Ok(Members::new()),
        },
        Some(_) => Err(wrong_type()),
    }
}

/// Adds two scores; the sum of infinities with opposite signs is 0.
fn sum(left: f64, right: f64) -> f64 {
    let sum = left + right;
    if sum.is_nan() { 0.0 } else { sum }
}

fn keys<'a>(words: &mut Words<'a>, name: &str) -> Result<&'a [Bytes], Failure> {
    let count = words.integer()?;
    if count < 1 {
        return Err(invalid(format!("at least 1 input key is needed for '{name}' command")));
    }
    let count = count as usize;
    if count > words.len() {
        return Err(syntax());
    }
    words.several(count)
}

fn options(
    mut words: Words<'_>,
    keys: usize,
    operation: Operation,
    stores: bool,
) -> Result<Options, Failure> {
    let mut options = Options { weights: vec![1.0; keys], aggregate: sum, with_scores: false };
    let combines = operation != Operation::Difference;
    while !words.is_empty() {
        if combines && words.len() > keys && words.takes("weights") {
            for weight in &mut options.weights {
                let text = words.word()?;
                *weight = parse_double(text).ok_or_else(|| invalid("weight value is not a float"))?;
            }
        } else if combines && words.len() > 1 && words.takes("aggregate") {
            options.aggregate = match words.word()? {
                word if is(word, "sum") => sum,
                word if is(word, "min") => f64::min,
                word if is(word, "max") => f64::max,
                _ => return Err(syntax()),
            };
        } else if !stores && words.takes("withscores") {
            options.with_scores = true;
        } else {
            return Err(syntax());
        }
    }
    Ok(options)
}

/// Returns the result of the operation, ordered by score and then by member.
fn combine(
    txn: &mut Txn<'_>,
    keys: &[Bytes],
    operation: Operation,
    options: &Options,
) -> Result<Vec<Scored>, Failure> {
    let mut sets = Vec::with_capacity(keys.len());
    for (key, weight) in keys.iter().zip(&options.weights) {
        let weighted = |score: f64| {
            if score * weight == 0.0 || (score * weight).is_nan() { 0.0 } else { score * weight }
        };
        sets.push(
            members(txn, key)?
                .into_iter()
                .map(|(member, score)| (member, weighted(score)))
                .collect::<Members>(),
        );
    }
    let mut sets = sets.into_iter();
    let mut result = sets.next().unwrap_or_default();
    for other in sets {
        match operation {
            Operation::Difference => result.retain(|member, _| !other.contains_key(member)),
            Operation::Intersection => {
                result.retain(|member, _| other.contains_key(member));
                for (member, score) in &mut result {
                    *score = (options.aggregate)(*score, other[member]);
                }
            }
            Operation::Union => {
                for (member, score) in other {
                    result
                        .entry(member)
                        .and_modify(|known| *known = (options.aggregate)(*known, score))
                        .or_insert(score);
                }
            }
        }
    }
    let mut scored: Vec<_> = result.into_iter().map(|(member, score)| Scored { member, score }).collect();
    scored.sort_by(|left, right| {
        left.score.total_cmp(&right.score).then_with(|| left.member.cmp(&right.member))
    });
    Ok(scored)
}

fn answer(txn: &mut Txn<'_>, mut words: Words<'_>, operation: Operation) -> Outcome {
    let keys = keys(&mut words, operation.name())?;
    let options = options(words, keys.len(), operation, false)?;
    let found = combine(txn, keys, operation, &options)?;
    Ok(scored_answer(found, options.with_scores))
}

fn store(txn: &mut Txn<'_>, mut words: Words<'_>, operation: Operation) -> Outcome {
    let target = words.word()?;
    let keys = keys(&mut words, &format!("{}store", operation.name()))?;
    let options = options(words, keys.len(), operation, true)?;
    let found = combine(txn, keys, operation, &options)?;
    let mut set = SortedSet::in_place_of_any(txn, target)?;
    for Scored { member, score } in &found {
        set.put(txn, member, *score)?;
    }
    set.save(txn);
    integer(found.len())
}

fn zintercard(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let keys = keys(&mut words, "zintercard")?;
    let limit = limit(&mut words)?;
    // Without scores, a repeated set does not change the result.
    let keys = named_once(keys, Operation::Intersection);
    let options = Options { weights: vec![1.0; keys.len()], aggregate: sum, with_scores: false };
    let count = combine(txn, &keys, Operation::Intersection, &options)?.len();
    integer(if limit == 0 { count } else { count.min(limit) })
}
