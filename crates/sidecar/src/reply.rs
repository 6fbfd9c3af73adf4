//! Boundaries of replies in the bytes of a member, RESP2 or RESP3, found as the bytes arrive (pure).

/// Longest simple string, error, number or header, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Longest first element of an aggregate, or bulk string, in bytes, that [`Prelude`] shows: a token fits.
const MAX_WORD_BYTES: usize = 160;

/// The bytes of a member are no replies; the connection to it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Begin of a reply: what decides where its bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prelude<'a> {
    pub kind: u8,
    /// Line of an error without `-`, content of a short bulk string, or the first element of an array or push if it is a
    /// short bulk string; else empty.
    pub word: &'a [u8],
}

impl Prelude<'_> {
    pub fn is_error(&self) -> bool {
        self.kind == b'-'
    }
}

/// Returns the begin of the reply that `bytes` start with; `None` if more bytes are needed.
///
/// # Errors
/// The bytes start with no reply.
pub fn prelude(bytes: &[u8]) -> Result<Option<Prelude<'_>>, Malformed> {
    let Some(line) = line(bytes)? else { return Ok(None) };
    let (kind, text) = (line[0], &line[1..line.len() - 2]);
    let none = Ok(Some(Prelude { kind, word: &[] }));
    match kind {
        b'-' => Ok(Some(Prelude { kind, word: text })),
        b'$' => match word(bytes)? {
            Some(word) => Ok(Some(Prelude { kind, word })),
            None => Ok(None),
        },
        b'*' | b'>' if number(text)? > 0 => {
            let rest = &bytes[line.len()..];
            match rest.first() {
                None => Ok(None),
                Some(b'$') => match word(rest)? {
                    Some(word) => Ok(Some(Prelude { kind, word })),
                    None => Ok(None),
                },
                Some(_) => none,
            }
        }
        _ => none,
    }
}

/// Returns the content of the bulk string that `bytes` start with, empty if it is long; `None` if more bytes are needed.
fn word(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some(header) = line(bytes)? else { return Ok(None) };
    let length = match usize::try_from(number(&header[1..header.len() - 2])?) {
        Ok(length) if length <= MAX_WORD_BYTES => length,
        _ => return Ok(Some(&[])),
    };
    let end = header.len() + length;
    Ok((bytes.len() >= end + 2).then(|| &bytes[header.len()..end]))
}

/// Returns the line, with its end, that `bytes` start with.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match bytes.iter().take(MAX_LINE_BYTES).position(|byte| *byte == b'\n') {
        Some(end) if end >= 2 && bytes[end - 1] == b'\r' => Ok(Some(&bytes[..=end])),
        Some(_) => Err(Malformed),
        None if bytes.len() >= MAX_LINE_BYTES => Err(Malformed),
        None => Ok(None),
    }
}

fn number(text: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

/// Scanner of one reply, which may arrive in any pieces.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Elements that have not begun; 0 before the first and after the last.
    missing: u64,
    /// Bytes that are left of a bulk string and its line end.
    bulk: usize,
    has_begun: bool,
    /// The last integer of the reply; in a reply to SUBSCRIBE, the number of subscriptions.
    pub last_integer: i64,
}

