//! Replies and their encoding in RESP2 and RESP3.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use helios_state::commands::double_text;

/// Bytes charged for each part of a reply beside its content: its size in memory, which exceeds its longest
/// header on the wire.
pub const PART_BYTES: usize = 48;
const _: () = assert!(size_of::<Frame>() <= PART_BYTES);

/// Protocol version of a connection; `HELLO` changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

impl Protocol {
    pub fn version(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// One reply. Commands build the RESP3 shape; for RESP2 it is encoded as Redis does.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    Simple(Cow<'static, str>),
    /// Error code and text, e.g. `ERR syntax error`.
    Error(Cow<'static, str>),
    Integer(i64),
    Bulk(Bytes),
    Null,
    /// Null array in RESP2, null in RESP3.
    NullArray,
    Array(Vec<Frame>),
    Map(Vec<(Frame, Frame)>),
    /// Pairs: arrays of two elements in RESP3, a flat array in RESP2.
    Pairs(Vec<(Frame, Frame)>),
    Set(Vec<Frame>),
    Push(Vec<Frame>),
    /// Several replies to one request.
    Sequence(Vec<Frame>),
    Double(f64),
    Boolean(bool),
    BigNumber(String),
    /// Text for display, e.g. `INFO`, with the three letters of its format.
    Verbatim([u8; 3], Bytes),
}

impl Frame {
    pub const OK: Frame = Frame::Simple(Cow::Borrowed("OK"));

    pub fn bulk(text: impl Into<Bytes>) -> Self {
        Self::Bulk(text.into())
    }

    /// Returns a bulk string of a fixed text.
    pub fn text(text: &'static str) -> Self {
        Self::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// Returns a text for display, in the format `txt`.
    pub fn verbatim(text: String) -> Self {
        Self::Verbatim(*b"txt", text.into())
    }

    pub fn error(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(text.into())
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Returns the bytes charged for the reply until it is sent: its content, and [`PART_BYTES`] for each part.
    pub fn cost(&self) -> usize {
        let inner: usize = match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) | Self::Sequence(items) => {
                items.iter().map(Self::cost).sum()
            }
            Self::Map(pairs) | Self::Pairs(pairs) => {
                pairs.iter().map(|(key, value)| key.cost() + value.cost()).sum()
            }
            _ => 0,
        };
        self.own_cost() + inner
    }

    /// Returns the number of parts of the reply, itself included.
    pub fn parts(&self) -> usize {
        1 + match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) | Self::Sequence(items) => {
                items.iter().map(Self::parts).sum()
            }
            Self::Map(pairs) | Self::Pairs(pairs) => {
                pairs.iter().map(|(key, value)| key.parts() + value.parts()).sum()
            }
            _ => 0,
        }
    }

    /// Returns the cost without that of nested parts.
    pub(super) fn own_cost(&self) -> usize {
        PART_BYTES
            + match self {
                Self::Simple(text) | Self::Error(text) => text.len(),
                Self::Bulk(bytes) => bytes.len(),
                Self::BigNumber(text) => text.len(),
                Self::Verbatim(_, text) => text.len(),
                _ => 0,
            }
    }

