//! Queue of a connection between `MULTI` and `EXEC`.

use bytes::Bytes;
use helios_proto::v1::Command;
use helios_service::glob::Pattern;

use super::commands::client_control::Control;
use super::commands::pubsub::Census;
use super::commands::write::Answer;
use super::commands::{Local, Read, Request};
use super::error::Refusal;
use super::frame::Frame;
use super::script::ScriptCall;

/// Bytes charged for a queued command beside its words.
pub const COMMAND_BYTES: usize = 64;
/// Bytes charged for a word of a request beside its text: its handle.
pub const WORD_BYTES: usize = size_of::<Bytes>();
pub const MAX_WATCHED: usize = 10_000;

#[derive(Debug, Default)]
pub struct Queue {
    queued: Vec<Queued>,
    steps: Vec<Command>,
    bytes: usize,
    /// Whether a command could not be queued, so that `EXEC` executes nothing.
    broken: bool,
}

/// Source of the reply to a queued command.
#[derive(Debug)]
pub enum Queued {
    /// The next step of the log entry.
    Step(Answer),
    Script(ScriptCall),
    /// The next reply of the parts of a transaction with scripts, in which steps and scripts are parts.
    Part,
    /// This node, after the entry is applied: requests without keys, and scans of the keyspace.
    Later(Request),
    Refused(Refusal),
}

/// Returns the memory that the words of a request hold, in bytes: their text, and the handle of each.
pub fn held_bytes(words: &[Bytes]) -> usize {
    words.iter().map(|word| word.len() + WORD_BYTES).sum()
}

impl Queue {
    /// Queues a request and returns the reply to it. `bytes`: [`held_bytes`] of its words.
    pub fn push(&mut self, request: Result<Request, Refusal>, bytes: usize, limit: usize) -> Frame {
        let made = request.as_ref().map_or(0, Request::made_bytes);
        self.bytes += bytes + made + COMMAND_BYTES;
        if self.bytes > limit {
            self.broken = true;
            self.queued.clear();
            self.steps.clear();
            return Frame::error(format!("ERR the transaction exceeds {limit} bytes: split it into several"));
        }
        let queued = match request {
            Ok(Request::Write(write)) => {
                self.steps.push(Command { op: Some(write.op), ..Command::default() });
                Queued::Step(write.answer)
            }
            Ok(Request::Read(Read::Query(call))) => {
                let op = Some(helios_proto::v1::command::Op::Call(call));
                self.steps.push(Command { op, ..Command::default() });
                Queued::Step(Answer::Plain)
            }
            // As in Redis, a blocking command does not wait inside a transaction.
            Ok(Request::Block(blocking)) => {
                let op = Some(blocking.op(&blocking.keys));
                self.steps.push(Command { op, ..Command::default() });
                Queued::Step(blocking.answer)
            }
            Ok(Request::Script(call)) => Queued::Script(call),
            Ok(request) => Queued::Later(request),
            Err(refusal) if refusal.is_of_form() => {
                self.broken = true;
                return refusal.into();
            }
            Err(refusal) => Queued::Refused(refusal),
        };
        self.queued.push(queued);
        Frame::Simple("QUEUED".into())
    }

    /// Returns the bytes charged for the queue.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Returns the steps of the log entry, and the source of each reply.
    pub fn finish(self) -> (Vec<Command>, Vec<Queued>) {
        (self.steps, self.queued)
    }
}

impl Request {
    /// Returns the bytes that the request holds beside its words: a prepared reply, and compiled patterns.
    fn made_bytes(&self) -> usize {
        match self {
            Self::Local(Local::Answer(frame)) => frame.cost(),
            Self::Local(Local::ConfigGet(patterns)) => patterns.iter().map(Pattern::bytes).sum(),
            Self::Local(Local::Census(Census::Channels(pattern))) => {
                pattern.as_ref().map_or(0, Pattern::bytes)
            }
            Self::Read(read) => read.pattern().map_or(0, Pattern::bytes),
            _ => 0,
        }
    }

    /// Whether the request has to wait while writers are paused. `EXEC` always has, whatever its transaction
    /// holds.
    pub fn may_write(&self) -> bool {
        match self {
            Self::Write(_) | Self::Block(_) | Self::Exec | Self::Publish { .. } => true,
            Self::Script(call) => !call.read_only,
            _ => false,
        }
    }

    /// Whether the request is `CLIENT UNPAUSE`, which is exempt from a pause: it could not end a pause that it
    /// waits for.
    pub fn ends_pause(&self) -> bool {
        matches!(self, Self::Local(Local::Control(Control::Unpause)))
    }

    /// Whether the request is executed at once even between `MULTI` and `EXEC`.
    pub fn is_immediate(&self) -> bool {
        match self {
            Self::Exec | Self::Watch(_) => true,
            Self::Local(local) => {
                matches!(local, Local::Multi | Local::Discard | Local::Quit | Local::Reset)
            }
            Self::Write(_)
            | Self::Read(_)
            | Self::Script(_)
            | Self::Block(_)
            | Self::Wait { .. }
            | Self::Subscribe { .. }
            | Self::Unsubscribe { .. }
            | Self::Publish { .. } => false,
        }
    }
}
