//! Budgets of entries and reads: charged before the work, and a refused command has changed nothing.

use helios_proto::v1::{Call, Transaction};

use super::*;
use crate::Trial;
use crate::budget::{ENTRY_BUDGET, Limits, MAX_ENTRY_BYTES, MAX_ENTRY_ELEMENTS, Scope};

fn call(words: &[&str]) -> Op {
    let (name, args) = words.split_first().unwrap();
    Op::Call(Call {
        name: (*name).to_owned(),
        args: args.iter().map(|word| bytes(word)).collect(),
        ..Call::default()
    })
}

fn apply(machine: &mut Machine, op: Op) -> Answer {
    let command = Command { now_ms: 1, op: Some(op), budget: ENTRY_BUDGET, ..Command::default() };
    machine.apply_command(command).kind.unwrap()
}

fn is_over_budget(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(error) if error.code() == ErrorCode::BudgetExceeded)
}

fn transaction(steps: impl IntoIterator<Item = Op>) -> Op {
    let steps = steps.into_iter().map(|op| Command { op: Some(op), ..Command::default() }).collect();
    Op::Transaction(Transaction { steps, guards: Vec::new() })
}

#[test]
fn a_transaction_over_the_budget_is_refused_whole() {
    let mut machine = Machine::in_memory();
    apply(&mut machine, put("large", &"x".repeat(4 << 20)));
    let reads = MAX_ENTRY_BYTES as usize / (4 << 20) + 1;
    let steps = std::iter::once(put("first", "1")).chain((0..reads).map(|_| call(&["get", "large"])));
    let answer = apply(&mut machine, transaction(steps));
    assert!(is_over_budget(&answer), "{answer:?}");
    assert_eq!(machine.store.get(b"first", 0).unwrap(), None);
}

#[test]
fn amplifying_commands_are_refused_before_their_result_is_built() {
    let mut machine = Machine::in_memory();
    apply(&mut machine, call(&["rpush", "l", &"y".repeat(2_000), "z"]));
    apply(&mut machine, call(&["sadd", "s", &"y".repeat(2_000)]));
    apply(&mut machine, call(&["zadd", "z", "1", &"y".repeat(2_000)]));
    apply(&mut machine, put("bits", &"b".repeat(8 << 20)));
    let repeated = |head: &[&str], word: &str, count: usize| {
        call(&head.iter().copied().chain(std::iter::repeat_n(word, count)).collect::<Vec<_>>())
    };
    let sort = ["sort", "l", "by", "nosort", "store", "target"].into_iter();
    let gets = std::iter::repeat_n(["get", "#"], 300_000).flatten();
    for op in [
        call(&sort.chain(gets).collect::<Vec<_>>()),
        transaction([call(&["srandmember", "s", "-1048576"])]),
        repeated(&["zunionstore", "target", "500000"], "z", 500_000),
        repeated(&["bitop", "or", "target"], "bits", 500),
        transaction((0..64).map(|n| call(&["copy", "bits", &format!("new-{n}")]))),
        transaction((0..200_000).map(|_| call(&["lrange", "l", "0", "-1"]))),
    ] {
        let answer = apply(&mut machine, op);
        assert!(is_over_budget(&answer), "{answer:?}");
    }
    for key in ["target", "new-0", "new-63"] {
        assert_eq!(machine.store.get(key.as_bytes(), 0).unwrap(), None, "{key}");
    }
}

#[test]
fn entry_without_a_budget_version_is_applied_without_limits() {
    let mut machine = Machine::in_memory();
    apply(&mut machine, put("large", &"x".repeat(4 << 20)));
    let reads = MAX_ENTRY_BYTES as usize / (4 << 20) + 1;
    let steps = std::iter::once(put("first", "1")).chain((0..reads).map(|_| call(&["strlen", "large"])));
    let answer = machine.apply(1, transaction(steps));
    assert!(matches!(answer, Answer::List(_)), "{answer:?}");
    assert!(machine.store.get(b"first", 0).unwrap().is_some());
}

#[test]
fn read_over_its_limit_is_refused_with_the_name_of_the_setting() {
    let mut machine = Machine::in_memory();
    let members: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let words: Vec<_> = ["sadd", "s"].into_iter().chain(members.iter().map(String::as_str)).collect();
    apply(&mut machine, call(&words));
    let Op::Call(read) = call(&["smembers", "s"]) else { unreachable!() };
    let limits = |elements, bytes| Limits { elements, bytes, scope: Scope::Read };
    assert!(machine.store.query(&read, 1, limits(101, 1 << 20)).is_ok());
    for (limits, setting) in
        [(limits(100, 1 << 20), "reads.max_elements"), (limits(101, 1_000), "reads.max_bytes")]
    {
        let error = machine.store.query(&read, 1, limits).unwrap_err();
        assert_eq!(error.code, ErrorCode::BudgetExceeded);
        assert!(error.message.contains(setting), "{}", error.message);
    }
}

#[test]
fn a_purge_makes_progress_however_large_the_records_are() {
    let mut machine = Machine::in_memory();
    for n in 0..40 {
        apply(&mut machine, set_until(&format!("k{n}"), &"x".repeat(8 << 20), 2));
    }
    let purge = Op::PurgeExpired(PurgeExpired { limit: 1_000 });
    let command = Command { now_ms: 3, op: Some(purge), budget: ENTRY_BUDGET, ..Command::default() };
    // The keys, and chunks of theirs.
    assert_eq!(machine.apply_command(command).kind, Some(Answer::Integer(1_000)));
    assert_eq!(machine.store.key_count(), 0);
}

#[test]
fn repeated_source_set_costs_nothing_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    apply(&mut machine, call(&["sadd", "s", "a", "b"]));
    apply(&mut machine, call(&["sadd", "t", "b"]));
    let many = usize::try_from(MAX_ENTRY_ELEMENTS).unwrap();
    for (head, count) in [
        (&["sinterstore", "target", "s"][..], 2),
        (&["sunionstore", "target", "t"], 2),
        (&["sdiffstore", "target", "t"], 0),
        (&["zintercard", &(many + 1).to_string(), "t"], 1),
    ] {
        let words: Vec<_> = head.iter().copied().chain(std::iter::repeat_n("s", many)).collect();
        assert_eq!(apply(&mut machine, call(&words)), Answer::Integer(count), "{head:?}");
    }
    assert_eq!(apply(&mut machine, call(&["sdiffstore", "target", "s", "t", "t"])), Answer::Integer(1));
    assert_eq!(apply(&mut machine, call(&["sdiffstore", "target", "s", "s"])), Answer::Integer(0));
}

#[test]
fn a_trial_that_exceeded_its_budget_executes_nothing_more() {
    let limits = Limits { elements: 1_000, bytes: 100_000, scope: Scope::Read };
    let mut machine = Machine { store: Store::in_memory_within(limits), log: Vec::new() };
    apply(&mut machine, put("large", &"x".repeat(60_000)));
    let mut trial = Trial::new(limits);
    let mut read = |words: &[&str]| trial.run(&machine.store, call(words), 1).map_err(|error| error.code);
    assert!(read(&["strlen", "large"]).is_ok());
    assert_eq!(read(&["mget", "large", "large"]), Err(ErrorCode::BudgetExceeded));
    assert_eq!(read(&["strlen", "large"]), Err(ErrorCode::BudgetExceeded));
}
