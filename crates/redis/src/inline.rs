//! Splits an inline command into arguments with the quoting of redis-cli (`sdssplitargs`).

use bytes::Bytes;

/// Splits `line`; `None` if quotes are unbalanced or a closing quote is not followed by a blank.
pub fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut arguments = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let mut argument = Vec::new();
        rest = take_argument(rest, &mut argument)?.trim_ascii_start();
        arguments.push(argument.into());
    }
    Some(arguments)
}

fn take_argument<'a>(mut rest: &'a [u8], argument: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return Some(rest),
            [blank, ..] if blank.is_ascii_whitespace() || *blank == 0 => return Some(&rest[1..]),
            [b'"', quoted @ ..] => return end_of_quotes(take_double_quoted(quoted, argument)?),
            [b'\'', quoted @ ..] => return end_of_quotes(take_single_quoted(quoted, argument)?),
            [byte, tail @ ..] => {
                argument.push(*byte);
                tail
            }
        }
    }
}

fn end_of_quotes(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

fn take_double_quoted<'a>(mut rest: &'a [u8], argument: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'"', tail @ ..] => return Some(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                argument.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'\\', escaped, tail @ ..] => {
                argument.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                tail
            }
            [byte, tail @ ..] => {
                argument.push(*byte);
                tail
            }
        }
    }
}

fn take_single_quoted<'a>(mut rest: &'a [u8], argument: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'\'', tail @ ..] => return Some(tail),
            [b'\\', b'\'', tail @ ..] => {
                argument.push(b'\'');
                tail
            }
            [byte, tail @ ..] => {
                argument.push(*byte);
                tail
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<Vec<u8>>> {
        Some(split(line.as_bytes())?.iter().map(|word| word.to_vec()).collect())
    }

    #[test]
    fn quotes_are_parsed_as_in_redis() {
        let cases: [(&str, &[&[u8]]); 7] = [
            ("  set  a   b ", &[b"set", b"a", b"b"]),
            (r#"set "a b" 'c d'"#, &[b"set", b"a b", b"c d"]),
            (r#""\x41\n\t\"\\""#, &[b"A\n\t\"\\"]),
            (r"'it\'s \n'", &[br"it's \n"]),
            (r#"a"b c""#, &[b"ab c"]),
            (r#""" ''"#, &[b"", b""]),
            ("", &[]),
        ];
        for (line, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|word| word.to_vec()).collect();
            assert_eq!(words(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn unbalanced_quotes_are_rejected() {
        for line in [r#"set "a"#, "set 'a", r#""a"b"#, "'a'b", r#""a\""#] {
            assert_eq!(words(line), None, "{line}");
        }
    }
}
