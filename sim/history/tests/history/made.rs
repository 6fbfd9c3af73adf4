//! Histories generated from a seed: a sequential execution, spread over time, with changed answers on
//! request.

use std::collections::BTreeMap;

use helios_history::{Answer, History, Op, Operation, Outcome, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub operations: u64,
    pub keys: u64,
    /// Maximum number of operations that an operation overlaps with, on either side.
    pub overlap: u64,
    /// Percentage of operations with an unknown outcome.
    pub unknown_percent: u32,
    /// Number of different values that are written; few make reads ambiguous.
    pub values: u64,
}

pub type Database = BTreeMap<String, Value>;

/// Executes an operation on a sequential database; returns its answer, or `None` for an error.
pub fn execute(database: &mut Database, key: &str, op: &Op) -> Option<Answer> {
    Some(match op {
        Op::Get => Answer::Value(database.get(key).cloned()),
        Op::Set(value) => {
            database.insert(key.to_owned(), value.clone());
            Answer::Done
        }
        Op::SetIfAbsent(value) => {
            let is_absent = !database.contains_key(key);
            database.entry(key.to_owned()).or_insert_with(|| value.clone());
            Answer::Flag(is_absent)
        }
        Op::Delete => Answer::Flag(database.remove(key).is_some()),
        Op::Incr(by) => {
            let sum = match database.get(key) {
                None => *by,
                Some(Value::Number(number)) => number.checked_add(*by)?,
                Some(Value::Bytes(_)) => return None,
            };
            database.insert(key.to_owned(), Value::Number(sum));
            Answer::Number(sum)
        }
    })
}

/// Generates a legal history: each operation takes effect at its place in a sequence, between invocation and
/// return.
pub fn legal(seed: u64, shape: Shape) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut database = Database::new();
    let mut operations = Vec::new();
    for place in 0..shape.operations {
        let key = format!("k{}", rng.random_range(0..shape.keys));
        let op = random_op(&mut rng, shape);
        // Makes all times distinct.
        let spread = |now: u64| now * shape.operations * 2 + place * 2;
        let middle = shape.overlap + place;
        let invoked = spread(middle - rng.random_range(0..=shape.overlap));
        let returned = spread(middle + rng.random_range(0..=shape.overlap)) + 1;
        let is_unknown = rng.random_ratio(shape.unknown_percent, 100);
        let outcome = if is_unknown {
            if rng.random() {
                execute(&mut database, &key, &op);
            }
            Outcome::Maybe
        } else {
            let answer = execute(&mut database, &key, &op);
            answer.map_or(Outcome::Failed, |answer| Outcome::Ok { answer, returned })
        };
        operations.push(Operation { process: place, key, op, invoked, outcome });
    }
    operations.sort_by_key(|operation| operation.invoked);
    of(operations)
}

/// Generates a legal history and changes some answers; it may still be legal.
pub fn damaged(seed: u64, shape: Shape) -> History {
    let mut rng = StdRng::seed_from_u64(!seed);
    let mut operations = legal(seed, shape).operations().to_vec();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..operations.len());
        if let Outcome::Ok { answer, .. } = &mut operations[at].outcome {
            *answer = match answer {
                Answer::Done => Answer::Done,
                Answer::Value(_) if rng.random_ratio(1, 4) => Answer::Value(None),
                Answer::Value(_) => Answer::Value(Some(random_value(&mut rng, shape))),
                Answer::Flag(flag) => Answer::Flag(!*flag),
                Answer::Number(number) => Answer::Number(*number + rng.random_range(-1..=1)),
            };
        }
    }
    of(operations)
}

pub fn of(operations: Vec<Operation>) -> History {
    let mut history = History::new();
    for operation in operations {
        history.push(operation);
    }
    history
}

fn random_op(rng: &mut StdRng, shape: Shape) -> Op {
    match rng.random_range(0..10) {
        0..4 => Op::Get,
        4..7 => Op::Set(random_value(rng, shape)),
        7 => Op::SetIfAbsent(random_value(rng, shape)),
        8 => Op::Delete,
        _ => Op::Incr(rng.random_range(1..=2)),
    }
}

fn random_value(rng: &mut StdRng, shape: Shape) -> Value {
    let number = rng.random_range(0..shape.values);
    if rng.random_ratio(1, 5) { format!("text {number}").as_str().into() } else { number.into() }
}
