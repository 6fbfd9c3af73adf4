//! List commands. Elements are numbered without gaps, so that each position is one lookup; a change in the
//! middle renumbers the side with fewer elements to move.

mod earlier;
mod edits;

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::collection::Collection;
use super::super::command::{Failure, Outcome, invalid};
use super::super::events::{Name, behind_keys, is_word};
use super::super::sizes::Made;
use super::super::txn::Txn;
use super::super::value::Kind;
use super::spec::{Events, Spec, commands};
use super::strings::clip;
use super::words::{Words, is, no_integer, syntax};
use super::{after, bulk_or_nil, bulks, done, gather, integer, list, nil, nil_list};
use edits::Walk;

pub static COMMANDS: &[Spec] = commands! { List:
    401 "lindex" 3 ONE [READONLY] "1.0.0" lindex,
        "Returns an element of a list by its position.", "O(1); Redis: O(N), N the elements up to the index";
    402 "linsert" 5 ONE [WRITE DENYOOM] "2.2.0" linsert,
        "Inserts an element before or after another.", "O(N), N the elements up to the pivot"
        { access: ["RW insert"; 2] };
    403 "llen" 2 ONE [READONLY FAST] "1.0.0" llen,
        "Returns the length of a list.", "O(1)"
        { access: ["RO"; 2] };
    404 "lmove" 5 TWO [WRITE DENYOOM] "6.2.0" lmove,
        "Moves an element from an end of a list to an end of another.", "O(1)"
        { access: ["RW access delete", "RW insert"], made: Made::FirstTwo, events: Events::Of(lmove_events) };
    405 "lmpop" -4 COUNTED [WRITE MOVABLEKEYS] "7.0.0" lmpop,
        "Removes and returns elements of the first non-empty list.",
        "O(N + M), N the number of keys, M of returned elements"
        { access: ["RW access delete"; 2], events: Events::Of(lmpop_events) };
    406 "lpop" -2 ONE [WRITE FAST] "1.0.0" |txn, words| pop(txn, words, End::Left),
        "Removes and returns the first elements.", "O(N), N the number of returned elements"
        { access: ["RW access delete"; 2] };
    407 "lpos" -3 ONE [READONLY] "6.0.6" lpos,
        "Returns the positions of an element.", "O(N), N the elements up to the last match, at most MAXLEN";
    408 "lpush" -3 ONE [WRITE DENYOOM FAST] "1.0.0" |txn, words| push(txn, words, End::Left, true),
        "Inserts elements before the first.", "O(1) for each element"
        { access: ["RW insert"; 2] };
    409 "lpushx" -3 ONE [WRITE DENYOOM FAST] "2.2.0" |txn, words| push(txn, words, End::Left, false),
        "Inserts elements before the first if the list exists.", "O(1) for each element"
        { access: ["RW insert"; 2], events: Events::One("lpush", 'l') };
    410 "lrange" 4 ONE [READONLY] "1.0.0" lrange,
        "Returns a part of a list.",
        "O(N), N the number of returned elements; Redis: O(S + N), S the distance of the first from the nearer end";
    411 "lrem" 4 ONE [WRITE] "1.0.0" lrem,
        "Removes elements that are equal to one.",
        "O(N), N the elements up to the last removed one; the whole list if fewer than the count are removed"
        { access: ["RW delete"; 2] };
    412 "lset" 4 ONE [WRITE DENYOOM] "1.0.0" lset,
        "Sets an element by its position.", "O(1); Redis: O(N), N the length of the list"
        { access: ["RW update"; 2] };
    413 "ltrim" 4 ONE [WRITE] "1.0.0" ltrim,
        "Removes all but a part of a list.", "O(N), N the number of removed elements"
        { access: ["RW delete"; 2] };
    414 "rpop" -2 ONE [WRITE FAST] "1.0.0" |txn, words| pop(txn, words, End::Right),
        "Removes and returns the last elements.", "O(N), N the number of returned elements"
        { access: ["RW access delete"; 2] };
    415 "rpoplpush" 3 TWO [WRITE DENYOOM] "1.2.0" rpoplpush,
        "Moves the last element of a list before the first of another.", "O(1)"
        { access: ["RW access delete", "RW insert"], made: Made::FirstTwo,
          events: Events::Of(|args, key| moved(args, key, false, true)) };
    416 "rpush" -3 ONE [WRITE DENYOOM FAST] "1.0.0" |txn, words| push(txn, words, End::Right, true),
        "Appends elements after the last.", "O(1) for each element"
        { access: ["RW insert"; 2] };
    417 "rpushx" -3 ONE [WRITE DENYOOM FAST] "2.2.0" |txn, words| push(txn, words, End::Right, false),
        "Appends elements after the last if the list exists.", "O(1) for each element"
        { access: ["RW insert"; 2], events: Events::One("rpush", 'l') };
};

