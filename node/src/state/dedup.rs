//! Which writes were applied already: one that carries a [`RequestId`] is applied once and answered
//! alike ever after (node.md, pitfall 26).
//!
//! Two kinds of raw records, so that checkpoint, digest and snapshot carry them as they carry keys:
//! `rc` + client holds when the client was last seen and with which sequence it began, `rs` + client's
//! length + client + slot holds a sequence and its reply. A sequence has the slot of its remainder, so
//! that a client's newest writes replace its oldest and nothing needs to be looked for.

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, ErrorCode, Reply, RequestId};
use prost::Message;

use super::command::{self, Failure};
use super::engines::EngineError;
use super::txn::{Changes, Txn};
use crate::error::Error;
use crate::mutation::Mutation;

/// Clients remembered; a new one takes the place of the one that was silent for longest.
const MAX_CLIENTS: usize = 1_024;
/// Writes remembered of one client.
const SLOTS: u64 = 256;
pub(super) const MAX_CLIENT_ID_BYTES: usize = 64;
/// A longer reply is not kept. With the bounds above: at most 268 MB, about a tenth with usual replies.
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
    let looker = new_txn();
    if let Some(refusal) = misnamed(id) {
        return Ok((looker.reply(Answer::Error(refusal.into())), looker.finish()));
    }
    match find(&looker, id)? {
        Found::Applied(Reply { kind: Some(answer), .. }) if Mutation::RepeatHasNewIndex.is_on() => {
            Ok((looker.reply(answer), looker.finish()))
        }
        Found::Applied(reply) => Ok((reply, looker.finish())),
        Found::Forgotten => Ok((looker.reply(Answer::Error(forgotten(id).into())), looker.finish())),
        Found::New(client) => {
            let (mut txn, reply) = run(&new_txn, command)?;
            let is_refused = matches!(reply.kind, Some(Answer::Error(_)));
            if !(is_refused && Mutation::RefusalForgotten.is_on()) {
                remember(&mut txn, id, client, &reply)?;
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

fn find(txn: &Txn<'_>, id: &RequestId) -> Result<Found, EngineError> {
    let Some(raw) = txn.raw(&client_key(&id.client_id))? else {
        return Ok(if id.retry { Found::Forgotten } else { Found::New(None) });
    };
    let client = Client::decode(&raw)?;
    if let Some(mut raw) = txn.raw(&slot_key(&id.client_id, id.sequence))? {
        let sequence = raw.try_get_u64().map_err(|_| damaged())?;
        if sequence == id.sequence && !(id.retry && Mutation::RetryAppliedAgain.is_on()) {
            return Reply::decode(raw).map(Found::Applied).map_err(|_| damaged());
        }
        if sequence > id.sequence {
            return Ok(Found::Forgotten);
        }
    }
    // What came before the first sequence may be of the time before the client was forgotten.
    let is_of_before = id.retry && id.sequence < client.first;
    Ok(if is_of_before { Found::Forgotten } else { Found::New(Some(client)) })
}

fn remember(
    txn: &mut Txn<'_>,
    id: &RequestId,
    client: Option<Client>,
    reply: &Reply,
) -> Result<(), EngineError> {
    let now_ms = txn.clock_ms();
    let first = match &client {
        Some(client) => client.first,
        None => {
            make_room(txn)?;
            id.sequence
        }
    };
    if client.is_none_or(|client| now_ms >= client.seen_ms.saturating_add(SEEN_STEP_MS)) {
        txn.put_raw(client_key(&id.client_id), Some(Client { seen_ms: now_ms, first }.encode()));
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

/// Forgets the client that was silent for longest if there are as many as may be.
fn make_room(txn: &mut Txn<'_>) -> Result<(), EngineError> {
    let clients = txn.raw_range(CLIENT, CLIENT_END)?;
    if clients.len() < MAX_CLIENTS {
        return Ok(());
    }
    let mut oldest: Option<(u64, Bytes)> = None;
    for (key, raw) in clients {
        let candidate = (Client::decode(&raw)?.seen_ms, key);
        if oldest.as_ref().is_none_or(|oldest| candidate < *oldest) {
            oldest = Some(candidate);
        }
    }
    let Some((_, key)) = oldest else { return Ok(()) };
    let slots = slots_of(&key[CLIENT.len()..]);
    let end = [&slots[..], &[u8::MAX; 2]].concat();
    for (slot, _) in txn.raw_range(&slots, &end)? {
        txn.put_raw(slot, None);
    }
    txn.put_raw(key, None);
    Ok(())
}

struct Client {
    /// The log's clock, ms.
    seen_ms: u64,
    /// The sequence it began with.
    first: u64,
}

impl Client {
    fn encode(&self) -> Bytes {
        [self.seen_ms.to_be_bytes(), self.first.to_be_bytes()].concat().into()
    }

    fn decode(mut raw: &[u8]) -> Result<Self, EngineError> {
        let mut next = || raw.try_get_u64().map_err(|_| damaged());
        Ok(Self { seen_ms: next()?, first: next()? })
    }
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
