//! Tests of the whole store: every command, and every event between two commands (checkpoint, crash,
//! restore).

mod budgets;
mod chunks;
mod collections;
mod command_tables;
mod commands;
mod count_costs;
mod dedup;
mod figures;
mod follow;
mod full;
mod machine;
mod model;
mod old_entries;
mod power;
mod properties;
mod reads;
mod recovery;
mod views;
mod visits;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{
    Command, Delete, Done, ErrorCode, Expire, FlushAll, Increment, KeyValue, MultiSet, Nil, Persist,
    PurgeExpired, RegisterMember, Reply, RequestId, Set,
};

use super::{Applied, EngineKind, SnapshotMeta, StateError, Store, StoreOptions, Value};

/// A store that entries are applied to, with the log of these entries.
pub struct Machine {
    pub store: Store,
    pub log: Vec<Command>,
}

impl Machine {
    pub fn in_memory() -> Self {
        Self { store: Store::in_memory(), log: Vec::new() }
    }

    pub fn on_disk(dir: &Path) -> Self {
        Self { store: Store::open(dir, EngineKind::Sled).unwrap(), log: Vec::new() }
    }

    pub fn apply(&mut self, now_ms: u64, op: Op) -> Answer {
        self.apply_command(command(now_ms, op)).kind.unwrap()
    }

    pub fn apply_command(&mut self, command: Command) -> Reply {
        self.log.push(command);
        replay(&self.store, &self.log).unwrap()
    }

    /// Returns the keys that are live at the log's clock.
    pub fn pairs(&self) -> Vec<(Bytes, Value)> {
        pairs(&self.store)
    }

    pub fn snapshot(&self, path: PathBuf) -> Vec<u8> {
        self.store.checkpoint().unwrap();
        self.store.write_snapshot(&path).unwrap();
        std::fs::read(path).unwrap()
    }
}

/// Options of `engine`; with `runs`, little content has many blocks, runs and merges.
pub fn options(engine: EngineKind, seed: u64) -> StoreOptions {
    let runs =
        helios_runs::Options { block_bytes: 128, file_bytes: 1 << 10, ..helios_runs::Options::default() };
    StoreOptions { engine, cache_bytes: 64 << 10, runs, seed, ..StoreOptions::default() }
}

/// Executes all merges that are due.
pub fn merge(store: &Store) -> Result<(), StateError> {
    while store.merge_runs(true, |_| std::ops::ControlFlow::Continue(()))? {}
    Ok(())
}

pub fn command(now_ms: u64, op: Op) -> Command {
    Command { now_ms, op: Some(op), ..Command::default() }
}

/// Applies the entries of `log` that `store` has not applied yet; returns the last reply.
pub fn replay(store: &Store, log: &[Command]) -> Option<Reply> {
    let applied = store.applied().index as usize;
    let mut last = None;
    for (position, command) in log.iter().enumerate().skip(applied) {
        last = Some(store.apply(position as u64 + 1, 1, command));
    }
    last
}

pub fn pairs(store: &Store) -> Vec<(Bytes, Value)> {
    store.scan_all().unwrap()
}

/// Asserts that ranges of the state are the same in both directions, in all layers and in the engine alone.
pub fn check_directions(store: &Store) {
    let state = store.inner.state();
    let (view, engine) = (state.view(), &state.engine);
    let keys: Vec<_> = view.range(b"", None).map(|pair| pair.unwrap().0).collect();
    let some: Vec<_> =
        keys.iter().step_by(keys.len() / 6 + 1).chain(keys.last()).map(Bytes::as_ref).collect();
    let ends = || some.iter().copied().map(Some).chain([None, Some(b"zz".as_slice())]);
    for (start, end) in
        [b"".as_slice()].iter().chain(&some).flat_map(|start| ends().map(move |end| (*start, end)))
    {
        let mut both = [view.range(start, end).collect::<Result<Vec<_>, _>>().unwrap(), Vec::new()];
        both[1] = view.range_back(start, end).collect::<Result<_, _>>().unwrap();
        both[1].reverse();
        assert_eq!(both[0], both[1], "from {start:?} to {end:?}");
        both = [engine.range(start, end).collect::<Result<_, _>>().unwrap(), Vec::new()];
        both[1] = engine.range_back(start, end).collect::<Result<_, _>>().unwrap();
        both[1].reverse();
        assert_eq!(both[0], both[1], "the engine, from {start:?} to {end:?}");
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn set(key: &str, value: &str) -> Set {
    Set { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn set_until(key: &str, value: &str, at_ms: u64) -> Op {
    Op::Set(Set { expire_at_ms: Some(at_ms), ..set(key, value) })
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Set(set(key, value))
}

pub fn delete(keys: &[&str]) -> Op {
    Op::Delete(Delete { keys: keys.iter().map(|key| bytes(key)).collect() })
}

pub fn expire(key: &str, at_ms: u64, condition: i32) -> Op {
    Op::Expire(Expire { key: bytes(key), at_ms, condition })
}

pub fn persist(key: &str) -> Op {
    Op::Persist(Persist { key: bytes(key) })
}

pub fn multi_set(pairs: &[(&str, &str)], if_none_exist: bool) -> Op {
    let pairs = pairs.iter().map(|(key, value)| KeyValue { key: bytes(key), value: bytes(value) });
    Op::MultiSet(MultiSet { pairs: pairs.collect(), if_none_exist })
}

pub fn increment(key: &str, delta: i64) -> Op {
    Op::Increment(Increment { key: bytes(key), delta })
}

pub fn flush_all() -> Op {
    Op::FlushAll(FlushAll {})
}

pub fn purge(limit: u32) -> Op {
    Op::PurgeExpired(PurgeExpired { limit })
}

pub fn register(id: u64, disk_id: &str, boot_epoch: u64) -> Op {
    Op::RegisterMember(RegisterMember { id, disk_id: disk_id.to_owned(), boot_epoch, ..Default::default() })
}

pub fn request(client: &str, sequence: u64) -> RequestId {
    RequestId { client_id: bytes(client), sequence, retry: false }
}

pub fn done() -> Answer {
    Answer::Done(Done {})
}

pub fn nil() -> Answer {
    Answer::Nil(Nil {})
}

pub fn int(value: i64) -> Answer {
    Answer::Integer(value)
}

pub fn text(value: &str) -> Answer {
    Answer::Bytes(bytes(value))
}

pub fn code(answer: &Answer) -> Option<ErrorCode> {
    match answer {
        Answer::Error(detail) => Some(detail.code()),
        _ => None,
    }
}
