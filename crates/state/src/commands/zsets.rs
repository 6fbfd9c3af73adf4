//! Sorted set commands; each member has one element that holds its score, and one whose name sorts by score.

use std::ops::Range;

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::budget::Halt;
use super::super::collection::{Collection, Element};
use super::super::command::{Failure, Outcome, invalid};
use super::super::events::{Name, behind_keys, is_word};
use super::super::sizes;
use super::super::txn::Txn;
use super::super::value::Kind;
use super::number::{from_sortable, parse_double, sortable};
use super::spec::{Events, Spec, commands};
use super::words::{Words, is, no_double, syntax};
use super::{
    after, bulk_or_nil, bulks, double_text, gather, integer, list, lists, nil, nil_list, replies, sets, skip,
};

pub static COMMANDS: &[Spec] = commands! { SortedSet:
    501 "zadd" -4 ONE [WRITE DENYOOM FAST] "1.2.0" zadd,
        "Adds members or changes their scores, with options NX XX GT LT CH INCR.",
        "O(log N) for each member, N the size of the set"
        { access: ["RW update"; 2], elements: sizes::behind_key, events: Events::Of(zadd_events) };
    502 "zcard" 2 ONE [READONLY FAST] "1.2.0" zcard,
        "Returns the number of members.", "O(1)"
        { access: ["RO"; 2] };
    503 "zincrby" 4 ONE [WRITE DENYOOM FAST] "1.2.0" zincrby,
        "Increments the score of a member.", "O(log N), N the size of the set"
        { elements: sizes::behind_key, events: Events::One("zincr", 'z') };
    504 "zmpop" -4 COUNTED [WRITE MOVABLEKEYS] "7.0.0" zmpop,
        "Removes and returns members of the first non-empty set.",
        "O(K + M log N), K the number of keys, M of returned members, N the size of the set"
        { access: ["RW access delete"; 2], events: Events::Of(zmpop_events) };
    505 "zmscore" -3 ONE [READONLY FAST] "6.2.0" zmscore,
        "Returns the scores of several members.", "O(N), N the number of given members";
    506 "zpopmax" -2 ONE [WRITE FAST] "5.0.0" |txn, words| pop(txn, words, true),
        "Removes and returns the members of the highest scores.",
        "O(M log N), M the number of returned members, N the size of the set"
        { access: ["RW access delete"; 2] };
    507 "zpopmin" -2 ONE [WRITE FAST] "5.0.0" |txn, words| pop(txn, words, false),
        "Removes and returns the members of the lowest scores.",
        "O(M log N), M the number of returned members, N the size of the set"
        { access: ["RW access delete"; 2] };
    508 "zrandmember" -2 ONE [READONLY] "6.2.0" zrandmember,
        "Returns random members.", "O(N), N the size of the set; Redis: the number of returned members";
    509 "zrem" -3 ONE [WRITE FAST] "1.2.0" zrem,
        "Removes members of a sorted set.", "O(M log N), M the number of given members, N the size of the set"
        { access: ["RW delete"; 2] };
    510 "zscan" -3 ONE [READONLY] "2.8.0" zscan,
        "Iterates over the members of a sorted set.", "O(1) for each call, O(N) for all of a set of N members";
    511 "zscore" 3 ONE [READONLY FAST] "1.2.0" zscore,
        "Returns the score of a member.", "O(1)";
};

/// Maximum number of options of `ZADD`, which precede the scores.
const MAX_OPTIONS: usize = 4;

fn zadd_events(args: &[Bytes], _: &Bytes) -> [Option<Name>; 2] {
    let increments = args.iter().skip(1).take(MAX_OPTIONS).any(|word| is(word, "incr"));
    [Some((if increments { "zincr" } else { "zadd" }, 'z')), None]
}

fn zmpop_events(args: &[Bytes], _: &Bytes) -> [Option<Name>; 2] {
    [Some((if is_word(behind_keys(args), "min") { "zpopmin" } else { "zpopmax" }, 'z')), None]
}

/// Name prefixes of the two kinds of elements.
const MEMBER: u8 = b'm';
const SCORE: u8 = b's';

#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub member: Bytes,
    pub score: f64,
}

pub struct SortedSet(Collection);

impl SortedSet {
    pub fn find(txn: &mut Txn<'_>, key: &Bytes) -> Result<Option<Self>, Failure> {
        Ok(Collection::find(txn, key, Kind::SortedSet)?.map(Self))
    }

