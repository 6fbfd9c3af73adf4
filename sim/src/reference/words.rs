//! Calls of the commands that were separate operations up to log format 5, read from their words.

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::{
    Call, Delete, Expire, FlushAll, Increment, KeyValue, MultiSet, Persist, Set, SetCondition,
};

/// Returns the operation that `call` stands for; `None` for any other command.
pub fn operation(name: &str, call: &Call) -> Option<Op> {
    let args = &call.args[..];
    let number = |at: usize| std::str::from_utf8(args.get(at)?).ok()?.parse::<i64>().ok();
    Some(match name {
        "set" => Op::Set(set(args)?),
        "del" => Op::Delete(Delete { keys: args.to_vec() }),
        "pexpireat" => {
            let at_ms = number(1)?.unsigned_abs();
            Op::Expire(Expire { key: args.first()?.clone(), at_ms, ..Expire::default() })
        }
        "persist" => Op::Persist(Persist { key: args.first()?.clone() }),
        "incrby" => Op::Increment(Increment { key: args.first()?.clone(), delta: number(1)? }),
        "mset" => {
            let pair = |pair: &[Bytes]| KeyValue { key: pair[0].clone(), value: pair[1].clone() };
            Op::MultiSet(MultiSet { pairs: args.chunks_exact(2).map(pair).collect(), ..MultiSet::default() })
        }
        "flushall" => Op::FlushAll(FlushAll {}),
        _ => return None,
    })
}

fn set(args: &[Bytes]) -> Option<Set> {
    let (key, value) = (args.first()?.clone(), args.get(1)?.clone());
    let mut set = Set { key, value, ..Set::default() };
    let mut options = args[2..].iter();
    while let Some(option) = options.next() {
        match &option[..] {
            b"NX" => set.set_condition(SetCondition::IfAbsent),
            b"XX" => set.set_condition(SetCondition::IfPresent),
            b"KEEPTTL" => set.keep_ttl = true,
            b"PXAT" => set.expire_at_ms = std::str::from_utf8(options.next()?).ok()?.parse().ok(),
            _ => return None,
        }
    }
    Some(set)
}
