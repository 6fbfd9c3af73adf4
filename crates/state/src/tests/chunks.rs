//! Strings in chunks: all commands on strings compared with a model of plain bytes, and the records that they visit.

mod model;

use std::collections::{BTreeMap, BTreeSet};

use helios_proto::v1::Transaction;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::model::{Model, random_words};
use super::properties::{Rig, Step};
use super::visits::elements;
use super::*;
use crate::budget::{CHUNKS, ENTRY_BUDGET, FEWEST_VISITS, FIRST_BUDGET, Limits};
use crate::chunks::CHUNK_BYTES;
use crate::follow::{Cursor, Selection};
use crate::{Kind, Replica, commands, value};

/// Time of the entries; times below have passed.
const NOW_MS: u64 = 1_000;
const MIB: usize = 1 << 20;

/// Makes the call of a line, in which `=N` stands for N bytes.
fn line(text: &str) -> Vec<Bytes> {
    let word = |word: &str| match word.strip_prefix('=').and_then(|length| length.parse().ok()) {
        Some(length) => pattern(length, 7),
        None => bytes(word),
    };
    text.split(' ').map(word).collect()
}

/// Returns bytes of which no two chunks are alike.
fn pattern(length: usize, seed: u64) -> Bytes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut data = vec![0; length];
    random.fill(&mut data[..]);
    data.into()
}

fn entry(budget: u32, words: &[Bytes]) -> Command {
    let name = String::from_utf8(words[0].to_vec()).unwrap();
    let call = Op::Call(commands::call(&name, words[1..].to_vec()));
    Command { budget, ..command(NOW_MS, call) }
}

fn apply(machine: &mut Machine, budget: u32, text: &str) -> Answer {
    machine.apply_command(entry(budget, &line(text))).kind.unwrap()
}

fn query(store: &Store, words: &[Bytes]) -> Answer {
    let Some(Op::Call(call)) = entry(0, words).op else { unreachable!() };
    store.query(&call, NOW_MS, Limits::DEFAULT_READ).unwrap().0
}

/// Returns the call that is logged for a request.
fn logged(words: &[Bytes]) -> Vec<Bytes> {
    match &words[0][..] {
        b"getset" => [bytes("set")].iter().chain(&words[1..]).chain([&bytes("GET")]).cloned().collect(),
        _ => words.to_vec(),
    }
}

/// Asserts that each record of an element has a key or a mark of garbage, and that no chunk ends behind its string.
fn check_records(store: &Store) {
    let state = store.inner.state();
    let mut ids: BTreeMap<Bytes, usize> = BTreeMap::new();
    for pair in state.view().range(value::DATA_START, Some(value::DATA_END)) {
        let held = Value::decode(pair.unwrap().1).unwrap();
        if let Some(chunks) = crate::chunks::Chunks::of(&held) {
            ids.insert(held.data.slice(..12), chunks.length);
        }
    }
    let marks = state.view().range(value::GARBAGE_START, Some(value::GARBAGE_END));
    let garbage: BTreeSet<Bytes> = marks.map(|pair| pair.unwrap().0.slice(1..13)).collect();
    for pair in state.view().range(value::ELEMENTS_START, Some(value::ELEMENTS_END)) {
        let (raw, data) = pair.unwrap();
        let (id, number) = (raw.slice(1..13), u32::from_be_bytes(raw[13..].try_into().unwrap()));
        match ids.get(&id) {
            Some(length) => assert!(number as usize * CHUNK_BYTES + data.len() <= *length),
            None => assert!(garbage.contains(&id), "chunk {number} of {id:?} is lost"),
        }
        assert!(!garbage.contains(&id) || !ids.contains_key(&id), "{id:?} is garbage and in use");
    }
}