    pub fn in_place_of_any(txn: &mut Txn<'_>, key: &Bytes) -> Result<Self, Failure> {
        Ok(Self(Collection::in_place_of_any(txn, key, Kind::SortedSet)?))
    }

    pub fn len(&self) -> usize {
        self.0.count as usize
    }

    pub fn score(&self, txn: &Txn<'_>, member: &[u8]) -> Result<Option<f64>, Failure> {
        let raw = self.0.get(txn, &member_name(member))?;
        Ok(raw.and_then(|raw| raw[..].try_into().ok()).map(from_sortable))
    }

    /// Sets the score of a member; returns whether the member is new.
    pub fn put(&mut self, txn: &mut Txn<'_>, member: &[u8], score: f64) -> Result<bool, Failure> {
        let old = self.score(txn, member)?;
        if let Some(old) = old {
            self.0.remove(txn, &score_name(old, member));
        }
        self.0.put(txn, &member_name(member), Bytes::copy_from_slice(&sortable(score)));
        self.0.put(txn, &score_name(score, member), Bytes::new());
        self.0.count += u64::from(old.is_none());
        Ok(old.is_none())
    }

    pub fn remove(&mut self, txn: &mut Txn<'_>, scored: &Scored) {
        self.0.remove(txn, &member_name(&scored.member));
        self.0.remove(txn, &score_name(scored.score, &scored.member));
        self.0.count -= 1;
    }

    /// Returns the members of `span`, ordered by score and then by member.
    pub fn ascending<'t>(
        &self,
        txn: &'t Txn<'_>,
        span: &Span,
    ) -> impl Iterator<Item = Result<Scored, Failure>> + use<'t> {
        self.0.range(txn, &span.start, Some(&span.end)).map(scored)
    }

    /// Returns the members of `span` in descending order.
    pub fn descending<'t>(
        &self,
        txn: &'t Txn<'_>,
        span: &Span,
    ) -> impl Iterator<Item = Result<Scored, Failure>> + use<'t> {
        self.0.range_back(txn, &span.start, Some(&span.end)).map(scored)
    }

    /// Returns the members of some ranks, in ascending order. The members before them are visited, or those behind them
    /// if they are fewer.
    pub fn by_rank(&self, txn: &Txn<'_>, ranks: Range<usize>) -> Result<Vec<Scored>, Failure> {
        let (behind, wanted) = (self.len() - ranks.end, ranks.len());
        if !txn.visits_fewest() {
            return gather(skip(self.ascending(txn, &Span::all()), ranks.start).take(wanted));
        }
        if ranks.start <= behind {
            return gather(after(self.ascending(txn, &Span::all()), ranks.start).take(wanted));
        }
        let mut found = gather(after(self.descending(txn, &Span::all()), behind).take(wanted))?;
        found.reverse();
        Ok(found)
    }

    pub fn all(&self, txn: &Txn<'_>) -> Result<Vec<Scored>, Failure> {
        gather(self.ascending(txn, &Span::all()))
    }

    pub fn save(self, txn: &mut Txn<'_>) {
        self.0.save(txn);
    }
}

fn member_name(member: &[u8]) -> Vec<u8> {
    [&[MEMBER], member].concat()
}

fn score_name(score: f64, member: &[u8]) -> Vec<u8> {
    [&[SCORE], sortable(score).as_slice(), member].concat()
}

fn scored(element: Result<Element, Halt>) -> Result<Scored, Failure> {
    let (name, _) = element?;
    let score = name[1..9].try_into().map(from_sortable).unwrap_or_default();
    Ok(Scored { member: name.slice(9..), score })
}

/// Members between two places in the order of scores and members.
pub struct Span {
    start: Vec<u8>,
    /// First name after the span.
    end: Vec<u8>,
}

impl Span {
    pub fn all() -> Self {
        Self { start: vec![SCORE], end: vec![SCORE + 1] }
    }

    pub fn starting_at(least: f64) -> Self {
        Self { start: score_name(least, b""), ..Self::all() }
    }

    pub fn between(start: Place<'_>, end: Place<'_>) -> Self {
        Self { start: start.name(), end: end.name() }
    }
}

