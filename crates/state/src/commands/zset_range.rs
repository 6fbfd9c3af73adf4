//! Ranges of sorted sets: by rank, by score, by member (`BYLEX`).

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::command::{Failure, Outcome, invalid, parse_integer};
use super::super::txn::Txn;
use super::number::parse_double;
use super::spec::{Spec, commands};
use super::words::{Words, no_integer, syntax};
use super::zsets::{Place, Scored, SortedSet, Span, scored_answer};
use super::{after, gather, integer, list, nil, nil_list, skip};

pub static COMMANDS: &[Spec] = commands! { SortedSet:
    530 "zcount" 4 ONE [READONLY FAST] "2.0.0" |txn, words| count(txn, words, By::Score),
        "Counts members by score.", "O(log N + M), M the number of counted members; Redis: O(log N)";
    531 "zlexcount" 4 ONE [READONLY FAST] "2.8.9" |txn, words| count(txn, words, By::Name),
        "Counts members of equal scores by name.",
        "O(log N + M), M the number of counted members; Redis: O(log N)";
    532 "zrange" -4 ONE [READONLY] "1.2.0" zrange,
        "Returns members by rank, score or name, with options BYSCORE BYLEX REV LIMIT WITHSCORES.",
        "O(log N + M), M the number of returned members, and those between a rank or the offset of LIMIT and the nearer end; Redis: not those before a rank";
    533 "zrangebylex" -4 ONE [READONLY] "2.8.9" |txn, words| old_range(txn, words, By::Name, false),
        "Returns members by name.", "O(log N + M), M the number of returned members and the offset of LIMIT";
    534 "zrangebyscore" -4 ONE [READONLY] "1.0.5" |txn, words| old_range(txn, words, By::Score, false),
        "Returns members by score.", "O(log N + M), M the number of returned members and the offset of LIMIT";
    535 "zrangestore" -5 TWO [WRITE DENYOOM] "6.2.0" zrangestore,
        "Stores the members that ZRANGE returns.", "O(log N + M log M), M as for ZRANGE; Redis: O(log N + M)"
        { access: ["OW update", "RO access"] };
    536 "zrank" -3 ONE [READONLY FAST] "2.0.0" |txn, words| rank(txn, words, false),
        "Returns the rank of a member, with WITHSCORE its score, too.",
        "O(M), M the distance from the nearer end; Redis: O(log N)"
        { format: rank_format };
    537 "zremrangebylex" 4 ONE [WRITE] "2.8.9" |txn, words| remove(txn, words, By::Name),
        "Removes members by name.", "O(log N + M), M the number of removed members"
        { access: ["RW delete"; 2] };
    538 "zremrangebyrank" 4 ONE [WRITE] "2.0.0" |txn, words| remove(txn, words, By::Rank),
        "Removes members by rank.",
        "O(log N + M), M the number of removed members, and those between them and the nearer end; Redis: not those"
        { access: ["RW delete"; 2] };
    539 "zremrangebyscore" 4 ONE [WRITE] "1.2.0" |txn, words| remove(txn, words, By::Score),
        "Removes members by score.", "O(log N + M), M the number of removed members"
        { access: ["RW delete"; 2] };
    540 "zrevrange" -4 ONE [READONLY] "1.2.0" |txn, words| old_range(txn, words, By::Rank, true),
        "Returns members by rank from the highest score down.",
        "O(log N + M), M the number of returned members, and those between them and the nearer end; Redis: not those";
    541 "zrevrangebylex" -4 ONE [READONLY] "2.8.9" |txn, words| old_range(txn, words, By::Name, true),
        "Returns members by name, the last first.",
        "O(log N + M), M the number of returned members and the offset of LIMIT";
    542 "zrevrangebyscore" -4 ONE [READONLY] "2.2.0" |txn, words| old_range(txn, words, By::Score, true),
        "Returns members by score, the highest first.",
        "O(log N + M), M the number of returned members and the offset of LIMIT";
    543 "zrevrank" -3 ONE [READONLY FAST] "2.0.0" |txn, words| rank(txn, words, true),
        "Returns the rank of a member from the highest score down, with WITHSCORE its score, too.",
        "O(M), M the distance from the nearer end; Redis: O(log N)"
        { format: rank_format };
};

