//! Cases for each command: a time, an operation and the expected answer, on one store.

use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, ErrorCode, Member, Membership, Set, SetCondition};

use super::*;

const NX: i32 = 1;
const XX: i32 = 2;
const GT: i32 = 3;
const LT: i32 = 4;

fn run(cases: Vec<(u64, Op, Answer)>) -> Machine {
    let mut machine = Machine::in_memory();
    for (position, (now_ms, op, expected)) in cases.into_iter().enumerate() {
        let case = format!("case {position}: {op:?} at {now_ms}");
        assert_eq!(machine.apply(now_ms, op), expected, "{case}");
    }
    machine
}

fn value(machine: &Machine, key: &str) -> Option<(String, Option<u64>)> {
    let value = machine.store.get(key.as_bytes(), 0).unwrap()?;
    Some((String::from_utf8(value.data.to_vec()).unwrap(), value.expire_at_ms))
}

fn conditional(key: &str, value: &str, condition: SetCondition, return_previous: bool) -> Op {
    Op::Set(Set { condition: condition.into(), return_previous, ..set(key, value) })
}

#[test]
fn set_applies_its_conditions() {
    use SetCondition::{IfAbsent, IfPresent};
    let machine = run(vec![
        (1, conditional("a", "1", IfPresent, false), nil()),
        (1, conditional("a", "1", IfAbsent, false), done()),
        (1, conditional("a", "2", IfAbsent, false), nil()),
        (1, conditional("a", "3", IfPresent, false), done()),
        (1, conditional("a", "4", IfAbsent, true), text("3")),
        (1, conditional("a", "5", IfPresent, true), text("3")),
        (1, conditional("b", "6", IfPresent, true), nil()),
        (1, conditional("b", "7", IfAbsent, true), nil()),
    ]);
    assert_eq!(value(&machine, "a"), Some(("5".into(), None)));
    assert_eq!(value(&machine, "b"), Some(("7".into(), None)));
    assert_eq!(machine.store.key_count(), 2);
}

#[test]
fn set_replaces_or_keeps_the_expiry() {
    let keep = Set { keep_ttl: true, ..set("a", "2") };
    let machine = run(vec![(1, set_until("a", "1", 50), done()), (2, Op::Set(keep.clone()), done())]);
    assert_eq!(value(&machine, "a"), Some(("2".into(), Some(50))));
    let machine = run(vec![(1, set_until("a", "1", 50), done()), (2, put("a", "2"), done())]);
    assert_eq!(value(&machine, "a"), Some(("2".into(), None)));
    assert!(!machine.store.has_expired(1000).unwrap());

    let mut machine = Machine::in_memory();
    let both = Set { expire_at_ms: Some(9), ..keep };
    assert_eq!(code(&machine.apply(1, Op::Set(both))), Some(ErrorCode::InvalidArgument));
}

#[test]
fn set_with_an_expiry_that_passed_removes_the_key() {
    let machine = run(vec![(5, put("a", "1"), done()), (5, set_until("a", "2", 5), done())]);
    assert_eq!(value(&machine, "a"), None);
    assert_eq!(machine.store.key_count(), 0);
}

#[test]
fn delete_counts_each_live_key_once() {
    let machine = run(vec![
        (1, put("a", "1"), done()),
        (1, set_until("b", "1", 10), done()),
        (1, set_until("c", "1", 20), done()),
        (10, delete(&["a", "a", "b", "c", "d"]), int(2)),
    ]);
    assert_eq!(machine.store.key_count(), 0);
    assert!(!machine.store.has_expired(1000).unwrap());
}

#[test]
fn expire_applies_its_conditions() {
    let machine = run(vec![
        (1, expire("a", 50, 0), int(0)),
        (1, put("a", "1"), done()),
        (1, expire("a", 50, XX), int(0)),
        (1, expire("a", 50, GT), int(0)),
        (1, expire("a", 50, LT), int(1)),
        (1, expire("a", 60, NX), int(0)),
        (1, expire("a", 60, LT), int(0)),
        (1, expire("a", 60, GT), int(1)),
        (1, expire("a", 60, GT), int(0)),
        (1, expire("a", 40, XX), int(1)),
        (1, put("b", "1"), done()),
        (1, expire("b", 30, NX), int(1)),
    ]);
    assert_eq!(value(&machine, "a"), Some(("1".into(), Some(40))));
    assert_eq!(value(&machine, "b"), Some(("1".into(), Some(30))));
}

#[test]
fn expire_in_the_past_removes_the_key() {
    let machine = run(vec![(9, put("a", "1"), done()), (9, expire("a", 9, 0), int(1))]);
    assert_eq!(machine.store.key_count(), 0);
}

