//! Redis's glob patterns: `*`, `?`, `[a-c]`, `[^x]`, `\` to quote. A pattern is compiled once; the cost of a match
//! beyond one pass over the text is charged to [`Steps`].

use helios_proto::v1::ErrorCode;

use helios_proto::Error;

/// Limit of a pattern's length, bytes.
pub const MAX_PATTERN_BYTES: usize = 8 << 10;
/// Limit of steps beyond one pass over each text, for one command or one published message: tens of milliseconds.
pub const MAX_STEPS: u64 = 1 << 24;

/// An item of a compiled pattern: below 256 a literal byte, from `FIRST_CLASS` on the index of a class.
type Item = u16;
const ANY_BYTE: Item = 256;
const STAR: Item = 257;
const FIRST_CLASS: Item = 258;

/// Set of the bytes that a class accepts, one bit each.
type Class = [u64; 4];

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    items: Box<[Item]>,
    classes: Box<[Class]>,
}

/// Error: the pattern is longer than [`MAX_PATTERN_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pattern exceeds maximum allowed size ({MAX_PATTERN_BYTES} bytes)")]
pub struct TooLong;

/// Error: the steps are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pattern takes more than {MAX_STEPS} steps to match: write fewer * in it, or longer literals between them \
     (the limit is fixed)"
)]
pub struct Exhausted;

impl From<Exhausted> for Error {
    fn from(exhausted: Exhausted) -> Self {
        Self::new(ErrorCode::BudgetExceeded, exhausted.to_string())
    }
}

/// Number of steps that are left.
#[derive(Debug)]
pub struct Steps(u64);

impl Default for Steps {
    fn default() -> Self {
        Self(MAX_STEPS)
    }
}

impl Steps {
    fn take(&mut self) -> Result<(), Exhausted> {
        self.0 = self.0.checked_sub(1).ok_or(Exhausted)?;
        Ok(())
    }
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The pattern is longer than [`MAX_PATTERN_BYTES`].
    pub fn new(pattern: &[u8]) -> Result<Self, TooLong> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(TooLong);
        }
        let (mut items, mut classes) = (Vec::new(), Vec::new());
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            match (first, after) {
                // Consecutive stars mean the same as one.
                (b'*', _) if items.last() == Some(&STAR) => {}
                (b'*', _) => items.push(STAR),
                (b'?', _) => items.push(ANY_BYTE),
                (b'[', _) => {
                    let (class, after) = compile_class(after);
                    // There are at most half as many classes as bytes.
                    items.push(FIRST_CLASS + classes.len() as Item);
                    classes.push(class);
                    rest = after;
                }
                (b'\\', [quoted, after @ ..]) => {
                    items.push(Item::from(*quoted));
                    rest = after;
                }
                (literal, _) => items.push(Item::from(*literal)),
            }
        }
        Ok(Self { items: items.into(), classes: classes.into() })
    }

    /// Compiles a pattern for names of options, which are compared in ASCII lower case.
    ///
    /// # Errors
    /// Those of [`Pattern::new`].
    pub fn ignoring_case(pattern: &[u8]) -> Result<Self, TooLong> {
        Self::new(&pattern.to_ascii_lowercase())
    }

    /// Whether `text` as a whole matches. One pass over `text` is free, as the caller was charged for the text already;
    /// each step beyond it is charged.
    ///
    /// # Errors
    /// The `steps` are used up.
    pub fn matches(&self, text: &[u8], steps: &mut Steps) -> Result<bool, Exhausted> {
        let (mut item, mut at) = (0, 0);
        // Item and position to continue at, one byte of text later, if the items after the last `*` do not match.
        let mut retry: Option<(usize, usize)> = None;
        let mut free = 2 * text.len() + self.items.len();
        loop {
            let wanted = self.items.get(item).copied();
            if wanted == Some(STAR) {
                item += 1;
                if item == self.items.len() {
                    return Ok(true);
                }
                retry = Some((item, at));
                continue;
            }
            let Some(byte) = text.get(at) else { return Ok(wanted.is_none()) };
            match free.checked_sub(1) {
                Some(less) => free = less,
                None => steps.take()?,
            }
            if wanted.is_some_and(|wanted| self.accepts(wanted, *byte)) {
                (item, at) = (item + 1, at + 1);
            } else if let Some((after_star, from)) = retry {
                (item, at) = (after_star, from + 1);
                retry = Some((after_star, at));
            } else {
                return Ok(false);
            }
        }
    }

    /// Returns the bytes that every match begins with.
    pub fn literal_prefix(&self) -> Vec<u8> {
        self.items.iter().map_while(|item| u8::try_from(*item).ok()).collect()
    }

    /// Returns the size of the compiled pattern in memory, bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.items) + size_of_val(&*self.classes)
    }

    fn accepts(&self, item: Item, byte: u8) -> bool {
        match item {
            ANY_BYTE => true,
            literal if literal < ANY_BYTE => literal == Item::from(byte),
            class => {
                let class = self.classes.get(usize::from(class - FIRST_CLASS));
                class.is_some_and(|class| class[usize::from(byte / 64)] & (1 << (byte % 64)) != 0)
            }
        }
    }
}

