//! The reference: a plain state machine over the committed entries, in their order, that shares no code with the
//! node's. Each answer of a member has to be its answer.

mod content;
mod words;

use std::collections::BTreeMap;

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{Call, Command, RequestId, SkipEntry};
use helios_raft::simulation::{POISON, decode_change};
use prost::Message as _;
use raft::eraftpb::Entry;

use crate::Violation;
use content::is_same;
use content::{Held, Scratch};

/// Index of the first entry of every cluster, which all members start with.
const FIRST: u64 = 1;
/// Requests of one client that are remembered (log.proto, RequestId).
const REMEMBERED: u64 = 256;

#[derive(Default)]
pub struct Reference {
    /// Index of the last entry that was executed; 0 before any.
    last: u64,
    /// Versions of each key, each with the index of its entry; `None`: removed.
    keys: BTreeMap<Bytes, Vec<(u64, Option<Held>)>>,
    /// The log's clock after each entry, as (index, ms).
    clocks: Vec<(u64, u64)>,
    executed: BTreeMap<u64, Executed>,
    /// Index of the entry that applied each request.
    requests: BTreeMap<(Bytes, u64), u64>,
    /// Highest fencing token of a membership change.
    token: u64,
    /// Index and checksum of a committed poison entry, until it is skipped.
    poison: Option<(u64, u32)>,
    /// Index of each skipped poison entry, and of the entry that skips it.
    skipped: Vec<(u64, u64)>,
}

struct Executed {
    command: Command,
    /// `None` if it depends on something that the reference does not model.
    answer: Option<Kind>,
}

impl Reference {
    /// Executes a committed entry, if it is the next one.
    pub fn commit(&mut self, entry: &Entry) -> Result<(), Violation> {
        let next = self.last.max(FIRST) + 1;
        if entry.index < next {
            return Ok(());
        }
        if entry.index > next {
            return Err(Violation(format!("entry {} is committed before entry {next}", entry.index)));
        }
        self.last = entry.index;
        let change = decode_change(entry).map_err(|error| Violation(format!("entry {next}: {error}")))?;
        if let Some((fenced, _)) = change {
            return self.change(fenced.token, next);
        }
        if entry.data.is_empty() {
            return Ok(());
        }
        let command = Command::decode(entry.data.as_slice());
        let command = command.map_err(|error| Violation(format!("entry {next}: {error}")))?;
        match &command.op {
            // No member can apply it.
            Some(Op::Set(set)) if set.key == POISON => {
                self.poison = Some((next, crc32c::crc32c(&entry.data)));
                return Ok(());
            }
            Some(Op::SkipEntry(skip)) => self.skip(skip, next)?,
            _ => {}
        }
        self.execute(next, command);
        Ok(())
    }

    fn skip(&mut self, skip: &SkipEntry, index: u64) -> Result<(), Violation> {
        match self.poison.take() {
            Some(poison) if poison == (skip.index, skip.crc) => {
                self.skipped.push((poison.0, index));
                Ok(())
            }
            other => {
                Err(Violation(format!("entry {index} skips {skip:?}, but the poison entry is {other:?}")))
            }
        }
    }

    /// Whether a poison entry is committed and not skipped yet.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Whether a log that ends at `last` has a poison entry that it does not skip.
    pub fn holds_poison(&self, last: u64) -> bool {
        self.poison.is_some_and(|(poison, _)| poison <= last)
            || self.skipped.iter().any(|(poison, skip)| (*poison..*skip).contains(&last))
    }

