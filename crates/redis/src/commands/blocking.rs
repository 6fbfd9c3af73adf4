//! Commands that wait for a key to hold an element.

use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_state::{Kind, commands};

use super::super::error::Refusal;
use super::args::is;
use super::write::Answer;
use super::{Args, Request};

/// Maximum timeout in seconds, about 30 years; more would overflow the clocks.
const MAX_TIMEOUT_SECS: f64 = 1e9;

/// State command that takes an element; it is tried whenever a key may hold one.
#[derive(Debug, Clone)]
pub struct Blocking {
    verb: &'static str,
    /// Whether the state command counts the keys in front of them.
    is_counted: bool,
    /// Keys that an element is taken from.
    pub keys: Vec<Bytes>,
    /// Words of the state command behind the keys.
    words: Vec<Bytes>,
    /// Type that a key must have.
    pub kind: Kind,
    pub answer: Answer,
    /// Timeout; `None`: the command waits without limit.
    pub timeout: Option<Duration>,
}

impl Blocking {
    /// Returns the operation that takes an element from `keys` without waiting.
    pub fn op(&self, keys: &[Bytes]) -> Op {
        let count = self.is_counted.then(|| Bytes::from(keys.len().to_string()));
        let args = count.into_iter().chain(keys.iter().cloned()).chain(self.words.iter().cloned());
        Op::Call(commands::call(self.verb, args.collect()))
    }
}

pub fn blpop(args: Args) -> Result<Request, Refusal> {
    pop(args, "lmpop", "LEFT", Answer::FirstElement)
}

pub fn brpop(args: Args) -> Result<Request, Refusal> {
    pop(args, "lmpop", "RIGHT", Answer::FirstElement)
}

pub fn bzpopmin(args: Args) -> Result<Request, Refusal> {
    pop(args, "zmpop", "MIN", Answer::FirstScored)
}

pub fn bzpopmax(args: Args) -> Result<Request, Refusal> {
    pop(args, "zmpop", "MAX", Answer::FirstScored)
}

/// Parses `key [key ...] timeout`.
fn pop(mut args: Args, verb: &'static str, end: &'static str, answer: Answer) -> Result<Request, Refusal> {
    let keys = (1..args.len()).map(|_| args.key()).collect::<Result<_, _>>()?;
    let timeout = timeout(&args.word()?)?;
    let words = vec![Bytes::from_static(end.as_bytes())];
    Ok(Request::Block(Blocking { verb, is_counted: true, keys, words, kind: kind_of(verb), answer, timeout }))
}

pub fn blmpop(args: Args) -> Result<Request, Refusal> {
    pop_several(args, "lmpop")
}

pub fn bzmpop(args: Args) -> Result<Request, Refusal> {
    pop_several(args, "zmpop")
}

/// Parses `timeout numkeys key [key ...] LEFT|RIGHT|MIN|MAX [COUNT count]`.
fn pop_several(mut args: Args, verb: &'static str) -> Result<Request, Refusal> {
    let timeout = timeout(&args.word()?)?;
    let count = args.integer().ok().filter(|count| *count > 0);
    let count = count.ok_or(Refusal::other("ERR numkeys should be greater than 0"))? as usize;
    if count >= args.len() {
        return Err(Refusal::Syntax);
    }
    let keys = (0..count).map(|_| args.key()).collect::<Result<_, _>>()?;
    let words = args.rest();
    check_pop_words(verb, &words)?;
    let (kind, answer) = (kind_of(verb), Answer::Plain);
    Ok(Request::Block(Blocking { verb, is_counted: true, keys, words, kind, answer, timeout }))
}

/// Rejects words that the state would reject, before the client waits.
fn check_pop_words(verb: &str, words: &[Bytes]) -> Result<(), Refusal> {
    let ends = if verb == "lmpop" { ["left", "right"] } else { ["min", "max"] };
    match words {
        [end, rest @ ..] if ends.iter().any(|known| is(end, known)) => match rest {
            [] => Ok(()),
            [option, count] if is(option, "count") => {
                let count = super::super::codec::parse_integer(count).filter(|count| *count > 0);
                count.map(drop).ok_or(Refusal::other("ERR count should be greater than 0"))
            }
            _ => Err(Refusal::Syntax),
        },
        _ => Err(Refusal::Syntax),
    }
}

/// Parses `source destination LEFT|RIGHT LEFT|RIGHT timeout`.
pub fn blmove(mut args: Args) -> Result<Request, Refusal> {
    let (source, target, from, to) = (args.key()?, args.key()?, args.word()?, args.word()?);
    if [&from, &to].iter().any(|end| !is(end, "left") && !is(end, "right")) {
        return Err(Refusal::Syntax);
    }
    let timeout = timeout(&args.word()?)?;
    Ok(move_element("lmove", source, vec![target, from, to], timeout))
}

/// Parses `source destination timeout`.
pub fn brpoplpush(mut args: Args) -> Result<Request, Refusal> {
    let (source, target) = (args.key()?, args.key()?);
    let timeout = timeout(&args.word()?)?;
    Ok(move_element("rpoplpush", source, vec![target], timeout))
}

fn move_element(verb: &'static str, source: Bytes, words: Vec<Bytes>, timeout: Option<Duration>) -> Request {
    let (keys, answer) = (vec![source], Answer::Plain);
    Request::Block(Blocking { verb, is_counted: false, keys, words, kind: Kind::List, answer, timeout })
}

fn kind_of(verb: &str) -> Kind {
    if verb == "zmpop" { Kind::SortedSet } else { Kind::List }
}

/// Parses a timeout in seconds, with a fraction; 0: no timeout.
fn timeout(word: &[u8]) -> Result<Option<Duration>, Refusal> {
    let seconds = std::str::from_utf8(word).ok().and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.filter(|seconds| seconds.is_finite());
    let seconds = seconds.ok_or(Refusal::other("ERR timeout is not a float or out of range"))?;
    if seconds < 0.0 {
        return Err(Refusal::other("ERR timeout is negative"));
    }
    if seconds > MAX_TIMEOUT_SECS {
        return Err(Refusal::other("ERR timeout is out of range"));
    }
    // Rounded up to milliseconds, as in Redis.
    let timeout_ms = (seconds * 1000.0).ceil() as u64;
    Ok((timeout_ms > 0).then(|| Duration::from_millis(timeout_ms)))
}
