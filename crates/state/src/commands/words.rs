//! A parser of a command's arguments, from left to right.

use bytes::Bytes;

use super::super::command::{Failure, invalid, not_an_integer, parse_integer};

#[derive(Clone)]
pub struct Words<'a>(&'a [Bytes]);

impl<'a> Words<'a> {
    pub fn new(words: &'a [Bytes]) -> Self {
        Self(words)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn next(&mut self) -> Option<&'a Bytes> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Takes the next argument; a syntax error if there is none.
    pub fn word(&mut self) -> Result<&'a Bytes, Failure> {
        self.next().ok_or_else(syntax)
    }

    /// Takes the next `count` arguments.
    pub fn several(&mut self, count: usize) -> Result<&'a [Bytes], Failure> {
        if count > self.0.len() {
            return Err(syntax());
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    pub fn rest(self) -> &'a [Bytes] {
        self.0
    }

    /// Takes the next argument if it is `keyword`, in any case; returns whether it was.
    pub fn takes(&mut self, keyword: &str) -> bool {
        let is_next = self.0.first().is_some_and(|word| is(word, keyword));
        if is_next {
            self.0 = &self.0[1..];
        }
        is_next
    }

    pub fn integer(&mut self) -> Result<i64, Failure> {
        parse_integer(self.word()?).ok_or_else(no_integer)
    }

    /// Takes a count, which is not negative.
    pub fn positive(&mut self) -> Result<usize, Failure> {
        usize::try_from(self.integer()?).map_err(|_| invalid("value is out of range, must be positive"))
    }

    /// Takes `numkeys key [key ...]`, at least one key.
    pub fn counted_keys(&mut self) -> Result<&'a [Bytes], Failure> {
        let count = self.integer().ok().filter(|count| *count > 0);
        let count = count.ok_or_else(|| invalid("numkeys should be greater than 0"))? as usize;
        if count > self.0.len() {
            return Err(invalid("Number of keys can't be greater than number of args"));
        }
        self.several(count)
    }

    /// Fails with a syntax error if there are further arguments.
    pub fn end(&self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(syntax()) }
    }
}

pub fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

pub fn syntax() -> Failure {
    invalid("syntax error")
}

pub fn no_integer() -> Failure {
    not_an_integer("value is not an integer or out of range")
}

pub fn no_double() -> Failure {
    invalid("value is not a valid float")
}
