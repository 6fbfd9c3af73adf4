//! Deduplication of writes: a write with a [`RequestId`] is applied once, and every repetition gets the first
//! answer (docs/design/node.md, pitfall 26).
//!
//! Two kinds of raw records, which checkpoint, digest and snapshot carry like keys: `rc` + client holds the
//! time at which the client was last seen and its first sequence; `rs` + client's length + client + slot
//! holds a sequence and its reply. The slot is the sequence modulo [`SLOTS`], so that a client's newest
//! writes replace its oldest without a search.
//!
//! From log format 5 on an entry carries the origin of its write, and [`clients`] chooses the client that is
//! evicted for a new one.

mod clients;

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, ErrorCode, Origin, Reply, RequestId};
use prost::Message;

use super::command::{self, Failure};
use super::engines::EngineError;
use super::txn::{Changes, Txn};
use crate::faults;
use clients::{Group, Table};
use helios_proto::Error;

/// Maximum number of clients that are remembered; members' clients and other clients count separately.
pub const MAX_CLIENTS: usize = 1_024;
/// Number of writes that are remembered for each client.
pub const SLOTS: u64 = 256;
pub(super) const MAX_CLIENT_ID_BYTES: usize = 64;
/// Maximum size of a reply that is kept. With the bounds above: at most 268 MB each for members' clients and
/// for other clients, about a tenth of that with usual replies.
const MAX_REPLY_BYTES: usize = 1_024;
/// Resolution of the time at which a client was last seen, so that not every write changes its record.
const SEEN_STEP_MS: u64 = 10_000;

const CLIENT: &[u8] = b"rc";
const CLIENT_END: &[u8] = b"rd";
const SLOT: &[u8] = b"rs";

/// Key prefixes of all records of requests.
pub(super) fn prefixes() -> impl Iterator<Item = &'static [u8]> {
    [CLIENT, SLOT].into_iter().chain(clients::PREFIXES)
}

/// Executes `command` unless it was applied before. Returns its reply (the first one, if repeated) and its
/// changes.
pub(super) fn execute_once<'a>(
    new_txn: impl Fn() -> Txn<'a>,
    command: &Command,
) -> Result<(Reply, Changes), EngineError> {
    let Some(id) = &command.request_id else {
        return run(&new_txn, command).map(|(txn, reply)| (reply, txn.finish()));
    };
    let lookup_txn = new_txn();
    if let Some(refusal) = invalid_id(id) {
        return Ok((lookup_txn.reply(Answer::Error(refusal.into())), lookup_txn.finish()));
    }
    match find(&lookup_txn, id, command.origin.as_ref())? {
        Found::Applied(reply) => Ok((faults::repeated(reply, &lookup_txn), lookup_txn.finish())),
        Found::Forgotten => {
            Ok((lookup_txn.reply(Answer::Error(forgotten_error(id).into())), lookup_txn.finish()))
        }
        Found::New(client) => {
            let (mut txn, reply) = run(&new_txn, command)?;
            let is_refused = matches!(reply.kind, Some(Answer::Error(_)));
            if faults::is_remembered(is_refused) {
                record_reply(&mut txn, id, command.origin.as_ref(), client, &reply)?;
            }
            Ok((reply, txn.finish()))
        }
    }
}

/// Executes `command`. A refusal becomes the reply, with a new transaction that holds no changes.
fn run<'a>(new_txn: &impl Fn() -> Txn<'a>, command: &Command) -> Result<(Txn<'a>, Reply), EngineError> {
    let mut txn = new_txn();
    match command::execute(&mut txn, command) {
        Ok(answer) => {
            let reply = txn.reply(answer);
            Ok((txn, reply))
        }
        Err(Failure::Refused(error)) => {
            let reply = txn.reply(Answer::Error(error.into()));
            Ok((new_txn(), reply))
        }
        Err(Failure::Engine(error)) => Err(error),
    }
}

enum Found {
    Applied(Reply),
    /// The write may have been applied, but the record that would prove it was evicted.
    Forgotten,
    /// The write was never applied; with the record of its client, if there is one.
    New(Option<Client>),
}

fn find(txn: &Txn<'_>, id: &RequestId, origin: Option<&Origin>) -> Result<Found, EngineError> {
    let client =
        txn.raw(&client_key(&id.client_id))?.map(|raw| Client::decode(&id.client_id, &raw)).transpose()?;
    if client.is_some()
        && let Some(mut raw) = txn.raw(&slot_key(&id.client_id, id.sequence))?
    {
        let sequence = raw.try_get_u64().map_err(|_| damaged())?;
        if faults::is_repeat(sequence == id.sequence, id.retry) {
            return Reply::decode(raw).map(Found::Applied).map_err(|_| damaged());
        }
        if sequence > id.sequence {
            return Ok(Found::Forgotten);
        }
    }
    // A sequence below the client's first may have been applied before the client was evicted.
    let may_be_forgotten = id.retry && client.as_ref().is_none_or(|client| id.sequence < client.first);
    if may_be_forgotten && !is_named_since_last_eviction(txn, id, origin)? {
        return Ok(Found::Forgotten);
    }
    Ok(Found::New(client))
}

/// Whether no member's client was evicted since the member assigned the request id: the write's record would
/// then still exist if it had been applied.
fn is_named_since_last_eviction(
    txn: &Txn<'_>,
    id: &RequestId,
    origin: Option<&Origin>,
) -> Result<bool, EngineError> {
    match origin {
        Some(origin) if origin.named_at > 0 && is_of_member(&id.client_id) => {
            Ok(origin.named_at >= Table::of(txn)?.evicted_at)
        }
        _ => Ok(false),
    }
}

