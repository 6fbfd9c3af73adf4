//! Deduplication of repeated writes.

use helios_proto::v1::Origin;

use super::*;
use helios_storage::disk;

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

/// Returns the number of answers that are kept for a client.
fn records_of(machine: &Machine, client: &str) -> usize {
    let state = machine.store.inner.state();
    let mut start = b"rs".to_vec();
    start.push(client.len() as u8);
    start.extend(client.as_bytes());
    let end = [&start[..], &[u8::MAX; 2]].concat();
    state.view().range(&start, Some(&end)).count()
}

#[test]
fn repeated_write_is_applied_once_and_gets_the_first_answer() {
    let mut machine = Machine::in_memory();
    let increment = once(1, increment("n", 1));
    let first = machine.apply_command(increment.clone());
    assert_eq!((first.index, first.term, first.kind.clone()), (1, 1, Some(int(1))));
    assert_eq!(machine.apply_command(again(&increment)), first);
    assert_eq!(machine.apply_command(increment), first, "without the mark it is the same write");
    assert_eq!(&machine.pairs()[0].1.data[..], b"1");
}

#[test]
fn repeated_refused_write_gets_the_first_refusal() {
    let mut machine = Machine::in_memory();
    machine.apply(1, put("n", "text"));
    let increment = once(1, increment("n", 1));
    let first = machine.apply_command(increment.clone());
    assert_eq!(code(first.kind.as_ref().unwrap()), Some(ErrorCode::NotAnInteger));
    machine.apply(1, put("n", "5"));
    assert_eq!(machine.apply_command(again(&increment)), first);
}

#[test]
fn flush_all_keeps_the_request_records() {
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
fn request_records_survive_a_snapshot_and_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let mut machine = Machine::on_disk(&temp.path().join("a"));
    let increments: Vec<_> = (1..=5).map(|sequence| once(sequence, increment("n", 1))).collect();
    let first: Vec<_> = increments.iter().map(|command| machine.apply_command(command.clone())).collect();
    let file = temp.path().join("snapshot");
    machine.snapshot(file.clone());
    SnapshotMeta::verify(&disk::real(), &file).unwrap();

    let moved = Store::open(&temp.path().join("b"), EngineKind::Sled).unwrap();
    moved.restore(&file).unwrap();
    drop(moved);
    let reopened = Store::open(&temp.path().join("b"), EngineKind::Sled).unwrap();
    assert_eq!(reopened.rebuilds(), 0, "its content must match its record");
    for (index, (command, first)) in (6..).zip(increments.iter().zip(&first)) {
        assert_eq!(reopened.apply(index, 2, &again(command)), *first);
    }
    assert_eq!(&pairs(&reopened)[0].1.data[..], b"5");
}

#[test]
fn retry_of_a_forgotten_write_is_refused_and_never_applied() {
    let unknown = Some(ErrorCode::OutcomeUnknown);
    let mut machine = Machine::in_memory();
    let mut send = |command: Command| machine.apply_command(command).kind.unwrap();
    let first = once(1, increment("n", 1));
    assert_eq!(code(&send(again(&first))), unknown, "of an unknown client");
    assert_eq!(send(first.clone()), int(1));
    assert_eq!(send(once(257, increment("n", 1))), int(2), "it uses the slot of the first");
    assert_eq!(code(&send(again(&first))), unknown);
    assert_eq!(code(&send(first)), unknown, "even without the mark");
    assert_eq!(send(once(256, increment("n", 1))), int(3), "an earlier sequence that arrives later");
    assert_eq!(send(again(&once(300, increment("n", 1)))), int(4), "certainly never applied");
}

