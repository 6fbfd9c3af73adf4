//! Encoder of one large reply, piece by piece.

use std::vec::IntoIter;

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::{Frame, Protocol, put_number};

/// Length in bytes above which a string is copied in pieces.
const WHOLE_BYTES: usize = 4 * 1024;

pub struct Encoder {
    protocol: Protocol,
    /// Stack of steps, the innermost last. Explicit, not recursive, since a script determines how deep its
    /// reply is nested.
    steps: Vec<Step>,
    left: usize,
}

enum Step {
    Frame(Frame),
    Bytes(Bytes),
    Items(IntoIter<Frame>),
    Pairs { pairs: IntoIter<(Frame, Frame)>, nested: bool },
}

impl Encoder {
    /// Creates an encoder. `cost`: [`Frame::cost`] of `frame`, which the caller has computed.
    pub fn new(frame: Frame, protocol: Protocol, cost: usize) -> Self {
        Self { protocol, steps: vec![Step::Frame(frame)], left: cost }
    }

    /// Returns the part of the cost that is not encoded yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Appends the next piece, until `out` has `until` bytes or a little more; returns true at the end of the
    /// reply.
    pub fn fill(&mut self, out: &mut BytesMut, until: usize) -> bool {
        while out.len() < until {
            match self.steps.pop() {
                None => return true,
                Some(Step::Frame(frame)) => self.begin(frame, out),
                Some(Step::Bytes(mut bytes)) => {
                    let piece = bytes.split_to(bytes.len().min(until - out.len()));
                    self.left = self.left.saturating_sub(piece.len());
                    out.put_slice(&piece);
                    if !bytes.is_empty() {
                        self.steps.push(Step::Bytes(bytes));
                    }
                }
                Some(Step::Items(mut items)) => {
                    if let Some(frame) = items.next() {
                        self.steps.push(Step::Items(items));
                        self.steps.push(Step::Frame(frame));
                    }
                }
                Some(Step::Pairs { mut pairs, nested }) => {
                    if let Some((key, value)) = pairs.next() {
                        if nested {
                            put_number(out, b'*', 2);
                        }
                        self.steps.push(Step::Pairs { pairs, nested });
                        self.steps.push(Step::Frame(value));
                        self.steps.push(Step::Frame(key));
                    }
                }
            }
        }
        self.steps.is_empty()
    }

    fn begin(&mut self, frame: Frame, out: &mut BytesMut) {
        let resp3 = self.protocol == Protocol::Resp3;
        let own = frame.own_cost();
        match frame {
            Frame::Array(items) => self.items(b'*', items, out),
            Frame::Set(items) => self.items(if resp3 { b'~' } else { b'*' }, items, out),
            Frame::Push(items) => self.items(if resp3 { b'>' } else { b'*' }, items, out),
            Frame::Sequence(frames) => self.steps.push(Step::Items(frames.into_iter())),
            Frame::Map(pairs) => {
                let (kind, count) = if resp3 { (b'%', pairs.len()) } else { (b'*', pairs.len() * 2) };
                put_number(out, kind, count);
                self.steps.push(Step::Pairs { pairs: pairs.into_iter(), nested: false });
            }
            Frame::Pairs(pairs) => {
                put_number(out, b'*', if resp3 { pairs.len() } else { pairs.len() * 2 });
                self.steps.push(Step::Pairs { pairs: pairs.into_iter(), nested: resp3 });
            }
            Frame::Bulk(bytes) if bytes.len() > WHOLE_BYTES => {
                put_number(out, b'$', bytes.len());
                self.steps.push(Step::Bytes(Bytes::from_static(b"\r\n")));
                self.left = self.left.saturating_sub(own - bytes.len());
                return self.steps.push(Step::Bytes(bytes));
            }
            leaf => leaf.encode(self.protocol, out),
        }
        self.left = self.left.saturating_sub(own);
    }

    fn items(&mut self, kind: u8, items: Vec<Frame>, out: &mut BytesMut) {
        put_number(out, kind, items.len());
        self.steps.push(Step::Items(items.into_iter()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_equal_the_reply_encoded_at_once() {
        let text = |length: usize| Frame::bulk(vec![b'z'; length]);
        let nested =
            Frame::Array(vec![text(3), Frame::Array(vec![text(9_000), Frame::Null]), Frame::Integer(7)]);
        let pairs = || vec![(text(1), nested.clone()), (Frame::Double(1.5), text(5_000))];
        let frame = Frame::Sequence(vec![
            Frame::Map(pairs()),
            Frame::Pairs(pairs()),
            Frame::Set(vec![nested.clone()]),
            Frame::Push(vec![Frame::verbatim("v".repeat(9_000)), Frame::Boolean(true)]),
            Frame::NullArray,
        ]);
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let mut whole = BytesMut::new();
            frame.encode(protocol, &mut whole);
            for piece in [1, 7, 4_096, 1 << 20] {
                let mut encoder = Encoder::new(frame.clone(), protocol, frame.cost());
                let (mut pieces, mut out) = (Vec::new(), BytesMut::new());
                while !encoder.fill(&mut out, piece) {
                    pieces.extend(out.split());
                }
                pieces.extend(out.split());
                assert!(pieces == whole, "pieces of {piece}: {} of {}", pieces.len(), whole.len());
                assert_eq!(encoder.left(), 0, "pieces of {piece}");
            }
        }
    }
}
