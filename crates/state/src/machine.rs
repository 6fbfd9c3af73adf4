//! The state machine that the embedding application supplies; the log drives it in addition to the keys.
//!
//! It is kept in memory. The records that rebuild it are part of the state, so that checkpoint, digest and
//! Raft snapshots carry them like keys: its last snapshot in pieces, and each command since. A member that
//! starts or installs a Raft snapshot restores the machine's snapshot and applies the commands again.

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

/// A deterministic state machine. Every member has one and applies the same entries in the same order, so
/// each call must depend only on its arguments and on the calls before it: no clock, no random numbers, no
/// other input.
pub trait StateMachine: Send + Sync + 'static {
    type Query: ?Sized;
    type Answer;

    /// Applies a committed entry. The result is only the answer to the client: a refused command stays in the
    /// log, and must be refused again when it is applied again.
    fn apply(&mut self, entry: LogEntry<'_>) -> Result<Vec<u8>, String>;

    /// Returns everything that `restore` needs to make the same machine. Called from time to time, between
    /// two entries.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the machine's state by a snapshot. An error ends the process.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;

    fn query(&self, query: &Self::Query) -> Self::Answer;
}

/// A command with its position in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    pub index: u64,
    pub term: u64,
    /// Name of the command's kind, chosen by the application.
    pub kind: &'a str,
    pub data: &'a [u8],
}

/// The store's interface to a state machine.
pub trait Driven: Send + Sync {
    fn apply(&self, entry: LogEntry<'_>) -> Result<Vec<u8>, String>;
    fn snapshot(&self) -> Vec<u8>;
    /// Restores `snapshot` and applies `commands`. Without a snapshot it starts from the initial machine.
    fn rebuild(&self, snapshot: Option<&[u8]>, commands: &[Logged]) -> Result<(), String>;
}

/// A state machine that the store drives and the application queries.
pub struct Shared<M> {
    machine: RwLock<M>,
    /// Snapshot of the initial machine.
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

// A panic in the machine ends the apply thread and with it the process, so no caller uses a poisoned machine.
impl<M: StateMachine> Driven for Shared<M> {
    fn apply(&self, entry: LogEntry<'_>) -> Result<Vec<u8>, String> {
        self.machine.write().unwrap_or_else(PoisonError::into_inner).apply(entry)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.machine.read().unwrap_or_else(PoisonError::into_inner).snapshot()
    }

    fn rebuild(&self, snapshot: Option<&[u8]>, commands: &[Logged]) -> Result<(), String> {
        // The lock is held throughout, so that no query sees a partly rebuilt machine.
        let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
        machine.restore(snapshot.unwrap_or(&self.blank))?;
        for logged in commands {
            drop(machine.apply(logged.entry()));
        }
        Ok(())
    }
}

const HEADER: &[u8] = b"rmh";
/// Key prefix of a piece of the snapshot, followed by its number (u32).
const PIECE: &[u8] = b"rmp";
const PIECE_END: &[u8] = b"rmq";
/// Key prefix of a command since the snapshot, followed by its index (u64).
const COMMAND: &[u8] = b"rmc";
const COMMAND_END: &[u8] = b"rmd";

const PIECE_BYTES: usize = 16 << 10;
/// Bounds of the bytes of commands after which a snapshot is due: the size of the last snapshot, within these
/// bounds. So a snapshot within the bounds has no more bytes than the commands since the last one, and a
/// restart applies no more than this again.
const SNAPSHOT_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=(32 << 20);

#[derive(Default)]
struct Header {
    snapshot_bytes: u64,
    /// Bytes of the commands since the snapshot.
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

/// A recorded command.
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
            "command {:?} needs a state machine, and this member has none: start every member with the same one",
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

/// Replaces the records of the last snapshot and of all commands since by a new snapshot.
fn replace(txn: &mut Txn<'_>, snapshot: &[u8]) -> Result<(), EngineError> {
    for (start, end) in [(PIECE, PIECE_END), (COMMAND, COMMAND_END)] {
        for (key, _) in txn.raw_range(start, end)? {
            txn.put_raw(key, None);
        }
    }
    // At least one piece, even if it is empty: without any, the initial machine would be restored.
    let first = snapshot.is_empty().then_some(snapshot);
    for (number, piece) in (0_u32..).zip(first.into_iter().chain(snapshot.chunks(PIECE_BYTES))) {
        let key = [PIECE, &number.to_be_bytes()].concat();
        txn.put_raw(key.into(), Some(Bytes::copy_from_slice(piece)));
    }
    Ok(())
}

impl Store {
    /// Rebuilds the machine, if there is one, from its records in the state.
    pub(super) fn rebuild_machine(&self) -> Result<(), StateError> {
        let Some(machine) = self.inner.machine.get() else { return Ok(()) };
        let read = StateError::engine("read");
        let (has_snapshot, snapshot, commands) = self.records().map_err(read)?;
        machine
            .rebuild(has_snapshot.then_some(&snapshot[..]), &commands)
            .map_err(|reason| StateError::Machine(format!("it cannot restore its own snapshot: {reason}")))
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
