//! The effort of the search, in steps and not in time.

use std::time::Instant;

use helios_history::{Answer, History, Op, Value, Verdict, check, check_within};

use crate::made::{Shape, legal};

const OPERATIONS: u64 = 1_000;

/// Returns a history of 1000 operations on 10 keys, a fifth of them of unknown outcome. Each operation
/// overlaps with 100 others, so with 10 of the same key.
fn busy(seed: u64) -> History {
    legal(
        seed,
        Shape { operations: OPERATIONS, keys: 10, overlap: 50, unknown_percent: 20, values: 1_000_000 },
    )
}

#[test]
fn a_busy_history_takes_few_steps_for_each_operation() {
    for seed in 0..50 {
        let verdict = check_within(&busy(seed), 10 * OPERATIONS);
        assert!(verdict.is_legal(), "seed {seed}: {verdict}");
    }
}

#[test]
fn lost_write_is_detected_among_a_thousand_unknown_writes() {
    for read in [Op::Get, Op::Delete] {
        let mut history = History::new();
        for number in 0..1_000_u64 {
            history.invoke(number, "k", Op::Set(number.into()), number);
        }
        let known = history.invoke(1, "k", Op::Set("known".into()), 2_000);
        history.ok(known, Answer::Done, 2_001);
        let lost = history.invoke(1, "k", read.clone(), 2_002);
        let answer = if read == Op::Get { Answer::Value(None) } else { Answer::Flag(false) };
        history.ok(lost, answer, 2_003);
        let verdict = check_within(&history, 10_000);
        assert!(matches!(verdict, Verdict::Illegal(_)), "{verdict}");
    }
}

#[test]
fn unknown_writes_that_are_read_later_do_not_multiply_the_steps() {
    let mut history = History::new();
    for number in 0..20_u64 {
        history.invoke(number, "k", Op::Set(number.into()), number);
    }
    for (number, at) in (0..20_u64).chain([5]).zip((100..).step_by(2)) {
        let get = history.invoke(99, "k", Op::Get, at);
        history.ok(get, Answer::Value(Some(Value::from(number))), at + 1);
    }
    let verdict = check_within(&history, 1_000);
    assert!(matches!(verdict, Verdict::Illegal(_)), "5 is read twice with other values between: {verdict}");
}

#[test]
#[ignore = "measures"]
fn figures() {
    for seed in 0..10 {
        let history = busy(seed);
        let started = Instant::now();
        let verdict = check(&history);
        println!("1000 operations on 10 keys, 200 of unknown outcome: {verdict} in {:?}", started.elapsed());
    }
    let long = Shape { operations: 20_000, keys: 20, overlap: 10, unknown_percent: 2, values: 1_000_000 };
    let history = legal(1, long);
    let started = Instant::now();
    let verdict = check(&history);
    println!("20000 operations on 20 keys, 400 of unknown outcome: {verdict} in {:?}", started.elapsed());
}
