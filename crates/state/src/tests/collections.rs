//! Hashes, lists and sorted sets compared with a model of maps and queues, with checkpoints, restarts and
//! snapshots between the commands. Deleted collections are removed completely, in bounded steps.

use std::collections::{BTreeMap, VecDeque};

use helios_proto::v1::{Call, Replies, Transaction};
use proptest::prelude::*;

use super::properties::{Rig, Step};
use super::*;
use crate::value;

fn call(words: &[&str]) -> Op {
    let args = words[1..].iter().map(|word| bytes(word)).collect();
    Op::Call(Call { name: words[0].to_owned(), args, ..Call::default() })
}

fn query(store: &Store, words: &[&str]) -> Vec<String> {
    let Op::Call(call) = call(words) else { panic!("not a call") };
    let (answer, _) = store.query(&call, 0, store.read_limits()).unwrap();
    let (Answer::List(Replies { items }) | Answer::Map(Replies { items }) | Answer::Pairs(Replies { items })) =
        answer
    else {
        panic!("{words:?} answered {answer:?}")
    };
    let text = |reply: Reply| match reply.kind.unwrap() {
        Answer::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Answer::Double(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    items.into_iter().map(text).collect()
}

/// Returns the numbers of element records and of garbage marks.
fn raw_counts(store: &Store) -> (usize, usize) {
    let state = store.inner.state();
    let count = |start, end| state.view().range(start, Some(end)).count();
    (count(value::ELEMENTS_START, value::ELEMENTS_END), count(value::GARBAGE_START, value::GARBAGE_END))
}

#[derive(Debug, Clone)]
enum Change {
    Put { key: usize, field: u8, value: u8 },
    Remove { key: usize, field: u8 },
    Push { key: usize, left: bool, value: u8 },
    Pop { key: usize, left: bool },
    Delete { key: usize },
    Rename { from: usize, to: usize },
    Overwrite { key: usize },
    FlushAll,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Hash(BTreeMap<String, String>),
    Scores(BTreeMap<String, i32>),
    List(VecDeque<String>),
    Text,
}

const KEYS: [&str; 3] = ["h", "z", "l"];

fn change() -> impl Strategy<Value = Change> {
    let key = || 0..KEYS.len();
    prop_oneof![
        6 => (key(), 0..6_u8, 0..9_u8).prop_map(|(key, field, value)| Change::Put { key, field, value }),
        2 => (key(), 0..6_u8).prop_map(|(key, field)| Change::Remove { key, field }),
        6 => (key(), any::<bool>(), 0..9_u8).prop_map(|(key, left, value)| Change::Push { key, left, value }),
        2 => (key(), any::<bool>()).prop_map(|(key, left)| Change::Pop { key, left }),
        2 => key().prop_map(|key| Change::Delete { key }),
        1 => (key(), key()).prop_map(|(from, to)| Change::Rename { from, to }),
        1 => key().prop_map(|key| Change::Overwrite { key }),
        1 => Just(Change::FlushAll),
    ]
}

/// Returns the command of a change, for the type that each key has at first.
fn op(change: &Change) -> Op {
    let text = |number: &u8| number.to_string();
    match change {
        Change::Put { key: 1, field, value } => call(&["zadd", "z", &text(value), &format!("f{field}")]),
        Change::Put { key, field, value } => call(&["hset", KEYS[*key], &format!("f{field}"), &text(value)]),
        Change::Remove { key: 1, field } => call(&["zrem", "z", &format!("f{field}")]),
        Change::Remove { key, field } => call(&["hdel", KEYS[*key], &format!("f{field}")]),
        Change::Push { key, left, value } => {
            call(&[if *left { "lpush" } else { "rpush" }, KEYS[*key], &text(value)])
        }
        Change::Pop { key, left } => call(&[if *left { "lpop" } else { "rpop" }, KEYS[*key]]),
        Change::Delete { key } => delete(&[KEYS[*key]]),
        Change::Rename { from, to } => call(&["rename", KEYS[*from], KEYS[*to]]),
        Change::Overwrite { key } => Op::Set(set(KEYS[*key], "text")),
        Change::FlushAll => flush_all(),
    }
}

#[derive(Default)]
struct Model(BTreeMap<usize, Content>);

impl Model {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put { key, field, value } => {
                let new =
                    if *key == 1 { Content::Scores(BTreeMap::new()) } else { Content::Hash(BTreeMap::new()) };
                match self.0.entry(*key).or_insert(new) {
                    Content::Hash(fields) if *key != 1 => {
                        drop(fields.insert(format!("f{field}"), value.to_string()))
                    }
                    Content::Scores(members) if *key == 1 => {
                        members.insert(format!("f{field}"), (*value).into());
                    }
                    _ => {}
                }
            }
            Change::Remove { key, field } => match self.0.get_mut(key) {
                Some(Content::Hash(fields)) if *key != 1 => drop(fields.remove(&format!("f{field}"))),
                Some(Content::Scores(members)) if *key == 1 => drop(members.remove(&format!("f{field}"))),
                _ => {}
            },
            Change::Push { key, left, value } => {
                if let Content::List(list) = self.0.entry(*key).or_insert(Content::List(VecDeque::new())) {
                    let value = value.to_string();
                    if *left { list.push_front(value) } else { list.push_back(value) }
                }
            }
            Change::Pop { key, left } => {
                if let Some(Content::List(list)) = self.0.get_mut(key) {
                    drop(if *left { list.pop_front() } else { list.pop_back() });
                }
            }
            Change::Delete { key } => drop(self.0.remove(key)),
            Change::Rename { from, to } => {
                if let Some(content) = self.0.remove(from) {
                    self.0.insert(*to, content);
                }
            }
            Change::Overwrite { key } => drop(self.0.insert(*key, Content::Text)),
            Change::FlushAll => self.0.clear(),
        }
        self.0.retain(|_, content| match content {
            Content::Hash(fields) => !fields.is_empty(),
            Content::Scores(members) => !members.is_empty(),
            Content::List(list) => !list.is_empty(),
            Content::Text => true,
        });
    }

    fn check(&self, store: &Store) {
        assert_eq!(store.key_count() as usize, self.0.len());
        for (key, content) in &self.0 {
            let key = KEYS[*key];
            let (found, expected): (_, Vec<String>) = match content {
                Content::Hash(fields) => (
                    query(store, &["hgetall", key]),
                    fields.iter().flat_map(|(field, value)| [field.clone(), value.clone()]).collect(),
                ),
                Content::Scores(members) => {
                    let mut sorted: Vec<_> = members.iter().map(|(member, score)| (*score, member)).collect();
                    sorted.sort();
                    let flat =
                        sorted.into_iter().flat_map(|(score, member)| [member.clone(), score.to_string()]);
                    (query(store, &["zrange", key, "0", "-1", "withscores"]), flat.collect())
                }
                Content::List(list) => {
                    (query(store, &["lrange", key, "0", "-1"]), list.iter().cloned().collect())
                }
                Content::Text => continue,
            };
            assert_eq!(found, expected, "{key}");
        }
    }

    fn records(&self) -> usize {
        let records = |content: &Content| match content {
            Content::Hash(fields) => fields.len(),
            Content::Scores(members) => members.len() * 2,
            Content::List(list) => list.len(),
            Content::Text => 0,
        };
        self.0.values().map(records).sum()
    }
}

