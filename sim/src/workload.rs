//! Requests beside those on registers: keys of every type, expiry, transactions, scripts. Only the reference checks
//! their answers.

use std::collections::BTreeSet;

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::{Call, Command, Expire, KeyValue, MultiSet, Set, SetCondition, Transaction};
use helios_state::commands;
use rand::Rng;
use rand::rngs::SmallRng;

/// First letters of the names of keys, one for each type.
const TYPES: [char; 5] = ['t', 'h', 'l', 's', 'z'];
const KEYS_OF_A_TYPE: u32 = 2;
/// Number of different fields of hashes and members of sets: few, so that commands meet existing ones.
const ELEMENTS: u32 = 6;

/// A request that is not on a register.
#[derive(Debug, Clone)]
pub enum Ask {
    Read(Call),
    Write(Op),
    /// WATCH of some keys, then EXEC.
    Exec {
        watched: Vec<Bytes>,
        steps: Vec<Op>,
    },
    Script(Vec<Op>),
}

/// Draws a request. `clock_ms` is the log's clock, from which expiry is counted; `reads` is the number of reads among
/// 100 requests.
pub fn draw(random: &mut SmallRng, clock_ms: u64, reads: u32, may_flush: bool) -> Ask {
    if random.random_range(0..100) < reads {
        return Ask::Read(read(random));
    }
    if may_flush && random.random_ratio(1, 100) {
        return Ask::Write(commands::flush_all());
    }
    match random.random_range(0..10) {
        0 | 1 => Ask::Exec {
            watched: (0..random.random_range(0..=2)).map(|_| key(random)).collect(),
            steps: steps(random, clock_ms, 4),
        },
        2 | 3 => {
            let mut steps = steps(random, clock_ms, 4);
            if random.random_ratio(1, 4) {
                steps.push(call("spop", &[name('s', random)]));
            }
            Ask::Script(steps)
        }
        _ => Ask::Write(write(random, clock_ms)),
    }
}

fn steps(random: &mut SmallRng, clock_ms: u64, most: usize) -> Vec<Op> {
    let count = random.random_range(1..=most);
    let step = |random: &mut SmallRng| {
        if random.random_ratio(1, 3) { Op::Call(read(random)) } else { write(random, clock_ms) }
    };
    (0..count).map(|_| step(random)).collect()
}

fn name(kind: char, random: &mut SmallRng) -> Bytes {
    format!("{kind}{}", random.random_range(0..KEYS_OF_A_TYPE)).into()
}

fn key(random: &mut SmallRng) -> Bytes {
    name(TYPES[random.random_range(0..TYPES.len())], random)
}

fn element(random: &mut SmallRng) -> Bytes {
    format!("e{}", random.random_range(0..ELEMENTS)).into()
}

fn value(random: &mut SmallRng) -> Bytes {
    let number: u32 = random.random_range(0..1_000);
    if random.random_ratio(1, 6) { format!("word{number}").into() } else { number.to_string().into() }
}

fn call(name: &str, args: &[Bytes]) -> Op {
    Op::Call(commands::call(name, args.to_vec()))
}

/// Read of the whole value of a key, of the type in its name.
pub fn read_of(key: &Bytes) -> Call {
    let (name, rest): (_, &[&str]) = match key.first() {
        Some(b'h') => ("hgetall", &[]),
        Some(b'l') => ("lrange", &["0", "-1"]),
        Some(b's') => ("smembers", &[]),
        Some(b'z') => ("zrange", &["0", "-1", "WITHSCORES"]),
        _ => ("get", &[]),
    };
    let rest = rest.iter().map(|word| Bytes::from_static(word.as_bytes()));
    commands::call(name, std::iter::once(key.clone()).chain(rest).collect())
}

/// Read of the time at which a key expires.
pub fn expiry_of(key: &Bytes) -> Call {
    commands::call("pexpiretime", vec![key.clone()])
}

fn read(random: &mut SmallRng) -> Call {
    let key = key(random);
    if random.random_ratio(1, 8) { expiry_of(&key) } else { read_of(&key) }
}

