//! Redis commands on keys, as functions on a transaction.
//!
//! They execute log entries, where every member must get the same result, and reads, whose changes are
//! dropped. Their only input is the transaction, including its clock and its random numbers. **A command
//! checks everything before it changes anything**: a refused command has changed nothing, also within a
//! larger transaction.

mod bits;
mod decimal;
mod dump;
mod expiry;
mod hashes;
mod keys;
mod lcs;
mod lists;
mod number;
mod set_algebra;
mod sets;
mod sort;
mod strings;
mod words;
mod zset_algebra;
mod zset_range;
mod zsets;

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Call, Done, Nil, Replies, Reply};

use super::collection::Collection;
use super::command::{Failure, Outcome, invalid};
use super::txn::Txn;
use super::value::Kind;
pub use number::double_text;
use words::Words;

/// A command.
pub struct Verb {
    pub name: &'static str,
    /// Whether the command writes, so that it goes through the log.
    pub writes: bool,
    /// Whether the command may make the state grow.
    pub grows: bool,
    run: fn(&mut Txn<'_>, Words<'_>) -> Outcome,
}

/// Maximum number of elements in one answer.
const MAX_ITEMS: usize = 1 << 20;

/// All commands by name, for the lookup at every applied entry.
static VERBS: LazyLock<HashMap<&str, &Verb>> =
    LazyLock::new(|| groups().flatten().map(|verb| (verb.name, verb)).collect());

pub fn find(name: &str) -> Option<&'static Verb> {
    VERBS.get(name).copied()
}

fn groups() -> impl Iterator<Item = &'static [Verb]> {
    [strings::VERBS, bits::VERBS, keys::VERBS, hashes::VERBS, sets::VERBS, lists::VERBS].into_iter().chain([
        zsets::VERBS,
        zset_range::VERBS,
        zset_algebra::VERBS,
        set_algebra::VERBS,
        expiry::VERBS,
        sort::VERBS,
        dump::VERBS,
    ])
}

/// Returns the first log format in which `call` is readable (ADR 0008).
pub fn format_of(call: &Call) -> u32 {
    match call.name.as_str() {
        "dump" | "restore" | "sort" | "sort_ro" => 3,
        // WITHSCORE, which earlier builds ignore.
        "zrank" | "zrevrank" if call.args.len() > 2 => 4,
        // Introduced together with calls.
        _ => 2,
    }
}

/// Returns all commands, for the tables of commands elsewhere.
pub fn all() -> impl Iterator<Item = &'static Verb> {
    groups().flatten()
}

pub(super) fn execute(txn: &mut Txn<'_>, call: &Call) -> Outcome {
    (known(call)?.run)(txn, Words::new(&call.args))
}

fn known(call: &Call) -> Result<&'static Verb, Failure> {
    find(&call.name).ok_or_else(|| invalid(format!("unknown command '{}': upgrade this member", call.name)))
}

/// Executes a read-only command; rejects a command that writes.
pub(super) fn query(txn: &mut Txn<'_>, call: &Call) -> Outcome {
    let verb = known(call)?;
    if verb.writes {
        return Err(invalid(format!("{} writes, so it has to go through the log", call.name)));
    }
    (verb.run)(txn, Words::new(&call.args))
}

const fn reads(name: &'static str, run: fn(&mut Txn<'_>, Words<'_>) -> Outcome) -> Verb {
    Verb { name, writes: false, grows: false, run }
}

const fn writes(name: &'static str, run: fn(&mut Txn<'_>, Words<'_>) -> Outcome) -> Verb {
    Verb { name, writes: true, grows: true, run }
}

/// Creates a writing command that never makes the state grow.
const fn shrinks(name: &'static str, run: fn(&mut Txn<'_>, Words<'_>) -> Outcome) -> Verb {
    Verb { name, writes: true, grows: false, run }
}

fn done() -> Outcome {
    Ok(Answer::Done(Done {}))
}

fn nil() -> Answer {
    Answer::Nil(Nil {})
}

fn nil_list() -> Answer {
    Answer::NilList(Nil {})
}

fn integer(number: usize) -> Outcome {
    Ok(Answer::Integer(number as i64))
}

fn bulk_or_nil(data: Option<Bytes>) -> Answer {
    data.map_or_else(nil, Answer::Bytes)
}

fn replies(items: impl IntoIterator<Item = Answer>) -> Replies {
    let items = items.into_iter().map(|kind| Reply { kind: Some(kind), ..Reply::default() });
    Replies { items: items.collect() }
}

fn list(items: impl IntoIterator<Item = Answer>) -> Answer {
    Answer::List(replies(items))
}

fn bulks(items: impl IntoIterator<Item = Bytes>) -> Answer {
    list(items.into_iter().map(Answer::Bytes))
}

/// Removes the elements given after the key from its collection; answers the number removed.
fn remove_elements(txn: &mut Txn<'_>, mut words: Words<'_>, kind: Kind) -> Outcome {
    let Some(mut collection) = Collection::find(txn, words.word()?, kind)? else { return integer(0) };
    let mut removed = 0;
    for element in words.rest() {
        if collection.get(txn, element)?.is_some() {
            collection.remove(txn, element);
            removed += 1;
        }
    }
    if removed > 0 {
        collection.count -= removed as u64;
        collection.save(txn);
    }
    integer(removed)
}

/// Collects the items of one answer; fails beyond [`MAX_ITEMS`].
fn gather<T, E>(items: impl Iterator<Item = Result<T, E>>) -> Result<Vec<T>, Failure>
where
    Failure: From<E>,
{
    let mut gathered = Vec::new();
    for item in items {
        if gathered.len() >= MAX_ITEMS {
            return Err(invalid(format!(
                "the answer would have more than {MAX_ITEMS} elements; ask for a part of them, or scan"
            )));
        }
        gathered.push(item?);
    }
    Ok(gathered)
}
