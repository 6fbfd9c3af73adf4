//! The arguments of one request, taken from the left.

use bytes::Bytes;
use helios_service::glob::Pattern;

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

    /// The next word as a glob pattern.
    pub fn pattern(&mut self) -> Result<Pattern, Refusal> {
        Ok(Pattern::new(&self.word()?)?)
    }

    pub fn integer(&mut self) -> Result<i64, Refusal> {
        parse_integer(&self.word()?).ok_or(Refusal::NotAnInteger)
    }

    /// All remaining words, where none is longer than a key or a value may be.
    pub fn checked(self) -> Result<Vec<Bytes>, Refusal> {
        let Limits { max_key_bytes, max_value_bytes, .. } = *self.limits;
        let name_words = self.spec.name_words();
        let keys = self.spec.keys.positions(self.words.len() + name_words);
        let words = self.rest();
        for (position, word) in words.iter().enumerate() {
            if word.len() > max_value_bytes {
                return Err(Refusal::ValueTooLarge(max_value_bytes));
            }
            if word.len() > max_key_bytes && keys.clone().any(|key| key == position + name_words) {
                return Err(Refusal::KeyTooLarge(max_key_bytes));
            }
        }
        Ok(words)
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

/// `word` is `keyword`, upper or lower case.
pub fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}