fn write(random: &mut SmallRng, clock_ms: u64) -> Op {
    let at_ms = clock_ms + random.random_range(1..400);
    let any = key(random);
    match random.random_range(0..20) {
        0 => return commands::delete(vec![any]),
        1 | 2 => return commands::expire(Expire { key: any, at_ms, condition: 0 }),
        3 => return commands::persist(any),
        _ => {}
    }
    // At times the command gets a key of any type, and is rejected if the type differs.
    let is_of_any_type = random.random_ratio(1, 20);
    let kind = TYPES[random.random_range(0..TYPES.len())];
    let key = if is_of_any_type { any } else { name(kind, random) };
    match kind {
        't' => text(random, key, at_ms),
        'h' => match random.random_range(0..4) {
            0 => call("hdel", &[key, element(random), element(random)]),
            1 => call("hincrby", &[key, element(random), random.random_range(1..9).to_string().into()]),
            _ => call("hset", &[key, element(random), value(random)]),
        },
        'l' => match random.random_range(0..6) {
            0 | 1 => call("lpop", &[key]),
            2 => call("rpop", &[key]),
            3 => call("lpush", &[key, value(random), value(random)]),
            _ => call("rpush", &[key, value(random)]),
        },
        's' => match random.random_range(0..3) {
            0 => call("srem", &[key, element(random)]),
            _ => call("sadd", &[key, element(random), element(random)]),
        },
        _ => match random.random_range(0..4) {
            0 => call("zrem", &[key, element(random)]),
            _ => call("zincrby", &[key, random.random_range(1..9).to_string().into(), element(random)]),
        },
    }
}

fn text(random: &mut SmallRng, key: Bytes, at_ms: u64) -> Op {
    match random.random_range(0..8) {
        0 | 1 => commands::increment(key, random.random_range(1..50)),
        2 => {
            let pair = |key, random: &mut SmallRng| KeyValue { key, value: value(random) };
            let pairs = vec![pair(key, random), pair(name('t', random), random)];
            commands::multi_set(MultiSet { pairs, if_none_exist: false })
        }
        _ => {
            let keep_ttl = random.random_ratio(1, 5);
            let condition = match random.random_range(0..6) {
                0 => SetCondition::IfAbsent,
                1 => SetCondition::IfPresent,
                _ => SetCondition::Always,
            };
            commands::set(Set {
                key,
                value: value(random),
                expire_at_ms: (!keep_ttl && random.random_ratio(1, 2)).then_some(at_ms),
                condition: condition.into(),
                keep_ttl,
                ..Set::default()
            })
        }
    }
}

pub fn transaction(guards: Vec<helios_proto::v1::Guard>, steps: Vec<Op>) -> Op {
    let steps = steps.into_iter().map(|op| Command { op: Some(op), ..Command::default() });
    Op::Transaction(Transaction { guards, steps: steps.collect() })
}

/// A key that `op` may have changed.
pub fn key_of(op: &Op) -> Option<Bytes> {
    match op {
        Op::Set(op) => Some(op.key.clone()),
        Op::Delete(op) => op.keys.first().cloned(),
        Op::Increment(op) => Some(op.key.clone()),
        // FLUSHALL has no argument.
        Op::Call(call) => Some(call.args.first().cloned().unwrap_or(Bytes::from_static(b"t0"))),
        Op::Transaction(op) => op.steps.iter().find_map(|step| step.op.as_ref().and_then(key_of)),
        _ => None,
    }
}

/// Adds the kinds of the commands in `op` to `kinds`, for the report.
pub fn kinds_of(op: &Op, kinds: &mut BTreeSet<&'static str>) {
    let kind = match op {
        Op::Call(call) => match commands::name_of(call).as_str() {
            "set" if call.args.iter().any(|word| word[..] == b"PXAT"[..]) => "expiry",
            "pexpireat" | "persist" => "expiry",
            "flushall" => "flush",
            "set" | "mset" | "incrby" | "del" | "get" | "pexpiretime" => "text",
            name if name.starts_with('h') => "hash",
            name if name.starts_with('s') => "set",
            name if name.starts_with('z') => "sorted set",
            _ => "list",
        },
        Op::Transaction(op) => {
            op.steps.iter().filter_map(|step| step.op.as_ref()).for_each(|op| kinds_of(op, kinds));
            return;
        }
        _ => "text",
    };
    kinds.insert(kind);
}
