//! A state machine of the embedding program, driven by the log beside the keys.
//!
//! It lives in memory. What rebuilds it are records of the state, which checkpoint, digest and the log's
//! snapshots carry as they carry keys: its last snapshot in pieces, and each command since. A member that
//! starts, or that was sent a snapshot of the log, restores the one and applies the other again.

use std::sync::{PoisonError, RwLock};

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Apply, ErrorCode};
use prost::Message;

use super::StateError;
use super::command::Failure;
use super::engines::EngineError;
use super::store::Store;
use super::txn::Txn;
use helios_proto::Error;

/// Every member holds one and feeds it the same entries in the same order, so each call must depend on
/// nothing but its arguments and the calls before it: no clock, no random numbers, no other input.
pub trait StateMachine: Send + Sync + 'static {
    type Query: ?Sized;
    type Answer;

    /// Applies an entry that is committed. The result goes to whoever asked for it and decides nothing: a
    /// command that is refused stays in the log, and is refused again when it is applied again.
    fn apply(&mut self, entry: LogEntry<'_>) -> Result<Vec<u8>, String>;

    /// Everything that `restore` needs to make the same machine. Taken now and then between two entries.
    fn snapshot(&self) -> Vec<u8>;

    /// Becomes what a snapshot was taken of, whatever it is now. Of an error the process ends.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;

    fn query(&self, query: &Self::Query) -> Self::Answer;
}

/// A command in its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    pub index: u64,
    pub term: u64,
    /// What the caller named it.
    pub kind: &'a str,
    pub data: &'a [u8],
}

/// A state machine as the store sees it.
pub trait Driven: Send + Sync {
    fn apply(&self, entry: LogEntry<'_>) -> Result<Vec<u8>, String>;
    fn snapshot(&self) -> Vec<u8>;
    /// `snapshot` `None`: as it was in the beginning.
    fn rebuild(&self, snapshot: Option<&[u8]>, commands: &[Logged]) -> Result<(), String>;
}

/// The machine and its beginning.
pub struct Shared<M> {
    machine: RwLock<M>,
    blank: Vec<u8>,
}

impl<M: StateMachine> Shared<M> {
    pub fn new(machine: M) -> Self {
        Self { blank: machine.snapshot(), machine: RwLock::new(machine) }
    }

    pub fn query(&self, query: &M::Query) -> M::Answer {
        self.machine.read().unwrap_or_else(PoisonError::into_inner).query(query)
    }
}

// A panic in the machine ends the apply thread and with it the process; nobody goes on with its remains.
impl<M: StateMachine> Driven for Shared<M> {
    fn apply(&self, entry: LogEntry<'_>) -> Result<Vec<u8>, String> {
        self.machine.write().unwrap_or_else(PoisonError::into_inner).apply(entry)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.machine.read().unwrap_or_else(PoisonError::into_inner).snapshot()
    }

    fn rebuild(&self, snapshot: Option<&[u8]>, commands: &[Logged]) -> Result<(), String> {
        // Held throughout, so that no query sees it half way.
        let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
        machine.restore(snapshot.unwrap_or(&self.blank))?;
        for logged in commands {
            drop(machine.apply(logged.entry()));
        }
        Ok(())
    }
}

const HEADER: &[u8] = b"rmh";
/// + number (u32): a piece of the snapshot.
const PIECE: &[u8] = b"rmp";
const PIECE_END: &[u8] = b"rmq";
/// + index (u64): a command since.
const COMMAND: &[u8] = b"rmc";
const COMMAND_END: &[u8] = b"rmd";

const PIECE_BYTES: usize = 16 << 10;
/// Bytes of commands that make a snapshot due: as many as the last one had, within these bounds. So
/// snapshots add no more than was written anyway, and a restart applies no more than this again.
const SNAPSHOT_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=(32 << 20);

#[derive(Default)]
struct Header {
    snapshot_bytes: u64,
    /// Of the commands since.
    bytes: u64,
}

impl Header {
    fn decode(raw: Option<Bytes>) -> Result<Self, EngineError> {
        let Some(mut raw) = raw else { return Ok(Self::default()) };
        let mut next = || raw.try_get_u64().map_err(|_| damaged());
        Ok(Self { snapshot_bytes: next()?, bytes: next()? })
    }

    fn encode(&self) -> Bytes {
        [self.snapshot_bytes.to_be_bytes(), self.bytes.to_be_bytes()].concat().into()
    }