    /// Checks that no member applies a poison entry, or passes it before it is skipped.
    pub fn check_applied(&self, applied: u64) -> Result<(), Violation> {
        match self.poison {
            Some((poison, _)) if applied >= poison => Err(Violation(format!(
                "a member has applied up to {applied}, but {poison} is a poison entry"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks and records the fencing token of a membership change: it is not lower than an earlier one. Zero is no
    /// token.
    fn change(&mut self, token: u64, index: u64) -> Result<(), Violation> {
        if token != 0 && token < self.token {
            return Err(Violation(format!(
                "entry {index} changes the membership with fencing token {token}, after one with {}",
                self.token
            )));
        }
        self.token = self.token.max(token);
        Ok(())
    }

    fn execute(&mut self, index: u64, command: Command) {
        let now_ms = self.clock_at(index).max(command.now_ms);
        self.clocks.push((index, now_ms));
        let known = command.request_id.as_ref().and_then(|id| self.requests.get(&request_key(id)));
        if let Some(first) = known {
            let answer = self.executed.get(first).and_then(|executed| executed.answer.clone());
            self.executed.insert(index, Executed { command, answer });
            return;
        }
        if command.request_id.as_ref().is_some_and(|id| self.is_forgotten(id)) {
            self.executed.insert(index, Executed { command, answer: None });
            return;
        }
        let mut scratch = Scratch::new(self, index - 1, index, now_ms);
        let answer = command.op.as_ref().and_then(|op| scratch.run(op));
        for (key, held) in scratch.into_changes() {
            self.keys.entry(key).or_default().push((index, held));
        }
        if let Some(id) = &command.request_id {
            self.requests.insert(request_key(id), index);
        }
        self.executed.insert(index, Executed { command, answer });
    }

    /// Whether so many later requests of its client were applied that this one is not remembered any more.
    fn is_forgotten(&self, id: &RequestId) -> bool {
        let first = (id.client_id.clone(), id.sequence + REMEMBERED);
        let last = (id.client_id.clone(), u64::MAX);
        self.requests.range(first..=last).next().is_some()
    }

    fn clock_at(&self, index: u64) -> u64 {
        let after = self.clocks.partition_point(|(at, _)| *at <= index);
        after.checked_sub(1).map_or(0, |at| self.clocks[at].1)
    }

    /// Value of a key after the entry at `index`, expired or not.
    fn version(&self, key: &[u8], index: u64) -> Option<&Held> {
        let versions = self.keys.get(key)?;
        let after = versions.partition_point(|(at, _)| *at <= index);
        versions[after.checked_sub(1)?].1.as_ref()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// Checks that `command` was applied at `index`, and that `answer` is the right one.
    pub fn check_reply(&self, command: &Command, index: u64, answer: &Kind) -> Result<(), Violation> {
        let describe = || format!("{:?} was answered with {answer:?} of entry {index}", command.op);
        let Some(executed) = self.executed.get(&index) else {
            return Err(Violation(format!("{}, which is not committed", describe())));
        };
        let names = (
            executed.command.request_id.as_ref().map(request_key),
            command.request_id.as_ref().map(request_key),
        );
        if executed.command.op != command.op || names.0 != names.1 {
            return Err(Violation(format!("{}, which holds {:?}", describe(), executed.command)));
        }
        if let Some(first) = names.1.and_then(|name| self.requests.get(&name))
            && *first != index
        {
            return Err(Violation(format!("{}, but it was applied at {first}", describe())));
        }
        match &executed.answer {
            Some(expected) if !is_same(expected, answer) => {
                Err(Violation(format!("{}; expected {expected:?}", describe())))
            }
            _ => Ok(()),
        }
    }

    /// Checks the answer to a read by a member whose applied index is `index`, with the log's clock.
    pub fn check_read(&self, call: &Call, index: u64, answer: &Kind) -> Result<(), Violation> {
        let now_ms = self.clock_at(index);
        let op = Op::Call(call.clone());
        match Scratch::new(self, index, index, now_ms).run(&op) {
            Some(expected) if !is_same(&expected, answer) => Err(Violation(format!(
                "{call:?} was answered with {answer:?} at index {index}; expected {expected:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that a script could see `answers` after the entry at `base`. It ran at `now_ms`; its guards were
    /// evaluated with the clock of the entry at `index`.
    pub fn check_script(
        &self,
        ops: &[Op],
        answers: &[Kind],
        (base, index): (u64, u64),
        now_ms: u64,
    ) -> Result<(), Violation> {
        let mut scratch = Scratch::new(self, base, base + 1, now_ms).found_at(self.clock_at(index));
        for (op, seen) in ops.iter().zip(answers) {
            match scratch.run_as(op, seen) {
                Some(expected) if !is_same(&expected, seen) => {
                    return Err(Violation(format!(
                        "a script that took effect after {base} saw {seen:?} from {op:?}; expected {expected:?}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks that a request was not applied, since its client got an error which means that nothing happened.
    pub fn check_refused(&self, id: &RequestId) -> Result<(), Violation> {
        match self.requests.get(&request_key(id)) {
            Some(index) => Err(Violation(format!("{id:?} was rejected, but was applied at {index}"))),
            None => Ok(()),
        }
    }
}

fn request_key(id: &RequestId) -> (Bytes, u64) {
    (id.client_id.clone(), id.sequence)
}

/// Whether a transaction was not executed because a guard did not hold.
pub fn is_void(answer: &Kind) -> bool {
    matches!(answer, Kind::NilList(_))
}
