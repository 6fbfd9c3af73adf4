//! Calls of the commands that other ports than Redis's build.

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::{Call, Expire, MultiSet, Set};

use super::{expiry, named, set as strings};

/// Returns the call of a command by its name in lower case. The name must be that of a command in the tables.
pub fn call(name: &str, args: Vec<Bytes>) -> Call {
    match named(name) {
        Some(spec) => spec.call(args),
        None => Call { name: name.to_owned(), args, ..Call::default() },
    }
}

pub fn set(set: Set) -> Op {
    Op::Call(strings::call_of_set(set))
}

pub fn multi_set(pairs: MultiSet) -> Op {
    let name = if pairs.if_none_exist { "msetnx" } else { "mset" };
    Op::Call(call(name, pairs.pairs.into_iter().flat_map(|pair| [pair.key, pair.value]).collect()))
}

pub fn increment(key: Bytes, delta: i64) -> Op {
    Op::Call(strings::call_of_increment(key, delta))
}

pub fn delete(keys: Vec<Bytes>) -> Op {
    Op::Call(call("del", keys))
}

pub fn expire(expire: Expire) -> Op {
    Op::Call(expiry::call_of_expire(expire))
}

pub fn persist(key: Bytes) -> Op {
    Op::Call(call("persist", vec![key]))
}

pub fn flush_all() -> Op {
    Op::Call(call("flushall", Vec::new()))
}
