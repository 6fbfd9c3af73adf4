//! Histories: the operations of clients, with their times and outcomes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The operations of all clients, in the order in which they were recorded.
///
/// Times come from one monotonic clock that all clients share; the caller chooses the unit. Two operations
/// of which one ends at the time at which the other starts count as concurrent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
}

/// The id of an operation in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpId(usize);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Number of the client; for messages only.
    pub process: u64,
    pub key: String,
    pub op: Op,
    pub invoked: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok {
        answer: Answer,
        returned: u64,
    },
    /// The outcome is unknown: the operation takes effect at any time after its invocation, or never.
    Maybe,
    /// The operation certainly had no effect.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Answered with [`Answer::Value`].
    Get,
    /// Answered with [`Answer::Done`].
    Set(Value),
    /// Answered with [`Answer::Flag`]: whether the value was set.
    SetIfAbsent(Value),
    /// Answered with [`Answer::Flag`]: whether the key existed.
    Delete,
    /// Answered with [`Answer::Number`]: the sum. An absent key counts as 0.
    Incr(i64),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    Value(Option<Value>),
    Flag(bool),
    Number(i64),
}

/// The value of a key. As in Redis a number is its decimal text: the checker treats `Number(7)` and
/// `Bytes("7")` as equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Number(i64),
    Bytes(Vec<u8>),
}

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    /// Records an invocation. Its outcome is [`Outcome::Maybe`] until another one is recorded.
    pub fn invoke(&mut self, process: u64, key: &str, op: Op, invoked: u64) -> OpId {
        self.push(Operation { process, key: key.to_owned(), op, invoked, outcome: Outcome::Maybe })
    }

    /// Records an answer.
    ///
    /// # Panics
    /// When `returned` is before the invocation.
    pub fn ok(&mut self, id: OpId, answer: Answer, returned: u64) {
        let operation = &mut self.operations[id.0];
        assert!(returned >= operation.invoked, "answered at {returned}: {operation}");
        operation.outcome = Outcome::Ok { answer, returned };
    }

    pub fn maybe(&mut self, id: OpId) {
        self.operations[id.0].outcome = Outcome::Maybe;
    }

    pub fn failed(&mut self, id: OpId) {
        self.operations[id.0].outcome = Outcome::Failed;
    }

    /// Adds a complete operation.
    pub fn push(&mut self, operation: Operation) -> OpId {
        self.operations.push(operation);
        OpId(self.operations.len() - 1)
    }

    pub fn operation(&self, id: OpId) -> &Operation {
        &self.operations[id.0]
    }

    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or_else(|_| Self::Bytes(number.to_string().into_bytes()), Self::Number)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => write!(f, "GET"),
            Self::Set(value) => write!(f, "SET {value}"),
            Self::SetIfAbsent(value) => write!(f, "SETNX {value}"),
            Self::Delete => write!(f, "DEL"),
            Self::Incr(by) => write!(f, "INCRBY {by}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::Value(None) => write!(f, "nothing"),
            Self::Value(Some(value)) => write!(f, "{value}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, op, invoked, outcome, .. } = self;
        write!(f, "process {process} at {invoked}: {op} -> ")?;
        match outcome {
            Outcome::Ok { answer, returned } => write!(f, "{answer} at {returned}"),
            Outcome::Maybe => write!(f, "unknown"),
            Outcome::Failed => write!(f, "failed"),
        }
    }
}
