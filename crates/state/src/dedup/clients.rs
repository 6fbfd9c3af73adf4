//! The table of remembered clients and its eviction, from log format 5 on.
//!
//! The clients of members have a separate limit. All other clients share one: each user or address is a
//! group, and a new client evicts the one of the largest group that was idle for longest. A user that invents
//! client ids thus evicts its own clients. These records make each step a bounded number of lookups:
//!
//! - `ro` + group's length + group + time + client orders the clients of a group by the time they were last seen;
//! - `ru` + group holds their number and the time of the oldest;
//! - `rn` + number (inverted) + that time + group orders the groups;
//! - `rt` holds the totals and the index of the entry that last evicted a member's client.

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::Origin;

use super::super::engines::EngineError;
use super::super::txn::Txn;
use super::{CLIENT, CLIENT_END, Client, MAX_CLIENTS, damaged, is_of_member, remove_client};

const TABLE: &[u8] = b"rt";
const ORDER: &[u8] = b"ro";
const SIZE: &[u8] = b"rn";
const SIZE_END: &[u8] = b"ro";
const SHARE: &[u8] = b"ru";
/// Key prefixes of the records of the table.
pub const PREFIXES: [&[u8]; 4] = [TABLE, ORDER, SIZE, SHARE];

const MEMBERS: u8 = 0;
const OTHERS: u8 = 1;
/// Maximum length of an entry's identity; the bytes beyond it are ignored.
const MAX_IDENTITY_BYTES: usize = 32;

/// A group of clients that share a part of the table: those of one user or address, or those of all members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group(Bytes);

impl Group {
    pub fn of(client_id: &[u8], origin: Option<&Origin>) -> Self {
        if is_of_member(client_id) {
            return Self(Bytes::from_static(&[MEMBERS]));
        }
        let identity = origin.map_or(&[][..], |origin| &origin.identity);
        let identity = &identity[..identity.len().min(MAX_IDENTITY_BYTES)];
        Self([&[OTHERS], identity].concat().into())
    }

    pub fn from_bytes(raw: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(raw))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn is_of_members(&self) -> bool {
        self.0.first() == Some(&MEMBERS)
    }

    fn share_key(&self) -> Bytes {
        [SHARE, &self.0].concat().into()
    }

    fn order_prefix(&self) -> Vec<u8> {
        [ORDER, &[self.0.len() as u8], &self.0].concat()
    }

    fn order_key(&self, seen_ms: u64, client_id: &[u8]) -> Bytes {
        let mut key = self.order_prefix();
        key.put_u64(seen_ms);
        key.put_slice(client_id);
        key.into()
    }

    /// Returns the client that was idle for longest, and the time at which it was last seen.
    fn oldest(&self, txn: &Txn<'_>) -> Result<Option<(u64, Bytes)>, EngineError> {
        let start = self.order_prefix();
        let end = [&start[..], &[u8::MAX; 9]].concat();
        let Some((key, _)) = txn.range_uncharged(&start, &end).next().transpose()? else { return Ok(None) };
        let mut rest = key.slice(start.len()..);
        let seen_ms = rest.try_get_u64().map_err(|_| damaged())?;
        Ok(Some((seen_ms, rest)))
    }
}

/// The number of a group's clients, and the time at which the oldest was last seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    clients: u32,
    oldest_ms: u64,
}

impl Share {
    fn of(txn: &Txn<'_>, group: &Group) -> Result<Self, EngineError> {
        let Some(mut raw) = txn.now_uncharged(&group.share_key())? else { return Ok(Self::default()) };
        let clients = raw.try_get_u32().map_err(|_| damaged())?;
        Ok(Self { clients, oldest_ms: raw.try_get_u64().map_err(|_| damaged())? })
    }

    fn size_key(self, group: &Group) -> Bytes {
        let mut key = SIZE.to_vec();
        key.put_u32(u32::MAX - self.clients);
        key.put_u64(self.oldest_ms);
        key.put_slice(&group.0);
        key.into()
    }

    /// Updates the records of `group` to its new number of clients.
    fn replace(self, txn: &mut Txn<'_>, group: &Group, clients: u32) -> Result<(), EngineError> {
        let oldest_ms = group.oldest(txn)?.map_or(0, |(seen_ms, _)| seen_ms);
        let new = Self { clients, oldest_ms };
        if !group.is_of_members() {
            if self.clients > 0 {
                txn.put_raw(self.size_key(group), None);
            }
            if clients > 0 {
                txn.put_raw(new.size_key(group), Some(Bytes::new()));
            }
        }
        let mut record = Vec::with_capacity(12);
        record.put_u32(new.clients);
        record.put_u64(new.oldest_ms);
        txn.put_raw(group.share_key(), (clients > 0).then(|| record.into()));
        Ok(())
    }
}

/// The numbers of remembered clients.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Number of members' clients.
    members: u32,
    /// Number of all other clients.
    others: u32,
    /// Index of the entry that last evicted a member's client; 0 if there is none.
    pub evicted_at: u64,
}

impl Table {
    /// Reads the table. If it does not exist yet, the result has the `evicted_at` that [`Table::in_use`]
    /// would store, and no clients.
    pub fn of(txn: &Txn<'_>) -> Result<Self, EngineError> {
        match txn.now_uncharged(TABLE)? {
            Some(raw) => Self::decode(raw),
            None => Ok(Self { members: 0, others: 0, evicted_at: evicted_before(txn)? }),
        }
    }

