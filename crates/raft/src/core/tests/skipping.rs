//! A held entry and its way out, where log and state are at their limits.

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, Set, SkipEntry};
use prost::Message as _;

use super::*;
use crate::types::Charge;
use crate::unappliable::Unappliable;

const LIMIT: u64 = 1 << 20;

type Answer = oneshot::Receiver<Result<Reply, Error>>;

fn encoded(op: Op) -> Vec<u8> {
    Command { op: Some(op), ..Command::default() }.encode_to_vec()
}

fn large(index: u64) -> Entry {
    let set = Set { key: "key".into(), value: vec![7; 2 * LIMIT as usize].into(), ..Set::default() };
    Entry { index, term: 1, data: encoded(Op::Set(set)), ..Entry::default() }
}

fn skip_of(held: &Unappliable) -> Op {
    Op::SkipEntry(SkipEntry { index: held.index, crc: held.crc })
}

fn propose(core: &mut Core, op: Op) -> Answer {
    let (waiter, answer) = oneshot::channel();
    let proposal =
        Proposal { data: encoded(op), format: OLDEST, waiter: waiter.into(), charge: Charge::default() };
    core.handle(Input::Propose(vec![proposal]), Instant::now());
    answer
}

/// Entries that the apply thread is given while every write is on disk at once.
fn handed_out(core: &mut Core) -> Vec<u64> {
    let mut indices = Vec::new();
    loop {
        let effects = core.drain(Instant::now());
        let mut persisted = None;
        for effect in effects {
            match effect {
                Effect::Log(LogJob::Append { number, .. }) => persisted = Some(number),
                Effect::Apply(ApplyJob::Entries { entries, .. }) => {
                    indices.extend(entries.iter().map(|(entry, _)| entry.index));
                }
                _ => {}
            }
        }
        let Some(number) = persisted else { return indices };
        core.on_done(Done::Persisted(number), Instant::now());
    }
}

/// Each limit is exceeded: log, overlay and what waits to be applied.
fn fill(core: &mut Core) {
    core.settings.max_log_bytes = LIMIT;
    core.settings.max_overlay_bytes = LIMIT;
    core.applying.pretend(core.applying.index(), 3 * MAX_APPLYING_BYTES, 2 * LIMIT);
}

#[test]
fn a_leader_takes_a_skip_and_hands_it_out_whatever_is_full() {
    let mut core = leader_of_one();
    let first = core.status(Instant::now()).last_index + 1;
    drop(propose(&mut core, Op::Set(Set { key: "poison".into(), ..Set::default() })));
    assert_eq!(handed_out(&mut core), [first]);
    // Committed behind it when there is no room any more to apply it.
    drop(propose(&mut core, Op::Set(Set { key: "behind".into(), ..Set::default() })));
    let numbers = turn(&mut core).log;
    fill(&mut core);
    core.on_done(Done::Persisted(*numbers.last().unwrap()), Instant::now());
    let held = Unappliable { index: first, command: "SET".into(), bytes: 1, crc: 7 };
    core.on_done(Done::Held(held.clone()), Instant::now());
    assert!(handed_out(&mut core).is_empty(), "what comes after a held entry waits in the log");

    let mut write = propose(&mut core, Op::Set(Set::default()));
    let mut wrong = propose(&mut core, skip_of(&Unappliable { crc: 8, ..held.clone() }));
    assert!(handed_out(&mut core).is_empty());
    assert_eq!(write.try_recv().unwrap().unwrap_err().code, ErrorCode::EntryUnappliable);
    assert_eq!(wrong.try_recv().unwrap().unwrap_err().code, ErrorCode::InvalidArgument);

    let mut skip = propose(&mut core, skip_of(&held));
    let mut again = propose(&mut core, skip_of(&held));
    let last = core.status(Instant::now()).last_index + 1;
    assert_eq!(handed_out(&mut core).last(), Some(&last), "the skip is handed out with all before it");
    assert!(skip.try_recv().is_err(), "it waits for its entry to be applied");
    assert_eq!(again.try_recv().unwrap().unwrap_err().code, ErrorCode::EntryUnappliable);
}

#[test]
fn a_follower_that_holds_an_entry_takes_a_skip_into_a_full_log_and_nothing_else() {
    let mut core = follower(HardState { term: 1, ..HardState::default() });
    fill(&mut core);
    let after = core.status(Instant::now()).last_index;
    let append_of = |entry: Entry| {
        let before = entry.index - 1;
        Message { index: before, log_term: 1, entries: vec![entry], ..append(1, before, 1) }
    };
    let take = |core: &mut Core, entry: Entry| {
        core.handle(Input::Messages(vec![append_of(entry)]), Instant::now());
        handed_out(core);
        core.status(Instant::now()).last_index
    };
    let held = Unappliable { index: after, command: "SET".into(), bytes: 1, crc: 7 };
    let skip = Entry { index: after + 2, term: 1, data: encoded(skip_of(&held)), ..Entry::default() };
    assert_eq!(take(&mut core, large(after + 1)), after, "too much waits to be applied");
    core.on_done(Done::Held(held.clone()), Instant::now());
    assert_eq!(take(&mut core, large(after + 1)), after + 1, "it waits in the log, which has room");
    assert_eq!(take(&mut core, large(after + 2)), after + 1, "the log is full");
    assert_eq!(take(&mut core, skip), after + 2);
}