/// A place between two members.
pub enum Place<'a> {
    Before(f64),
    Behind(f64),
    BeforeMember(f64, &'a [u8]),
    BehindMember(f64, &'a [u8]),
}

impl Place<'_> {
    /// Returns the least name behind the place.
    fn name(&self) -> Vec<u8> {
        match self {
            Self::Before(score) => score_name(*score, b""),
            Self::Behind(score) => {
                let next = u64::from_be_bytes(sortable(*score)).saturating_add(1);
                [&[SCORE], next.to_be_bytes().as_slice()].concat()
            }
            Self::BeforeMember(score, member) => score_name(*score, member),
            Self::BehindMember(score, member) => [score_name(*score, member).as_slice(), &[0]].concat(),
        }
    }
}

/// Returns the answer with the members, or with members and scores.
pub fn scored_answer(found: Vec<Scored>, with_scores: bool) -> Answer {
    if !with_scores {
        return bulks(found.into_iter().map(|scored| scored.member));
    }
    let pairs =
        found.into_iter().flat_map(|scored| [Answer::Bytes(scored.member), Answer::Double(scored.score)]);
    Answer::Pairs(replies(pairs))
}

#[derive(Default)]
struct AddOptions {
    only_new: bool,
    only_known: bool,
    greater: bool,
    less: bool,
    counts_changed: bool,
    increments: bool,
}

impl AddOptions {
    fn take(words: &mut Words<'_>) -> Result<Self, Failure> {
        let mut options = Self::default();
        loop {
            let option = if words.takes("nx") {
                &mut options.only_new
            } else if words.takes("xx") {
                &mut options.only_known
            } else if words.takes("gt") {
                &mut options.greater
            } else if words.takes("lt") {
                &mut options.less
            } else if words.takes("ch") {
                &mut options.counts_changed
            } else if words.takes("incr") {
                &mut options.increments
            } else {
                break;
            };
            *option = true;
        }
        if words.is_empty() || !words.len().is_multiple_of(2) {
            return Err(syntax());
        }
        if options.only_new && options.only_known {
            return Err(invalid("XX and NX options at the same time are not compatible"));
        }
        if options.greater && options.less || options.only_new && (options.greater || options.less) {
            return Err(invalid("GT, LT, and/or NX options at the same time are not compatible"));
        }
        if options.increments && words.len() > 2 {
            return Err(invalid("INCR option supports a single increment-element pair"));
        }
        Ok(options)
    }

    /// Returns the new score of a member; `None` if it does not change.
    fn next(&self, old: Option<f64>, given: f64) -> Result<Option<f64>, Failure> {
        let Some(old) = old else { return Ok((!self.only_known).then_some(given)) };
        if self.only_new {
            return Ok(None);
        }
        let new = if self.increments { old + given } else { given };
        if new.is_nan() {
            return Err(invalid("resulting score is not a number (NaN)"));
        }
        let is_wanted = !(self.greater && new <= old || self.less && new >= old);
        Ok(is_wanted.then_some(new))
    }
}

fn zadd(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let options = AddOptions::take(&mut words)?;
    add(txn, key, &options, words)
}

fn zincrby(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    add(txn, key, &AddOptions { increments: true, ..AddOptions::default() }, words)
}

fn add(txn: &mut Txn<'_>, key: &Bytes, options: &AddOptions, words: Words<'_>) -> Outcome {
    let mut given = Vec::with_capacity(words.len() / 2);
    for pair in words.rest().chunks_exact(2) {
        given.push(Scored { score: parse_double(&pair[0]).ok_or_else(no_double)?, member: pair[1].clone() });
    }
    let mut set = SortedSet(Collection::find_or_new(txn, key, Kind::SortedSet)?);
    let (mut added, mut updated, mut last) = (0, 0, None);
    for Scored { member, score } in given {
        let old = set.score(txn, &member)?;
        // Only an increment can fail, and it has a single member, so nothing was changed before.
        last = options.next(old, score)?;
        let Some(new) = last else { continue };
        match old {
            Some(old) if old == new => continue,
            Some(_) => updated += 1,
            None => added += 1,
        }
        set.put(txn, &member, new)?;
    }
    if added + updated > 0 {
        set.save(txn);
    }
    if options.increments {
        return Ok(last.map_or_else(nil, Answer::Double));
    }
    integer(if options.counts_changed { added + updated } else { added })
}

fn zrem(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let Some(mut set) = SortedSet::find(txn, words.word()?)? else { return integer(0) };
    let mut removed = 0;
    for member in words.rest() {
        if let Some(score) = set.score(txn, member)? {
            set.remove(txn, &Scored { member: member.clone(), score });
            removed += 1;
        }
    }
    if removed > 0 {
        set.save(txn);
    }
    integer(removed)
}

