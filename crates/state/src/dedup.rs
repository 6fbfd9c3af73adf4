//! Which writes were applied already: one that carries a [`RequestId`] is applied once and answered
//! alike ever after (docs/design/node.md, pitfall 26).
//!
//! Two kinds of raw records, so that checkpoint, digest and snapshot carry them as they carry keys:
//! `rc` + client holds when the client was last seen and with which sequence it began, `rs` + client's
//! length + client + slot holds a sequence and its reply. A sequence has the slot of its remainder, so
//! that a client's newest writes replace its oldest and nothing needs to be looked for.
//!
//! From log format 5 on an entry says where its write came from, and [`clients`] decides whose client makes
//! room for a new one.

mod clients;

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, ErrorCode, Origin, Reply, RequestId};
use prost::Message;

use super::command::{self, Failure};
use super::engines::EngineError;
use super::txn::{Changes, Txn};
use clients::{Group, Table};
use helios_proto::Error;
use helios_storage::mutation::Mutation;

/// Clients remembered, those of members apart from the others.
pub const MAX_CLIENTS: usize = 1_024;
/// Writes remembered of one client.
pub const SLOTS: u64 = 256;
pub(super) const MAX_CLIENT_ID_BYTES: usize = 64;
/// A longer reply is not kept. With the bounds above: at most 268 MB each for members and for others, about a tenth
/// with usual replies.
const MAX_REPLY_BYTES: usize = 1_024;
/// How exactly it is known when a client was last seen, so that not every write changes its record.
const SEEN_STEP_MS: u64 = 10_000;

const CLIENT: &[u8] = b"rc";
const CLIENT_END: &[u8] = b"rd";
const SLOT: &[u8] = b"rs";

/// What `command` answers, and what it changes: nothing if it was applied before.
pub(super) fn execute_once<'a>(
    new_txn: impl Fn() -> Txn<'a>,
    command: &Command,
) -> Result<(Reply, Changes), EngineError> {
    let Some(id) = &command.request_id else {
        return run(&new_txn, command).map(|(txn, reply)| (reply, txn.finish()));
    };
    let lookup_txn = new_txn();
    if let Some(refusal) = misnamed(id) {
        return Ok((lookup_txn.reply(Answer::Error(refusal.into())), lookup_txn.finish()));
    }
    match find(&lookup_txn, id, command.origin.as_ref())? {
        Found::Applied(Reply { kind: Some(answer), .. }) if Mutation::RepeatHasNewIndex.is_on() => {
            Ok((lookup_txn.reply(answer), lookup_txn.finish()))
        }
        Found::Applied(reply) => Ok((reply, lookup_txn.finish())),
        Found::Forgotten => Ok((lookup_txn.reply(Answer::Error(forgotten(id).into())), lookup_txn.finish())),
        Found::New(client) => {
            let (mut txn, reply) = run(&new_txn, command)?;
            let is_refused = matches!(reply.kind, Some(Answer::Error(_)));
            if !(is_refused && Mutation::RefusalForgotten.is_on()) {
                remember(&mut txn, id, command.origin.as_ref(), client, &reply)?;
            }
            Ok((reply, txn.finish()))
        }
    }
}

/// A refused command changes nothing, but its refusal is an answer like any other.
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
    /// It may have been applied, but what would tell is gone.
    Forgotten,
    /// Never applied, by a client that is known or not.
    New(Option<Client>),
}

fn find(txn: &Txn<'_>, id: &RequestId, origin: Option<&Origin>) -> Result<Found, EngineError> {
    let client =
        txn.raw(&client_key(&id.client_id))?.map(|raw| Client::decode(&id.client_id, &raw)).transpose()?;
    if client.is_some()
        && let Some(mut raw) = txn.raw(&slot_key(&id.client_id, id.sequence))?
    {
        let sequence = raw.try_get_u64().map_err(|_| damaged())?;
        if sequence == id.sequence && !(id.retry && Mutation::RetryAppliedAgain.is_on()) {
            return Reply::decode(raw).map(Found::Applied).map_err(|_| damaged());
        }
        if sequence > id.sequence {
            return Ok(Found::Forgotten);
        }
    }
    // What came before the first sequence may be of the time before the client was forgotten.
    let may_be_forgotten = id.retry && client.as_ref().is_none_or(|client| id.sequence < client.first);
    if may_be_forgotten && !is_named_since_last_eviction(txn, id, origin)? {
        return Ok(Found::Forgotten);
    }
    Ok(Found::New(client))
}

/// Whether no client of a member was forgotten since the write was named: had it been applied, it would be known.
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

fn remember(
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
            table.saw(txn, &id.client_id, client.as_ref(), &group, now_ms)?;
            let client = Client { seen_ms: now_ms, first, group };
            txn.put_raw(client_key(&id.client_id), Some(client.encode()));
        }
    } else {
        if client.is_none() {
            make_room(txn)?;
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

/// Forgets the client that was silent for longest if there are as many as may be: up to log format 4, whose
/// entries have to mean what they did.
fn make_room(txn: &mut Txn<'_>) -> Result<(), EngineError> {
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
    forget(txn, &key[CLIENT.len()..])
}

/// Removes what is known of a client.
fn forget(txn: &mut Txn<'_>, client_id: &[u8]) -> Result<(), EngineError> {
    let slots = slots_of(client_id);
    let end = [&slots[..], &[u8::MAX; 2]].concat();
    for (slot, _) in txn.raw_range(&slots, &end)? {
        txn.put_raw(slot, None);
    }
    txn.put_raw(client_key(client_id), None);
    Ok(())
}

struct Client {
    /// The log's clock, ms.
    seen_ms: u64,
    /// The sequence it began with.
    first: u64,
    /// Whose share of the clients it is in.
    group: Group,
}

impl Client {
    fn encode(&self) -> Bytes {
        [&self.seen_ms.to_be_bytes()[..], &self.first.to_be_bytes(), self.group.as_bytes()].concat().into()
    }

    fn encode_as_format_4(&self) -> Bytes {
        [self.seen_ms.to_be_bytes(), self.first.to_be_bytes()].concat().into()
    }

    /// One that was written in format 4 has no group.
    fn decode(client_id: &[u8], mut raw: &[u8]) -> Result<Self, EngineError> {
        let mut next = || raw.try_get_u64().map_err(|_| damaged());
        let (seen_ms, first) = (next()?, next()?);
        let group = if raw.is_empty() { Group::of(client_id, None) } else { Group::from_bytes(raw) };
        Ok(Self { seen_ms, first, group })
    }
}

/// Whether a member chose the id, for writes that it sends on.
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

/// What the keys of all slots of a client begin with; its length keeps one client's apart from
/// those of another whose id begins alike.
fn slots_of(client_id: &[u8]) -> Vec<u8> {
    [SLOT, &[client_id.len() as u8], client_id].concat()
}

fn misnamed(id: &RequestId) -> Option<Error> {
    let length = id.client_id.len();
    if length == 0 || length > MAX_CLIENT_ID_BYTES {
        return Some(Error::invalid(format!(
            "request_id.client_id has {length} bytes: write 1 to {MAX_CLIENT_ID_BYTES}"
        )));
    }
    (id.sequence == 0).then(|| Error::invalid("request_id.sequence is 0: count from 1"))
}

fn forgotten(id: &RequestId) -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        format!(
            "outcome unknown: request {} of this client is no longer remembered, so it may have been applied; \
             read the key before sending the write anew",
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
