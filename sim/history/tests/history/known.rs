//! Histories that are small enough to check by eye.

use std::ops::Range;

use helios_history::{
    Answer, History, Op, Operation, Outcome, ParseError, Value, Verdict, check, check_within,
};

fn answered(op: Op, answer: Answer, at: Range<u64>) -> Operation {
    let outcome = Outcome::Ok { answer, returned: at.end };
    Operation { process: at.start, key: "k".into(), op, invoked: at.start, outcome }
}

fn unknown(op: Op, invoked: u64) -> Operation {
    Operation { process: invoked, key: "k".into(), op, invoked, outcome: Outcome::Maybe }
}

fn failed(op: Op, invoked: u64) -> Operation {
    Operation { outcome: Outcome::Failed, ..unknown(op, invoked) }
}

fn value(number: i64) -> Value {
    Value::Number(number)
}

fn set(number: i64, at: Range<u64>) -> Operation {
    answered(Op::Set(value(number)), Answer::Done, at)
}

fn get(number: i64, at: Range<u64>) -> Operation {
    answered(Op::Get, Answer::Value(Some(value(number))), at)
}

fn get_nothing(at: Range<u64>) -> Operation {
    answered(Op::Get, Answer::Value(None), at)
}

fn set_if_absent(number: i64, was_set: bool, at: Range<u64>) -> Operation {
    answered(Op::SetIfAbsent(value(number)), Answer::Flag(was_set), at)
}

fn delete(existed: bool, at: Range<u64>) -> Operation {
    answered(Op::Delete, Answer::Flag(existed), at)
}

fn incr(by: i64, sum: i64, at: Range<u64>) -> Operation {
    answered(Op::Incr(by), Answer::Number(sum), at)
}

fn maybe_set(number: i64, invoked: u64) -> Operation {
    unknown(Op::Set(value(number)), invoked)
}

fn history(operations: impl IntoIterator<Item = Operation>) -> History {
    let mut history = History::new();
    for operation in operations {
        history.push(operation);
    }
    history
}

#[track_caller]
fn legal(operations: impl IntoIterator<Item = Operation>) {
    let verdict = check(&history(operations));
    assert!(verdict.is_legal(), "{verdict}");
}

#[track_caller]
fn illegal(operations: impl IntoIterator<Item = Operation>) {
    let history = history(operations);
    let verdict = check(&history);
    assert!(matches!(verdict, Verdict::Illegal(_)), "{verdict}:\n{}", history.to_porcupine_json());
}

#[test]
fn empty_history_and_failed_operations_are_legal() {
    legal([]);
    legal([failed(Op::Set(value(1)), 0), get_nothing(10..20)]);
    illegal([failed(Op::Set(value(1)), 0), get(1, 10..20)]);
}

#[test]
fn stale_read_is_illegal() {
    illegal([set(1, 0..10), set(2, 20..30), get(1, 40..50)]);
    illegal([set(1, 0..10), get_nothing(20..30)]);
    legal([set(1, 0..10), set(2, 20..30), get(1, 25..50)]);
}

#[test]
fn read_older_than_an_earlier_read_is_illegal() {
    illegal([set(1, 0..10), set(2, 20..90), get(2, 30..40), get(1, 50..60)]);
    legal([set(1, 0..10), set(2, 20..90), get(1, 30..40), get(2, 50..60)]);
}

#[test]
fn concurrent_writes_have_one_order_for_all_readers() {
    let writes = || [set(1, 0..100), set(2, 0..100)];
    legal(writes().into_iter().chain([get(1, 110..120), get(1, 130..140)]));
    legal(writes().into_iter().chain([get(2, 110..120), get(2, 130..140)]));
    illegal(writes().into_iter().chain([get(1, 110..120), get(2, 130..140)]));
    legal(writes().into_iter().chain([get(2, 10..20), get(1, 30..40)]));
    illegal(writes().into_iter().chain([get(2, 10..20), get(1, 30..40), get(2, 50..60)]));
}

#[test]
fn reads_of_writes_in_the_wrong_order_are_illegal() {
    illegal([set(1, 0..10), set(2, 20..30), get(2, 40..50), get(1, 60..70)]);
    illegal([set(2, 0..10), set(1, 20..30), get(2, 40..50)]);
}

#[test]
fn read_of_a_value_that_was_never_written_is_illegal() {
    illegal([set(1, 0..10), get(7, 5..50)]);
    illegal([get(7, 0..10), set(7, 20..30)]);
}