/// Returns the log format of ZRANK: builds before format 4 ignore WITHSCORE.
fn rank_format(args: &[Bytes]) -> u32 {
    if args.len() > 2 { 4 } else { 2 }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// The selected members.
enum Range {
    Ranks { start: i64, end: i64 },
    Scores { least: Bound<f64>, most: Bound<f64> },
    Names { least: NameBound, most: NameBound },
}

struct Bound<T> {
    at: T,
    excluded: bool,
}

enum NameBound {
    First,
    Last,
    At(Bound<Bytes>),
}

struct Query {
    range: Range,
    reverse: bool,
    offset: usize,
    /// Maximum number of members; `None` for all.
    limit: Option<usize>,
}

impl Range {
    /// Parses a range. If it is reversed, the greater bound comes first; ranks are not swapped, but count
    /// from the top.
    fn parse(by: By, first: &Bytes, second: &Bytes, reverse: bool) -> Result<Self, Failure> {
        let (least, most) = if reverse && by != By::Rank { (second, first) } else { (first, second) };
        Ok(match by {
            By::Rank => Self::Ranks { start: rank_bound(least)?, end: rank_bound(most)? },
            By::Score => Self::Scores { least: score_bound(least)?, most: score_bound(most)? },
            By::Name => Self::Names { least: name_bound(least)?, most: name_bound(most)? },
        })
    }

    fn holds(&self, scored: &Scored) -> bool {
        match self {
            Self::Ranks { .. } => true,
            Self::Scores { least, most } => {
                let score = scored.score;
                let above = if least.excluded { score > least.at } else { score >= least.at };
                above && if most.excluded { score < most.at } else { score <= most.at }
            }
            Self::Names { least, most } => {
                let name = &scored.member;
                let above = match least {
                    NameBound::First => true,
                    NameBound::Last => false,
                    NameBound::At(bound) if bound.excluded => *name > bound.at,
                    NameBound::At(bound) => *name >= bound.at,
                };
                above
                    && match most {
                        NameBound::First => false,
                        NameBound::Last => true,
                        NameBound::At(bound) if bound.excluded => *name < bound.at,
                        NameBound::At(bound) => *name <= bound.at,
                    }
            }
        }
    }
}

fn rank_bound(word: &Bytes) -> Result<i64, Failure> {
    parse_integer(word).ok_or_else(no_integer)
}

fn score_bound(word: &Bytes) -> Result<Bound<f64>, Failure> {
    let (text, excluded) = word.strip_prefix(b"(").map_or((&word[..], false), |rest| (rest, true));
    let at = parse_double(text).ok_or_else(|| invalid("min or max is not a float"))?;
    Ok(Bound { at, excluded })
}

fn name_bound(word: &Bytes) -> Result<NameBound, Failure> {
    Ok(match word.first() {
        Some(b'-') if word.len() == 1 => NameBound::First,
        Some(b'+') if word.len() == 1 => NameBound::Last,
        Some(b'(') => NameBound::At(Bound { at: word.slice(1..), excluded: true }),
        Some(b'[') => NameBound::At(Bound { at: word.slice(1..), excluded: false }),
        _ => return Err(invalid("min or max not valid string range item")),
    })
}

impl Query {
    fn all(range: Range) -> Self {
        Self { range, reverse: false, offset: 0, limit: None }
    }

    /// Returns the selected members in ascending order, or in descending order if the query is reversed.
    fn run(&self, txn: &mut Txn<'_>, key: &Bytes) -> Result<Vec<Scored>, Failure> {
        let Some(set) = SortedSet::find(txn, key)? else { return Ok(Vec::new()) };
        if let Range::Ranks { start, end } = self.range {
            return self.by_rank(txn, &set, start, end);
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        if txn.visits_fewest() {
            return gather(after(self.members(txn, &set)?, self.offset).take(limit));
        }
        let found = self.range.members_forwards(txn, &set);
        if !self.reverse {
            return gather(skip(found, self.offset).take(limit));
        }
        let found = gather(found)?;
        Ok(found.into_iter().rev().skip(self.offset).take(limit).collect())
    }

    fn by_rank(&self, txn: &Txn<'_>, set: &SortedSet, start: i64, end: i64) -> Result<Vec<Scored>, Failure> {
        let length = set.len() as i64;
        let from_end = |rank: i64| if rank < 0 { rank.saturating_add(length) } else { rank };
        let (start, end) = (from_end(start).max(0), from_end(end).min(length - 1));
        if start > end {
            return Ok(Vec::new());
        }
        let first = (if self.reverse { length - 1 - end } else { start }) as usize;
        let mut found = set.by_rank(txn, first..first + (end - start + 1) as usize)?;
        if self.reverse {
            found.reverse();
        }
        Ok(found)
    }

    /// Returns the members of a range by score or name, in the order of the query. Visits no others.
    fn members<'t>(
        &'t self,
        txn: &'t Txn<'_>,
        set: &SortedSet,
    ) -> Result<Box<dyn Iterator<Item = Result<Scored, Failure>> + 't>, Failure> {
        let span = self.range.span(txn, set)?;
        // For names of members with different scores, which Redis leaves undefined, the span holds all members.
        let is_in = |scored: &Result<Scored, Failure>| {
            scored.as_ref().map_or(true, |scored| self.range.holds(scored))
        };
        Ok(if self.reverse {
            Box::new(set.descending(txn, &span).filter(is_in))
        } else {
            Box::new(set.ascending(txn, &span).filter(is_in))
        })
    }
}

