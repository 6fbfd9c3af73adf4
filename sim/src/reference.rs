//! What the log means, computed a second time: a plain state machine over the committed entries, in their order,
//! which shares no code with the node's. Each answer of a member has to be the one that stands here.

mod content;

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

/// The first entry of every cluster, which all members begin with.
const FIRST: u64 = 1;
/// Requests remembered of a client (log.proto, RequestId).
const REMEMBERED: u64 = 256;

#[derive(Default)]
pub struct Reference {
    /// The last entry that was executed here; 0 before any.
    last: u64,
    /// What each key held from an entry on.
    keys: BTreeMap<Bytes, Vec<(u64, Option<Held>)>>,
    /// The log's clock from an entry on, ms.
    clocks: Vec<(u64, u64)>,
    executed: BTreeMap<u64, Executed>,
    /// The entry that applied a request.
    requests: BTreeMap<(Bytes, u64), u64>,
    /// The highest fencing token of a change of the membership.
    token: u64,
    /// A committed entry that ends every process that applies it, and its checksum, until it is skipped.
    poison: Option<(u64, u32)>,
}

struct Executed {
    command: Command,
    /// `None`: depends on what is not kept here.
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
            return Err(Violation(format!("{} is committed, and {next} is not", entry.index)));
        }
        self.last = entry.index;
        let change = decode_change(entry).map_err(|error| Violation(format!("{next}: {error}")))?;
        if let Some((fenced, _)) = change {
            return self.change(fenced.token, next);
        }
        if entry.data.is_empty() {
            return Ok(());
        }
        let command = Command::decode(entry.data.as_slice());
        let command = command.map_err(|error| Violation(format!("{next}: {error}")))?;
        match &command.op {
            // Nobody executes it.
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
            Some(poison) if poison == (skip.index, skip.crc) => Ok(()),
            other => Err(Violation(format!("{index} skips {skip:?}, and {other:?} can be skipped"))),
        }
    }

    /// Whether an entry is committed that nobody can apply, and that nothing skips yet.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Nobody gets past an entry that nobody can apply before it is skipped.
    pub fn check_applied(&self, applied: u64) -> Result<(), Violation> {
        match self.poison {
            Some((poison, _)) if applied >= poison => Err(Violation(format!(
                "a member has applied up to {applied}, and no member can apply {poison}"
            ))),
            _ => Ok(()),
        }
    }

    /// Once a caller has changed the membership, none with a lower token does. A token of zero is none.
    fn change(&mut self, token: u64, index: u64) -> Result<(), Violation> {
        if token != 0 && token < self.token {
            return Err(Violation(format!(
                "{index} changes the membership under fencing token {token}, after one under {}",
                self.token
            )));
        }
        self.token = self.token.max(token);
        Ok(())
    }

    fn execute(&mut self, index: u64, command: Command) {
        let now_ms = self.clock_at(index).max(command.now_ms);
        self.clocks.push((index, now_ms));
        let known = command.request_id.as_ref().and_then(|id| self.requests.get(&name(id)));
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
            self.requests.insert(name(id), index);
        }
        self.executed.insert(index, Executed { command, answer });
    }

    /// So many later requests of its client were applied that an earlier one is not known any more.
    fn is_forgotten(&self, id: &RequestId) -> bool {
        let first = (id.client_id.clone(), id.sequence + REMEMBERED);
        let last = (id.client_id.clone(), u64::MAX);
        self.requests.range(first..=last).next().is_some()
    }

    fn clock_at(&self, index: u64) -> u64 {
        let after = self.clocks.partition_point(|(at, _)| *at <= index);
        after.checked_sub(1).map_or(0, |at| self.clocks[at].1)
    }

    /// After the entry at `index`, expired or not.
    fn version(&self, key: &[u8], index: u64) -> Option<&Held> {
        let versions = self.keys.get(key)?;
        let after = versions.partition_point(|(at, _)| *at <= index);
        versions[after.checked_sub(1)?].1.as_ref()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// Whether `command` was applied at `index`, and is answered so.
    pub fn check_reply(&self, command: &Command, index: u64, answer: &Kind) -> Result<(), Violation> {
        let describe = || format!("{:?} was answered with {answer:?} of entry {index}", command.op);
        let Some(executed) = self.executed.get(&index) else {
            return Err(Violation(format!("{}, which is not committed", describe())));
        };
        let names = (executed.command.request_id.as_ref().map(name), command.request_id.as_ref().map(name));
        if executed.command.op != command.op || names.0 != names.1 {
            return Err(Violation(format!("{}, which is {:?}", describe(), executed.command)));
        }
        if let Some(first) = names.1.and_then(|name| self.requests.get(&name))
            && *first != index
        {
            return Err(Violation(format!("{}, and it was applied at {first}", describe())));
        }
        match &executed.answer {
            Some(expected) if !is_same(expected, answer) => {
                Err(Violation(format!("{}; right is {expected:?}", describe())))
            }
            _ => Ok(()),
        }
    }

    /// Whether a member that had applied `index` may answer `call` so, with the log's clock.
    pub fn check_read(&self, call: &Call, index: u64, answer: &Kind) -> Result<(), Violation> {
        let now_ms = self.clock_at(index);
        let op = Op::Call(call.clone());
        match Scratch::new(self, index, index, now_ms).run(&op) {
            Some(expected) if !is_same(&expected, answer) => Err(Violation(format!(
                "{call:?} was answered with {answer:?} at index {index}; right is {expected:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a script that saw `answers` could have seen them after the entry at `base`. It ran at `now_ms`, its
    /// guards were looked at with the clock of the entry at `index`.
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
                        "a script that took effect after {base} saw {seen:?} from {op:?}; right is {expected:?}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A client was assured that nothing of this request happened.
    pub fn check_refused(&self, id: &RequestId) -> Result<(), Violation> {
        match self.requests.get(&name(id)) {
            Some(index) => Err(Violation(format!("{id:?} was refused, and was applied at {index}"))),
            None => Ok(()),
        }
    }
}

fn name(id: &RequestId) -> (Bytes, u64) {
    (id.client_id.clone(), id.sequence)
}

/// A transaction that was not executed, since a guard did not hold.
pub fn is_void(answer: &Kind) -> bool {
    matches!(answer, Kind::NilList(_))
}