fn record_reply(
    txn: &mut Txn<'_>,
    id: &RequestId,
    origin: Option<&Origin>,
    client: Option<Client>,
    reply: &Reply,
) -> Result<(), EngineError> {
    let now_ms = txn.clock_ms();
    let is_stale = |client: &Client| now_ms >= client.seen_ms.saturating_add(SEEN_STEP_MS);
    let first = client.as_ref().map_or(id.sequence, |client| client.first);
    if let Some(table) = Table::in_use(txn, origin.is_some())? {
        let group = Group::of(&id.client_id, origin);
        if client.as_ref().is_none_or(|client| is_stale(client) || client.group != group) {
            table.record_write(txn, &id.client_id, client.as_ref(), &group, now_ms)?;
            let client = Client { seen_ms: now_ms, first, group };
            txn.put_raw(client_key(&id.client_id), Some(client.encode()));
        }
    } else {
        if client.is_none() {
            evict_longest_idle(txn)?;
        }
        if client.as_ref().is_none_or(is_stale) {
            let group = Group::of(&id.client_id, None);
            let client = Client { seen_ms: now_ms, first, group };
            txn.put_raw(client_key(&id.client_id), Some(client.encode_as_format_4()));
        }
    }
    let mut record = Vec::new();
    record.put_u64(id.sequence);
    if reply.encoded_len() <= MAX_REPLY_BYTES {
        record.put_slice(&reply.encode_to_vec());
    } else {
        record.put_slice(&not_kept(reply).encode_to_vec());
    }
    txn.put_raw(slot_key(&id.client_id, id.sequence), Some(record.into()));
    Ok(())
}

/// Evicts the client that was idle for longest if the table is full. Used for entries up to log format 4,
/// whose meaning must not change.
fn evict_longest_idle(txn: &mut Txn<'_>) -> Result<(), EngineError> {
    let clients = txn.raw_range(CLIENT, CLIENT_END)?;
    if clients.len() < MAX_CLIENTS {
        return Ok(());
    }
    let mut oldest: Option<(u64, Bytes)> = None;
    for (key, raw) in clients {
        let candidate = (Client::decode(&key[CLIENT.len()..], &raw)?.seen_ms, key);
        if oldest.as_ref().is_none_or(|oldest| candidate < *oldest) {
            oldest = Some(candidate);
        }
    }
    let Some((_, key)) = oldest else { return Ok(()) };
    remove_client(txn, &key[CLIENT.len()..])
}

/// Removes all records of a client.
fn remove_client(txn: &mut Txn<'_>, client_id: &[u8]) -> Result<(), EngineError> {
    let slots = slots_of(client_id);
    let end = [&slots[..], &[u8::MAX; 2]].concat();
    for (slot, _) in txn.raw_range(&slots, &end)? {
        txn.put_raw(slot, None);
    }
    txn.put_raw(client_key(client_id), None);
    Ok(())
}

/// The record of a client.
struct Client {
    /// Time of its last write by the log's clock, milliseconds since the Unix epoch, to within
    /// [`SEEN_STEP_MS`].
    seen_ms: u64,
    /// Its first sequence.
    first: u64,
    /// Group whose share of the table it counts for.
    group: Group,
}

impl Client {
    fn encode(&self) -> Bytes {
        [&self.seen_ms.to_be_bytes()[..], &self.first.to_be_bytes(), self.group.as_bytes()].concat().into()
    }

    fn encode_as_format_4(&self) -> Bytes {
        [self.seen_ms.to_be_bytes(), self.first.to_be_bytes()].concat().into()
    }

    /// Decodes a record; one written in log format 4 has no group.
    fn decode(client_id: &[u8], mut raw: &[u8]) -> Result<Self, EngineError> {
        let mut next = || raw.try_get_u64().map_err(|_| damaged());
        let (seen_ms, first) = (next()?, next()?);
        let group = if raw.is_empty() { Group::of(client_id, None) } else { Group::from_bytes(raw) };
        Ok(Self { seen_ms, first, group })
    }
}

/// Whether a member assigned the client id, for writes that it forwards.
fn is_of_member(client_id: &[u8]) -> bool {
    client_id.first() == Some(&0)
}

fn client_key(client_id: &[u8]) -> Bytes {
    [CLIENT, client_id].concat().into()
}

fn slot_key(client_id: &[u8], sequence: u64) -> Bytes {
    let mut key = slots_of(client_id);
    key.put_u8((sequence % SLOTS) as u8);
    key.into()
}

/// Returns the key prefix of all slots of a client. It includes the length of the id, so that a client whose
/// id is a prefix of another's is distinct.
fn slots_of(client_id: &[u8]) -> Vec<u8> {
    [SLOT, &[client_id.len() as u8], client_id].concat()
}

fn invalid_id(id: &RequestId) -> Option<Error> {
    let length = id.client_id.len();
    if length == 0 || length > MAX_CLIENT_ID_BYTES {
        return Some(Error::invalid(format!(
            "request_id.client_id has {length} bytes: write 1 to {MAX_CLIENT_ID_BYTES}"
        )));
    }
    (id.sequence == 0).then(|| Error::invalid("request_id.sequence is 0: count from 1"))
}

fn forgotten_error(id: &RequestId) -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        format!(
            "outcome unknown: request {} of this client is no longer remembered, so it may have been applied; \
             read the key before sending the write again",
            id.sequence
        ),
    )
}

fn not_kept(reply: &Reply) -> Reply {
    let error = Error::new(
        ErrorCode::AlreadyApplied,
        format!(
            "this write was applied at index {}; its answer of more than {MAX_REPLY_BYTES} bytes was not kept",
            reply.index
        ),
    );
    Reply { kind: Some(Answer::Error(error.into())), ..*reply }
}

fn damaged() -> EngineError {
    EngineError::Corrupt("a record of the requests cannot be decoded".to_owned())
}
