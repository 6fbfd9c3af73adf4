//! A write that is sent again.

use super::*;
use crate::disk::RealDisk;

fn once(sequence: u64, op: Op) -> Command {
    by("client", sequence, op)
}

fn by(client: &str, sequence: u64, op: Op) -> Command {
    Command { request_id: Some(request(client, sequence)), ..command(1, op) }
}

fn again(first: &Command) -> Command {
    let mut retry = first.clone();
    retry.request_id.as_mut().unwrap().retry = true;
    retry
}

/// Answers kept of one client.
fn records_of(machine: &Machine, client: &str) -> usize {
    let state = machine.store.inner.state();
    let mut start = b"rs".to_vec();
    start.push(client.len() as u8);
    start.extend(client.as_bytes());
    let end = [&start[..], &[u8::MAX; 2]].concat();
    state.view().range(&start, Some(&end)).count()
}

#[test]
fn a_write_sent_again_is_applied_once_and_answered_as_the_first_time() {
    let mut machine = Machine::in_memory();
    let increment = once(1, increment("n", 1));
    let first = machine.apply_command(increment.clone());
    assert_eq!((first.index, first.term, first.kind.clone()), (1, 1, Some(int(1))));
    assert_eq!(machine.apply_command(again(&increment)), first);
    assert_eq!(machine.apply_command(increment), first, "without the mark it is the same write");
    assert_eq!(&machine.pairs()[0].1.data[..], b"1");
}

#[test]
fn a_refusal_is_an_answer_too() {
    let mut machine = Machine::in_memory();
    machine.apply(1, put("n", "text"));
    let increment = once(1, increment("n", 1));
    let first = machine.apply_command(increment.clone());
    assert_eq!(code(first.kind.as_ref().unwrap()), Some(ErrorCode::NotAnInteger));
    machine.apply(1, put("n", "5"));
    assert_eq!(machine.apply_command(again(&increment)), first);
}

#[test]
fn flushing_all_keys_forgets_no_request() {
    let mut machine = Machine::in_memory();
    let set = once(1, put("k", "v"));
    let first = machine.apply_command(set.clone());
    machine.store.checkpoint().unwrap();
    let flush = once(2, flush_all());
    let flushed = machine.apply_command(flush.clone());
    machine.apply(1, put("later", "v"));
    machine.store.checkpoint().unwrap();
    assert_eq!(machine.apply_command(again(&set)), first);
    assert_eq!(machine.apply_command(again(&flush)), flushed);
    assert_eq!(machine.pairs().len(), 1);
}

#[test]
fn what_is_remembered_survives_a_snapshot_and_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let mut machine = Machine::on_disk(&temp.path().join("a"));
    let increments: Vec<_> = (1..=5).map(|sequence| once(sequence, increment("n", 1))).collect();
    let first: Vec<_> = increments.iter().map(|command| machine.apply_command(command.clone())).collect();
    let file = temp.path().join("snapshot");
    machine.snapshot(file.clone());
    SnapshotMeta::verify_file(&RealDisk::default(), &file).unwrap();

    let moved = Store::open(&temp.path().join("b"), EngineKind::Sled).unwrap();
    moved.restore(&file).unwrap();
    drop(moved);
    let reopened = Store::open(&temp.path().join("b"), EngineKind::Sled).unwrap();
    assert_eq!(reopened.rebuilds(), 0, "its content must add up");
    for (index, (command, first)) in (6..).zip(increments.iter().zip(&first)) {
        assert_eq!(reopened.apply(index, 2, &again(command)), *first);
    }
    assert_eq!(&pairs(&reopened)[0].1.data[..], b"5");
}

#[test]
fn a_retry_of_what_is_forgotten_is_refused_and_never_applied() {
    let unknown = Some(ErrorCode::OutcomeUnknown);
    let mut machine = Machine::in_memory();
    let mut send = |command: Command| machine.apply_command(command).kind.unwrap();
    let first = once(1, increment("n", 1));
    assert_eq!(code(&send(again(&first))), unknown, "of a client never heard of");
    assert_eq!(send(first.clone()), int(1));
    assert_eq!(send(once(257, increment("n", 1))), int(2), "it has the slot of the first");
    assert_eq!(code(&send(again(&first))), unknown);
    assert_eq!(code(&send(first)), unknown, "even without the mark");
    assert_eq!(send(once(256, increment("n", 1))), int(3), "an earlier one that came later");
    assert_eq!(send(again(&once(300, increment("n", 1)))), int(4), "certainly never applied");
}

#[test]
fn the_client_that_was_silent_for_longest_makes_room() {
    let mut machine = Machine::in_memory();
    let name = |number: u64| format!("client-{number}");
    let at = |now_ms, number, sequence| Command { now_ms, ..by(&name(number), sequence, increment("n", 1)) };
    for number in 0..1_024 {
        machine.apply_command(at(number, number, 1));
    }
    // The first is heard again, so the second is the one that was silent for longest.
    machine.apply_command(at(50_000, 0, 2));
    assert_eq!(records_of(&machine, "client-1"), 1);
    machine.apply_command(at(50_000, 5_000, 1));
    assert_eq!(records_of(&machine, "client-1"), 0);
    let mut first_index = |number, sequence| {
        let reply = machine.apply_command(again(&at(50_000, number, sequence)));
        code(&reply.kind.unwrap()).map_or(Ok(reply.index), Err)
    };
    // Not even those whose names begin with the forgotten one's are forgotten with it.
    for (number, index) in [(0, 1), (2, 3), (10, 11), (19, 20), (100, 101), (5_000, 1_026)] {
        assert_eq!(first_index(number, 1), Ok(index), "client {number}");
    }
    assert_eq!(first_index(1, 1), Err(ErrorCode::OutcomeUnknown));
    // It begins anew: what came before it began may have been applied.
    machine.apply_command(at(50_000, 1, 9));
    let early = machine.apply_command(again(&at(50_000, 1, 8))).kind.unwrap();
    assert_eq!(code(&early), Some(ErrorCode::OutcomeUnknown));
    let late = machine.apply_command(again(&at(50_000, 1, 10))).kind.unwrap();
    assert_eq!(code(&late), None);
}

#[test]
fn a_long_answer_is_not_kept_but_the_write_is_still_applied_once() {
    let mut machine = Machine::in_memory();
    machine.apply(1, put("k", &"x".repeat(2_000)));
    let swap = once(1, Op::Set(Set { return_previous: true, ..set("k", "short") }));
    let Answer::Bytes(previous) = machine.apply_command(swap.clone()).kind.unwrap() else {
        panic!("no previous value");
    };
    assert_eq!(previous.len(), 2_000);
    machine.apply(1, put("k", "newer"));
    let second = machine.apply_command(again(&swap)).kind.unwrap();
    assert_eq!(code(&second), Some(ErrorCode::AlreadyApplied));
    assert_eq!(&machine.pairs()[0].1.data[..], b"newer");
}

#[test]
fn an_id_that_names_nothing_is_refused() {
    let mut machine = Machine::in_memory();
    let long = "x".repeat(65);
    for (client, sequence) in [("", 1), (long.as_str(), 1), ("client", 0)] {
        let answer = machine.apply_command(by(client, sequence, increment("n", 1))).kind.unwrap();
        assert_eq!(code(&answer), Some(ErrorCode::InvalidArgument), "{client:?} {sequence}");
    }
    assert!(machine.pairs().is_empty());
}
