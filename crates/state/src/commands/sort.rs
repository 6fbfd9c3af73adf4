//! `SORT`: the elements of a list, set or sorted set in an order that the client chooses.
//!
//! The cost is proportional to the elements, plus one lookup of a key per element for `BY` and for each
//! `GET`.

use std::cmp::Ordering;

use bytes::Bytes;
use helios_proto::v1::Call;

use super::super::chunks;
use super::super::collection::Collection;
use super::super::command::{Failure, Outcome, invalid, wrong_type};
use super::super::sizes::Made;
use super::super::txn::Txn;
use super::super::value::Kind;
use super::number::parse_double;
use super::prepare::Misuse;
use super::spec::{Events, Spec, commands};
use super::words::{Words, is, syntax};
use super::zsets::SortedSet;
use super::{bulk_or_nil, call, gather, integer, list, lists, sets};

pub static COMMANDS: &[Spec] = commands! { Generic:
    160 "sort" -2 ONE [WRITE DENYOOM MOVABLEKEYS] "1.0.0" store,
        "Sorts a list, set or sorted set, and with STORE stores the result.",
        "O(N + M log M), N the size of the value, M the number of returned elements"
        { access: ["RO access", "OW update"], format: |_| 3, made: Made::FirstAndStored,
          prepare: Some(prepare), events: Events::One("sortstore", 'l') };
    161 "sort_ro" -2 ONE [READONLY MOVABLEKEYS] "7.0.0" answer,
        "Sorts a list, set or sorted set.",
        "O(N + M log M), N the size of the value, M the number of returned elements"
        { format: |_| 3 };
};

#[derive(Default)]
struct Options {
    descending: bool,
    by_text: bool,
    offset: i64,
    /// Maximum number of elements; all if it is negative or missing.
    limit: Option<i64>,
    by: Option<Bytes>,
    get: Vec<Bytes>,
    store: Option<Bytes>,
}

/// The sort key of an element.
enum Weight {
    Number(f64),
    Text(Option<Bytes>),
}

/// Prepares `SORT`: with `STORE` it is a write, otherwise a read.
fn prepare(args: Vec<Bytes>, _: u64) -> Result<Call, Misuse> {
    Ok(call(if has_store(&args) { "sort" } else { "sort_ro" }, args))
}

fn has_store(args: &[Bytes]) -> bool {
    let mut options = args.iter().skip(1);
    while let Some(option) = options.next() {
        let skipped = match option {
            word if is(word, "store") => return true,
            word if is(word, "limit") => 2,
            word if is(word, "by") || is(word, "get") => 1,
            _ => 0,
        };
        options.by_ref().take(skipped).for_each(drop);
    }
    false
}

fn answer(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let options = Options::parse(words)?;
    if options.store.is_some() {
        return Err(syntax());
    }
    Ok(list(sorted(txn, key, &options)?.into_iter().map(bulk_or_nil)))
}

fn store(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let options = Options::parse(words)?;
    let target = options.store.clone().ok_or_else(syntax)?;
    let elements: Vec<_> = sorted(txn, key, &options)?.into_iter().map(Option::unwrap_or_default).collect();
    let count = elements.len();
    lists::store(txn, &target, elements)?;
    integer(count)
}

impl Options {
    fn parse(mut words: Words<'_>) -> Result<Self, Failure> {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            match word {
                word if is(word, "asc") => options.descending = false,
                word if is(word, "desc") => options.descending = true,
                word if is(word, "alpha") => options.by_text = true,
                word if is(word, "limit") && words.len() >= 2 => {
                    (options.offset, options.limit) = (words.integer()?, Some(words.integer()?));
                }
                word if is(word, "by") => options.by = Some(words.word()?.clone()),
                word if is(word, "get") => options.get.push(words.word()?.clone()),
                word if is(word, "store") => options.store = Some(words.word()?.clone()),
                _ => return Err(syntax()),
            }
        }
        Ok(options)
    }

    /// Whether the elements are sorted: a `BY` pattern without `*` means no sorting.
    fn has_order(&self) -> bool {
        self.by.as_ref().is_none_or(|by| by.contains(&b'*'))
    }

    fn part_of<T>(&self, items: Vec<T>) -> impl Iterator<Item = T> + use<T> {
        let offset = usize::try_from(self.offset).unwrap_or(0);
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        items.into_iter().skip(offset).take(limit)
    }
}

