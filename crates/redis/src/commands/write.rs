//! Commands that go through the log.

use helios_proto::Error;
use helios_proto::v1::{Replies, Reply, command::Op, reply::Kind};

use super::super::frame::Frame;

#[derive(Debug)]
pub struct Write {
    pub op: Op,
    pub answer: Answer,
}

/// Conversion of the applied result to the reply of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Unchanged.
    Plain,
    /// Nil becomes the error that the key exists.
    UnlessBusy,
    /// Key and element, from a key and a list of one element.
    FirstElement,
    /// Key, member and score, from a key and a list of one pair.
    FirstScored,
}

impl Answer {
    pub fn frame(self, reply: Reply) -> Frame {
        match (reply.kind, self) {
            (Some(Kind::Nil(_)), Self::UnlessBusy) => Frame::error("BUSYKEY Target key name already exists."),
            (Some(kind), Self::FirstElement) => flattened(frame(kind), 1),
            (Some(kind), Self::FirstScored) => flattened(frame(kind), 2),
            (Some(kind), _) => frame(kind),
            (None, _) => {
                Frame::error("ERR the leader runs a newer version whose answer is not understood here")
            }
        }
    }
}

/// Converts the answer of the state to a reply.
pub fn frame(kind: Kind) -> Frame {
    match kind {
        Kind::Done(_) => Frame::OK,
        Kind::Nil(_) => Frame::Null,
        Kind::NilList(_) => Frame::NullArray,
        Kind::Integer(number) => Frame::Integer(number),
        Kind::Double(number) => Frame::Double(number),
        Kind::Bytes(bytes) => Frame::Bulk(bytes),
        Kind::Status(word) => Frame::Simple(word.into()),
        Kind::Error(detail) => Error::from(detail).into(),
        Kind::List(items) => Frame::Array(frames(items).collect()),
        Kind::Set(items) => Frame::Set(frames(items).collect()),
        Kind::Map(items) => Frame::Map(pairs(items)),
        Kind::Pairs(items) => Frame::Pairs(pairs(items)),
    }
}

/// Flattens the lists in a list and, if `depth` is 2, the lists in these.
fn flattened(frame: Frame, depth: usize) -> Frame {
    match frame {
        Frame::Array(items) if depth > 0 => {
            let spread = |item| match flattened(item, depth - 1) {
                Frame::Array(inner) => inner,
                other => vec![other],
            };
            Frame::Array(items.into_iter().flat_map(spread).collect())
        }
        other => other,
    }
}

fn frames(replies: Replies) -> impl Iterator<Item = Frame> {
    replies.items.into_iter().map(|reply| Answer::Plain.frame(reply))
}

fn pairs(replies: Replies) -> Vec<(Frame, Frame)> {
    let mut frames = frames(replies);
    std::iter::from_fn(|| Some((frames.next()?, frames.next()?))).collect()
}
