//! Lua 5.1's pattern matching with bounds: a maximum depth, and a meter that checks whether the script has to
//! stop.
//!
//! The matcher of Lua 5.1 recurses once for each quantified item of a pattern, without a limit, and backtracks
//! without any check (ADR 0016). This matcher has the same results, `%z` included: a pattern ends at its first
//! NUL.

use super::meter::{Fault, Meter};

pub const MAX_CAPTURES: usize = 32;
/// Maximum recursion depth: items of a pattern that wait for the rest of it to match; as in Lua 5.2 and later.
pub const MAX_DEPTH: usize = 200;
/// Number of compared bytes that count as one step.
const BYTES_PER_STEP: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Unclosed,
    /// `()`: captures its position.
    Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture<'a> {
    Text(&'a [u8]),
    /// Position, counted from 1.
    Position(usize),
}

pub struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    captures: [(usize, Length); MAX_CAPTURES],
    level: usize,
    depth: usize,
    meter: &'a Meter,
}

impl<'a> Matcher<'a> {
    pub fn new(subject: &'a [u8], pattern: &'a [u8], meter: &'a Meter) -> Self {
        let end = pattern.iter().position(|byte| *byte == 0).unwrap_or(pattern.len());
        let captures = [(0, Length::Unclosed); MAX_CAPTURES];
        Self { subject, pattern: &pattern[..end], captures, level: 0, depth: 0, meter }
    }

    /// Returns start and end of the first match that begins at `from` or, unless `^` anchors it there, later.
    pub fn find(&mut self, from: usize, may_be_anchored: bool) -> Result<Option<(usize, usize)>, Fault> {
        let is_anchored = may_be_anchored && self.pattern.first() == Some(&b'^');
        for start in from..=self.subject.len() {
            self.level = 0;
            if let Some(end) = self.run(start, usize::from(is_anchored))? {
                return Ok(Some((start, end)));
            }
            if is_anchored {
                break;
            }
        }
        Ok(None)
    }

    pub fn is_anchored(&self) -> bool {
        self.pattern.first() == Some(&b'^')
    }

    /// Returns the number of captures of the last match, without the whole match.
    pub fn count(&self) -> usize {
        self.level
    }