#[test]
fn increment_that_is_lost_or_applied_twice_is_illegal() {
    legal([incr(1, 1, 0..10), incr(1, 2, 0..10), incr(5, 7, 20..30), get(7, 40..50)]);
    illegal([incr(1, 1, 0..10), incr(1, 1, 0..10)]);
    illegal([incr(1, 1, 0..10), incr(1, 2, 20..30), get(3, 40..50)]);
    illegal([incr(1, 1, 0..10), incr(1, 2, 20..30), get(1, 40..50)]);
}

#[test]
fn an_unknown_increment_counts_once_or_never() {
    let story = |sum| [incr(1, 1, 0..10), unknown(Op::Incr(1), 20), get(sum, 30..40)];
    legal(story(1));
    legal(story(2));
    illegal(story(3));
    illegal([incr(1, 1, 0..10), unknown(Op::Incr(1), 20), get(2, 30..40), get(1, 50..60)]);
}

#[test]
fn an_unknown_write_appears_at_any_time_and_stays() {
    legal([set(1, 0..10), maybe_set(2, 20), get(1, 30..40), get(1, 50..60)]);
    legal([set(1, 0..10), maybe_set(2, 20), get(1, 30..40), get(2, 50..60)]);
    illegal([set(1, 0..10), maybe_set(2, 20), get(2, 30..40), get(1, 50..60)]);
    illegal([set(1, 0..10), get(2, 12..18), maybe_set(2, 20)]);
    illegal([set(1, 0..10), maybe_set(2, 20), get(2, 30..40), set(3, 50..60), get(2, 70..80)]);
    legal([
        set(1, 0..10),
        maybe_set(2, 20),
        maybe_set(2, 21),
        get(2, 30..40),
        set(3, 50..60),
        get(2, 70..80),
    ]);
}

#[test]
fn delete_answers_whether_the_key_existed() {
    legal([set(1, 0..10), delete(true, 20..30), get_nothing(40..50), delete(false, 60..70)]);
    illegal([delete(true, 0..10), set(1, 20..30)]);
    illegal([set(1, 0..10), delete(false, 20..30)]);
    illegal([set(1, 0..10), delete(true, 20..30), get(1, 40..50)]);
    illegal([set(1, 0..10), delete(true, 20..90), delete(true, 20..90)]);
    legal([set(1, 0..10), delete(true, 20..90), delete(false, 20..90)]);
}

#[test]
fn set_if_absent_creates_a_key_once() {
    legal([set_if_absent(1, true, 0..50), set_if_absent(2, false, 0..50), get(1, 60..70)]);
    illegal([set_if_absent(1, true, 0..50), set_if_absent(2, true, 0..50)]);
    illegal([set_if_absent(1, true, 0..50), set_if_absent(2, false, 0..50), get(2, 60..70)]);
    illegal([set_if_absent(1, false, 0..50)]);
    let unknown = || unknown(Op::SetIfAbsent(value(9)), 0);
    legal([unknown(), set_if_absent(1, false, 10..20), get(9, 30..40)]);
    illegal([unknown(), set_if_absent(1, true, 10..20), get(9, 30..40)]);
    legal([unknown(), set_if_absent(1, true, 10..20), delete(true, 22..24), get(9, 30..40)]);
}

#[test]
fn unknown_write_that_no_read_returns_explains_an_existing_key() {
    legal([maybe_set(1, 0), delete(true, 10..20)]);
    legal([maybe_set(1, 0), maybe_set(2, 1), delete(true, 10..20), delete(true, 30..40)]);
    illegal([maybe_set(1, 0), delete(true, 10..20), delete(true, 30..40)]);
    legal([maybe_set(1, 0), set_if_absent(5, false, 10..20)]);
    legal([maybe_set(10, 0), incr(1, 11, 10..20)]);
    illegal([maybe_set(10, 0), incr(1, 12, 10..20)]);
    illegal([unknown(Op::Set("ten".into()), 0), incr(1, 11, 10..20)]);
}

#[test]
fn unknown_operations_may_depend_on_each_other() {
    let story = [set(1, 0..10), unknown(Op::Delete, 20), unknown(Op::SetIfAbsent(value(2)), 20)];
    legal(story.iter().cloned().chain([get(2, 30..40)]));
    legal(story.iter().cloned().chain([get_nothing(30..40), get(2, 50..60)]));
    illegal(story.iter().cloned().chain([get(2, 30..40), get_nothing(50..60)]));
    legal([maybe_set(5, 0), unknown(Op::Incr(2), 0), get(7, 10..20)]);
    legal([maybe_set(5, 0), unknown(Op::Incr(2), 0), get(2, 10..20), get(5, 30..40)]);
    illegal([maybe_set(5, 0), unknown(Op::Incr(2), 0), get(7, 10..20), get(5, 30..40)]);
}