#[test]
fn persist_answers_whether_there_was_an_expiry() {
    let machine = run(vec![
        (1, persist("a"), int(0)),
        (1, set_until("a", "1", 50), done()),
        (1, persist("a"), int(1)),
        (1, persist("a"), int(0)),
        (99, put("b", "1"), done()),
    ]);
    assert_eq!(value(&machine, "a"), Some(("1".into(), None)));
}

#[test]
fn multi_set_writes_all_or_nothing() {
    let machine = run(vec![
        (1, set_until("a", "1", 50), done()),
        (1, multi_set(&[("b", "2"), ("a", "2")], true), int(0)),
        (1, multi_set(&[("a", "3"), ("c", "3"), ("c", "4")], false), done()),
        (1, multi_set(&[("d", "5"), ("d", "6")], true), int(1)),
    ]);
    assert_eq!(value(&machine, "a"), Some(("3".into(), None)));
    assert_eq!(value(&machine, "b"), None);
    assert_eq!(value(&machine, "c"), Some(("4".into(), None)));
    assert_eq!(value(&machine, "d"), Some(("6".into(), None)));
    assert_eq!(machine.store.key_count(), 3);
}

#[test]
fn increment_keeps_the_expiry() {
    let machine = run(vec![
        (1, increment("a", -3), int(-3)),
        (1, set_until("a", "10", 50), done()),
        (1, increment("a", 5), int(15)),
    ]);
    assert_eq!(value(&machine, "a"), Some(("15".into(), Some(50))));
}

#[test]
fn increment_refuses_invalid_integers_as_redis_does() {
    let not_integer = "value is not an integer or out of range";
    let overflow = "increment or decrement would overflow";
    let cases = [
        ("x", 1, not_integer),
        ("", 1, not_integer),
        ("+1", 1, not_integer),
        (" 1", 1, not_integer),
        ("01", 1, not_integer),
        ("-0", 1, not_integer),
        ("-", 1, not_integer),
        ("1.0", 1, not_integer),
        ("9223372036854775808", 1, not_integer),
        ("000000000000000000000001", 1, not_integer),
        ("9223372036854775807", 1, overflow),
        ("-9223372036854775808", -1, overflow),
    ];
    for (held, delta, message) in cases {
        let mut machine = Machine::in_memory();
        machine.apply(1, put("a", held));
        let Answer::Error(detail) = machine.apply(1, increment("a", delta)) else {
            panic!("{held} was accepted")
        };
        assert_eq!((detail.code(), detail.message.as_str()), (ErrorCode::NotAnInteger, message), "{held}");
        assert!(!detail.retryable);
        assert_eq!(value(&machine, "a"), Some((held.into(), None)));
        assert_eq!(machine.store.applied().index, 2, "a refused entry is applied");
    }
    run(vec![(1, put("a", "-9223372036854775808"), done()), (1, increment("a", i64::MAX), int(-1))]);
}

#[test]
fn flush_all_leaves_nothing() {
    let machine = run(vec![
        (1, set_until("a", "1", 50), done()),
        (1, put("b", "1"), done()),
        (1, flush_all(), done()),
        (1, put("c", "1"), done()),
    ]);
    assert_eq!(machine.store.key_count(), 1);
    assert_eq!(machine.pairs().len(), 1);
    assert!(!machine.store.has_expired(1000).unwrap());
}

#[test]
fn an_expired_key_is_absent_to_every_command() {
    let expired = |op: Op, answer: Answer| run(vec![(1, set_until("a", "1", 10), done()), (10, op, answer)]);
    expired(conditional("a", "2", SetCondition::IfPresent, true), nil());
    expired(conditional("a", "2", SetCondition::IfAbsent, false), done());
    let kept = expired(Op::Set(Set { keep_ttl: true, ..set("a", "2") }), done());
    assert_eq!(value(&kept, "a"), Some(("2".into(), None)));
    expired(delete(&["a"]), int(0));
    expired(expire("a", 99, 0), int(0));
    expired(persist("a"), int(0));
    expired(multi_set(&[("a", "2")], true), int(1));
    expired(increment("a", 5), int(5));
    let removed = expired(delete(&["a"]), int(0));
    assert_eq!(removed.store.key_count(), 0, "the expired key is removed");
}

#[test]
fn purge_removes_the_earliest_first_up_to_its_limit() {
    let machine = run(vec![
        (1, set_until("a", "1", 30), done()),
        (1, set_until("b", "1", 10), done()),
        (1, set_until("c", "1", 20), done()),
        (1, set_until("d", "1", 21), done()),
        (9, purge(9), int(0)),
        (20, purge(1), int(1)),
        (20, purge(0), int(0)),
        (20, purge(9), int(1)),
        (20, purge(9), int(0)),
    ]);
    assert_eq!(machine.store.key_count(), 2);
    assert!(!machine.store.has_expired(20).unwrap());
    assert!(machine.store.has_expired(21).unwrap());
}