    pub fn whole(&self, (start, end): (usize, usize)) -> Capture<'a> {
        Capture::Text(&self.subject[start..end])
    }

    /// Returns capture `number`, counted from 0; without captures in the pattern, 0 is the whole match.
    pub fn capture(&self, number: usize, whole: (usize, usize)) -> Result<Capture<'a>, Fault> {
        if number >= self.level {
            let (start, end) = whole;
            return if number == 0 {
                Ok(Capture::Text(&self.subject[start..end]))
            } else {
                Err(bad_capture())
            };
        }
        let (start, length) = self.captures[number];
        match length {
            Length::Bytes(length) => Ok(Capture::Text(&self.subject[start..start + length])),
            Length::Position => Ok(Capture::Position(start + 1)),
            Length::Unclosed => Err(message("unfinished capture")),
        }
    }

    fn run(&mut self, s: usize, p: usize) -> Result<Option<usize>, Fault> {
        if self.depth == MAX_DEPTH {
            return Err(message("pattern too complex"));
        }
        self.depth += 1;
        let found = self.run_here(s, p);
        self.depth -= 1;
        found
    }

    /// Matches the pattern from `p` on with the subject from `s` on; returns the end of the match.
    fn run_here(&mut self, mut s: usize, mut p: usize) -> Result<Option<usize>, Fault> {
        loop {
            self.meter.step(1)?;
            let Some(&item) = self.pattern.get(p) else { return Ok(Some(s)) };
            match (item, self.pattern.get(p + 1)) {
                (b'(', Some(b')')) => return self.open(s, p + 2, Length::Position),
                (b'(', _) => return self.open(s, p + 1, Length::Unclosed),
                (b')', _) => return self.close(s, p + 1),
                (b'$', None) => return Ok((s == self.subject.len()).then_some(s)),
                (b'%', Some(b'b')) => {
                    let Some(end) = self.balance(s, p + 2)? else { return Ok(None) };
                    (s, p) = (end, p + 4);
                    continue;
                }
                (b'%', Some(b'f')) => {
                    let Some(next) = self.frontier(s, p + 2)? else { return Ok(None) };
                    p = next;
                    continue;
                }
                (b'%', Some(digit)) if digit.is_ascii_digit() => {
                    let Some(end) = self.repeated(s, *digit)? else { return Ok(None) };
                    (s, p) = (end, p + 2);
                    continue;
                }
                _ => {}
            }
            let end = self.class_end(p)?;
            let matches = self.single(s, p, end)?;
            match self.pattern.get(end) {
                Some(b'?') => {
                    if matches && let Some(found) = self.run(s + 1, end + 1)? {
                        return Ok(Some(found));
                    }
                    p = end + 1;
                }
                Some(b'*') => return self.longest(s, p, end),
                Some(b'+') => return if matches { self.longest(s + 1, p, end) } else { Ok(None) },
                Some(b'-') => return self.shortest(s, p, end),
                _ if matches => (s, p) = (s + 1, end),
                _ => return Ok(None),
            }
        }
    }

    fn longest(&mut self, s: usize, p: usize, end: usize) -> Result<Option<usize>, Fault> {
        let mut count = 0;
        while self.single(s + count, p, end)? {
            count += 1;
        }
        for count in (0..=count).rev() {
            if let Some(found) = self.run(s + count, end + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn shortest(&mut self, mut s: usize, p: usize, end: usize) -> Result<Option<usize>, Fault> {
        loop {
            if let Some(found) = self.run(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.single(s, p, end)? {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, length: Length) -> Result<Option<usize>, Fault> {
        if self.level == MAX_CAPTURES {
            return Err(message("too many captures"));
        }
        self.captures[self.level] = (s, length);
        self.level += 1;
        let found = self.run(s, p)?;
        if found.is_none() {
            self.level -= 1;
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Result<Option<usize>, Fault> {
        let open = self.captures[..self.level].iter().rposition(|(_, length)| *length == Length::Unclosed);
        let number = open.ok_or_else(|| message("invalid pattern capture"))?;
        let (start, _) = self.captures[number];
        self.captures[number].1 = Length::Bytes(s - start);
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures[number].1 = Length::Unclosed;
        }
        Ok(found)
    }

    /// Matches `%b()`; `p` is the index of the opening character.
    fn balance(&self, s: usize, p: usize) -> Result<Option<usize>, Fault> {
        let (Some(begin), Some(end)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err(message("unbalanced pattern"));
        };
        if self.subject.get(s) != Some(begin) {
            return Ok(None);
        }
        let mut open = 1;
        for (offset, byte) in self.subject[s + 1..].iter().enumerate() {
            self.meter.step(1)?;
            if byte == end {
                open -= 1;
                if open == 0 {
                    return Ok(Some(s + offset + 2));
                }
            } else if byte == begin {
                open += 1;
            }
        }
        Ok(None)
    }

    /// Matches `%f[set]`; returns the index behind it if the set holds at `s` and not before.
    fn frontier(&self, s: usize, p: usize) -> Result<Option<usize>, Fault> {
        if self.pattern.get(p) != Some(&b'[') {
            return Err(message("missing '[' after '%f' in pattern"));
        }
        let end = self.class_end(p)?;
        let before = if s == 0 { 0 } else { self.subject[s - 1] };
        let here = self.subject.get(s).copied().unwrap_or(0);
        let holds = !self.set(before, p, end - 1)? && self.set(here, p, end - 1)?;
        Ok(holds.then_some(end))
    }

    /// Matches `%1`, a repetition of a capture.
    fn repeated(&self, s: usize, digit: u8) -> Result<Option<usize>, Fault> {
        let number = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let (start, length) = match self.captures[..self.level].get(number).copied() {
            Some((start, Length::Bytes(length))) => (start, length),
            // Lua 5.1 treats a position capture as a text that is longer than any.
            Some((_, Length::Position)) => return Ok(None),
            _ => return Err(bad_capture()),
        };
        self.meter.step(length / BYTES_PER_STEP)?;
        let captured = &self.subject[start..start + length];
        Ok(self.subject[s..].starts_with(captured).then_some(s + length))
    }

    /// Returns the end of the item that begins at `p`, without its quantifier.
    fn class_end(&self, mut p: usize) -> Result<usize, Fault> {
        let missing = || message("malformed pattern (missing ']')");
        match self.pattern[p] {
            b'%' if p + 1 < self.pattern.len() => Ok(p + 2),
            b'%' => Err(message("malformed pattern (ends with '%')")),
            b'[' => {
                let begin = p;
                p += 1;
                if self.pattern.get(p) == Some(&b'^') {
                    p += 1;
                }
                // The first character is a member of the set, even `]`.
                loop {
                    let byte = self.pattern.get(p).ok_or_else(missing)?;
                    p += 1;
                    if *byte == b'%' && p < self.pattern.len() {
                        p += 1;
                    }
                    if *self.pattern.get(p).ok_or_else(missing)? == b']' {
                        break;
                    }
                }
                self.meter.step((p - begin) / BYTES_PER_STEP)?;
                Ok(p + 1)
            }
            _ => Ok(p + 1),
        }
    }

    fn single(&self, s: usize, p: usize, end: usize) -> Result<bool, Fault> {
        self.meter.step(1)?;
        let Some(&byte) = self.subject.get(s) else { return Ok(false) };
        match self.pattern[p] {
            b'.' => Ok(true),
            b'%' => Ok(is_of_class(byte, self.pattern[p + 1])),
            b'[' => self.set(byte, p, end - 1),
            own => Ok(own == byte),
        }
    }

    /// Whether `byte` is in the set between `[` at `p` and `]` at `end`.
    fn set(&self, byte: u8, p: usize, end: usize) -> Result<bool, Fault> {
        self.meter.step((end - p) / BYTES_PER_STEP)?;
        let mut p = p + 1;
        let holds = self.pattern[p] != b'^';
        if !holds {
            p += 1;
        }
        while p < end {
            if self.pattern[p] == b'%' {
                if is_of_class(byte, self.pattern[p + 1]) {
                    return Ok(holds);
                }
                p += 2;
            } else if self.pattern[p + 1] == b'-' && p + 2 < end {
                if (self.pattern[p]..=self.pattern[p + 2]).contains(&byte) {
                    return Ok(holds);
                }
                p += 3;
            } else {
                if self.pattern[p] == byte {
                    return Ok(holds);
                }
                p += 1;
            }
        }
        Ok(!holds)
    }
}

/// Whether `byte` is of a character class, in the C locale.
fn is_of_class(byte: u8, class: u8) -> bool {
    let holds = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | b'\t'..=b'\r'),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    holds != class.is_ascii_uppercase()
}

fn bad_capture() -> Fault {
    message("invalid capture index")
}

fn message(text: &str) -> Fault {
    Fault::Message(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use mlua::{Lua, MultiValue};
    use proptest::prelude::*;

    use super::super::meter::{Halt, Stopped, tests::free_meter};
    use super::*;

    fn found(subject: &[u8], pattern: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
        Matcher::new(subject, pattern, &free_meter()).find(0, true)
    }

    #[test]
    fn pattern_over_the_depth_limit_is_an_error_not_a_stack_overflow() {
        let many = |item: &str| item.repeat(1 << 18);
        let subject = many("a");
        for pattern in [many(".?"), many("a*"), many("a-"), "(".repeat(31) + &many("a?")] {
            assert_eq!(found(subject.as_bytes(), pattern.as_bytes()), Err(message("pattern too complex")));
        }
        assert_eq!(
            found(subject.as_bytes(), ".?".repeat(MAX_DEPTH - 1).as_bytes()),
            Ok(Some((0, MAX_DEPTH - 1)))
        );
    }

    #[test]
    fn backtracking_pattern_stops_on_halt_or_deadline() {
        let subject = [b'a'; 60];
        let pattern = "a*".repeat(30) + "b";
        let halt = Arc::new(Halt::default());
        let meter = Meter::new(Instant::now() + Duration::from_secs(60), halt.clone(), 0);
        let asker = std::thread::spawn(move || halt.ask(Stopped::Killed));
        assert_eq!(Matcher::new(&subject, pattern.as_bytes(), &meter).find(0, true), Err(Fault::Stopped));
        asker.join().unwrap();
        let late = Meter::new(Instant::now() + Duration::from_millis(20), Arc::default(), 0);
        assert_eq!(Matcher::new(&subject, pattern.as_bytes(), &late).find(0, true), Err(Fault::Stopped));
        assert_eq!(late.stopped(), Some(Stopped::TooLong));
    }

    /// Returns the result of Lua's `string.find`, or its error.
    fn of_lua(lua: &Lua, subject: &[u8], pattern: &[u8]) -> Result<Vec<String>, ()> {
        let find: mlua::Function = lua.globals().get::<mlua::Table>("string").unwrap().get("find").unwrap();
        let (subject, pattern) = (lua.create_string(subject).unwrap(), lua.create_string(pattern).unwrap());
        let values: MultiValue = find.call((subject, pattern)).map_err(drop)?;
        Ok(values.iter().filter(|value| !value.is_nil()).map(|value| format!("{value:?}")).collect())
    }

    fn of_matcher(lua: &Lua, subject: &[u8], pattern: &[u8]) -> Result<Vec<String>, ()> {
        let meter = free_meter();
        let mut matcher = Matcher::new(subject, pattern, &meter);
        let Some(whole) = matcher.find(0, true).map_err(drop)? else { return Ok(Vec::new()) };
        let numbers =
            [whole.0 + 1, whole.1].map(|number| format!("{:?}", mlua::Value::Integer(number as i64)));
        let captures = (0..matcher.count()).map(|number| {
            Ok(match matcher.capture(number, whole).map_err(drop)? {
                Capture::Text(text) => format!("{:?}", mlua::Value::String(lua.create_string(text).unwrap())),
                Capture::Position(at) => format!("{:?}", mlua::Value::Integer(at as i64)),
            })
        });
        numbers.into_iter().map(Ok).chain(captures).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn matcher_agrees_with_lua(
            subject in "[abA1 .()\\-]{0,12}",
            pattern in "(\\^)?([ab.]|%[aAdslpwx%1bf]|\\[\\^?[ab%d\\]-]{0,3}\\]?|[()*+?$-]|\\(a|\\)|%b\\(\\)|%f\\[%a\\]){0,7}",
        ) {
            let lua = Lua::new();
            let (expected, ours) = (of_lua(&lua, subject.as_bytes(), pattern.as_bytes()), of_matcher(&lua, subject.as_bytes(), pattern.as_bytes()));
            // Without a special character Lua searches for plain text.
            prop_assume!(pattern.bytes().any(|byte| b"^$*+?.([%-".contains(&byte)));
            prop_assert_eq!(expected, ours, "{:?} {:?}", subject, pattern);
        }
    }
}
