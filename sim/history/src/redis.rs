//! Conversion of operations to Redis commands, and of Redis replies to answers.

use redis::{Cmd, FromRedisValue, ParsingError, RedisError};

use crate::history::{Answer, Op, Value};

/// Error codes of a server that has not executed the command.
const REFUSALS: [&str; 4] = ["TRYAGAIN", "CLUSTERDOWN", "LOADING", "BUSY"];

pub fn command(key: &str, op: &Op) -> Cmd {
    let (name, argument) = match op {
        Op::Get => ("GET", None),
        Op::Set(value) => ("SET", Some(text(value))),
        Op::SetIfAbsent(value) => ("SETNX", Some(text(value))),
        Op::Delete => ("DEL", None),
        Op::Incr(by) => ("INCRBY", Some(by.to_string().into_bytes())),
    };
    let mut command = redis::cmd(name);
    command.arg(key).arg(argument);
    command
}

/// Converts a reply to the answer of `op`.
///
/// # Errors
/// When `op` cannot have this reply.
pub fn answer(op: &Op, reply: redis::Value) -> Result<Answer, ParsingError> {
    Ok(match op {
        Op::Get => Answer::Value(Option::<Vec<u8>>::from_redis_value(reply)?.map(Value::Bytes)),
        Op::Set(_) => {
            <()>::from_redis_value(reply)?;
            Answer::Done
        }
        Op::SetIfAbsent(_) | Op::Delete => Answer::Flag(i64::from_redis_value(reply)? == 1),
        Op::Incr(_) => Answer::Number(i64::from_redis_value(reply)?),
    })
}

/// Whether an operation that ended with `error` may have taken effect.
pub fn is_outcome_unknown(error: &RedisError) -> bool {
    !error.code().is_some_and(|code| REFUSALS.contains(&code))
}

fn text(value: &Value) -> Vec<u8> {
    match value {
        Value::Number(number) => number.to_string().into_bytes(),
        Value::Bytes(bytes) => bytes.clone(),
    }
}
