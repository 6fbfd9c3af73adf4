//! `SCAN` and `KEYS`: walks over the keys in pages, yielding to other connections between pages.

use bytes::Bytes;
use helios_proto::Error;
use helios_service::auth::first_key_after;
use helios_service::glob::{Pattern, Steps};
use helios_state::{AnswerBudget, Value};

use super::super::codec::parse_integer;
use super::super::cursor::cursor_of;
use super::super::error::Refusal;
use super::super::frame::{Frame, PART_BYTES};
use super::args::is;
use super::read::{Read, Snapshot};
use super::{Args, Request};

/// Keys read at once; their values come along, so this bounds memory.
const PAGE_KEYS: usize = 128;
pub const MAX_COUNT: i64 = 10_000;
pub const MAX_KEYS_REPLY: usize = 100_000;
/// Bytes of names at which a page of `SCAN` ends; COUNT is a hint.
pub const SCAN_REPLY_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct Scan {
    /// Cursor; 0: from the start.
    cursor: u64,
    options: Options,
    /// Requested type of values, in lower case.
    type_filter: Option<Bytes>,
    /// Whether nothing outside the keys that the pattern can match may be read, not even to find the cursor's key.
    is_within_pattern: bool,
}

/// The options that `SCAN`, `HSCAN`, `SSCAN` and `ZSCAN` have in common.
#[derive(Debug)]
pub struct Options {
    /// Pattern of names; `None`: every name.
    pub pattern: Option<Pattern>,
    pub count: usize,
}

impl Options {
    /// Parses all remaining words. `own` takes the name and the argument of any other option, and whether the command
    /// has it.
    pub fn parse(mut args: Args, mut own: impl FnMut(&[u8], &[u8]) -> bool) -> Result<Self, Refusal> {
        let mut options = Self { pattern: None, count: 10 };
        while let Some(option) = args.next() {
            if is(&option, "match") {
                options.pattern = Some(args.pattern()?);
                continue;
            }
            let argument = args.word()?;
            if is(&option, "count") {
                options.count = page_count(&argument)?;
            } else if !own(&option, &argument) {
                return Err(Refusal::Syntax);
            }
        }
        Ok(options)
    }

    /// Whether the pattern selects `name`; without a pattern every name is selected.
    pub fn selects(&self, name: &[u8], steps: &mut Steps) -> Result<bool, Error> {
        Ok(match &self.pattern {
            Some(pattern) => pattern.matches(name, steps)?,
            None => true,
        })
    }
}

pub fn scan(mut args: Args) -> Result<Request, Refusal> {
    let cursor = cursor(&args.word()?)?;
    let mut type_filter = None;
    let options = Options::parse(args, |option, argument| {
        let is_type = is(option, "type");
        if is_type {
            type_filter = Some(argument.to_ascii_lowercase().into());
        }
        is_type
    })?;
    Ok(Request::Read(Read::Scan(Scan { cursor, options, type_filter, is_within_pattern: false })))
}

pub fn cursor(word: &[u8]) -> Result<u64, Refusal> {
    let cursor = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    cursor.ok_or(Refusal::other("ERR invalid cursor"))
}

fn page_count(word: &[u8]) -> Result<usize, Refusal> {
    match parse_integer(word).ok_or(Refusal::NotAnInteger)? {
        ..1 => Err(Refusal::Syntax),
        count => Ok(count.min(MAX_COUNT) as usize),
    }
}

pub fn keys(mut args: Args) -> Result<Request, Refusal> {
    Ok(Request::Read(Read::Keys { pattern: args.pattern()? }))
}

impl Scan {
    pub fn pattern(&self) -> Option<&Pattern> {
        self.options.pattern.as_ref()
    }

    /// Returns the scan that reads only keys that the pattern can match.
    pub fn within_pattern(self) -> Self {
        Self { is_within_pattern: true, ..self }
    }