impl Range {
    fn span(&self, txn: &Txn<'_>, set: &SortedSet) -> Result<Span, Failure> {
        let (least, most) = match self {
            Self::Ranks { .. } => return Ok(Span::all()),
            Self::Scores { least, most } => return Ok(Span::between(least.place(false), most.place(true))),
            Self::Names { least, most } => (least, most),
        };
        let first = set.ascending(txn, &Span::all()).next().transpose()?;
        let last = set.descending(txn, &Span::all()).next().transpose()?;
        let score = first.map(|first| first.score);
        Ok(match score.filter(|score| last.is_some_and(|last| last.score == *score)) {
            Some(score) => Span::between(least.place(score, false), most.place(score, true)),
            None => Span::all(),
        })
    }

    /// Returns the members of the range as builds before log format 7 find them: those with other names, and one with a
    /// higher score, are visited, too. Entries with an earlier budget are charged for that on every member.
    fn members_forwards<'t>(
        &'t self,
        txn: &'t Txn<'_>,
        set: &SortedSet,
    ) -> impl Iterator<Item = Result<Scored, Failure>> + use<'t> {
        let least = match self {
            Self::Scores { least, .. } => least.at,
            Self::Ranks { .. } | Self::Names { .. } => f64::NEG_INFINITY,
        };
        let is_below = |scored: &Scored| match self {
            Self::Scores { most, .. } => scored.score <= most.at,
            Self::Ranks { .. } | Self::Names { .. } => true,
        };
        set.ascending(txn, &Span::starting_at(least))
            .take_while(move |scored| scored.as_ref().map_or(true, is_below))
            .filter(|scored| scored.as_ref().map_or(true, |scored| self.holds(scored)))
    }
}

impl Bound<f64> {
    fn place(&self, is_end: bool) -> Place<'_> {
        if self.excluded == is_end { Place::Before(self.at) } else { Place::Behind(self.at) }
    }
}

impl NameBound {
    /// Returns the place of the bound among members of the score `score`.
    fn place(&self, score: f64, is_end: bool) -> Place<'_> {
        match self {
            Self::First => Place::Before(score),
            Self::Last => Place::Behind(score),
            Self::At(Bound { at, excluded }) if *excluded == is_end => Place::BeforeMember(score, at),
            Self::At(Bound { at, .. }) => Place::BehindMember(score, at),
        }
    }
}

/// Parses `start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`; returns the query and
/// whether it has WITHSCORES.
fn parse_range(words: &mut Words<'_>, may_have_scores: bool) -> Result<(Query, bool), Failure> {
    let (first, second) = (words.word()?, words.word()?);
    let (mut by, mut reverse, mut limit, mut with_scores) = (By::Rank, false, None, false);
    while !words.is_empty() {
        if words.takes("byscore") {
            by = By::Score;
        } else if words.takes("bylex") {
            by = By::Name;
        } else if words.takes("rev") {
            reverse = true;
        } else if words.takes("limit") {
            limit = Some((words.integer()?, words.integer()?));
        } else if may_have_scores && words.takes("withscores") {
            with_scores = true;
        } else {
            return Err(syntax());
        }
    }
    if limit.is_some() && by == By::Rank {
        return Err(invalid(
            "syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
        ));
    }
    if with_scores && by == By::Name {
        return Err(invalid("syntax error, WITHSCORES not supported in combination with BYLEX"));
    }
    let range = Range::parse(by, first, second, reverse)?;
    Ok((limited(Query { reverse, ..Query::all(range) }, limit), with_scores))
}

