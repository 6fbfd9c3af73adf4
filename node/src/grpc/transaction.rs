//! Conversion of a guarded transaction to one log entry. Pure.

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::write::Kind as Wanted;
use helios_proto::v1::{Command, ErrorCode, Guard, Reply, Set, Transaction, TransactionRequest, Write};

use crate::error::Error;
use crate::state::commands;

/// Limit of guards and writes in one transaction: each reads the state while nothing else is applied.
const MAX_STEPS: usize = 1_024;

pub fn operation(guards: Vec<Guard>, writes: Vec<Write>) -> Result<Op, Error> {
    check_steps(guards.len() + writes.len())?;
    let steps = writes.into_iter().map(step).collect::<Result<_, _>>()?;
    Ok(Op::Transaction(Transaction { guards, steps }))
}

/// Returns the keys that a transaction reads or writes.
pub fn keys(request: &TransactionRequest) -> impl Iterator<Item = &Bytes> {
    let written = request.writes.iter().filter_map(|write| match write.kind.as_ref()? {
        Wanted::Put(put) => Some(&put.key),
        Wanted::Delete(delete) => Some(&delete.key),
    });
    request.guards.iter().map(|guard| &guard.key).chain(written)
}

pub fn check_steps(count: usize) -> Result<(), Error> {
    if count > MAX_STEPS {
        let message = format!("{count} guards and writes in one transaction: at most {MAX_STEPS}");
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    Ok(())
}

fn step(write: Write) -> Result<Command, Error> {
    let op = match write.kind {
        Some(Wanted::Put(put)) if !put.key.is_empty() => {
            let expire_at_ms =
                (put.ttl_ms > 0).then(|| helios_service::time::wall_ms().saturating_add(put.ttl_ms));
            commands::set(Set { key: put.key, value: put.value, expire_at_ms, ..Set::default() })
        }
        Some(Wanted::Delete(delete)) => commands::delete(vec![delete.key]),
        Some(Wanted::Put(_)) => return Err(Error::invalid("key is empty")),
        None => return Err(Error::invalid("a write is neither put nor delete")),
    };
    Ok(Command { op: Some(op), ..Command::default() })
}

/// Returns whether the guards held, and how many keys were deleted.
pub fn outcome(reply: &Reply) -> Result<(bool, u64), Error> {
    let answers = match &reply.kind {
        Some(Kind::NilList(_)) => return Ok((false, 0)),
        Some(Kind::List(answers)) => &answers.items,
        _ => return Err(Error::new(ErrorCode::Internal, "the transaction has no answer of its kind")),
    };
    let mut deleted = 0;
    for answer in answers {
        match &answer.kind {
            Some(Kind::Integer(count)) => deleted += u64::try_from(*count).unwrap_or(0),
            Some(Kind::Error(refusal)) => return Err(refusal.clone().into()),
            _ => {}
        }
    }
    Ok((true, deleted))
}
