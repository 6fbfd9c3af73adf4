//! Several commands as one entry: readers see all of it or nothing.

use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, ErrorCode, Guard, Nil, Replies, Reply, Transaction};
use prost::Message as _;

use super::budget::Halt;
use super::calls;
use super::command::{self, Failure, Outcome, invalid};
use super::txn::Txn;
use crate::faults;

/// Of all answers together: they travel in one message, from the leader to the member that was asked.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

pub(super) fn execute(txn: &mut Txn<'_>, transaction: &Transaction) -> Outcome {
    answer(txn, transaction, MAX_ANSWER_BYTES)
}

/// Answers a transaction that writes nothing, without the log. Its answers stay on this member: the read's own limits are
/// enough.
pub(super) fn read(txn: &mut Txn<'_>, transaction: &Transaction) -> Outcome {
    if let Some(step) = transaction.steps.iter().find(|step| writes(step)) {
        return Err(invalid(format!("{:?} writes, so it has to go through the log", step.op)));
    }
    answer(txn, transaction, usize::MAX)
}

/// Whether a step has to go through the log.
pub fn writes(step: &Command) -> bool {
    match &step.op {
        Some(Op::Call(call)) => calls::find(&call.name).is_none_or(|verb| verb.writes),
        _ => true,
    }
}

fn answer(txn: &mut Txn<'_>, transaction: &Transaction, max_answer_bytes: usize) -> Outcome {
    if !holds(txn, &transaction.guards)? {
        return Ok(Answer::NilList(Nil {}));
    }
    let mut items = Vec::with_capacity(transaction.steps.len());
    let mut bytes = 0;
    for step in &transaction.steps {
        let mut reply = Reply { kind: Some(run(txn, step)?), ..Reply::default() };
        let size = reply.encoded_len();
        if bytes + size > max_answer_bytes {
            reply.kind = Some(Answer::Error(too_long().into()));
        } else {
            bytes += size;
        }
        items.push(reply);
        if faults::ends_after(&items) {
            break;
        }
    }
    Ok(Answer::List(Replies { items }))
}

/// Whether every key is as it was then.
pub(super) fn holds(txn: &mut Txn<'_>, guards: &[Guard]) -> Result<bool, Halt> {
    for guard in guards {
        if faults::is_compared(guard) && txn.revision_of(&guard.key)? != guard.revision {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A step that is refused has changed nothing: every command checks before it writes. One that is over the budget of the
/// whole may have, so it fails the whole.
pub(super) fn run(txn: &mut Txn<'_>, step: &Command) -> Result<Answer, Failure> {
    let outcome = match &step.op {
        Some(
            Op::RegisterMember(_)
            | Op::Apply(_)
            | Op::PurgeExpired(_)
            | Op::Transaction(_)
            | Op::SkipEntry(_),
        )
        | None => Err(invalid("a transaction holds commands on keys only")),
        Some(_) => command::execute(txn, step),
    };
    match outcome {
        Err(Failure::Refused(error)) if error.code != ErrorCode::BudgetExceeded => {
            Ok(Answer::Error(error.into()))
        }
        outcome => outcome,
    }
}

fn too_long() -> helios_proto::Error {
    helios_proto::Error::new(
        ErrorCode::TooLarge,
        format!(
            "the answers of this transaction exceed {MAX_ANSWER_BYTES} bytes, so this one is left out; \
             what it wrote stands"
        ),
    )
}