fn check(engine: EngineKind, steps: &[(Change, u8)]) {
    let mut rig = Rig::new(engine);
    let mut twin = Machine::in_memory();
    let mut model = Model::default();
    for (change, event) in steps {
        let entry = command(1, op(change));
        let reply = rig.run(&Step::Apply(entry.clone())).unwrap();
        assert_eq!(reply, twin.apply_command(entry), "{change:?}");
        model.apply(change);
        match event {
            0 => drop(rig.run(&Step::Checkpoint)),
            1 => drop(rig.run(&Step::Reopen)),
            2 => drop(rig.run(&Step::Move)),
            3 => {
                let entry = command(1, purge(2));
                assert_eq!(rig.run(&Step::Apply(entry.clone())).unwrap(), twin.apply_command(entry));
            }
            _ => {}
        }
        model.check(&rig.machine.store);
        check_directions(&rig.machine.store);
    }
    let twin_dir = tempfile::tempdir().unwrap();
    assert_eq!(rig.snapshot(), twin.snapshot(twin_dir.path().join("snapshot")));
    while rig.machine.store.has_expired(1).unwrap() {
        rig.run(&Step::Apply(command(1, purge(3))));
    }
    assert_eq!(raw_counts(&rig.machine.store), (model.records(), 0));
    model.check(&rig.machine.store);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn collections_in_memory_equal_the_model(steps in prop::collection::vec((change(), 2..9_u8), 1..60)) {
        check(EngineKind::Memory, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn collections_on_redb_equal_the_model(steps in prop::collection::vec((change(), 0..12_u8), 1..60)) {
        check(EngineKind::Redb, &steps);
    }

    #[test]
    fn collections_on_runs_equal_the_model(steps in prop::collection::vec((change(), 0..12_u8), 1..60)) {
        check(EngineKind::Runs, &steps);
    }
}

#[test]
fn a_large_hash_is_deleted_at_once_and_its_elements_in_bounded_pieces() {
    let mut machine = Machine::in_memory();
    let fields: Vec<String> = (0..1_000).flat_map(|number| [format!("f{number}"), "v".to_owned()]).collect();
    let words: Vec<&str> = ["hset", "h"].into_iter().chain(fields.iter().map(String::as_str)).collect();
    machine.apply(1, call(&words));
    assert_eq!(raw_counts(&machine.store), (1_000, 0));
    assert_eq!(machine.apply(1, delete(&["h"])), Answer::Integer(1));
    assert_eq!((machine.store.key_count(), raw_counts(&machine.store)), (0, (1_000, 1)));
    for left in [600, 200, 0] {
        assert!(machine.store.has_expired(1).unwrap());
        machine.apply(1, purge(400));
        assert_eq!(raw_counts(&machine.store).0, left);
    }
    assert!(!machine.store.has_expired(1).unwrap());
}

#[test]
fn transaction_is_applied_only_if_its_guards_hold_and_refuses_other_commands() {
    let mut machine = Machine::in_memory();
    machine.apply(1, Op::Set(set("k", "1")));
    let revision = machine.store.get(b"k", 0).unwrap().unwrap().revision;
    let transaction = |revision, steps: Vec<Op>| {
        let guards = vec![helios_proto::v1::Guard { key: bytes("k"), revision }];
        let steps = steps.into_iter().map(|op| command(0, op)).collect();
        Op::Transaction(Transaction { guards, steps })
    };
    let steps = || vec![increment("k", 1), call(&["get", "k"]), purge(9)];
    assert!(matches!(machine.apply(1, transaction(revision + 1, steps())), Answer::NilList(_)));
    let Answer::List(Replies { items }) = machine.apply(1, transaction(revision, steps())) else {
        panic!("not executed")
    };
    let answers: Vec<_> = items.into_iter().map(|reply| reply.kind.unwrap()).collect();
    assert_eq!(answers[..2], [Answer::Integer(2), Answer::Bytes(bytes("2"))]);
    assert_eq!(code(&answers[2]), Some(ErrorCode::InvalidArgument));
    // The transaction itself changed the key, so the guard no longer holds.
    assert!(matches!(machine.apply(1, transaction(revision, steps())), Answer::NilList(_)));
}

#[test]
fn refused_commands_change_nothing() {
    let mut machine = Machine::in_memory();
    for words in [
        &["rpush", "l", "a", "b"][..],
        &["sadd", "s", "a"],
        &["zadd", "z", "1", "a"],
        &["hset", "h", "a", "x"],
    ] {
        machine.apply(1, call(words));
    }
    let before = machine.pairs();
    let raw = raw_counts(&machine.store);
    for words in [
        &["lmove", "l", "s", "left", "right"][..],
        &["smove", "s", "l", "a"],
        &["sinterstore", "target", "s", "l"],
        &["zadd", "z", "2", "b", "x", "c"],
        &["zunionstore", "z", "2", "z", "l"],
        &["zrangestore", "z", "l", "0", "-1"],
        &["hincrby", "h", "a", "1"],
        &["hset", "h", "b"],
        &["lset", "l", "9", "x"],
        &["bitop", "and", "l", "s"],
        &["setrange", "l", "0", "x"],
        &["rename", "none", "l"],
    ] {
        let answer = machine.apply(1, call(words));
        assert!(code(&answer).is_some(), "{words:?} answered {answer:?}");
        assert_eq!((machine.pairs(), raw_counts(&machine.store)), (before.clone(), raw), "{words:?}");
    }
}