    /// Appends the reply to `out`, encoded for `protocol`.
    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Simple(text) => put_line(out, b'+', text),
            Self::Error(text) => put_line(out, b'-', text),
            Self::Integer(number) => put_number(out, b':', *number),
            Self::Bulk(bytes) => put_bulk(out, b'$', bytes),
            Self::Null if resp3 => out.put_slice(b"_\r\n"),
            Self::Null => out.put_slice(b"$-1\r\n"),
            Self::NullArray if resp3 => out.put_slice(b"_\r\n"),
            Self::NullArray => out.put_slice(b"*-1\r\n"),
            Self::Array(items) => put_items(out, b'*', items, protocol),
            Self::Set(items) => put_items(out, if resp3 { b'~' } else { b'*' }, items, protocol),
            Self::Push(items) => put_items(out, if resp3 { b'>' } else { b'*' }, items, protocol),
            Self::Sequence(frames) => frames.iter().for_each(|frame| frame.encode(protocol, out)),
            Self::Map(pairs) => {
                let (kind, count) = if resp3 { (b'%', pairs.len()) } else { (b'*', pairs.len() * 2) };
                put_number(out, kind, count);
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Self::Pairs(pairs) => {
                put_number(out, b'*', if resp3 { pairs.len() } else { pairs.len() * 2 });
                for (key, value) in pairs {
                    if resp3 {
                        put_number(out, b'*', 2);
                    }
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Self::Double(number) => {
                let text = double_text(*number);
                if resp3 { put_line(out, b',', &text) } else { put_bulk(out, b'$', text.as_bytes()) }
            }
            Self::Boolean(value) if resp3 => out.put_slice(if *value { b"#t\r\n" } else { b"#f\r\n" }),
            Self::Boolean(value) => put_number(out, b':', u8::from(*value)),
            Self::BigNumber(digits) if resp3 => put_line(out, b'(', digits),
            Self::BigNumber(digits) => put_bulk(out, b'$', digits.as_bytes()),
            Self::Verbatim(format, text) if resp3 => {
                put_number(out, b'=', text.len() + 4);
                out.put_slice(format);
                out.put_u8(b':');
                out.put_slice(text);
                out.put_slice(b"\r\n");
            }
            Self::Verbatim(_, text) => put_bulk(out, b'$', text),
        }
    }
}

/// Appends a line. A line break inside the text would end the reply early, so it becomes a space.
fn put_line(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.put_slice(b"\r\n");
}

pub(super) fn put_number(out: &mut BytesMut, kind: u8, number: impl std::fmt::Display) {
    out.put_u8(kind);
    write!(out, "{number}\r\n").expect("a BytesMut grows as needed, so writing to it cannot fail");
}

fn put_bulk(out: &mut BytesMut, kind: u8, bytes: &[u8]) {
    put_number(out, kind, bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn put_items(out: &mut BytesMut, kind: u8, items: &[Frame], protocol: Protocol) {
    put_number(out, kind, items.len());
    for item in items {
        item.encode(protocol, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(frame: &Frame) -> (String, String) {
        let encode = |protocol| {
            let mut out = BytesMut::new();
            frame.encode(protocol, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        (encode(Protocol::Resp2), encode(Protocol::Resp3))
    }

    fn both(resp2: &str, resp3: &str) -> (String, String) {
        (resp2.to_owned(), resp3.to_owned())
    }

    #[test]
    fn scalars_are_encoded_for_both_protocols() {
        assert_eq!(wire(&Frame::OK), both("+OK\r\n", "+OK\r\n"));
        assert_eq!(wire(&Frame::error("ERR no")), both("-ERR no\r\n", "-ERR no\r\n"));
        assert_eq!(wire(&Frame::Integer(-7)), both(":-7\r\n", ":-7\r\n"));
        assert_eq!(wire(&Frame::bulk("a\r\nb")), both("$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"));
        assert_eq!(wire(&Frame::Null), both("$-1\r\n", "_\r\n"));
        assert_eq!(wire(&Frame::NullArray), both("*-1\r\n", "_\r\n"));
        assert_eq!(wire(&Frame::Boolean(true)), both(":1\r\n", "#t\r\n"));
        assert_eq!(wire(&Frame::Boolean(false)), both(":0\r\n", "#f\r\n"));
        assert_eq!(wire(&Frame::Double(1.5)), both("$3\r\n1.5\r\n", ",1.5\r\n"));
        assert_eq!(wire(&Frame::Double(f64::NEG_INFINITY)), both("$4\r\n-inf\r\n", ",-inf\r\n"));
        assert_eq!(wire(&Frame::Double(f64::NAN)), both("$3\r\nnan\r\n", ",nan\r\n"));
        assert_eq!(wire(&Frame::BigNumber("12".into())), both("$2\r\n12\r\n", "(12\r\n"));
        assert_eq!(wire(&Frame::verbatim("hi".into())), both("$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"));
    }

    #[test]
    fn collections_are_encoded_for_both_protocols() {
        let items = || vec![Frame::Integer(1), Frame::Null];
        assert_eq!(wire(&Frame::Array(items())), both("*2\r\n:1\r\n$-1\r\n", "*2\r\n:1\r\n_\r\n"));
        assert_eq!(wire(&Frame::Set(items())), both("*2\r\n:1\r\n$-1\r\n", "~2\r\n:1\r\n_\r\n"));
        assert_eq!(wire(&Frame::Push(items())), both("*2\r\n:1\r\n$-1\r\n", ">2\r\n:1\r\n_\r\n"));
        let pairs = Frame::Pairs(vec![(Frame::bulk("k"), Frame::Double(1.5))]);
        assert_eq!(wire(&pairs), both("*2\r\n$1\r\nk\r\n$3\r\n1.5\r\n", "*1\r\n*2\r\n$1\r\nk\r\n,1.5\r\n"));
        let map = Frame::Map(vec![(Frame::bulk("k"), Frame::Array(vec![]))]);
        assert_eq!(wire(&map), both("*2\r\n$1\r\nk\r\n*0\r\n", "%1\r\n$1\r\nk\r\n*0\r\n"));
    }

    #[test]
    fn a_line_break_cannot_forge_a_reply() {
        let frame = Frame::error("ERR unknown command 'a\r\n+OK'");
        assert_eq!(wire(&frame).0, "-ERR unknown command 'a  +OK'\r\n");
    }
}