fn lmpop_events(args: &[Bytes], _: &Bytes) -> [Option<Name>; 2] {
    [Some((pop_of(is_word(behind_keys(args), "left")), 'l')), None]
}

fn lmove_events(args: &[Bytes], key: &Bytes) -> [Option<Name>; 2] {
    moved(args, key, is_word(args.get(2), "left"), is_word(args.get(3), "left"))
}

fn pop_of(left: bool) -> &'static str {
    if left { "lpop" } else { "rpop" }
}

fn moved(args: &[Bytes], key: &Bytes, from_left: bool, to_left: bool) -> [Option<Name>; 2] {
    let is = |position: usize| args.get(position) == Some(key);
    let push = if to_left { "lpush" } else { "rpush" };
    [is(1).then_some((push, 'l')), is(0).then_some((pop_of(from_left), 'l'))]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn of(word: &[u8]) -> Result<Self, Failure> {
        match word {
            word if is(word, "left") => Ok(Self::Left),
            word if is(word, "right") => Ok(Self::Right),
            _ => Err(syntax()),
        }
    }
}

/// A list with access to its elements by position.
struct List(Collection);

impl List {
    fn find(txn: &mut Txn<'_>, key: &Bytes) -> Result<Option<Self>, Failure> {
        Ok(Collection::find(txn, key, Kind::List)?.map(Self))
    }

    fn find_or_new(txn: &mut Txn<'_>, key: &Bytes) -> Result<Self, Failure> {
        Collection::find_or_new(txn, key, Kind::List).map(Self)
    }

    fn len(&self) -> usize {
        self.0.count as usize
    }

    /// Returns the element name of a position; names sort like the elements' numbers.
    fn name(&self, position: usize) -> [u8; 8] {
        let number = self.0.first.wrapping_add(position as i64);
        (number.cast_unsigned() ^ (1 << 63)).to_be_bytes()
    }

    /// Returns the position of `index`, which counts from the end if it is negative; `None` if it is out of
    /// range.
    fn position(&self, index: i64) -> Option<usize> {
        let from_start = if index < 0 { index.checked_add(self.len() as i64)? } else { index };
        usize::try_from(from_start).ok().filter(|position| *position < self.len())
    }

    fn get(&self, txn: &Txn<'_>, position: usize) -> Result<Bytes, Failure> {
        Ok(self.0.get(txn, &self.name(position))?.unwrap_or_default())
    }

    fn set(&self, txn: &mut Txn<'_>, position: usize, element: Bytes) {
        self.0.put(txn, &self.name(position), element);
    }

    fn slice(&self, txn: &Txn<'_>, range: std::ops::Range<usize>) -> Result<Vec<Bytes>, Failure> {
        let elements = self.0.range(txn, &self.name(range.start), None).take(range.len());
        gather(elements.map(|element| element.map(|(_, data)| data)))
    }

    fn push(&mut self, txn: &mut Txn<'_>, end: End, element: Bytes) {
        if end == End::Left {
            self.0.first = self.0.first.wrapping_sub(1);
        }
        self.0.count += 1;
        let position = if end == End::Left { 0 } else { self.len() - 1 };
        self.set(txn, position, element);
    }

    /// Removes and returns the element at one end. The list must not be empty.
    fn pop(&mut self, txn: &mut Txn<'_>, end: End) -> Result<Bytes, Failure> {
        let position = if end == End::Left { 0 } else { self.len() - 1 };
        let element = self.get(txn, position)?;
        self.drop_end(txn, end);
        Ok(element)
    }

    fn drop_end(&mut self, txn: &mut Txn<'_>, end: End) {
        let position = if end == End::Left { 0 } else { self.len() - 1 };
        let name = self.name(position);
        self.0.remove(txn, &name);
        self.0.count -= 1;
        if end == End::Left {
            self.0.first = self.0.first.wrapping_add(1);
        }
    }

    /// Returns the elements with their positions, from `end` on.
    fn elements_from<'t>(&self, txn: &'t Txn<'_>, end: End) -> Result<Walk<'t>, Failure> {
        if txn.visits_fewest() {
            return Ok(self.walk(txn, end));
        }
        let elements = self.slice(txn, 0..self.len())?.into_iter().enumerate().map(Ok::<_, Failure>);
        Ok(if end == End::Left { Box::new(elements) } else { Box::new(elements.rev()) })
    }

    fn save(self, txn: &mut Txn<'_>) {
        self.0.save(txn);
    }
}

/// Returns all elements of the list `key`, in order.
pub fn elements(txn: &mut Txn<'_>, key: &Bytes) -> Result<Vec<Bytes>, Failure> {
    match List::find(txn, key)? {
        Some(list) => list.slice(txn, 0..list.len()),
        None => Ok(Vec::new()),
    }
}

