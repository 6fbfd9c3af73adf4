//! Execution of each command in the log. Deterministic: every function depends only on the entry and the
//! state before it, so that all members agree.

use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, Done, ErrorCode, PurgeExpired, RegisterMember};

use super::budget::{Halt, OverBudget};
use super::collection;
use super::commands::{self, expiry, keys, set};
use super::engines::EngineError;
use super::machine;
use super::transaction;
use super::txn::Txn;
use super::value::Value;
use helios_proto::Error;

/// Longest decimal text of an i64: a sign and 19 digits.
const MAX_INTEGER_LEN: usize = 20;

/// The reason why a command has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command was applied and refused; every member refuses it alike.
    Refused(Error),
    /// This member's engine failed; others may have succeeded.
    Engine(EngineError),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<OverBudget> for Failure {
    fn from(error: OverBudget) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Engine(error) => error.into(),
            Halt::OverBudget(error) => error.into(),
        }
    }
}

pub(super) type Outcome = Result<Answer, Failure>;

/// Executes `command` on `txn`. The changes in `txn` must be dropped if it fails.
pub(super) fn execute(txn: &mut Txn<'_>, command: &Command) -> Outcome {
    let outcome = match &command.op {
        Some(Op::Set(op)) => set::apply_set(txn, op),
        Some(Op::Delete(op)) => keys::apply_del(txn, &op.keys),
        Some(Op::Expire(op)) => expiry::apply_expire(txn, op),
        Some(Op::Persist(op)) => expiry::apply_persist(txn, &op.key),
        Some(Op::MultiSet(op)) => set::apply_mset(txn, op),
        Some(Op::Increment(op)) => set::apply_increment(txn, op),
        Some(Op::FlushAll(_)) => keys::apply_flush(txn),
        Some(Op::PurgeExpired(op)) => purge_expired(txn, op),
        Some(Op::Call(op)) => commands::execute(txn, op),
        Some(Op::Transaction(op)) => transaction::execute(txn, op),
        Some(Op::RegisterMember(op)) => register_member(txn, op),
        Some(Op::Apply(op)) => machine::apply(txn, op),
        // It affects only the entry that it names (`raft::unappliable`).
        Some(Op::SkipEntry(_)) => Ok(Answer::Done(Done {})),
        None => {
            Err(invalid("the log entry holds a command that this version does not know; upgrade this member"))
        }
    };
    txn.settle()?;
    txn.name_events(command);
    outcome
}

fn purge_expired(txn: &mut Txn<'_>, op: &PurgeExpired) -> Outcome {
    let keys = txn.expired_keys(op.limit as usize)?;
    for key in &keys {
        // Loading an expired key removes it.
        txn.load(key)?;
    }
    let swept = collection::sweep(txn, op.limit as usize - keys.len())?;
    Ok(Answer::Integer((keys.len() + swept) as i64))
}

/// Records the disk, boot, format and client address of a member. Does not change the membership's index: the
/// voters stay the same, and a membership change that compares that index must not fail because a member
/// restarted.
fn register_member(txn: &mut Txn<'_>, op: &RegisterMember) -> Outcome {
    if op.disk_id.is_empty() {
        return Err(invalid("a member cannot be registered without the id of its disk"));
    }
    let Some(member) = txn.membership_mut().members.iter_mut().find(|member| member.id == op.id) else {
        let message =
            format!("member {} is not in the membership; add it before its disk is registered", op.id);
        return Err(refused(ErrorCode::NodeNotFound, message));
    };
    if !member.disk_id.is_empty() && member.disk_id != op.disk_id {
        let message = format!(
            "member {} is registered with disk {}, not {}; remove it and let this disk join as a new member",
            op.id, member.disk_id, op.disk_id
        );
        return Err(refused(ErrorCode::WrongMember, message));
    }
    if op.boot_epoch < member.boot_epoch {
        let message = format!(
            "the disk of member {} has boot {}, after {}: an old copy was restored; let it join as a new member",
            op.id, op.boot_epoch, member.boot_epoch
        );
        return Err(refused(ErrorCode::WrongMember, message));
    }
    member.disk_id.clone_from(&op.disk_id);
    member.boot_epoch = op.boot_epoch;
    member.format = op.format;
    if !op.client_addr.is_empty() {
        member.client_addr.clone_from(&op.client_addr);
    }
    Ok(Answer::Done(Done {}))
}

pub(super) fn require_string(value: Option<&Value>) -> Result<(), Failure> {
    match value {
        Some(value) if !value.kind.is_string() => Err(wrong_type()),
        _ => Ok(()),
    }
}

pub(super) fn wrong_type() -> Failure {
    refused(ErrorCode::WrongType, "Operation against a key holding the wrong kind of value")
}

/// Parses an integer as Redis does: no plus sign, no leading zeros, no blanks, no "-0".
pub(super) fn parse_integer(data: &[u8]) -> Option<i64> {
    if data.len() > MAX_INTEGER_LEN {
        return None;
    }
    let text = std::str::from_utf8(data).ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_canonical = text == "0" || digits.starts_with(|first: char| ('1'..='9').contains(&first));
    if is_canonical { text.parse().ok() } else { None }
}

pub(super) fn refused(code: ErrorCode, message: impl Into<String>) -> Failure {
    Failure::Refused(Error::new(code, message))
}

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    refused(ErrorCode::InvalidArgument, message)
}

pub(super) fn not_an_integer(message: &str) -> Failure {
    refused(ErrorCode::NotAnInteger, message)
}
