//! A command that goes through the log.

use helios_proto::v1::{Reply, command::Op, reply::Kind};

use super::super::frame::Frame;
use super::Request;
use crate::error::Error;

#[derive(Debug)]
pub struct Write {
    pub op: Op,
    pub answer: Answer,
}

/// How the applied result reads in this command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As it is: `OK`, nil, a number or a string.
    Plain,
    /// 1 for done, 0 for not done.
    Flag,
}

impl Write {
    pub fn plain(op: Op) -> Request {
        Request::Write(Self { op, answer: Answer::Plain })
    }

    pub fn flag(op: Op) -> Request {
        Request::Write(Self { op, answer: Answer::Flag })
    }
}

impl Answer {
    pub fn frame(self, reply: Reply) -> Frame {
        match (reply.kind, self) {
            (Some(Kind::Done(_)), Self::Flag) => Frame::Integer(1),
            (Some(Kind::Nil(_)), Self::Flag) => Frame::Integer(0),
            (Some(Kind::Done(_)), Self::Plain) => Frame::OK,
            (Some(Kind::Nil(_)), Self::Plain) => Frame::Null,
            (Some(Kind::Integer(number)), _) => Frame::Integer(number),
            (Some(Kind::Bytes(bytes)), _) => Frame::Bulk(bytes),
            (Some(Kind::Error(detail)), _) => Error::from(detail).into(),
            (None, _) => {
                Frame::error("ERR the leader runs a newer version whose answer is not understood here")
            }
        }
    }
}
