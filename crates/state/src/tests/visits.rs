//! Records that commands visit: the fewest that they can, in entries with an earlier budget all that earlier builds
//! visit, and with the same answers.

use proptest::prelude::*;

use super::properties::{Rig, Step};
use super::*;
use crate::budget::{ENTRY_BUDGET, FIRST_BUDGET, Limits};
use crate::commands;
use crate::txn::Txn;

fn call(words: &[&str]) -> Op {
    let args = words[1..].iter().map(|word| bytes(word)).collect();
    Op::Call(commands::call(&words[0].to_lowercase(), args))
}

/// Returns the elements that a command is charged under a version of the budget.
pub fn elements(machine: &Machine, version: u32, line: &str) -> u64 {
    let words: Vec<_> = line.split(' ').collect();
    let Op::Call(call) = call(&words) else { panic!("not a call") };
    let state = machine.store.inner.state();
    let limits = Limits::of_entry(version).unwrap();
    let mut txn = Txn::new(state.view(), 0, state.meta.clone(), limits).with_budget_version(version);
    commands::execute(&mut txn, &call).unwrap();
    txn.charged_elements()
}

const COUNT: u64 = 5_000;

/// Returns a machine with a sorted set `z` of scores from 0, one with equal scores `n`, and a list `l`.
fn filled() -> Machine {
    let mut machine = Machine::in_memory();
    for at in 0..COUNT {
        let (score, name) = (at.to_string(), format!("m{at:05}"));
        machine.apply(1, call(&["zadd", "z", &score, &name]));
        machine.apply(1, call(&["zadd", "n", "7", &name]));
        machine.apply(1, call(&["rpush", "l", &name]));
    }
    machine
}

#[test]
fn commands_visit_only_what_they_answer_when_they_can() {
    let machine = filled();
    // The header and the answer; with equal scores the first and the last member, too.
    for (line, expected) in [
        ("zrange z 0 9", 11),
        ("zrange z -10 -1", 11),
        ("zrange z 0 9 rev", 11),
        ("zrevrange z 0 9", 11),
        ("zrevrange z -10 -1 withscores", 11),
        ("zrange z 100 109", 111),
        ("zrangebyscore z (4989 +inf", 11),
        ("zrangebyscore z 0 (10", 11),
        ("zrangebyscore z -inf +inf limit 0 10", 11),
        ("zrevrangebyscore z 4999 4990", 11),
        ("zrevrangebyscore z +inf -inf limit 0 10", 11),
        ("zrevrangebyscore z +inf -inf limit 5 10", 16),
        ("zrange z (100 90 byscore rev", 11),
        ("zcount z 10 19", 11),
        ("zcount n (7 8", 1),
        ("zrangebylex n [m04990 +", 13),
        ("zrangebylex n - (m00010", 13),
        ("zrevrangebylex n + - limit 0 10", 13),
        ("zrevrangebylex n (m00010 -", 13),
        ("zlexcount n [m02000 [m02009", 13),
        ("zrank z m00003", 9),
        ("zrevrank z m04996", 10),
        ("lrange l -10 -1", 11),
        ("lpos l m00009", 11),
        ("lpos l m04990 rank -1", 11),
        ("lpos l none maxlen 10", 11),
        ("lpos l none rank -1 maxlen 10", 11),
    ] {
        assert_eq!(elements(&machine, ENTRY_BUDGET, line), expected, "{line}");
    }
}

#[test]
fn changes_at_an_end_visit_and_write_only_that_end() {
    let machine = filled();
    // The header is read and written, for ZREMRANGE read twice; a removed member is read and has two records.
    for (line, expected) in [
        ("zpopmax z", 5),
        ("zpopmax z 10", 32),
        ("zpopmin z 10", 32),
        ("zmpop 1 z max count 10", 32),
        ("zremrangebyrank z -10 -1", 33),
        ("zremrangebyscore z 4990 +inf", 33),
        ("zremrangebylex n (m04989 +", 35),
        // The visited elements, and the removed record; the last is none that moves.
        ("lrem l 1 m00000", 4),
        ("lrem l -1 m04999", 4),
        ("lrem l 1 m00009", 22),
        ("lrem l -1 m04990", 22),
        ("linsert l before m00009 x", 22),
        ("linsert l after m00009 x", 23),
    ] {
        assert_eq!(elements(&machine, ENTRY_BUDGET, line), expected, "{line}");
    }
}

#[test]
fn entry_with_the_first_budget_is_charged_as_by_earlier_builds() {
    let machine = filled();
    for (line, expected) in [
        ("zrange z -10 -1", COUNT + 1),
        ("zrevrangebyscore z +inf -inf limit 0 10", COUNT + 1),
        ("zrangebyscore z 0 (10", 13),
        ("zrangebylex n - (m00010", COUNT + 1),
        ("zcount n (7 8", COUNT + 1),
        ("zrank z m04996", 4_999),
        ("zrevrank z m04996", 4_999),
        ("zpopmax z", COUNT + 4),
        ("zremrangebyrank z -10 -1", COUNT + 23),
        ("lrem l 1 m00000", COUNT + 3),
        ("lrem l -1 m04990", COUNT + 12),
        ("linsert l before m00009 x", COUNT + 12),
        ("lpos l m00009", COUNT + 1),
    ] {
        assert_eq!(elements(&machine, FIRST_BUDGET, line), expected, "{line}");
    }
}

fn number(limit: i32) -> impl Strategy<Value = String> {
    (-limit..limit).prop_map(|number| number.to_string())
}

fn score_bound() -> impl Strategy<Value = String> {
    prop_oneof![4 => "\\(?-?[0-4]", 1 => Just("-inf".to_owned()), 1 => Just("+inf".to_owned())]
}