/// Replaces the value of `key` by a list of `elements`; removes the key if there are none.
pub fn store(txn: &mut Txn<'_>, key: &Bytes, elements: Vec<Bytes>) -> Result<(), Failure> {
    let mut list = List(Collection::in_place_of_any(txn, key, Kind::List)?);
    for element in elements {
        list.push(txn, End::Right, element);
    }
    list.save(txn);
    Ok(())
}

fn push(txn: &mut Txn<'_>, mut words: Words<'_>, end: End, creates: bool) -> Outcome {
    let key = words.word()?;
    let found = List::find(txn, key)?;
    if found.is_none() && !creates {
        return integer(0);
    }
    let mut list = match found {
        Some(list) => list,
        None => List::find_or_new(txn, key)?,
    };
    for element in words.rest() {
        list.push(txn, end, element.clone());
    }
    let length = list.len();
    list.save(txn);
    integer(length)
}

fn pop(txn: &mut Txn<'_>, mut words: Words<'_>, end: End) -> Outcome {
    if words.len() > 2 {
        let name = if end == End::Left { "lpop" } else { "rpop" };
        return Err(invalid(format!("wrong number of arguments for '{name}' command")));
    }
    let key = words.word()?;
    let count = if words.is_empty() { None } else { Some(words.positive()?) };
    let Some(list) = List::find(txn, key)? else {
        return Ok(if count.is_some() { nil_list() } else { nil() });
    };
    let popped = take(txn, list, end, count.unwrap_or(1))?;
    Ok(match count {
        Some(_) => bulks(popped),
        None => bulk_or_nil(popped.into_iter().next()),
    })
}

fn take(txn: &mut Txn<'_>, mut list: List, end: End, count: usize) -> Result<Vec<Bytes>, Failure> {
    let count = count.min(list.len());
    txn.charge_items(count as u64, 0)?;
    let mut popped = Vec::with_capacity(count);
    for _ in 0..count {
        popped.push(list.pop(txn, end)?);
    }
    if count > 0 {
        list.save(txn);
    }
    Ok(popped)
}

/// Executes `LMPOP numkeys key [key ...] LEFT|RIGHT [COUNT count]`.
fn lmpop(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let keys = words.counted_keys()?;
    let end = End::of(words.word()?)?;
    let count = pop_count(&mut words)?;
    for key in keys {
        if let Some(found) = List::find(txn, key)? {
            let popped = take(txn, found, end, count)?;
            return Ok(list([Answer::Bytes(key.clone()), bulks(popped)]));
        }
    }
    Ok(nil_list())
}

/// Parses `[COUNT count]`; the count is above 0, by default 1.
pub fn pop_count(words: &mut Words<'_>) -> Result<usize, Failure> {
    let mut count = 1;
    if !words.is_empty() {
        if !words.takes("count") {
            return Err(syntax());
        }
        let wanted = words.integer().ok().filter(|count| *count > 0);
        count = wanted.ok_or_else(|| invalid("count should be greater than 0"))? as usize;
        words.end()?;
    }
    Ok(count)
}

fn llen(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    integer(List::find(txn, words.word()?)?.map_or(0, |list| list.len()))
}

fn lindex(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, index) = (words.word()?, words.word()?);
    let Some(list) = List::find(txn, key)? else { return Ok(nil()) };
    let index = super::super::command::parse_integer(index).ok_or_else(no_integer)?;
    let element = list.position(index).map(|position| list.get(txn, position)).transpose()?;
    Ok(bulk_or_nil(element))
}

fn lset(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, index, element) = (words.word()?, words.word()?, words.word()?);
    let Some(list) = List::find(txn, key)? else { return Err(invalid("no such key")) };
    let index = super::super::command::parse_integer(index).ok_or_else(no_integer)?;
    let position = list.position(index).ok_or_else(|| invalid("index out of range"))?;
    list.set(txn, position, element.clone());
    list.save(txn);
    done()
}

fn lrange(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, start, end) = (words.word()?, words.integer()?, words.integer()?);
    let Some(list) = List::find(txn, key)? else { return Ok(bulks([])) };
    let range = clip_list(start, end, list.len());
    Ok(bulks(list.slice(txn, range)?))
}

/// Clips a list's range. Unlike [`clip`] for strings, it has no special case for two negative positions.
fn clip_list(start: i64, end: i64, length: usize) -> std::ops::Range<usize> {
    if end < 0 && end.saturating_add(length as i64) < 0 { 0..0 } else { clip(start, end, length) }
}

