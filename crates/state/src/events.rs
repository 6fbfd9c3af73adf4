//! Keyspace events of an entry, with the names of Redis's keyspace notifications: `lpush`, `del`, `expired`.
//!
//! Collected while an entry is applied, if a client of this member has subscribed to them. They are not part
//! of the state: members need not agree on them. The functions of the commands do not produce events. The
//! change of each key is noted where all commands write keys ([`Txn::replace`](super::txn::Txn), `erase`),
//! and the tables of commands name its event.

use bytes::Bytes;
use helios_proto::v1::Command;
use helios_proto::v1::command::Op;

use super::commands;

/// A keyspace event of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    /// Letter of its class in `notify-keyspace-events`.
    pub class: char,
    pub key: Bytes,
}

/// The kind of change of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The key did not exist before.
    Made,
    Changed,
    Removed,
    /// The key's expiry had passed.
    Expired,
}

/// The changes and events of the current entry.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Changed keys of the current command, in order.
    fates: Vec<(Bytes, Fate)>,
    pub events: Vec<Event>,
}

impl Notes {
    pub fn note(&mut self, key: &[u8], fate: Fate) {
        // A command changes a key in consecutive steps, so the last two notes suffice.
        let known = self.fates.iter_mut().rev().take(2).find(|(other, _)| other == key);
        match (known, fate) {
            (Some((_, known @ Fate::Removed)), Fate::Made) => *known = Fate::Changed,
            (Some((_, known @ Fate::Changed)), Fate::Removed) => *known = Fate::Removed,
            (Some((_, Fate::Made | Fate::Changed)), Fate::Changed) => {}
            _ => self.fates.push((Bytes::copy_from_slice(key), fate)),
        }
    }

    /// Turns the changes of `command`, which is complete, into events.
    pub fn name(&mut self, command: &Command) {
        for (key, fate) in std::mem::take(&mut self.fates) {
            let mut push_event = |(name, class)| self.events.push(Event { name, class, key: key.clone() });
            if fate == Fate::Expired {
                push_event(("expired", 'x'));
                continue;
            }
            if fate == Fate::Made {
                push_event(("new", 'n'));
            }
            let names = names(command, &key);
            names
                .into_iter()
                .flatten()
                .filter(|name| fate != Fate::Removed || outlives_key(name))
                .for_each(&mut push_event);
            if fate == Fate::Removed && !names.contains(&Some(RENAME_FROM)) {
                push_event(("del", 'g'));
            }
        }
    }
}

pub(super) type Name = (&'static str, char);

pub(super) const RENAME_FROM: Name = ("rename_from", 'g');

/// Returns the names of the events of `key` by `command`: at most two.
fn names(command: &Command, key: &Bytes) -> [Option<Name>; 2] {
    let one = |name, class| [Some((name, class)), None];
    match &command.op {
        Some(Op::Set(set)) => [Some(("set", '$')), set.expire_at_ms.map(|_| ("expire", 'g'))],
        Some(Op::MultiSet(_)) => one("set", '$'),
        Some(Op::Increment(_)) => one("incrby", '$'),
        Some(Op::Expire(_)) => one("expire", 'g'),
        Some(Op::Persist(_)) => one("persist", 'g'),
        Some(Op::Call(call)) => commands::of(call).map_or([None; 2], |spec| spec.events(&call.args, key)),
        _ => [None; 2],
    }
}

/// Returns the argument after a count of keys and the keys.
pub(super) fn behind_keys(args: &[Bytes]) -> Option<&Bytes> {
    let count: usize = std::str::from_utf8(args.first()?).ok()?.parse().ok()?;
    args.get(count.checked_add(1)?)
}

pub(super) fn is_word(word: Option<&Bytes>, keyword: &str) -> bool {
    word.is_some_and(|word| word.eq_ignore_ascii_case(keyword.as_bytes()))
}

/// Whether the event `name` is published even if the command removed the key. A command that only sets a
/// value or an expiry that has passed publishes only `del`.
fn outlives_key((name, _): &Name) -> bool {
    !["copy_to", "expire", "persist", "set"].contains(name) && !name.ends_with("store")
}