fn name_bound() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[\\[(][a-e]{0,2}", 1 => Just("-".to_owned()), 1 => Just("+".to_owned())]
}

fn limit() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), (0..4, -1..4).prop_map(|(from, count)| format!(" limit {from} {count}"))]
}

fn sorted_set() -> impl Strategy<Value = String> {
    let member = || "[a-e]{1,2}";
    let key = || "[zn]";
    prop_oneof![
        12 => (key(), -3..4, member()).prop_map(|(key, score, member)| {
            format!("zadd {key} {} {member}", if key == "n" { 1 } else { score })
        }),
        2 => (key(), member()).prop_map(|(key, member)| format!("zrem {key} {member}")),
        1 => (key(), 0..4).prop_map(|(key, count)| format!("zpopmax {key} {count}")),
        1 => (key(), 0..4).prop_map(|(key, count)| format!("zmpop 2 z {key} max count {}", count + 1)),
        1 => (key(), number(9), number(9)).prop_map(|(key, a, b)| format!("zremrangebyrank {key} {a} {b}")),
        1 => (key(), score_bound(), score_bound()).prop_map(|(key, a, b)| format!("zremrangebyscore {key} {a} {b}")),
        1 => (key(), name_bound(), name_bound()).prop_map(|(key, a, b)| format!("zremrangebylex {key} {a} {b}")),
        2 => (key(), number(9), number(9)).prop_map(|(key, a, b)| format!("zrange {key} {a} {b} withscores")),
        2 => (key(), number(9), number(9)).prop_map(|(key, a, b)| format!("zrevrange {key} {a} {b}")),
        2 => (key(), score_bound(), score_bound(), limit())
            .prop_map(|(key, a, b, limit)| format!("zrange {key} {a} {b} byscore{limit}")),
        2 => (key(), score_bound(), score_bound(), limit())
            .prop_map(|(key, a, b, limit)| format!("zrange {key} {a} {b} byscore rev{limit} withscores")),
        2 => (key(), name_bound(), name_bound(), limit())
            .prop_map(|(key, a, b, limit)| format!("zrange {key} {a} {b} bylex{limit}")),
        2 => (key(), name_bound(), name_bound(), limit())
            .prop_map(|(key, a, b, limit)| format!("zrange {key} {a} {b} bylex rev{limit}")),
        1 => (key(), score_bound(), score_bound()).prop_map(|(key, a, b)| format!("zcount {key} {a} {b}")),
        1 => (key(), name_bound(), name_bound()).prop_map(|(key, a, b)| format!("zlexcount {key} {a} {b}")),
        2 => (key(), member()).prop_map(|(key, member)| format!("zrank {key} {member} withscore")),
        2 => (key(), member()).prop_map(|(key, member)| format!("zrevrank {key} {member}")),
    ]
}

fn list() -> impl Strategy<Value = String> {
    let element = || "[a-c]";
    prop_oneof![
        8 => ("[lr]", prop::collection::vec(element(), 1..4))
            .prop_map(|(end, elements)| format!("{end}push l {}", elements.join(" "))),
        2 => ("[lr]", 1..3).prop_map(|(end, count)| format!("{end}pop l {count}")),
        4 => (number(3), element()).prop_map(|(count, element)| format!("lrem l {count} {element}")),
        4 => (any::<bool>(), element(), "[a-d]").prop_map(|(before, pivot, element)| {
            format!("linsert l {} {pivot} {element}", if before { "before" } else { "after" })
        }),
        2 => (element(), number(3), 0..3, 0..6).prop_map(|(element, rank, count, most)| {
            format!("lpos l {element} rank {rank} count {count} maxlen {most}")
        }),
        1 => (element(), number(3)).prop_map(|(element, rank)| format!("lpos l {element} rank {rank}")),
        2 => (number(6), number(6)).prop_map(|(start, end)| format!("lrange l {start} {end}")),
    ]
}

/// Executes `lines` under both budgets, on `engine` with checkpoints between them; the answers are the same.
fn check(engine: EngineKind, lines: &[(String, u8)]) {
    let mut rig = Rig::new(engine);
    let mut earlier = Machine::in_memory();
    for (line, event) in lines {
        let words: Vec<_> = line.split(' ').collect();
        let entry = |budget| Command { budget, ..command(1, call(&words)) };
        let reply = rig.run(&Step::Apply(entry(ENTRY_BUDGET))).unwrap();
        assert_eq!(reply, earlier.apply_command(entry(FIRST_BUDGET)), "{line}");
        match event {
            0 => drop(rig.run(&Step::Checkpoint)),
            1 => drop(rig.run(&Step::Reopen)),
            _ => {}
        }
    }
    for line in ["zrange z 0 -1 withscores", "zrange n 0 -1", "lrange l 0 -1"] {
        let words: Vec<_> = line.split(' ').collect();
        let Op::Call(call) = call(&words) else { panic!("not a call") };
        let answer = |store: &Store| store.query(&call, 1, Limits::DEFAULT_READ).unwrap().0;
        assert_eq!(answer(&rig.machine.store), answer(&earlier.store), "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sorted_sets_answer_alike_under_both_budgets(lines in prop::collection::vec((sorted_set(), 2..9_u8), 1..80)) {
        check(EngineKind::Memory, &lines);
    }

    #[test]
    fn lists_answer_alike_under_both_budgets(lines in prop::collection::vec((list(), 2..9_u8), 1..60)) {
        check(EngineKind::Memory, &lines);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_on_runs_answer_alike_under_both_budgets(
        lines in prop::collection::vec((prop_oneof![sorted_set(), list()], 0..9_u8), 1..80),
    ) {
        check(EngineKind::Runs, &lines);
    }
}