/// Executes random commands on `engine` with checkpoints, restarts and moves between them. Sometimes entries have an
/// earlier budget, as after the join of a member of an earlier build.
fn run_seed(engine: EngineKind, seed: u64, steps: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut rig, mut twin, mut model) = (Rig::new(engine), Machine::in_memory(), Model::default());
    for step in 0..steps {
        let budget = if random.random_ratio(1, 8) { random.random_range(0..CHUNKS) } else { ENTRY_BUDGET };
        let mut requests = vec![random_words(&mut random)];
        if random.random_ratio(1, 12) {
            let key = &requests[0][1].clone();
            let payload = query(&rig.machine.store, &[bytes("dump"), key.clone()]);
            if let Answer::Bytes(payload) = payload {
                model.dump = Some(model.text(key).to_vec());
                requests = vec![vec![bytes("restore"), bytes("a"), bytes("0"), payload, bytes("REPLACE")]];
            }
        }
        if random.random_ratio(1, 10) {
            requests.extend([random_words(&mut random), random_words(&mut random)]);
        }
        let what = || format!("seed {seed}, step {step}: {:.300?}", requests);
        let expected: Vec<_> = requests.iter().map(|words| model.run(words)).collect();
        let steps: Vec<_> = requests.iter().map(|words| entry(0, &logged(words))).collect();
        let entry = match &steps[..] {
            [one] => Command { budget, ..one.clone() },
            _ => {
                let transaction = Transaction { steps, guards: Vec::new() };
                Command { budget, ..command(NOW_MS, Op::Transaction(transaction)) }
            }
        };
        let reply = rig.run(&Step::Apply(entry.clone())).unwrap();
        assert_eq!(reply, twin.apply_command(entry), "{}", what());
        let answers = match reply.kind.unwrap() {
            Answer::List(items) if requests.len() > 1 => {
                items.items.into_iter().map(|item| item.kind.unwrap()).collect()
            }
            answer => vec![answer],
        };
        for (answer, expected) in answers.iter().zip(&expected) {
            match expected {
                Some(expected) => assert!(answer == expected, "{}: {answer:.100?}", what()),
                None => assert!(code(answer).is_some(), "{}", what()),
            }
        }
        match random.random_range(0..12) {
            0 => drop(rig.run(&Step::Checkpoint)),
            1 => drop(rig.run(&Step::Reopen)),
            2 => drop(rig.run(&Step::Move)),
            3 => {
                let purge = command(NOW_MS, purge(random.random_range(1..9)));
                assert_eq!(rig.run(&Step::Apply(purge.clone())).unwrap(), twin.apply_command(purge));
            }
            _ => {}
        }
        let found: Vec<_> = rig.machine.pairs();
        let found: BTreeMap<_, _> = found
            .into_iter()
            .map(|(key, value)| (key, (value.data.to_vec(), value.expire_at_ms.map(|at_ms| at_ms as i64))))
            .collect();
        assert!(found == model.keys, "{}", what());
        check_records(&rig.machine.store);
    }
    let twin_dir = tempfile::tempdir().unwrap();
    assert!(rig.snapshot() == twin.snapshot(twin_dir.path().join("snapshot")), "seed {seed}");
}

#[test]
fn strings_in_memory_equal_plain_bytes() {
    (0..60).for_each(|seed| run_seed(EngineKind::Memory, seed, 60));
}

#[test]
fn strings_on_every_engine_equal_plain_bytes() {
    for engine in [EngineKind::Runs, EngineKind::Sled, EngineKind::Redb] {
        (100..106).for_each(|seed| run_seed(engine, seed, 40));
    }
}

/// Returns a machine with a string `v` of 4 MiB that an entry with the budget wrote.
fn with_long_string(budget: u32) -> Machine {
    let mut machine = Machine::in_memory();
    apply(&mut machine, budget, &format!("set v ={}", 4 * MIB));
    machine
}

#[test]
fn commands_visit_the_chunks_that_they_touch() {
    let machine = with_long_string(ENTRY_BUDGET);
    let chunks = (4 * MIB / CHUNK_BYTES) as u64;
    // The header, and the chunks; a change writes both again.
    for (line, expected) in [
        ("strlen v", 1),
        ("type v", 1),
        ("exists v", 1),
        ("object|encoding v", 1),
        ("memory|usage v", 1),
        ("getbit v 9000009", 2),
        ("getrange v 100000 100009", 2),
        ("getrange v 16380 16390", 3),
        ("bitcount v 0 99", 2),
        ("setbit v 9000009 1", 4),
        ("setrange v 100000 word", 4),
        ("setrange v 16382 word", 6),
        ("append v word", 3),
        ("setrange v 6000000 word", 3),
        ("pexpireat v 1000000", 3),
        ("persist v", 1),
        ("rename v w", 4),
        ("del v", 3),
        ("get v", 1 + chunks),
        ("copy v w", 3 + 2 * chunks + 1),
    ] {
        assert_eq!(elements(&machine, ENTRY_BUDGET, line), expected, "{line}");
    }
}