#[test]
fn unknown_increment_restores_a_number_and_an_absent_key_counts_as_zero() {
    let back = |seen| [set(5, 0..10), set(4, 20..30), unknown(Op::Incr(1), 40), get(seen, 50..60)];
    legal(back(5));
    illegal(back(6));
    legal([set(0, 0..10), set(5, 20..30), delete(true, 40..50), incr(1, 1, 60..70)]);
    illegal([set(0, 0..10), set(5, 20..30), incr(1, 1, 60..70), delete(true, 80..90)]);
}

#[test]
fn number_equals_its_decimal_text() {
    legal([answered(Op::Set("41".into()), Answer::Done, 0..10), incr(1, 42, 20..30)]);
    illegal([answered(Op::Set("041".into()), Answer::Done, 0..10), incr(1, 42, 20..30)]);
    let largest = || Value::from(u64::MAX);
    legal([
        answered(Op::Set(largest()), Answer::Done, 0..10),
        answered(Op::Get, Answer::Value(Some(largest())), 20..30),
    ]);
}

#[test]
fn an_answer_of_the_wrong_kind_is_illegal() {
    illegal([answered(Op::Get, Answer::Done, 0..10)]);
    illegal([answered(Op::Set(value(1)), Answer::Flag(true), 0..10)]);
}

#[test]
fn keys_are_checked_separately_and_the_verdict_names_the_illegal_one() {
    let mut history = history([set(1, 0..10), get(1, 20..30)]);
    let other = |operation: Operation| Operation { key: "other".into(), ..operation };
    for operation in [set(2, 0..10), set(3, 20..30), get(3, 40..50), get(2, 60..70)] {
        history.push(other(operation));
    }
    let Verdict::Illegal(violation) = check(&history) else { panic!("legal") };
    assert_eq!((violation.key.as_str(), violation.placed, violation.answered), ("other", 3, 4));
    assert_eq!(violation.unplaced, [other(get(2, 60..70))]);
    let text = violation.to_string();
    let expected = "no order of the operations on key \"other\" explains the answers
  3 of 4 operations fit into an order, which ends with:
    process 0 at 0: SET 2 -> done at 10
    process 20 at 20: SET 3 -> done at 30
    process 40 at 40: GET -> 3 at 50
  then its value is 3, and none of the possible next operations fits:
    process 60 at 60: GET -> 2 at 70
";
    assert_eq!(text, expected);
}

#[test]
fn verdict_is_unknown_with_too_few_steps() {
    let history = history([set(1, 0..10), get(2, 20..30)]);
    assert_eq!(check_within(&history, 0), Verdict::Unknown { key: "k".into(), max_steps: 0 });
    assert!(matches!(check_within(&history, 1), Verdict::Illegal(_)));
}

#[test]
fn last_recorded_outcome_is_checked() {
    let mut history = History::new();
    let first = history.invoke(1, "k", Op::Set(value(1)), 0);
    let second = history.invoke(2, "k", Op::Set(value(2)), 1);
    let third = history.invoke(3, "k", Op::Get, 2);
    history.ok(first, Answer::Done, 5);
    history.ok(third, Answer::Value(Some(value(2))), 9);
    assert!(check(&history).is_legal(), "without an answer it may have taken effect");
    history.failed(second);
    assert!(!check(&history).is_legal());
    history.maybe(second);
    assert!(check(&history).is_legal());
}

#[test]
fn json_lines_read_back_as_the_same_history() {
    let all = history([
        set(1, 0..10),
        answered(Op::Set(Value::Bytes(vec![0, 34, 200, 255])), Answer::Done, 1..2),
        get_nothing(3..4),
        delete(true, 5..6),
        incr(-5, i64::MIN, 7..8),
        set_if_absent(4, false, 9..10),
        unknown(Op::Delete, 11),
        failed(Op::Get, 12),
    ]);
    let text = all.to_porcupine_json();
    assert_eq!(text.lines().count(), 8);
    let first = r#"{"process":0,"key":"k","op":{"set":1},"invoked":0,"outcome":{"ok":{"answer":"done","returned":10}}}"#;
    assert_eq!(text.lines().next(), Some(first));
    assert_eq!(History::from_json(&text).unwrap(), all);
}

#[test]
fn invalid_json_is_rejected_with_its_line() {
    let good = history([set(1, 5..10)]).to_porcupine_json();
    let syntax = History::from_json(&(good.clone() + "{\"process\":1}\n")).unwrap_err();
    assert!(matches!(syntax, ParseError::Syntax { line: 2, .. }), "{syntax}");
    let times = History::from_json(&good.replace("\"invoked\":5", "\"invoked\":50")).unwrap_err();
    assert_eq!(times.to_string(), "line 1 of the history returns before its invocation");
}
