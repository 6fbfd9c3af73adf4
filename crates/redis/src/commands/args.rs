//! Arguments of one request, parsed from the left.

use bytes::Bytes;
use helios_service::glob::Pattern;

use super::super::codec::parse_integer;
use super::super::error::Refusal;
use super::super::server::Limits;
use super::super::table::Spec;

pub struct Args<'a> {
    pub spec: &'static Spec,
    /// Time of this node in milliseconds since the Unix epoch; relative expiries count from it.
    pub now_ms: u64,
    limits: &'a Limits,
    words: std::vec::IntoIter<Bytes>,
}

impl<'a> Args<'a> {
    /// Creates the arguments from the whole request, which has a number of words that `spec` accepts.
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

    /// Takes the next word; a syntax error if there is none.
    pub fn word(&mut self) -> Result<Bytes, Refusal> {
        self.words.next().ok_or(Refusal::Syntax)
    }

    pub fn key(&mut self) -> Result<Bytes, Refusal> {
        let limit = self.limits.max_key_bytes;
        self.word().and_then(|key| if key.len() > limit { Err(Refusal::KeyTooLarge(limit)) } else { Ok(key) })
    }

    /// Takes all remaining words as keys.
    pub fn keys(&mut self) -> Result<Vec<Bytes>, Refusal> {
        (0..self.len()).map(|_| self.key()).collect()
    }

    pub fn value(&mut self) -> Result<Bytes, Refusal> {
        let limit = self.limits.max_value_bytes;
        self.word().and_then(
            |value| if value.len() > limit { Err(Refusal::ValueTooLarge(limit)) } else { Ok(value) },
        )
    }

    /// Takes the next word as a glob pattern.
    pub fn pattern(&mut self) -> Result<Pattern, Refusal> {
        Ok(Pattern::new(&self.word()?)?)
    }

    pub fn integer(&mut self) -> Result<i64, Refusal> {
        parse_integer(&self.word()?).ok_or(Refusal::NotAnInteger)
    }

    /// Takes all remaining words; an error if one is longer than a key or a value may be.
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

    /// Takes all remaining words, unchecked.
    pub fn rest(self) -> Vec<Bytes> {
        self.words.collect()
    }

    /// Returns a syntax error if words remain.
    pub fn end(mut self) -> Result<(), Refusal> {
        if self.next().is_none() { Ok(()) } else { Err(Refusal::Syntax) }
    }
}

/// Whether `word` equals `keyword`, in any case.
pub fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}