#[test]
fn entries_with_an_earlier_budget_write_and_charge_one_record() {
    for budget in [FIRST_BUDGET, FEWEST_VISITS] {
        let machine = with_long_string(budget);
        for (line, expected) in [
            ("strlen v", 1),
            ("get v", 1),
            ("setbit v 9000009 1", 2),
            ("setrange v 100000 word", 2),
            ("append v word", 2),
            ("rename v w", 4),
            ("copy v w", 4),
            ("del v", 2),
        ] {
            assert_eq!(elements(&machine, budget, line), expected, "{line}");
        }
        let state = machine.store.inner.state();
        assert_eq!(state.view().range(value::ELEMENTS_START, Some(value::ELEMENTS_END)).count(), 0);
        assert!(!state.meta.has_chunks);
    }
}

/// Returns how the string `v` is stored: one record, or its chunks that are not missing.
fn layout(store: &Store) -> (Kind, usize) {
    let state = store.inner.state();
    let raw = state.view().get(&value::data_key(b"v")).unwrap().unwrap();
    let chunks = state.view().range(value::ELEMENTS_START, Some(value::ELEMENTS_END)).count();
    (Value::decode(raw).unwrap().kind, chunks)
}

#[test]
fn length_and_budget_decide_the_layout_and_only_a_whole_write_leaves_chunks() {
    let mut machine = Machine::in_memory();
    for (budget, line, expected) in [
        (ENTRY_BUDGET, "set v =16384", (Kind::String, 0)),
        (ENTRY_BUDGET, "append v x", (Kind::Chunked, 2)),
        (ENTRY_BUDGET, "set v =40000", (Kind::Chunked, 3)),
        (ENTRY_BUDGET, "set v =20000", (Kind::Chunked, 2)),
        // Bytes between the end and the offset are zeros without a record.
        (ENTRY_BUDGET, "setrange v 8000000 x", (Kind::Chunked, 3)),
        (ENTRY_BUDGET, "setbit v 7 1", (Kind::Chunked, 3)),
        (FEWEST_VISITS, "setbit v 7 0", (Kind::String, 3)),
        (ENTRY_BUDGET, "setbit v 7 1", (Kind::Chunked, 3 + 489)),
        (ENTRY_BUDGET, "set v short", (Kind::String, 3 + 489)),
    ] {
        let answer = apply(&mut machine, budget, line);
        assert_eq!((code(&answer), layout(&machine.store)), (None, expected), "{line}");
        check_records(&machine.store);
    }
    while machine.store.has_expired(NOW_MS).unwrap() {
        machine.apply(NOW_MS, purge(100));
    }
    assert_eq!(layout(&machine.store), (Kind::String, 0), "all chunks were garbage");
}

#[test]
fn copy_of_a_sparse_string_is_sparse_and_separate() {
    let mut machine = Machine::in_memory();
    apply(&mut machine, ENTRY_BUDGET, "setrange v 5000000 tail");
    apply(&mut machine, ENTRY_BUDGET, "copy v w");
    assert_eq!(layout(&machine.store), (Kind::Chunked, 2));
    apply(&mut machine, ENTRY_BUDGET, "setrange w 0 head");
    assert_eq!(query(&machine.store, &line("getrange v 0 3")), text("\0\0\0\0"));
    assert_eq!(query(&machine.store, &line("getrange w 0 3")), text("head"));
    assert_eq!(query(&machine.store, &line("getrange w -4 -1")), text("tail"));
    assert_eq!(query(&machine.store, &line("strlen w")), int(5_000_004));
}

#[test]
fn string_beyond_the_limit_is_refused_and_changes_nothing() {
    let mut machine = with_long_string(ENTRY_BUDGET);
    let before = layout(&machine.store);
    for line in
        ["setrange v 8388608 x", "setbit v 67108864 1", "append v =4194305", "incrby v 1", "incrbyfloat v 1"]
    {
        assert!(code(&apply(&mut machine, ENTRY_BUDGET, line)).is_some(), "{line}");
        assert_eq!(layout(&machine.store), before, "{line}");
    }
    assert_eq!(code(&apply(&mut machine, ENTRY_BUDGET, "rpush v x")), Some(ErrorCode::WrongType));
    assert_eq!(query(&machine.store, &line("type v")), Answer::Status("string".to_owned()));
    assert_eq!(query(&machine.store, &line("object|encoding v")), text("raw"));
    let kinds = machine.store.kinds(&[bytes("v")], 0, Limits::DEFAULT_READ).unwrap();
    assert_eq!(kinds, [Some(Kind::String)]);
}