    pub async fn execute(self, at: &Snapshot<'_>) -> Result<Frame, Error> {
        let within = self.pattern().filter(|_| self.is_within_pattern);
        let start = match self.cursor {
            0 => Bytes::new(),
            cursor => match resume_key(cursor, within, at).await? {
                Some(key) => key,
                None => {
                    return Ok(Frame::error(
                        "ERR invalid cursor: the key it pointed to is gone and this node did not issue it \
                         lately; start again with cursor 0",
                    ));
                }
            },
        };
        let mut walk = Walk::new(start, self.pattern());
        let (mut found, mut steps) = (Vec::new(), Steps::default());
        let (mut seen, mut bytes) = (0, 0);
        let count = self.options.count;
        while seen < count && bytes < SCAN_REPLY_BYTES && !walk.is_done() {
            let page = walk.page(count - seen, at).await?;
            seen += page.len();
            for (key, value) in page {
                if self.selects(&key, &value, &mut steps)? {
                    bytes += key.len();
                    found.push(key);
                }
            }
        }
        let next = walk.next.map_or(0, |key| at.cursors.issue(&key));
        Ok(Frame::Array(vec![Frame::bulk(next.to_string()), bulks(found)]))
    }

    fn selects(&self, key: &[u8], value: &Value, steps: &mut Steps) -> Result<bool, Error> {
        let is_of_type =
            self.type_filter.as_ref().is_none_or(|wanted| value.kind.name().as_bytes() == wanted);
        Ok(is_of_type && self.options.selects(key, steps)?)
    }
}

/// Returns the keys that match `pattern`; an error above 100,000 keys rather than a part of them.
pub async fn all_keys(pattern: &Pattern, at: &Snapshot<'_>) -> Result<Frame, Error> {
    let mut walk = Walk::new(Bytes::new(), Some(pattern));
    let (mut found, mut steps) = (Vec::new(), Steps::default());
    let mut budget = AnswerBudget::of_read(at.store.read_limits());
    while !walk.is_done() {
        let page = walk.page(PAGE_KEYS, at).await?;
        for (key, _) in page {
            if pattern.matches(&key, &mut steps)? {
                budget.charge(1, PART_BYTES + key.len())?;
                found.push(key);
            }
        }
        if found.len() > MAX_KEYS_REPLY {
            return Ok(Frame::error(format!(
                "ERR KEYS would return more than {MAX_KEYS_REPLY} keys; use SCAN instead"
            )));
        }
    }
    Ok(bulks(found))
}

/// Returns the key that `cursor` was issued for, from the table or by a walk over all keys, or those that the pattern
/// `within` can match.
async fn resume_key(
    cursor: u64,
    within: Option<&Pattern>,
    at: &Snapshot<'_>,
) -> Result<Option<Bytes>, Error> {
    let prefix = within.map(Pattern::literal_prefix).unwrap_or_default();
    if let Some(key) = at.cursors.key(cursor).filter(|key| key.starts_with(&prefix)) {
        return Ok(Some(key));
    }
    let mut walk = Walk::new(Bytes::new(), within);
    // The last key with this hash: returning to an earlier one could repeat the walk for ever.
    let mut last_match = None;
    while !walk.is_done() {
        let page = walk.page(PAGE_KEYS, at).await?;
        last_match =
            page.into_iter().map(|(key, _)| key).rfind(|key| cursor_of(key) == cursor).or(last_match);
    }
    Ok(last_match)
}

/// Position in the range of keys that can match a pattern, in key order.
struct Walk {
    /// Next key; `None` at the end.
    next: Option<Bytes>,
    end: Option<Vec<u8>>,
}

impl Walk {
    fn new(start: Bytes, pattern: Option<&Pattern>) -> Self {
        let prefix = pattern.map(Pattern::literal_prefix).unwrap_or_default();
        let end = first_key_after(&prefix);
        Self { next: Some(start.max(prefix.into())), end }
    }

    fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// Reads at most `limit` keys, and at most one page.
    async fn page(&mut self, limit: usize, at: &Snapshot<'_>) -> Result<Vec<(Bytes, Value)>, Error> {
        let within = |start: &Bytes| self.end.as_ref().is_none_or(|end| start < end);
        let Some(start) = self.next.take().filter(within) else { return Ok(Vec::new()) };
        let limit = limit.min(PAGE_KEYS);
        let page = at.store.scan(&start, self.end.as_deref(), limit, at.wall_ms)?;
        self.next = page.next;
        tokio::task::yield_now().await;
        Ok(page.pairs)
    }
}

fn bulks(keys: Vec<Bytes>) -> Frame {
    Frame::Array(keys.into_iter().map(Frame::Bulk).collect())
}
