//! Calls as the entries of formats 1 to 5, for as long as a member reads no ids of commands (ADR 0020).

use helios_proto::v1::command::Op;
use helios_proto::v1::{Call, Command, Delete, FlushAll, Persist, Transaction};

use super::words::Words;
use super::{WITH_IDS, expiry, of, set};

/// Replaces the calls by id in `command`, also those in its steps, by what members of `format` read.
pub fn lower(command: &mut Command, format: u32) {
    if format >= WITH_IDS {
        return;
    }
    match command.op.take() {
        Some(Op::Call(call)) => command.op = Some(lowered(call)),
        Some(Op::Transaction(Transaction { guards, mut steps })) => {
            steps.iter_mut().for_each(|step| lower(step, format));
            command.op = Some(Op::Transaction(Transaction { guards, steps }));
        }
        op => command.op = op,
    }
}

/// A call whose arguments the command would refuse stays as it is; the leader refuses it until all members
/// read ids.
fn lowered(call: Call) -> Op {
    let Some(spec) = of(&call).filter(|_| call.command != 0) else { return Op::Call(call) };
    let words = Words::new(&call.args);
    let op = match spec.name {
        "set" => set::parse_set(words).ok().map(Op::Set),
        "mset" => set::pairs(&call.args, false).ok().map(Op::MultiSet),
        "msetnx" => set::pairs(&call.args, true).ok().map(Op::MultiSet),
        "incrby" => set::parse_increment(words).ok().map(Op::Increment),
        "del" => Some(Op::Delete(Delete { keys: call.args.clone() })),
        "pexpireat" => expiry::parse_expire(words).ok().map(Op::Expire),
        "persist" => call.args.first().map(|key| Op::Persist(Persist { key: key.clone() })),
        "flushall" => Some(Op::FlushAll(FlushAll {})),
        name => {
            let args = call.args.clone();
            Some(Op::Call(Call { name: name.to_owned(), args, ..Call::default() }))
        }
    };
    op.unwrap_or(Op::Call(call))
}
