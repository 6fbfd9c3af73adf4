//! Which clients are remembered, from log format 5 on.
//!
//! Members' own clients have a table apart. All others share one: each user or address has a group, and the client
//! that makes room for a new one is the one of the largest group that was silent for longest. So one that makes up
//! client ids replaces its own. Each step costs a bounded number of lookups:
//! `ro` + group's length + group + time + client orders the clients of a group by when they were last seen, `ru` + group
//! holds how many they are and when the oldest was seen, `rn` + count (inverted) + that time + group orders the
//! groups, `rt` holds the counts and the index of the entry that last forgot a client of a member.

use bytes::{Buf, BufMut, Bytes};
use helios_proto::v1::Origin;

use super::super::engines::EngineError;
use super::super::txn::Txn;
use super::{CLIENT, CLIENT_END, Client, MAX_CLIENTS, damaged, forget, is_of_member};

const TABLE: &[u8] = b"rt";
const ORDER: &[u8] = b"ro";
const SIZE: &[u8] = b"rn";
const SIZE_END: &[u8] = b"ro";
const SHARE: &[u8] = b"ru";

const MEMBERS: u8 = 0;
const OTHERS: u8 = 1;
/// Longest identity that an entry may carry; more of it is not looked at.
const MAX_IDENTITY_BYTES: usize = 32;

/// Clients that make room for each other first.
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

    /// When the client that was silent for longest was seen, and which one it is.
    fn oldest(&self, txn: &Txn<'_>) -> Result<Option<(u64, Bytes)>, EngineError> {
        let start = self.order_prefix();
        let end = [&start[..], &[u8::MAX; 9]].concat();
        let Some((key, _)) = txn.range_uncharged(&start, &end).next().transpose()? else { return Ok(None) };
        let mut rest = key.slice(start.len()..);
        let seen_ms = rest.try_get_u64().map_err(|_| damaged())?;
        Ok(Some((seen_ms, rest)))
    }
}

/// What a group holds.
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

    /// Notes that `group` has this many clients now.
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

/// The clients that are remembered.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    members: u32,
    others: u32,
    /// Index of the entry that last forgot a client of a member; 0: none was.
    pub evicted_at: u64,
}

impl Table {
    /// As it is, or as [`Table::in_use`] would make it.
    pub fn of(txn: &Txn<'_>) -> Result<Self, EngineError> {
        match txn.now_uncharged(TABLE)? {
            Some(raw) => Self::decode(raw),
            None => Ok(Self { members: 0, others: 0, evicted_at: evicted_before(txn)? }),
        }
    }

    /// `None` before the first entry that asks for it: up to then clients are kept as in format 4.
    pub fn in_use(txn: &mut Txn<'_>, wanted: bool) -> Result<Option<Self>, EngineError> {
        match txn.now_uncharged(TABLE)? {
            Some(raw) => Self::decode(raw).map(Some),
            None if wanted => Self::begin(txn).map(Some),
            None => Ok(None),
        }
    }

    /// Takes over the clients of format 4, which are in no order yet.
    fn begin(txn: &mut Txn<'_>) -> Result<Self, EngineError> {
        let mut table = Self { members: 0, others: 0, evicted_at: evicted_before(txn)? };
        for (key, raw) in txn.raw_range(CLIENT, CLIENT_END)? {
            let client_id = &key[CLIENT.len()..];
            let client = Client::decode(client_id, &raw)?;
            table.enter(txn, client_id, &client.group, client.seen_ms)?;
        }
        table.save(txn);
        Ok(table)
    }

    /// A client wrote: `known` is what was known of it.
    pub fn saw(
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
            forget(txn, &client_id)?;
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

/// While there were fewer than may be, none was forgotten.
fn evicted_before(txn: &Txn<'_>) -> Result<u64, EngineError> {
    let clients = txn.range_uncharged(CLIENT, CLIENT_END).take(MAX_CLIENTS).count();
    Ok(if clients < MAX_CLIENTS { 0 } else { txn.revision() })
}

/// The client that makes room for one of `group`. Of two groups of the same size, `group` gives way itself.
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
