//! The arguments of one request, taken from the left.

use bytes::Bytes;

use super::super::codec::parse_integer;
use super::super::error::Refusal;
use super::super::server::Limits;
use super::super::table::Spec;

pub struct Args<'a> {
    pub spec: &'static Spec,
    /// This node's time, ms since the Unix epoch: relative expiries count from here.
    pub now_ms: u64,
    limits: &'a Limits,
    words: std::vec::IntoIter<Bytes>,
}

impl<'a> Args<'a> {
    /// `words` is the whole request, of as many words as `spec` accepts.
    pub fn new(spec: &'static Spec, words: Vec<Bytes>, now_ms: u64, limits: &'a Limits) -> Self {
        let mut words = words.into_iter();
        words.by_ref().take(spec.name_words()).for_each(drop);
        Self { spec, now_ms, limits, words }
    }

    pub fn len(&self) -> usize {
        self.words.len()
    }

    pub fn next(&mut self) -> Option<Bytes> {
        self.words.next()
    }

    /// The next word; where an option lacks its argument the syntax is wrong.
    pub fn word(&mut self) -> Result<Bytes, Refusal> {
        self.words.next().ok_or(Refusal::Syntax)
    }

    pub fn key(&mut self) -> Result<Bytes, Refusal> {
        let limit = self.limits.max_key_bytes;
        self.word().and_then(|key| if key.len() > limit { Err(Refusal::KeyTooLarge(limit)) } else { Ok(key) })
    }

    /// All remaining words as keys.
    pub fn keys(&mut self) -> Result<Vec<Bytes>, Refusal> {
        (0..self.len()).map(|_| self.key()).collect()
    }

    pub fn value(&mut self) -> Result<Bytes, Refusal> {
        let limit = self.limits.max_value_bytes;
        self.word().and_then(
            |value| if value.len() > limit { Err(Refusal::ValueTooLarge(limit)) } else { Ok(value) },
        )
    }

    pub fn integer(&mut self) -> Result<i64, Refusal> {
        parse_integer(&self.word()?).ok_or(Refusal::NotAnInteger)
    }

    /// All remaining words, whatever they mean.
    pub fn rest(self) -> Vec<Bytes> {
        self.words.collect()
    }

    /// Refuses anything more.
    pub fn end(mut self) -> Result<(), Refusal> {
        if self.next().is_none() { Ok(()) } else { Err(Refusal::Syntax) }
    }
}

/// Whether `word` is `keyword`, in any case.
pub fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}
