//! Ids of commands in the log, and calls by id as the entries that older members read.

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, Expire, MultiSet, Set, SetCondition, Transaction};

use super::*;
use crate::commands::{self, WITH_IDS, legacy};

const IDS: &str = include_str!("command_ids.txt");

#[test]
fn ids_of_commands_never_change() {
    let mut ids: Vec<_> = commands::all().filter(|spec| spec.id != 0).collect();
    ids.sort_unstable_by_key(|spec| spec.id);
    let lines: String = ids.iter().map(|spec| format!("{} {}\n", spec.id, spec.name)).collect();
    assert_eq!(lines, IDS, "an id or a name of the log was changed; a new command needs a new line");
    for spec in ids {
        assert_eq!(
            commands::of(&commands::call(spec.name, Vec::new())).map(|found| found.name),
            Some(spec.name)
        );
    }
}

fn lowered(op: Op) -> Op {
    let mut command = command(1, op);
    legacy::lower(&mut command, WITH_IDS - 1);
    command.op.unwrap()
}

#[test]
fn a_call_by_id_becomes_the_entry_that_older_members_read() {
    for condition in [SetCondition::Always, SetCondition::IfAbsent, SetCondition::IfPresent] {
        for (expire_at_ms, keep_ttl) in [(None, false), (None, true), (Some(7), false)] {
            for return_previous in [false, true] {
                let condition = condition.into();
                let op = Set { condition, expire_at_ms, keep_ttl, return_previous, ..set("k", "v") };
                assert_eq!(lowered(commands::set(op.clone())), Op::Set(op));
            }
        }
    }
    for condition in 0..=5 {
        let op = Expire { key: bytes("k"), at_ms: 9, condition };
        assert_eq!(lowered(commands::expire(op.clone())), Op::Expire(op));
    }
    for if_none_exist in [false, true] {
        let Op::MultiSet(op) = multi_set(&[("a", "1"), ("b", "2")], if_none_exist) else { unreachable!() };
        assert_eq!(lowered(commands::multi_set(MultiSet::clone(&op))), Op::MultiSet(op));
    }
    assert_eq!(lowered(commands::increment(bytes("k"), -3)), increment("k", -3));
    assert_eq!(lowered(commands::delete(vec![bytes("a"), bytes("b")])), delete(&["a", "b"]));
    assert_eq!(lowered(commands::persist(bytes("k"))), persist("k"));
    assert_eq!(lowered(commands::flush_all()), flush_all());
    let Op::Call(hset) = lowered(Op::Call(commands::call("hset", vec![bytes("h")]))) else { unreachable!() };
    assert_eq!((hset.command, hset.name.as_str()), (0, "hset"));
    let steps = vec![command(0, commands::persist(bytes("k")))];
    let Op::Transaction(transaction) =
        lowered(Op::Transaction(Transaction { steps, ..Transaction::default() }))
    else {
        unreachable!()
    };
    assert_eq!(transaction.steps[0].op, Some(persist("k")));
}

#[test]
fn a_call_by_id_stays_as_it_is_if_all_members_read_ids() {
    let op = commands::persist(bytes("k"));
    let mut command = Command { op: Some(op.clone()), ..Command::default() };
    legacy::lower(&mut command, WITH_IDS);
    assert_eq!(command.op, Some(op));
}

#[test]
fn an_unknown_id_is_refused() {
    let mut machine = Machine::in_memory();
    let unknown = Op::Call(helios_proto::v1::Call { command: 60_000, ..Default::default() });
    assert_eq!(code(&machine.apply(1, unknown)), Some(ErrorCode::InvalidArgument));
}
