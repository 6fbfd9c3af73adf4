//! Transactions: several commands in one entry, which readers see completely or not at all.

use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, ErrorCode, Guard, Nil, Replies, Reply, Transaction};
use prost::Message as _;

use super::budget::Halt;
use super::command::{self, Failure, Outcome, invalid};
use super::commands::{self, Spec};
use super::txn::Txn;
use crate::faults;

/// Maximum size in bytes of all answers of a transaction: the leader sends them in one message to the member
/// that forwarded it.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

pub(super) fn execute(txn: &mut Txn<'_>, transaction: &Transaction) -> Outcome {
    answer(txn, transaction, MAX_ANSWER_BYTES)
}

/// Executes a read-only transaction without the log. Its answers are not sent between members, so the limits
/// of a read suffice.
pub(super) fn read(txn: &mut Txn<'_>, transaction: &Transaction) -> Outcome {
    if let Some(step) = transaction.steps.iter().find(|step| writes(step)) {
        return Err(invalid(format!("{:?} writes, so it has to go through the log", step.op)));
    }
    answer(txn, transaction, usize::MAX)
}

/// Whether a step writes, so that it must go through the log.
pub fn writes(step: &Command) -> bool {
    match &step.op {
        Some(Op::Call(call)) => commands::of(call).is_none_or(Spec::writes),
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

/// Whether every guarded key still has its guard's revision.
pub(super) fn holds(txn: &mut Txn<'_>, guards: &[Guard]) -> Result<bool, Halt> {
    for guard in guards {
        if faults::is_compared(guard) && txn.revision_of(&guard.key)? != guard.revision {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Executes one step. A refused step has changed nothing, because every command checks before it writes; its
/// refusal is its answer. A step over the budget may have changed something, so it fails the whole
/// transaction.
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