    fn is_snapshot_due(&self) -> bool {
        self.bytes >= self.snapshot_bytes.clamp(*SNAPSHOT_BYTES.start(), *SNAPSHOT_BYTES.end())
    }
}

/// A command as it is recorded.
pub struct Logged {
    index: u64,
    term: u64,
    command: Apply,
}

impl Logged {
    fn entry(&self) -> LogEntry<'_> {
        let Self { index, term, command } = self;
        LogEntry { index: *index, term: *term, kind: &command.kind, data: &command.data }
    }

    fn key(&self) -> Bytes {
        [COMMAND, &self.index.to_be_bytes()].concat().into()
    }

    fn encode(&self) -> Bytes {
        let mut raw = self.term.to_be_bytes().to_vec();
        raw.put_slice(&self.command.encode_to_vec());
        raw.into()
    }

    fn decode(key: &[u8], mut raw: Bytes) -> Result<Self, EngineError> {
        let index = (&key[COMMAND.len()..]).try_get_u64().map_err(|_| damaged())?;
        let term = raw.try_get_u64().map_err(|_| damaged())?;
        Ok(Self { index, term, command: Apply::decode(raw).map_err(|_| damaged())? })
    }
}

pub(super) fn apply(txn: &mut Txn<'_>, command: &Apply) -> Result<Answer, Failure> {
    let Some(machine) = txn.machine() else {
        return Err(Failure::Refused(Error::invalid(format!(
            "command {:?} is for a state machine, and this program runs none: start every member with the same one",
            command.kind
        ))));
    };
    let mut header = Header::decode(txn.raw(HEADER)?)?;
    let position = txn.position();
    let logged = Logged { index: position.index, term: position.term, command: command.clone() };
    let outcome = machine.apply(logged.entry());
    let record = logged.encode();
    header.bytes += record.len() as u64;
    if header.is_snapshot_due() {
        let snapshot = machine.snapshot();
        header = Header { snapshot_bytes: snapshot.len() as u64, bytes: 0 };
        replace(txn, &snapshot)?;
    } else {
        txn.put_raw(logged.key(), Some(record));
    }
    txn.put_raw(Bytes::from_static(HEADER), Some(header.encode()));
    Ok(match outcome {
        Ok(answer) => Answer::Bytes(answer.into()),
        Err(reason) => Answer::Error(Error::new(ErrorCode::InvalidArgument, reason).into()),
    })
}

/// A new snapshot takes the place of the last one and of all commands.
fn replace(txn: &mut Txn<'_>, snapshot: &[u8]) -> Result<(), EngineError> {
    for (start, end) in [(PIECE, PIECE_END), (COMMAND, COMMAND_END)] {
        for (key, _) in txn.raw_range(start, end)? {
            txn.put_raw(key, None);
        }
    }
    // At least one, even if it is empty: without any it is as in the beginning.
    let first = snapshot.is_empty().then_some(snapshot);
    for (number, piece) in (0_u32..).zip(first.into_iter().chain(snapshot.chunks(PIECE_BYTES))) {
        let key = [PIECE, &number.to_be_bytes()].concat();
        txn.put_raw(key.into(), Some(Bytes::copy_from_slice(piece)));
    }
    Ok(())
}

impl Store {
    /// Rebuilds the machine, if there is one, from what the state holds of it.
    pub(super) fn rebuild_machine(&self) -> Result<(), StateError> {
        let Some(machine) = self.inner.machine.get() else { return Ok(()) };
        let read = StateError::engine("read");
        let (has_snapshot, snapshot, commands) = self.records().map_err(read)?;
        machine
            .rebuild(has_snapshot.then_some(&snapshot[..]), &commands)
            .map_err(|reason| StateError::Machine(format!("it refuses its own snapshot: {reason}")))
    }

    fn records(&self) -> Result<(bool, Vec<u8>, Vec<Logged>), EngineError> {
        let state = self.inner.state();
        let view = state.view();
        let header = Header::decode(view.get(HEADER)?)?;
        let mut snapshot = Vec::new();
        let mut pieces = 0;
        for pair in view.range(PIECE, Some(PIECE_END)) {
            snapshot.put_slice(&pair?.1);
            pieces += 1;
        }
        if snapshot.len() as u64 != header.snapshot_bytes {
            return Err(damaged());
        }
        let commands = view.range(COMMAND, Some(COMMAND_END));
        let commands = commands.map(|pair| pair.and_then(|(key, raw)| Logged::decode(&key, raw)));
        Ok((pieces > 0, snapshot, commands.collect::<Result<_, _>>()?))
    }
}

fn damaged() -> EngineError {
    EngineError::Corrupt("a record of the state machine cannot be decoded".to_owned())
}
