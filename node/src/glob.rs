//! Redis's glob patterns: `*`, `?`, `[a-c]`, `[^x]`, `\` to quote.

/// Whether `text` as a whole matches. Takes time `O(pattern * text)` at worst, no recursion.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut unread) = (pattern, text);
    // Where to go on, one byte of text later, when what follows the last `*` did not match.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after @ ..] = rest {
            rest = after;
            retry = Some((after, unread));
            continue;
        }
        let step = match unread {
            [] if rest.is_empty() => return true,
            [] => return false,
            [byte, ..] => match_one(rest, *byte),
        };
        match (step, retry) {
            (Some(after), _) => {
                rest = after;
                unread = &unread[1..];
            }
            (None, Some((after_star, from))) => {
                let Some((_, from)) = from.split_first() else { return false };
                rest = after_star;
                unread = from;
                retry = Some((after_star, from));
            }
            (None, None) => return false,
        }
    }
}

/// ASCII case-insensitive [`matches`], for names of options.
pub fn matches_ignoring_case(pattern: &[u8], text: &[u8]) -> bool {
    matches(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase())
}

/// The bytes every match begins with.
pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    &pattern[..end]
}

/// Pattern after its first element, if that element matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', class @ ..] => match_class(class, byte),
        [b'\\', quoted, rest @ ..] => (*quoted == byte).then_some(rest),
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// As in Redis, a class that is never closed ends with the pattern.
fn match_class(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [] | [b']', ..] => break,
            [b'\\', quoted, tail @ ..] => {
                found |= *quoted == byte;
                tail
            }
            [first, b'-', last, tail @ ..] => {
                found |= (*first.min(last)..=*first.max(last)).contains(&byte);
                tail
            }
            [literal, tail @ ..] => {
                found |= *literal == byte;
                tail
            }
        }
    }
    (found != negated).then_some(rest.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_the_redis_documentation() {
        let cases = [
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"[\]]", "]", true),
            ("[a", "a", true),
            ("*", "", true),
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
    fn many_stars_do_not_explode() {
        let text = [b'a'; 2000];
        assert!(!matches(
            "a*".repeat(500).as_bytes().iter().chain(b"b").copied().collect::<Vec<_>>().as_slice(),
            &text
        ));
    }

    #[test]
    fn the_literal_prefix_ends_at_the_first_special_byte() {
        for (pattern, prefix) in [("user:*", "user:"), ("abc", "abc"), ("*", ""), (r"a\*", "a")] {
            assert_eq!(literal_prefix(pattern.as_bytes()), prefix.as_bytes());
        }
    }
}