fn sorted(txn: &mut Txn<'_>, key: &Bytes, options: &Options) -> Result<Vec<Option<Bytes>>, Failure> {
    let mut elements = elements(txn, key)?;
    if options.has_order() {
        elements = in_order(txn, elements, options)?;
    } else if options.descending {
        elements.reverse();
    }
    let chosen = options.part_of(elements);
    if options.get.is_empty() {
        return Ok(chosen.map(Some).collect());
    }
    let mut found = Vec::new();
    for element in chosen {
        for pattern in &options.get {
            found.push(look_up(txn, pattern, &element)?);
        }
    }
    gather(found.into_iter().map(Ok::<_, Failure>))
}

/// Returns the elements in the order of the key.
fn elements(txn: &mut Txn<'_>, key: &Bytes) -> Result<Vec<Bytes>, Failure> {
    match txn.load(key)?.map(|value| value.kind) {
        None => Ok(Vec::new()),
        Some(Kind::List) => lists::elements(txn, key),
        Some(Kind::Set) => sets::members(txn, key),
        Some(Kind::SortedSet) => match SortedSet::find(txn, key)? {
            Some(set) => Ok(set.all(txn)?.into_iter().map(|scored| scored.member).collect()),
            None => Ok(Vec::new()),
        },
        Some(Kind::String | Kind::Chunked | Kind::Hash | Kind::Other(_)) => Err(wrong_type()),
    }
}

fn in_order(txn: &mut Txn<'_>, elements: Vec<Bytes>, options: &Options) -> Result<Vec<Bytes>, Failure> {
    let mut weighted = Vec::with_capacity(elements.len());
    for element in elements {
        let text = match &options.by {
            Some(by) => look_up(txn, by, &element)?,
            None => Some(element.clone()),
        };
        let weight = match text {
            text if options.by_text => Weight::Text(text),
            None => Weight::Number(0.0),
            Some(text) => Weight::Number(
                parse_double(&text)
                    .ok_or_else(|| invalid("One or more scores can't be converted into double"))?,
            ),
        };
        weighted.push((weight, element));
    }
    weighted.sort_by(|(left, left_element), (right, right_element)| {
        let order = left.compare(right).then_with(|| left_element.cmp(right_element));
        if options.descending { order.reverse() } else { order }
    });
    Ok(weighted.into_iter().map(|(_, element)| element).collect())
}

impl Weight {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => left.total_cmp(right),
            (Self::Text(left), Self::Text(right)) => left.cmp(right),
            // Does not occur: all weights of one SORT have the same kind.
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// Returns the value of the key, or with `->` of the hash field, that `pattern` names for `element`; for `#`
/// the element.
fn look_up(txn: &mut Txn<'_>, pattern: &Bytes, element: &Bytes) -> Result<Option<Bytes>, Failure> {
    txn.charge_items(1, element.len() as u64)?;
    if pattern[..] == b"#"[..] {
        return Ok(Some(element.clone()));
    }
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return Ok(None) };
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = after.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < after.len());
    let (after, field) = match arrow {
        Some(at) => (&after[..at], Some(&after[at + 2..])),
        None => (after, None),
    };
    let key = Bytes::from([before, element, after].concat());
    match (txn.load(&key)?, field) {
        (Some(value), None) if value.kind.is_string() => Ok(Some(chunks::whole(txn, &value)?)),
        (Some(value), Some(field)) if value.kind == Kind::Hash => {
            let hash = Collection::find(txn, &key, Kind::Hash)?;
            Ok(hash.map(|hash| hash.get(txn, field)).transpose()?.flatten())
        }
        _ => Ok(None),
    }
}