fn zcard(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    integer(SortedSet::find(txn, words.word()?)?.map_or(0, |set| set.len()))
}

fn zscore(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, member) = (words.word()?, words.word()?);
    let Some(set) = SortedSet::find(txn, key)? else { return Ok(nil()) };
    Ok(set.score(txn, member)?.map_or_else(nil, Answer::Double))
}

fn zmscore(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let set = SortedSet::find(txn, words.word()?)?;
    let mut scores = Vec::with_capacity(words.len());
    for member in words.rest() {
        let score = set.as_ref().map(|set| set.score(txn, member)).transpose()?.flatten();
        scores.push(score.map_or_else(nil, Answer::Double));
    }
    Ok(list(scores))
}

/// Returns the `count` members with the lowest scores, or the highest.
fn ends(txn: &Txn<'_>, set: &SortedSet, count: usize, from_top: bool) -> Result<Vec<Scored>, Failure> {
    let count = count.min(set.len());
    let ranks = if from_top { set.len() - count..set.len() } else { 0..count };
    let mut found = set.by_rank(txn, ranks)?;
    if from_top {
        found.reverse();
    }
    Ok(found)
}

fn take(txn: &mut Txn<'_>, mut set: SortedSet, count: usize, from_top: bool) -> Result<Vec<Scored>, Failure> {
    let taken = ends(txn, &set, count, from_top)?;
    for scored in &taken {
        set.remove(txn, scored);
    }
    if !taken.is_empty() {
        set.save(txn);
    }
    Ok(taken)
}

fn pop(txn: &mut Txn<'_>, mut words: Words<'_>, from_top: bool) -> Outcome {
    let key = words.word()?;
    let count = if words.is_empty() { None } else { Some(words.positive()?) };
    words.end()?;
    let taken = match SortedSet::find(txn, key)? {
        Some(set) => take(txn, set, count.unwrap_or(1), from_top)?,
        None => Vec::new(),
    };
    Ok(match count {
        Some(_) => scored_answer(taken, true),
        // A flat list in RESP3 too.
        None => list(
            taken.into_iter().flat_map(|scored| [Answer::Bytes(scored.member), Answer::Double(scored.score)]),
        ),
    })
}

/// Executes `ZMPOP numkeys key [key ...] MIN|MAX [COUNT count]`.
fn zmpop(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let keys = words.counted_keys()?;
    let from_top = match words.word()? {
        word if is(word, "min") => false,
        word if is(word, "max") => true,
        _ => return Err(syntax()),
    };
    let count = lists::pop_count(&mut words)?;
    for key in keys {
        if let Some(set) = SortedSet::find(txn, key)? {
            let taken = take(txn, set, count, from_top)?.into_iter();
            let pairs =
                taken.map(|scored| list([Answer::Bytes(scored.member), Answer::Double(scored.score)]));
            return Ok(list([Answer::Bytes(key.clone()), list(pairs)]));
        }
    }
    Ok(nil_list())
}

fn zrandmember(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let count = if words.is_empty() { None } else { Some(words.integer()?) };
    let with_scores = count.is_some() && words.takes("withscores");
    words.end()?;
    let all = match SortedSet::find(txn, key)? {
        Some(set) => set.all(txn)?,
        None => Vec::new(),
    };
    let mut chosen = sets::choose(txn, &all, count.unwrap_or(1), |scored| scored.member.len() + 8)?;
    Ok(match count {
        None => bulk_or_nil(chosen.pop().map(|scored| scored.member)),
        Some(_) => scored_answer(chosen, with_scores),
    })
}

/// Executes a scan like `hashes::scan`, by member, with the scores as data.
fn zscan(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (key, count) = (words.word()?, words.positive()?);
    let first = words.next().cloned().unwrap_or_default();
    let Some(set) = SortedSet::find(txn, key)? else { return Ok(list([nil(), list([])])) };
    let elements = set.0.range(txn, &member_name(&first), Some(&[MEMBER + 1]));
    let elements: Result<Vec<_>, _> = elements.take(count + 1).collect();
    let mut elements = elements?;
    let next = if elements.len() > count { elements.pop().map(|(name, _)| name.slice(1..)) } else { None };
    let elements = elements.into_iter().flat_map(|(name, score)| {
        let score = score[..].try_into().map(from_sortable).unwrap_or_default();
        [name.slice(1..), double_text(score).into()]
    });
    Ok(list([bulk_or_nil(next), bulks(elements)]))
}