#[test]
fn clock_of_the_log_never_goes_back() {
    let machine = run(vec![
        (10, set_until("a", "1", 15), done()),
        (20, put("b", "1"), done()),
        (5, persist("a"), int(0)),
        (5, set_until("c", "1", 12), done()),
    ]);
    assert_eq!(machine.store.clock_ms(), 20);
    assert_eq!(value(&machine, "a"), None);
    assert_eq!(value(&machine, "c"), None);
    machine.store.apply_empty(5, 1);
    assert_eq!(machine.store.clock_ms(), 20);
}

#[test]
fn a_wrong_type_is_refused_by_reads_and_replaced_by_writes() {
    let mut machine = Machine::in_memory();
    let list = Value { kind: crate::Kind::Other(7), data: bytes("?"), revision: 1, expire_at_ms: None };
    let raw_key = crate::value::data_key(b"a");
    machine.store.inner.edit(|state| {
        let mut writes = crate::writes::Writes::default();
        writes.put(raw_key, Some(list.encode()));
        state.active = state.active.next();
        state.active.absorb(writes);
        state.meta.key_count = 1;
    });
    for op in [increment("a", 1), conditional("a", "1", SetCondition::Always, true)] {
        assert_eq!(code(&machine.apply(1, op)), Some(ErrorCode::WrongType));
    }
    assert_eq!(machine.apply(1, expire("a", 50, 0)), int(1));
    assert_eq!(machine.apply(1, put("a", "1")), done());
    assert_eq!(machine.store.key_count(), 1);
}

#[test]
fn unknown_commands_and_conditions_are_refused() {
    let mut machine = Machine::in_memory();
    let unknown_set = Op::Set(Set { condition: 9, ..set("a", "1") });
    for op in [None, Some(unknown_set), Some(expire("a", 1, 9))] {
        let reply = machine.apply_command(Command { now_ms: 7, op, ..Command::default() });
        assert_eq!(code(&reply.kind.unwrap()), Some(ErrorCode::InvalidArgument));
        assert_eq!(reply.index, machine.log.len() as u64);
    }
    assert_eq!(machine.store.clock_ms(), 7);
    assert_eq!(machine.store.applied().index, 3);
}

fn with_member() -> Machine {
    let mut machine = Machine::in_memory();
    machine.log.push(Command::default());
    let member = Member { id: 7, name: "demo-0".into(), ..Default::default() };
    let membership = Membership { members: vec![member], voters: vec![7], ..Default::default() };
    machine.store.apply_membership(1, 1, membership);
    machine
}

#[test]
fn member_registers_one_disk_and_later_boots_only() {
    let mut machine = with_member();
    assert_eq!(machine.apply(1, register(7, "disk-a", 4)), done());
    assert_eq!(machine.apply(1, register(7, "disk-a", 4)), done());
    assert_eq!(machine.apply(1, register(7, "disk-a", 6)), done());
    assert_eq!(code(&machine.apply(1, register(7, "disk-b", 7))), Some(ErrorCode::WrongMember));
    assert_eq!(code(&machine.apply(1, register(7, "disk-a", 5))), Some(ErrorCode::WrongMember));
    assert_eq!(code(&machine.apply(1, register(8, "disk-a", 5))), Some(ErrorCode::NodeNotFound));
    assert_eq!(code(&machine.apply(1, register(7, "", 9))), Some(ErrorCode::InvalidArgument));
    let membership = machine.store.membership();
    assert_eq!((membership.members[0].disk_id.as_str(), membership.members[0].boot_epoch), ("disk-a", 6));
    assert_eq!(membership.index, 1, "the voters have not changed");
}

#[test]
fn a_membership_made_before_a_registration_does_not_undo_it() {
    let mut machine = with_member();
    let made_before = machine.store.membership().as_ref().clone();
    let client_addr = "demo-0:6379".to_owned();
    let registration =
        RegisterMember { id: 7, disk_id: "disk-a".into(), boot_epoch: 4, client_addr, format: 2 };
    machine.apply(1, Op::RegisterMember(registration));
    machine.store.apply_membership(3, 1, made_before);
    let membership = machine.store.membership();
    let member = &membership.members[0];
    assert_eq!((member.disk_id.as_str(), member.boot_epoch, member.format), ("disk-a", 4, 2));
    assert_eq!(member.client_addr, "demo-0:6379");
    assert_eq!(member.name, "demo-0");
    assert_eq!(membership.index, 3);
}