impl Scanner {
    /// Consumes bytes of the reply; returns their number, and whether they complete it.
    ///
    /// # Errors
    /// The bytes are no reply.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        if !self.has_begun {
            (self.has_begun, self.missing) = (true, 1);
        }
        let mut at = 0;
        loop {
            if self.bulk > 0 {
                let taken = self.bulk.min(bytes.len() - at);
                (self.bulk, at) = (self.bulk - taken, at + taken);
                if self.bulk > 0 {
                    return Ok((at, false));
                }
            }
            if self.missing == 0 {
                return Ok((at, true));
            }
            let Some(line) = line(&bytes[at..])? else { return Ok((at, false)) };
            at += line.len();
            self.element(line[0], &line[1..line.len() - 2])?;
        }
    }

    fn element(&mut self, kind: u8, text: &[u8]) -> Result<(), Malformed> {
        let count = || Ok(u64::try_from(number(text)?).unwrap_or(0));
        self.missing -= 1;
        match kind {
            b'+' | b'-' | b'_' | b'#' | b',' | b'(' => {}
            b':' => self.last_integer = number(text)?,
            b'$' | b'=' | b'!' => {
                // A negative length is a null.
                if let Ok(length) = usize::try_from(number(text)?) {
                    self.bulk = length.checked_add(2).ok_or(Malformed)?;
                }
            }
            b'*' | b'~' | b'>' => self.missing = self.missing.checked_add(count()?).ok_or(Malformed)?,
            b'%' => {
                let count = count()?.checked_mul(2).ok_or(Malformed)?;
                self.missing = self.missing.checked_add(count).ok_or(Malformed)?;
            }
            // An attribute stands before the element that it describes.
            b'|' => {
                let count = count()?.checked_mul(2).and_then(|count| count.checked_add(1));
                self.missing = count.and_then(|count| self.missing.checked_add(count)).ok_or(Malformed)?;
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: [&str; 13] = [
        "+OK\r\n",
        "-ERR no\r\n",
        ":-7\r\n",
        "$-1\r\n",
        "$0\r\n\r\n",
        "$5\r\na\r\nbc\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*2\r\n*2\r\n:1\r\n$1\r\nx\r\n$-1\r\n",
        "%1\r\n$1\r\nk\r\n~2\r\n,1.5\r\n#t\r\n",
        ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
        "|1\r\n+ttl\r\n:3\r\n*1\r\n_\r\n",
        "=6\r\ntxt:hi\r\n",
    ];

    #[test]
    fn replies_end_where_they_end_in_pieces_of_any_size() {
        let all = REPLIES.concat().into_bytes();
        for piece in 1..=all.len() {
            let (mut buffer, mut ends, mut consumed) = (Vec::new(), Vec::new(), 0);
            let mut scanner = Scanner::default();
            for chunk in all.chunks(piece) {
                buffer.extend_from_slice(chunk);
                loop {
                    let (taken, done) = scanner.advance(&buffer).unwrap();
                    buffer.drain(..taken);
                    consumed += taken;
                    if !done {
                        break;
                    }
                    ends.push(consumed);
                    scanner = Scanner::default();
                    if buffer.is_empty() {
                        break;
                    }
                }
            }
            let mut end = 0;
            let expected: Vec<_> = REPLIES
                .iter()
                .map(|reply| {
                    end += reply.len();
                    end
                })
                .collect();
            assert_eq!(ends, expected, "pieces of {piece} bytes");
        }
    }

    #[test]
    fn prelude_shows_the_kind_and_the_first_word() {
        let shown = |bytes| prelude(bytes).unwrap().map(|found| (found.kind, found.word.to_vec()));
        assert_eq!(shown(b"-LOADING wait\r\n"), Some((b'-', b"LOADING wait".to_vec())));
        assert_eq!(shown(b"*3\r\n$7\r\nmessage\r\n"), Some((b'*', b"message".to_vec())));
        assert_eq!(shown(b">2\r\n:1\r\n"), Some((b'>', vec![])));
        assert_eq!(shown(b"$200\r\nx"), Some((b'$', vec![])));
        assert_eq!(shown(b"*-1\r\n"), Some((b'*', vec![])));
        for partial in ["", "-LOAD", "*3\r\n", "*3\r\n$7\r\nmess", "$3\r\nab"] {
            assert_eq!(shown(partial.as_bytes()), None, "{partial}");
        }
        for wrong in ["\r\n", "*x\r\n", "x\n"] {
            assert!(prelude(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_reply_are_refused() {
        for wrong in ["HTTP/1.1 400\r\n", "*1\r\nx\r\n", "$x\r\n", "*99999999999999999999\r\n", "\r\n"] {
            assert!(Scanner::default().advance(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