/// Compiles the class between `[` and `]`; also returns the rest of the pattern. As in Redis, a class that is never
/// closed ends with the pattern.
fn compile_class(class: &[u8]) -> (Class, &[u8]) {
    let (negated, mut rest) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut accepted: Class = [0; 4];
    let mut accept = |byte: u8| accepted[usize::from(byte / 64)] |= 1 << (byte % 64);
    loop {
        rest = match rest {
            [] | [b']', ..] => break,
            [b'\\', quoted, tail @ ..] => {
                accept(*quoted);
                tail
            }
            [first, b'-', last, tail @ ..] => {
                (*first.min(last)..=*first.max(last)).for_each(&mut accept);
                tail
            }
            [literal, tail @ ..] => {
                accept(*literal);
                tail
            }
        }
    }
    if negated {
        accepted = accepted.map(|bits| !bits);
    }
    (accepted, rest.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &[u8]) -> Pattern {
        Pattern::new(text).unwrap()
    }

    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        super::Pattern::new(pattern).unwrap().matches(text, &mut Steps::default()).unwrap()
    }

    #[test]
    fn patterns_match_as_in_the_redis_documentation() {
        let cases = [
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"a\", r"a\", true),
            (r"[\]]", "]", true),
            ("[a", "a", true),
            ("[]a", "a", false),
            ("*", "", true),
            ("**", "a", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("*foo", "foofoo", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn every_byte_is_in_a_class_or_in_its_negation() {
        for byte in 0..=u8::MAX {
            let expected = byte == b'0' || (0x80..=0x90).contains(&byte);
            let class = [b'[', b'0', 0x80, b'-', 0x90, b']'];
            let negation = [b'[', b'^', b'0', 0x80, b'-', 0x90, b']'];
            assert_eq!(matches(&class, &[byte]), expected, "{byte}");
            assert_eq!(matches(&negation, &[byte]), !expected, "{byte}");
        }
    }

    #[test]
    fn a_pattern_above_the_limit_is_refused_before_it_is_compiled() {
        assert!(Pattern::new(&[b'a'; MAX_PATTERN_BYTES]).is_ok());
        assert_eq!(Pattern::new(&[b'a'; MAX_PATTERN_BYTES + 1]), Err(TooLong));
        assert_eq!(Pattern::ignoring_case(&[b'A'; MAX_PATTERN_BYTES + 1]), Err(TooLong));
    }

    #[test]
    fn a_long_class_costs_one_step_for_each_byte() {
        let class = [b"*[", &[b'x'; 8_000][..], b"]q"].concat();
        let mut steps = Steps(0);
        assert_eq!(pattern(&class).matches(&[b'a'; 60_000], &mut steps), Ok(false));
    }

    #[test]
    fn backtracking_is_charged_and_ends_with_an_error() {
        // From each byte of the text the literal matches up to its last byte only.
        let costly = [b"*", &[b'a'; 4_000][..], b"b"].concat();
        let mut steps = Steps::default();
        assert_eq!(pattern(&costly).matches(&[b'a'; 60_000], &mut steps), Err(Exhausted));
        assert_eq!(steps.0, 0);
        // Steps that other texts of the same command used up are gone.
        assert_eq!(pattern(b"*aab").matches(&[b'a'; 100], &mut steps), Err(Exhausted));
        assert_eq!(pattern(b"user:*").matches(b"user:1", &mut steps), Ok(true));
    }

    #[test]
    fn many_stars_do_not_cause_exponential_matching() {
        let many = [&b"a*".repeat(500)[..], b"b"].concat();
        assert!(!matches(&many, &[b'a'; 2000]));
    }

    #[test]
    fn the_literal_prefix_ends_at_the_first_special_byte() {
        for (text, prefix) in [("user:*", "user:"), ("abc", "abc"), ("*", ""), (r"a\*b[c]", "a*b")] {
            assert_eq!(pattern(text.as_bytes()).literal_prefix(), prefix.as_bytes());
        }
    }

    #[test]
    fn the_compiled_form_is_a_bounded_multiple_of_the_pattern() {
        let worst = b"[]".repeat(MAX_PATTERN_BYTES / 2);
        assert!(pattern(&worst).bytes() <= 17 * MAX_PATTERN_BYTES);
    }
}