#[test]
fn change_of_a_part_has_its_value_unless_a_later_change_replaced_it() {
    let mut machine = Machine::in_memory();
    let shown = |store: &Store, index: u64| {
        let page = store.changes_after(index - 1).unwrap();
        let (key, value) = page.entries[0].keys().next().unwrap();
        store.value_of_change(&page.entries[0], &key, value.unwrap()).unwrap().map(|seen| {
            assert_eq!(seen.kind, Kind::String);
            (seen.data.len(), seen.revision)
        })
    };
    apply(&mut machine, ENTRY_BUDGET, "set v =40000");
    apply(&mut machine, ENTRY_BUDGET, "append v word");
    assert_eq!(shown(&machine.store, 2), Some((40_004, 2)));
    apply(&mut machine, ENTRY_BUDGET, "setrange v 0 word");
    apply(&mut machine, ENTRY_BUDGET, "set v =50000");
    apply(&mut machine, ENTRY_BUDGET, "setbit v 0 1");
    let seen: Vec<_> = (1..=5).map(|index| shown(&machine.store, index)).collect();
    assert_eq!(seen, [Some((40_000, 1)), None, None, Some((50_000, 4)), Some((50_000, 5))]);
}

#[test]
fn follower_has_the_chunks_of_the_selected_strings() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut machine = Machine::in_memory();
        let selection = Selection::new([bytes("a"), bytes("b")]);
        let whole = |store: &Store| store.pairs(&selection, Cursor::default(), usize::MAX).unwrap().pairs;
        let mut through = machine.store.record_elements(true);
        let mut replica = Replica::default();
        for _ in 0..60 {
            machine.apply_command(entry(ENTRY_BUDGET, &logged(&random_words(&mut random))));
            if random.random_ratio(1, 3) {
                machine.apply(NOW_MS, purge(5));
            }
            while through < machine.store.applied().index {
                let effects = machine.store.effects_after(through, &selection).unwrap();
                through = effects.through;
                let records: Vec<_> = effects.records.into_iter().collect();
                replica.apply(effects.is_cleared, &records, Some(through)).unwrap();
            }
            assert!(whole(replica.store()) == whole(&machine.store), "seed {seed}");
            for key in ["a", "b"] {
                let get = [bytes("get"), bytes(key)];
                assert!(query(replica.store(), &get) == query(&machine.store, &get), "seed {seed}");
            }
        }
    }
}

#[test]
fn disk_is_marked_before_the_state_has_chunks_and_before_a_snapshot_with_them_is_installed() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let counted = |store: &Store| {
        let count = Arc::new(AtomicUsize::new(0));
        let mark = Arc::clone(&count);
        store.before_chunks(Box::new(move || {
            mark.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }));
        move || count.load(Ordering::Relaxed)
    };
    let mut machine = Machine::in_memory();
    let marks = counted(&machine.store);
    apply(&mut machine, ENTRY_BUDGET, "set v =16384");
    assert_eq!(marks(), 0);
    apply(&mut machine, ENTRY_BUDGET, "set v =16385");
    assert_eq!(marks(), 1);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    machine.snapshot(file.clone());
    let other = Store::in_memory();
    let marks = counted(&other);
    other.restore(&file).unwrap();
    assert_eq!((marks(), layout(&other)), (1, (Kind::Chunked, 2)));

    let refusing = Store::in_memory();
    refusing.before_chunks(Box::new(|| Err("the disk is read-only".to_owned())));
    let error = refusing.restore(&file).unwrap_err();
    assert!(error.to_string().contains("the disk is read-only"), "{error}");
    let reply = refusing.apply(1, 1, &entry(ENTRY_BUDGET, &line("set v =16385")));
    assert!(code(&reply.kind.unwrap()).is_some());
    assert!(refusing.failure().is_some(), "the entry was not applied, so the member must end");
}