    /// Reads the table, or creates it if `wanted`. `None` before the first entry that wants it: until then
    /// clients are kept as in log format 4.
    pub fn in_use(txn: &mut Txn<'_>, wanted: bool) -> Result<Option<Self>, EngineError> {
        match txn.now_uncharged(TABLE)? {
            Some(raw) => Self::decode(raw).map(Some),
            None if wanted => Self::import_format_4(txn).map(Some),
            None => Ok(None),
        }
    }

    /// Creates the table from the clients of log format 4, which have no order records yet.
    fn import_format_4(txn: &mut Txn<'_>) -> Result<Self, EngineError> {
        let mut table = Self { members: 0, others: 0, evicted_at: evicted_before(txn)? };
        for (key, raw) in txn.raw_range(CLIENT, CLIENT_END)? {
            let client_id = &key[CLIENT.len()..];
            let client = Client::decode(client_id, &raw)?;
            table.enter(txn, client_id, &client.group, client.seen_ms)?;
        }
        table.save(txn);
        Ok(table)
    }

    /// Records a write of a client at `now_ms`; evicts other clients if the table is full. `known` is its
    /// record so far.
    pub fn record_write(
        mut self,
        txn: &mut Txn<'_>,
        client_id: &[u8],
        known: Option<&Client>,
        group: &Group,
        now_ms: u64,
    ) -> Result<(), EngineError> {
        if let Some(known) = known {
            self.leave(txn, client_id, known)?;
        }
        while self.count(group) >= MAX_CLIENTS {
            let Some((victim, client_id)) = victim(txn, group)? else { break };
            let known = txn.raw(&super::client_key(&client_id))?.ok_or_else(damaged)?;
            self.leave(txn, &client_id, &Client::decode(&client_id, &known)?)?;
            remove_client(txn, &client_id)?;
            if victim.is_of_members() {
                self.evicted_at = txn.revision();
            }
        }
        self.enter(txn, client_id, group, now_ms)?;
        self.save(txn);
        Ok(())
    }

    fn enter(
        &mut self,
        txn: &mut Txn<'_>,
        client_id: &[u8],
        group: &Group,
        seen_ms: u64,
    ) -> Result<(), EngineError> {
        let share = Share::of(txn, group)?;
        txn.put_raw(group.order_key(seen_ms, client_id), Some(Bytes::new()));
        share.replace(txn, group, share.clients + 1)?;
        *self.count_mut(group) += 1;
        Ok(())
    }

    fn leave(&mut self, txn: &mut Txn<'_>, client_id: &[u8], known: &Client) -> Result<(), EngineError> {
        let Client { seen_ms, group, .. } = known;
        let share = Share::of(txn, group)?;
        txn.put_raw(group.order_key(*seen_ms, client_id), None);
        share.replace(txn, group, share.clients.saturating_sub(1))?;
        let count = self.count_mut(group);
        *count = count.saturating_sub(1);
        Ok(())
    }

    fn count(&self, group: &Group) -> usize {
        (if group.is_of_members() { self.members } else { self.others }) as usize
    }

    fn count_mut(&mut self, group: &Group) -> &mut u32 {
        if group.is_of_members() { &mut self.members } else { &mut self.others }
    }

    fn save(&self, txn: &mut Txn<'_>) {
        let mut record = Vec::with_capacity(16);
        record.put_u32(self.members);
        record.put_u32(self.others);
        record.put_u64(self.evicted_at);
        txn.put_raw(Bytes::from_static(TABLE), Some(record.into()));
    }

    fn decode(mut raw: Bytes) -> Result<Self, EngineError> {
        let mut number = || raw.try_get_u32().map_err(|_| damaged());
        let (members, others) = (number()?, number()?);
        Ok(Self { members, others, evicted_at: raw.try_get_u64().map_err(|_| damaged())? })
    }
}

/// Returns the value of `evicted_at` for a table that is created now: 0 if the clients of log format 4 are
/// fewer than the limit, so that none was evicted, else the current entry.
fn evicted_before(txn: &Txn<'_>) -> Result<u64, EngineError> {
    let clients = txn.range_uncharged(CLIENT, CLIENT_END).take(MAX_CLIENTS).count();
    Ok(if clients < MAX_CLIENTS { 0 } else { txn.revision() })
}

/// Returns the client that is evicted for one of `group`. If another group is only as large as `group`, the
/// client is one of `group`.
fn victim(txn: &Txn<'_>, group: &Group) -> Result<Option<(Group, Bytes)>, EngineError> {
    let mut from = group.clone();
    if !group.is_of_members() {
        let largest = txn.range_uncharged(SIZE, SIZE_END).next().transpose()?;
        if let Some((key, _)) = largest {
            let mut rest = key.slice(SIZE.len()..);
            let clients = u32::MAX - rest.try_get_u32().map_err(|_| damaged())?;
            rest.try_get_u64().map_err(|_| damaged())?;
            if clients > Share::of(txn, group)?.clients {
                from = Group(rest);
            }
        }
    }
    Ok(from.oldest(txn)?.map(|(_, client_id)| (from, client_id)))
}