#[test]
fn longest_idle_client_is_evicted() {
    let mut machine = Machine::in_memory();
    let name = |number: u64| format!("client-{number}");
    let at = |now_ms, number, sequence| Command { now_ms, ..by(&name(number), sequence, increment("n", 1)) };
    for number in 0..1_024 {
        machine.apply_command(at(number, number, 1));
    }
    // The first client writes again, so the second is the one that was idle for longest.
    machine.apply_command(at(50_000, 0, 2));
    assert_eq!(records_of(&machine, "client-1"), 1);
    machine.apply_command(at(50_000, 5_000, 1));
    assert_eq!(records_of(&machine, "client-1"), 0);
    let mut first_index = |number, sequence| {
        let reply = machine.apply_command(again(&at(50_000, number, sequence)));
        code(&reply.kind.unwrap()).map_or(Ok(reply.index), Err)
    };
    // Clients whose ids start with the id of the evicted one are not evicted with it.
    for (number, index) in [(0, 1), (2, 3), (10, 11), (19, 20), (100, 101), (5_000, 1_026)] {
        assert_eq!(first_index(number, 1), Ok(index), "client {number}");
    }
    assert_eq!(first_index(1, 1), Err(ErrorCode::OutcomeUnknown));
    // The client starts again at sequence 9: an earlier sequence may have been applied.
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
fn invalid_request_id_is_refused() {
    let mut machine = Machine::in_memory();
    let long = "x".repeat(65);
    for (client, sequence) in [("", 1), (long.as_str(), 1), ("client", 0)] {
        let answer = machine.apply_command(by(client, sequence, increment("n", 1))).kind.unwrap();
        assert_eq!(code(&answer), Some(ErrorCode::InvalidArgument), "{client:?} {sequence}");
    }
    assert!(machine.pairs().is_empty());
}

/// Returns a write as a member forwards it, with a request id of that member.
fn forwarded(lane: u64, sequence: u64, named_at: u64) -> Command {
    let client_id = [&[0][..], &lane.to_be_bytes()].concat().into();
    Command {
        request_id: Some(RequestId { client_id, sequence, retry: false }),
        origin: Some(Origin { named_at, ..Origin::default() }),
        ..command(1, increment("n", 1))
    }
}

/// Returns a write of a user's client.
fn of_user(user: &str, client: &str, sequence: u64, now_ms: u64) -> Command {
    let origin = Some(Origin { identity: bytes(user), named_at: 0 });
    Command { now_ms, origin, ..by(client, sequence, increment("n", 1)) }
}

fn code_of(machine: &mut Machine, command: Command) -> Option<ErrorCode> {
    code(&machine.apply_command(command).kind.unwrap())
}

#[test]
fn unapplied_first_write_of_a_lane_is_applied_on_retry() {
    let mut machine = Machine::in_memory();
    for (lane, sequence) in (0..32).flat_map(|lane| [(lane, 2), (lane, 1)]) {
        let write = forwarded(lane, sequence, machine.store.applied().index.max(1));
        let first = machine.apply_command(again(&write));
        assert_eq!(code(first.kind.as_ref().unwrap()), None, "lane {lane}, request {sequence}");
        assert_eq!(machine.apply_command(again(&write)), first, "and once only");
    }
    assert_eq!(&machine.pairs()[0].1.data[..], b"64");
}

#[test]
fn write_named_before_a_lane_was_evicted_has_unknown_outcome() {
    let unknown = Some(ErrorCode::OutcomeUnknown);
    let mut machine = Machine::in_memory();
    machine.apply(1, put("k", "v"));
    let first = forwarded(0, 1, 1);
    assert_eq!(code_of(&mut machine, first.clone()), None);
    // One lane more than are remembered: the first was idle for longest.
    for lane in 1..=1_024 {
        let named_at = machine.store.applied().index;
        assert_eq!(code_of(&mut machine, again(&forwarded(lane, 1, named_at))), None, "lane {lane}");
    }
    assert_eq!(code_of(&mut machine, again(&first)), unknown, "it was applied");
    let evicted_at = machine.store.applied().index - 1;
    assert_eq!(code_of(&mut machine, again(&forwarded(5_000, 1, evicted_at - 1))), unknown);
    assert_eq!(
        code_of(&mut machine, again(&forwarded(5_000, 1, evicted_at))),
        None,
        "named after the eviction"
    );
    assert_eq!(code_of(&mut machine, again(&forwarded(5_001, 1, 0))), unknown, "no index is known for it");
}

#[test]
fn a_user_with_fresh_client_ids_evicts_no_other_users_records() {
    let mut machine = Machine::in_memory();
    let mut kept = Vec::new();
    for user in ["a", "b", "c"] {
        for client in 0..5 {
            kept.push(of_user(user, &format!("{user}{client}"), 1, 1));
        }
    }
    let lanes: Vec<_> = (0..96).map(|lane| forwarded(lane, 1, 1)).collect();
    kept.extend(lanes);
    let first: Vec<_> = kept.iter().map(|command| machine.apply_command(command.clone())).collect();
    for number in 0..5_000 {
        let flood = of_user("flood", &format!("flood-{number}"), 1, 50_000 + number);
        assert_eq!(code_of(&mut machine, flood), None);
    }
    for (command, first) in kept.iter().zip(first) {
        assert_eq!(machine.apply_command(again(command)), first);
    }
    let flood = |number: u64| again(&of_user("flood", &format!("flood-{number}"), 1, 60_000));
    assert_eq!(code_of(&mut machine, flood(4_999)), None, "its newest clients are remembered");
    assert_eq!(code_of(&mut machine, flood(5_000 - 1_009)), None, "1 024 minus the clients of the others");
    assert_eq!(code_of(&mut machine, flood(5_000 - 1_010)), Some(ErrorCode::OutcomeUnknown));
}

#[test]
fn client_of_a_new_user_evicts_one_of_the_user_with_most_clients() {
    let mut machine = Machine::in_memory();
    for number in 0..1_024 {
        let user = if number % 4 == 0 { "small" } else { "large" };
        machine.apply_command(of_user(user, &format!("{user}-{number}"), 1, number));
    }
    for number in 0..100 {
        assert_eq!(code_of(&mut machine, of_user("new", &format!("new-{number}"), 1, 2_000)), None);
    }
    let is_known = |machine: &mut Machine, user: &str, number: u64| {
        code_of(machine, again(&of_user(user, &format!("{user}-{number}"), 1, 2_000))).is_none()
    };
    let count = |machine: &mut Machine, user: &str| {
        (0..1_024).filter(|number| records_of(machine, &format!("{user}-{number}")) > 0).count()
    };
    assert_eq!(count(&mut machine, "small"), 256);
    assert_eq!(count(&mut machine, "large"), 768 - 100);
    assert_eq!(count(&mut machine, "new"), 100);
    assert!(!is_known(&mut machine, "large", 1), "idle for longest");
    assert!(is_known(&mut machine, "large", 1_023));
}

#[test]
fn clients_of_log_format_4_are_imported() {
    let mut machine = Machine::in_memory();
    let old: Vec<_> = (0..1_020).map(|number| by(&format!("old-{number}"), 1, increment("n", 1))).collect();
    let first: Vec<_> = old.iter().map(|command| machine.apply_command(command.clone())).collect();
    for number in 0..10 {
        let new = of_user("a", &format!("new-{number}"), 1, 20_000);
        assert_eq!(code_of(&mut machine, new), None);
    }
    let known = old.iter().filter(|old| code_of(&mut machine, again(old)).is_none()).count();
    assert_eq!(known, 1_024 - 10, "the old clients are evicted, as the largest group");
    let (last, first) = (old.last().unwrap(), first.last().unwrap());
    assert_eq!(machine.apply_command(again(last)), *first);
    // A client that writes again with an identity counts for that identity from then on.
    let moved = of_user("a", "old-1019", 2, 20_000);
    assert_eq!(code_of(&mut machine, moved), None);
    assert_eq!(machine.apply_command(again(last)), *first);
}