/// Applies `LIMIT offset count`: a negative count selects all members, a negative offset none.
fn limited(query: Query, limit: Option<(i64, i64)>) -> Query {
    match limit {
        None => query,
        Some((offset, _)) if offset < 0 => Query { limit: Some(0), ..query },
        Some((offset, count)) => {
            Query { offset: offset as usize, limit: usize::try_from(count).ok(), ..query }
        }
    }
}

fn zrange(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let key = words.word()?;
    let (query, with_scores) = parse_range(&mut words, true)?;
    Ok(scored_answer(query.run(txn, key)?, with_scores))
}

fn zrangestore(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (target, key) = (words.word()?, words.word()?);
    let (query, _) = parse_range(&mut words, false)?;
    let found = query.run(txn, key)?;
    let mut set = SortedSet::in_place_of_any(txn, target)?;
    for Scored { member, score } in &found {
        set.put(txn, member, *score)?;
    }
    set.save(txn);
    integer(found.len())
}

/// Executes ZREVRANGE, ZRANGEBYSCORE and the other commands that ZRANGE supersedes.
fn old_range(txn: &mut Txn<'_>, mut words: Words<'_>, by: By, reverse: bool) -> Outcome {
    let (key, first, second) = (words.word()?, words.word()?, words.word()?);
    let (mut with_scores, mut limit) = (false, None);
    while !words.is_empty() {
        if by != By::Name && words.takes("withscores") {
            with_scores = true;
        } else if by != By::Rank && words.takes("limit") {
            limit = Some((words.integer()?, words.integer()?));
        } else {
            return Err(syntax());
        }
    }
    let range = Range::parse(by, first, second, reverse)?;
    let query = limited(Query { reverse, ..Query::all(range) }, limit);
    Ok(scored_answer(query.run(txn, key)?, with_scores))
}

fn selected(mut words: Words<'_>, by: By) -> Result<(Bytes, Query), Failure> {
    let (key, first, second) = (words.word()?, words.word()?, words.word()?);
    words.end()?;
    Ok((key.clone(), Query::all(Range::parse(by, first, second, false)?)))
}

fn count(txn: &mut Txn<'_>, words: Words<'_>, by: By) -> Outcome {
    let (key, query) = selected(words, by)?;
    if !txn.visits_fewest() {
        return integer(query.run(txn, &key)?.len());
    }
    let Some(set) = SortedSet::find(txn, &key)? else { return integer(0) };
    integer(query.members(txn, &set)?.try_fold(0, |count, member| member.map(|_| count + 1))?)
}

fn remove(txn: &mut Txn<'_>, words: Words<'_>, by: By) -> Outcome {
    let (key, query) = selected(words, by)?;
    let found = query.run(txn, &key)?;
    let Some(mut set) = SortedSet::find(txn, &key)? else { return integer(0) };
    for scored in &found {
        set.remove(txn, scored);
    }
    if !found.is_empty() {
        set.save(txn);
    }
    integer(found.len())
}

/// Executes `ZRANK key member [WITHSCORE]`.
fn rank(txn: &mut Txn<'_>, mut words: Words<'_>, reverse: bool) -> Outcome {
    let (key, member) = (words.word()?, words.word()?);
    let with_score = words.takes("withscore");
    words.end()?;
    let none = || if with_score { nil_list() } else { nil() };
    let Some(set) = SortedSet::find(txn, key)? else { return Ok(none()) };
    let Some(score) = set.score(txn, member)? else { return Ok(none()) };
    let before = members_before(txn, &set, member)?;
    let rank = Answer::Integer(if reverse { set.len() - 1 - before } else { before } as i64);
    Ok(if with_score { list([rank, Answer::Double(score)]) } else { rank })
}

/// Returns the number of members before `member`, which is in the set. Visits from both ends in turn, so that the cost is
/// twice the distance from the nearer one.
fn members_before(txn: &Txn<'_>, set: &SortedSet, member: &Bytes) -> Result<usize, Failure> {
    let mut ascending = set.ascending(txn, &Span::all());
    let mut descending = txn.visits_fewest().then(|| set.descending(txn, &Span::all()));
    for distance in 0..set.len() {
        if ascending.next().transpose()?.is_some_and(|scored| scored.member == *member) {
            return Ok(distance);
        }
        let last = descending.as_mut().and_then(Iterator::next).transpose()?;
        if last.is_some_and(|scored| scored.member == *member) {
            return Ok(set.len() - 1 - distance);
        }
    }
    Ok(set.len())
}
