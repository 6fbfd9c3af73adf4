//! Decodes requests, arrays of bulk strings or inline commands, as their bytes arrive.
//!
//! Arguments are slices of the input, not copies. A declared length allocates nothing: memory
//! grows only with bytes received, up to [`DecodeLimits::request_bytes`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::inline;

/// Maximum length of an inline command or a header line; Redis has the same.
const MAX_LINE_BYTES: usize = 64 * 1024;
const MAX_ARGUMENTS: i64 = 1024 * 1024;
/// Limits for a client that has not authenticated; Redis has the same.
const MAX_ARGUMENTS_BEFORE_AUTH: i64 = 10;
const MAX_BULK_BYTES_BEFORE_AUTH: usize = 16 * 1024;

/// Malformed request; the connection is closed after the error reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    #[error("Protocol error: too big mbulk count string")]
    LongMultibulkCount,
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    #[error("Protocol error: too big bulk count string")]
    LongBulkCount,
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("Protocol error: expected CRLF after a bulk string")]
    ExpectedLineEnd,
    #[error("Protocol error: request exceeds {0} bytes")]
    RequestTooLarge(usize),
    #[error("Protocol error: too big inline request")]
    LongInline,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Limit on one request: all arguments with their headers, in bytes.
    pub request_bytes: usize,
    /// Whether the client has authenticated; if not, only as much is accepted as `AUTH` and `HELLO` need.
    pub authenticated: bool,
}

/// Decoder of one connection; keeps the part of an incomplete request that it has decoded.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    missing_arguments: i64,
    arguments: Vec<Bytes>,
    /// Number of leading `arguments` that are already copied and keep no input chunk in memory.
    owned: usize,
    /// Length of the bulk string whose header was decoded but whose content was not.
    bulk: Option<usize>,
    bytes: usize,
}

impl Decoder {
    /// Whether part of a request was already taken from the input.
    pub fn is_within_request(&self) -> bool {
        self.partial.is_some()
    }

    /// Returns the bytes that the incomplete request holds.
    pub fn held_bytes(&self) -> usize {
        let held = |partial: &Partial| partial.bytes + partial.arguments.capacity() * size_of::<Bytes>();
        self.partial.as_ref().map_or(0, held)
    }

    /// Takes the next complete request from `input`; `None` when more bytes are needed. A request has at least
    /// one argument: empty lines and empty arrays are skipped.
    pub fn decode(
        &mut self,
        input: &mut BytesMut,
        limits: DecodeLimits,
    ) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            if let Some(partial) = &mut self.partial {
                if !partial.fill(input, limits)? {
                    partial.own();
                    return Ok(None);
                }
                return Ok(self.partial.take().map(|partial| partial.arguments));
            }
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(line) = take_header(input, ProtocolError::LongMultibulkCount)? else {
                        return Ok(None);
                    };
                    self.partial = Partial::start(&line, limits)?;
                }
                Some(_) => match take_inline(input)? {
                    None => return Ok(None),
                    Some(arguments) if arguments.is_empty() => {}
                    Some(arguments) => return Ok(Some(arguments)),
                },
            }
        }
    }
}

/// Copies `words` into one block of their size: slices would keep the chunks that they were read in.
pub fn own(words: &mut [Bytes]) {
    let mut block = BytesMut::with_capacity(words.iter().map(Bytes::len).sum());
    words.iter().for_each(|word| block.put_slice(word));
    let mut block = block.freeze();
    words.iter_mut().for_each(|word| *word = block.split_to(word.len()));
}

impl Partial {
    /// Copies the arguments received so far: the rest may arrive much later, one byte at a time.
    fn own(&mut self) {
        own(&mut self.arguments[self.owned..]);
        self.owned = self.arguments.len();
    }

    fn start(line: &[u8], limits: DecodeLimits) -> Result<Option<Self>, ProtocolError> {
        let count = parse_integer(line)
            .filter(|count| *count <= MAX_ARGUMENTS)
            .ok_or(ProtocolError::InvalidMultibulkLength)?;
        if !limits.authenticated && count > MAX_ARGUMENTS_BEFORE_AUTH {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        let partial =
            Self { missing_arguments: count, arguments: Vec::new(), owned: 0, bulk: None, bytes: line.len() };
        Ok((count > 0).then_some(partial))
    }

    /// Decodes arguments; returns true when the request is complete.
    fn fill(&mut self, input: &mut BytesMut, limits: DecodeLimits) -> Result<bool, ProtocolError> {
        while self.missing_arguments > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => match self.bulk_header(input, limits)? {
                    Some(length) => *self.bulk.insert(length),
                    None => return Ok(false),
                },
            };
            if input.len() < length + 2 {
                return Ok(false);
            }
            let argument = input.split_to(length).freeze();
            if !input.starts_with(b"\r\n") {
                return Err(ProtocolError::ExpectedLineEnd);
            }
            input.advance(2);
            self.arguments.push(argument);
            self.missing_arguments -= 1;
            self.bulk = None;
        }
        Ok(true)
    }

    fn bulk_header(
        &mut self,
        input: &mut BytesMut,
        limits: DecodeLimits,
    ) -> Result<Option<usize>, ProtocolError> {
        if let Some(first) = input.first().filter(|first| **first != b'$') {
            return Err(ProtocolError::ExpectedBulk(*first));
        }
        let Some(line) = take_header(input, ProtocolError::LongBulkCount)? else {
            return Ok(None);
        };
        let length = parse_integer(&line)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= limits.request_bytes)
            .ok_or(ProtocolError::InvalidBulkLength)?;
        if !limits.authenticated && length > MAX_BULK_BYTES_BEFORE_AUTH {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        self.bytes += line.len() + length + 5;
        if self.bytes > limits.request_bytes {
            return Err(ProtocolError::RequestTooLarge(limits.request_bytes));
        }
        Ok(Some(length))
    }
}

/// Takes a header line and returns the text between its type byte and CRLF.
fn take_header(input: &mut BytesMut, too_long: ProtocolError) -> Result<Option<BytesMut>, ProtocolError> {
    let searched = input.len().min(MAX_LINE_BYTES + 1);
    let Some(end) = input[..searched].iter().position(|byte| *byte == b'\r') else {
        return if input.len() > MAX_LINE_BYTES { Err(too_long) } else { Ok(None) };
    };
    if input.len() < end + 2 {
        return Ok(None);
    }
    let mut line = input.split_to(end);
    line.advance(1);
    input.advance(2);
    Ok(Some(line))
}

fn take_inline(input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
    let searched = input.len().min(MAX_LINE_BYTES + 1);
    let Some(end) = input[..searched].iter().position(|byte| *byte == b'\n') else {
        return if input.len() > MAX_LINE_BYTES { Err(ProtocolError::LongInline) } else { Ok(None) };
    };
    let line = input.split_to(end + 1);
    let line = &line[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    inline::split(line).map(Some).ok_or(ProtocolError::UnbalancedQuotes)
}

/// Parses a decimal integer exactly as Redis does: no plus sign, blanks or leading zeros.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests;