fn ltrim(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, start, end) = (words.word()?, words.integer()?, words.integer()?);
    let Some(mut list) = List::find(txn, key)? else { return done() };
    let kept = clip_list(start, end, list.len());
    if kept.is_empty() {
        // As for DEL, the elements become garbage, which is removed in bounded steps.
        if let Some(old) = txn.load(key)? {
            txn.remove(key, &old);
        }
        return done();
    }
    let right = list.len() - kept.end;
    txn.charge((kept.start + right) as u64, 0)?;
    (0..kept.start).for_each(|_| list.drop_end(txn, End::Left));
    (0..right).for_each(|_| list.drop_end(txn, End::Right));
    list.save(txn);
    done()
}

fn linsert(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, place, pivot, element) = (words.word()?, words.word()?, words.word()?, words.word()?);
    let behind = match place {
        word if is(word, "before") => 0,
        word if is(word, "after") => 1,
        _ => return Err(syntax()),
    };
    let Some(mut list) = List::find(txn, key)? else { return integer(0) };
    if !txn.visits_fewest() {
        return earlier::linsert(txn, list, behind, pivot, element);
    }
    let (found, visited) = list.search(txn, End::Left, pivot, 1)?;
    let Some(at) = found.first() else { return Ok(Answer::Integer(-1)) };
    list.insert(txn, &visited, at + behind, element.clone())?;
    let length = list.len();
    list.save(txn);
    integer(length)
}

fn lrem(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, count, element) = (words.word()?, words.integer()?, words.word()?);
    let Some(mut list) = List::find(txn, key)? else { return integer(0) };
    if !txn.visits_fewest() {
        return earlier::lrem(txn, list, count, element);
    }
    let end = if count < 0 { End::Right } else { End::Left };
    let wanted = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let (found, visited) = list.search(txn, end, element, wanted)?;
    if !found.is_empty() {
        list.remove(txn, &visited, &found)?;
        list.save(txn);
    }
    integer(found.len())
}

fn rpoplpush(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (from, to) = (words.word()?, words.word()?);
    move_element(txn, from, to, End::Right, End::Left)
}

fn lmove(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (from, to) = (words.word()?, words.word()?);
    let (taken, put) = (End::of(words.word()?)?, End::of(words.word()?)?);
    move_element(txn, from, to, taken, put)
}

fn move_element(txn: &mut Txn<'_>, from: &Bytes, to: &Bytes, taken: End, put: End) -> Outcome {
    let Some(mut source) = List::find(txn, from)? else { return Ok(nil()) };
    if from == to {
        let element = source.pop(txn, taken)?;
        source.push(txn, put, element.clone());
        source.save(txn);
        return Ok(Answer::Bytes(element));
    }
    let mut target = List::find_or_new(txn, to)?;
    let element = source.pop(txn, taken)?;
    source.save(txn);
    target.push(txn, put, element.clone());
    target.save(txn);
    Ok(Answer::Bytes(element))
}

/// Executes `LPOS key element [RANK rank] [COUNT count] [MAXLEN length]`.
fn lpos(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, element) = (words.word()?, words.word()?);
    let (mut rank, mut count, mut most) = (1, None, 0);
    while let Some(option) = words.next() {
        match option {
            word if is(word, "rank") => rank = lpos_rank(&mut words)?,
            word if is(word, "count") => count = Some(not_negative(&mut words, "COUNT can't be negative")?),
            word if is(word, "maxlen") => most = not_negative(&mut words, "MAXLEN can't be negative")?,
            _ => return Err(syntax()),
        }
    }
    let Some(source) = List::find(txn, key)? else {
        return Ok(if count.is_some() { list([]) } else { nil() });
    };
    let end = if rank < 0 { End::Right } else { End::Left };
    let most = if most == 0 { usize::MAX } else { most };
    let is_match =
        |found: &Result<(usize, Bytes), Failure>| found.as_ref().map_or(true, |(_, other)| other == element);
    let matches = source.elements_from(txn, end)?.take(most).filter(is_match);
    let mut positions = after(matches, rank.unsigned_abs() as usize - 1)
        .map(|found| found.map(|(position, _)| Answer::Integer(position as i64)));
    Ok(match count {
        None => positions.next().transpose()?.unwrap_or_else(nil),
        Some(0) => list(positions.collect::<Result<Vec<_>, _>>()?),
        Some(count) => list(positions.take(count).collect::<Result<Vec<_>, _>>()?),
    })
}

fn lpos_rank(words: &mut Words<'_>) -> Result<i64, Failure> {
    match words.integer()? {
        0 => Err(invalid(
            "RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to \
             start from the end of the list",
        )),
        i64::MIN => Err(invalid(
            "value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        )),
        rank => Ok(rank),
    }
}

fn not_negative(words: &mut Words<'_>, wrong: &str) -> Result<usize, Failure> {
    let number = words.integer().ok().and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| invalid(wrong))
}
