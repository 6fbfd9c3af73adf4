//! What an entry did to keys, in the words of Redis's keyspace notifications: `lpush`, `del`, `expired`.
//!
//! Gathered while an entry is applied, if this member has clients that want to know, and no part of the state: members
//! need not agree on it. A command says nothing of it by itself. What became of each key is noted where every command
//! writes its keys ([`Txn::replace`](super::txn::Txn), `erase`), and the words of the command tell what to call it.

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::{Call, Command};

use super::calls;

/// Of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    /// The letter under which clients ask for it (`notify-keyspace-events`).
    pub class: char,
    pub key: Bytes,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// There was none before.
    Made,
    Changed,
    Removed,
    /// Its time had passed.
    Expired,
}

/// What is noted of the entry at hand.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By the command at hand, in the order in which they came.
    fates: Vec<(Bytes, Fate)>,
    pub events: Vec<Event>,
}

impl Notes {
    pub fn note(&mut self, key: &[u8], fate: Fate) {
        // What is done to a key in several steps is done in a row.
        let known = self.fates.iter_mut().rev().take(2).find(|(other, _)| other == key);
        match (known, fate) {
            (Some((_, known @ Fate::Removed)), Fate::Made) => *known = Fate::Changed,
            (Some((_, known @ Fate::Changed)), Fate::Removed) => *known = Fate::Removed,
            (Some((_, Fate::Made | Fate::Changed)), Fate::Changed) => {}
            _ => self.fates.push((Bytes::copy_from_slice(key), fate)),
        }
    }

    /// Names what `command`, which is done, did.
    pub fn name(&mut self, command: &Command) {
        for (key, fate) in std::mem::take(&mut self.fates) {
            let mut tell = |(name, class)| self.events.push(Event { name, class, key: key.clone() });
            if fate == Fate::Expired {
                tell(("expired", 'x'));
                continue;
            }
            if fate == Fate::Made {
                tell(("new", 'n'));
            }
            let names = names(command, &key);
            names
                .into_iter()
                .flatten()
                .filter(|name| fate != Fate::Removed || outlives_key(name))
                .for_each(&mut tell);
            if fate == Fate::Removed && !names.contains(&Some(RENAME_FROM)) {
                tell(("del", 'g'));
            }
        }
    }
}

type Name = (&'static str, char);

const RENAME_FROM: Name = ("rename_from", 'g');

/// What became of `key` by `command`: at most two things at once.
fn names(command: &Command, key: &Bytes) -> [Option<Name>; 2] {
    let one = |name, class| [Some((name, class)), None];
    match &command.op {
        Some(Op::Set(set)) => [Some(("set", '$')), set.expire_at_ms.map(|_| ("expire", 'g'))],
        Some(Op::MultiSet(_)) => one("set", '$'),
        Some(Op::Increment(_)) => one("incrby", '$'),
        Some(Op::Expire(_)) => one("expire", 'g'),
        Some(Op::Persist(_)) => one("persist", 'g'),
        Some(Op::Call(call)) => names_of_call(call, key),
        _ => [None; 2],
    }
}

fn names_of_call(call: &Call, key: &Bytes) -> [Option<Name>; 2] {
    let one = |name, class| [Some((name, class)), None];
    let args = &call.args[..];
    let is_first = args.first() == Some(key);
    let Some(verb) = calls::find(&call.name) else { return [None; 2] };
    match verb.name {
        "getdel" => [None; 2],
        "getex" => one(if says(args.get(1), "persist") { "persist" } else { "expire" }, 'g'),
        "copy" => one("copy_to", 'g'),
        "rename" | "renamenx" => [Some(if is_first { RENAME_FROM } else { ("rename_to", 'g') }), None],
        "restore" => one("restore", 'g'),
        "sort" => one("sortstore", 'l'),
        "bitop" => one("set", '$'),
        name @ ("append" | "incrbyfloat" | "setbit" | "setrange") => one(name, '$'),
        "hmset" | "hsetnx" => one("hset", 'h'),
        "smove" => one(if is_first { "srem" } else { "sadd" }, 's'),
        "lpushx" => one("lpush", 'l'),
        "rpushx" => one("rpush", 'l'),
        "lmpop" => one(pop_of(says(behind_keys(args), "left")), 'l'),
        "lmove" => moved(args, key, says(args.get(2), "left"), says(args.get(3), "left")),
        "rpoplpush" => moved(args, key, false, true),
        "zadd" if args.iter().skip(1).take(MAX_OPTIONS).any(|word| says(Some(word), "incr")) => {
            one("zincr", 'z')
        }
        "zincrby" => one("zincr", 'z'),
        "zmpop" => one(if says(behind_keys(args), "min") { "zpopmin" } else { "zpopmax" }, 'z'),
        name if name.starts_with(['l', 'r']) => one(name, 'l'),
        name if name.starts_with('s') => one(name, 's'),
        name if name.starts_with('h') => one(name, 'h'),
        name => one(name, 'z'),
    }
}

/// Of `ZADD`: they come before the scores.
const MAX_OPTIONS: usize = 4;

fn pop_of(left: bool) -> &'static str {
    if left { "lpop" } else { "rpop" }
}

fn moved(args: &[Bytes], key: &Bytes, from_left: bool, to_left: bool) -> [Option<Name>; 2] {
    let is = |position: usize| args.get(position) == Some(key);
    let push = if to_left { "lpush" } else { "rpush" };
    [is(1).then_some((push, 'l')), is(0).then_some((pop_of(from_left), 'l'))]
}

/// The word behind a number and so many keys.
fn behind_keys(args: &[Bytes]) -> Option<&Bytes> {
    let count: usize = std::str::from_utf8(args.first()?).ok()?.parse().ok()?;
    args.get(count.checked_add(1)?)
}

fn says(word: Option<&Bytes>, keyword: &str) -> bool {
    word.is_some_and(|word| word.eq_ignore_ascii_case(keyword.as_bytes()))
}

/// Of a key that was given nothing but a new value, or a time that had passed, only its end is told.
fn outlives_key((name, _): &Name) -> bool {
    !["copy_to", "expire", "persist", "set"].contains(name) && !name.ends_with("store")
}
