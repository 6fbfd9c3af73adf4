//! Redis commands on keys: a table for each group, with everything that is known of a command, and its function
//! on a transaction.
//!
//! They execute log entries, where every member must get the same result, and reads, whose changes are
//! dropped. Their only input is the transaction, including its clock and its random numbers. **A command
//! checks everything before it changes anything**: a refused command has changed nothing, also within a
//! larger transaction.

mod bits;
mod build;
mod decimal;
mod dump;
pub(crate) mod expiry;
mod flags;
mod hashes;
pub(crate) mod keys;
pub mod keys_of;
mod lcs;
pub mod legacy;
mod lists;
mod number;
mod prepare;
pub(crate) mod set;
mod set_algebra;
mod sets;
mod sort;
mod spec;
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
pub use build::{call, delete, expire, flush_all, increment, multi_set, persist, set};
pub use flags::Flags;
pub use keys_of::Keys;
pub use number::double_text;
pub use prepare::Misuse;
pub use spec::{Group, Spec};
use words::Words;

/// First log format whose entries carry the ids of commands.
pub const WITH_IDS: u32 = 6;
/// Maximum number of elements in one answer.
const MAX_ITEMS: usize = 1 << 20;

static GROUPS: [&[Spec]; 15] = [
    set::COMMANDS,
    strings::COMMANDS,
    bits::COMMANDS,
    keys::COMMANDS,
    keys::SERVER,
    expiry::COMMANDS,
    sort::COMMANDS,
    dump::COMMANDS,
    hashes::COMMANDS,
    sets::COMMANDS,
    set_algebra::COMMANDS,
    lists::COMMANDS,
    zsets::COMMANDS,
    zset_range::COMMANDS,
    zset_algebra::COMMANDS,
];

/// The command of each id, for the lookup at every applied entry.
static BY_ID: LazyLock<Vec<Option<&'static Spec>>> = LazyLock::new(|| {
    let last = all().map(|spec| spec.id).max().unwrap_or(0);
    let mut by_id = vec![None; usize::from(last) + 1];
    all().filter(|spec| spec.id != 0).for_each(|spec| by_id[usize::from(spec.id)] = Some(spec));
    by_id
});

static BY_NAME: LazyLock<HashMap<&'static str, &'static Spec>> =
    LazyLock::new(|| all().map(|spec| (spec.name, spec)).collect());

/// Returns all commands on keys, also those that are logged as another one.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    GROUPS.iter().copied().flatten()
}

/// Returns the command of a name in lower case.
fn named(name: &str) -> Option<&'static Spec> {
    BY_NAME.get(name).copied()
}

/// Returns the command of a call: by its id, or by its name as entries of formats 2 to 5 have it.
pub fn of(call: &Call) -> Option<&'static Spec> {
    match call.command {
        0 => named(&call.name).filter(|spec| spec.id != 0 && (spec.format)(&call.args) < WITH_IDS),
        id => BY_ID.get(id as usize).copied().flatten(),
    }
}

/// Returns the name of a call's command, for messages.
pub fn name_of(call: &Call) -> String {
    match of(call) {
        Some(spec) => spec.name.to_owned(),
        None if call.command != 0 => format!("#{}", call.command),
        None => call.name.clone(),
    }
}

/// Returns the first log format in which `call` is readable (ADR 0008, ADR 0020).
pub fn format_of(call: &Call) -> u32 {
    match of(call) {
        Some(spec) if call.command != 0 => (spec.format)(&call.args).max(WITH_IDS),
        Some(spec) => (spec.format)(&call.args),
        None if call.command != 0 => WITH_IDS,
        // Introduced together with calls.
        None => 2,
    }
}

/// Log format of a command that no member reads by its name.
fn by_id_only(_: &[Bytes]) -> u32 {
    WITH_IDS
}

pub(super) fn execute(txn: &mut Txn<'_>, call: &Call) -> Outcome {
    (known(call)?.apply)(txn, Words::new(&call.args))
}

fn known(call: &Call) -> Result<&'static Spec, Failure> {
    of(call).ok_or_else(|| invalid(format!("unknown command '{}': upgrade this member", name_of(call))))
}

/// Executes a read-only command; rejects a command that writes.
pub(super) fn query(txn: &mut Txn<'_>, call: &Call) -> Outcome {
    let spec = known(call)?;
    if spec.writes() {
        return Err(invalid(format!("{} writes, so it has to go through the log", spec.name)));
    }
    (spec.apply)(txn, Words::new(&call.args))
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

/// Skips the first `count` items as entries of earlier builds do: an exceeded budget counts as an item, damage does not.
fn skip<T>(
    items: impl Iterator<Item = Result<T, Failure>>,
    count: usize,
) -> impl Iterator<Item = Result<T, Failure>> {
    let found = items.enumerate();
    found.filter_map(move |(at, item)| {
        (at >= count || matches!(item, Err(Failure::Engine(_)))).then_some(item)
    })
}

/// Skips the first `count` items, but no error.
fn after<T, E>(
    items: impl Iterator<Item = Result<T, E>>,
    count: usize,
) -> impl Iterator<Item = Result<T, E>> {
    let mut left = count;
    items.skip_while(move |item| {
        let is_skipped = left > 0 && item.is_ok();
        left -= usize::from(is_skipped);
        is_skipped
    })
}

#[cfg(test)]
mod tests {
    use super::super::engines::EngineError;
    use super::*;

    #[test]
    fn skipped_items_hide_an_exceeded_budget_and_no_damage() {
        let damage = || Err(Failure::Engine(EngineError::Corrupt("a block".into())));
        let kinds = |items: Vec<Result<u8, Failure>>| -> Vec<bool> {
            skip(items.into_iter(), 2).map(|item| item.is_ok()).collect()
        };
        assert_eq!(kinds(vec![Ok(1), Ok(2), Ok(3)]), [true]);
        assert_eq!(kinds(vec![Ok(1), damage(), Ok(3)]), [false, true]);
        let exceeded = || Err(super::super::command::invalid("the budget is exceeded"));
        assert_eq!(kinds(vec![Ok(1), exceeded(), exceeded()]), [false]);
    }
}
