//! Random commands, with checkpoints, restarts and snapshots between them, compared with the model. Stores
//! that applied the same entries write the same snapshot.

use std::collections::HashMap;
use std::path::PathBuf;

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, Origin, RequestId, Set};
use proptest::prelude::*;
use tempfile::TempDir;

use super::model::Model;
use super::*;
use helios_storage::disk;

#[derive(Debug, Clone)]
pub enum Step {
    Apply(Command),
    Checkpoint,
    /// Restarts the process; the entries after the last checkpoint are applied again.
    Reopen,
    /// Installs a snapshot on a new member, which continues.
    Move,
    Discard,
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-c]", 1 => Just(String::new()), 1 => "[a-c]{2}"]
}

fn op() -> impl Strategy<Value = Op> {
    let value = || prop_oneof!["-?[0-9]{1,2}", "x"];
    let pairs = prop::collection::vec((key(), value()), 0..4);
    let set_op = (key(), value(), 0..3, any::<bool>(), prop::option::of(0..60_u64), any::<bool>());
    prop_oneof![
        6 => set_op.prop_map(|(key, value, condition, return_previous, expire_at_ms, keep_ttl)| {
            let keep_ttl = keep_ttl && expire_at_ms.is_none();
            Op::Set(Set { condition, return_previous, expire_at_ms, keep_ttl, ..set(&key, &value) })
        }),
        2 => prop::collection::vec(key(), 0..3).prop_map(|keys| {
            delete(&keys.iter().map(String::as_str).collect::<Vec<_>>())
        }),
        3 => (key(), 0..60_u64, 0..5).prop_map(|(key, at_ms, condition)| expire(&key, at_ms, condition)),
        1 => key().prop_map(|key| persist(&key)),
        2 => (pairs, any::<bool>()).prop_map(|(pairs, if_none_exist)| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            multi_set(&pairs, if_none_exist)
        }),
        2 => (key(), -99..99_i64).prop_map(|(key, delta)| increment(&key, delta)),
        1 => Just(flush_all()),
        2 => (0..4_u32).prop_map(purge),
    ]
}

/// Generates ids of few clients and sequences, so that some are repeated.
fn request_id() -> impl Strategy<Value = RequestId> {
    ("[a-b]", 1..8_u64).prop_map(|(client, sequence)| request(&client, sequence))
}

fn origin() -> impl Strategy<Value = Origin> {
    (prop::collection::vec(0..3_u8, 0..2), 0..20_u64)
        .prop_map(|(identity, named_at)| Origin { identity: identity.into(), named_at })
}

fn command() -> impl Strategy<Value = Command> {
    let op = prop::option::weighted(0.97, op());
    let request_id = prop::option::weighted(0.3, request_id());
    let origin = prop::option::of(origin());
    (0..50_u64, op, request_id, origin).prop_map(|(now_ms, op, request_id, origin)| {
        let origin = origin.filter(|_| request_id.is_some());
        Command { now_ms, op, request_id, origin, ..Command::default() }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => command().prop_map(Step::Apply),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Move),
    ];
    prop::collection::vec(step, 1..60)
}

/// A machine on some engine, with a directory for its snapshots.
pub struct Rig {
    temp: TempDir,
    engine: EngineKind,
    moves: usize,
    pub machine: Machine,
}

impl Rig {
    pub fn new(engine: EngineKind) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = open(&temp.path().join("state-0"), engine);
        Self { temp, engine, moves: 0, machine: Machine { store, log: Vec::new() } }
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join(format!("state-{}", self.moves))
    }

    pub fn run(&mut self, step: &Step) -> Option<Reply> {
        match step {
            Step::Apply(command) => return Some(self.machine.apply_command(command.clone())),
            Step::Checkpoint => {
                let applied = self.machine.store.checkpoint().unwrap();
                assert_eq!(applied, self.machine.store.applied());
                merge(&self.machine.store).unwrap();
            }
            Step::Reopen => {
                self.machine.store = Store::in_memory();
                self.machine.store = open(&self.dir(), self.engine);
                assert_eq!(self.machine.store.rebuilds(), 0);
                replay(&self.machine.store, &self.machine.log);
            }
            Step::Move => {
                let file = self.temp.path().join("moved.snapshot");
                self.machine.snapshot(file.clone());
                self.moves += 1;
                let store = open(&self.dir(), self.engine);
                let Applied { index, term } = store.restore(&file).unwrap();
                assert_eq!(index as usize, self.machine.log.len());
                let meta = SnapshotMeta::verify(&disk::real(), &file).unwrap();
                assert_eq!((index, term), (meta.index, meta.term));
                self.machine.store = store;
            }
            Step::Discard => {
                self.machine.store.discard("a test").unwrap();
                replay(&self.machine.store, &self.machine.log);
            }
        }
        None
    }

    pub fn snapshot(&self) -> Vec<u8> {
        self.machine.snapshot(self.temp.path().join("last.snapshot"))
    }
}

fn open(dir: &Path, engine: EngineKind) -> Store {
    Store::open_with(disk::real(), dir, options(engine, rand::random())).unwrap()
}

fn check(engine: EngineKind, steps: &[Step]) {
    let mut rig = Rig::new(engine);
    let mut twin = Machine::in_memory();
    let mut model = Model::default();
    let mut first_answers = HashMap::new();
    for step in steps {
        let reply = rig.run(step);
        check_directions(&rig.machine.store);
        let Some(reply) = reply else { continue };
        let Step::Apply(command) = step else { panic!("only an entry has a reply") };
        assert_eq!(reply, twin.apply_command(command.clone()), "{command:?}");
        let answer = reply.kind.unwrap();
        if let Some(first) = first_answers.get(&command.request_id)
            && command.request_id.is_some()
        {
            assert_eq!(&answer, first, "{command:?} was repeated");
            model.pass(command.now_ms);
        } else {
            match model.apply(command) {
                Some(expected) => assert_eq!(answer, expected, "{command:?}"),
                None => {
                    let is_purge = matches!(command.op, Some(Op::PurgeExpired(_)));
                    assert!(is_purge || code(&answer).is_some(), "{command:?} answered {answer:?}");
                }
            }
            first_answers.insert(command.request_id.clone(), answer);
        }
        let found = rig.machine.pairs().into_iter().map(|(key, value)| (key, value.data, value.expire_at_ms));
        assert_eq!(found.collect::<Vec<_>>(), model.pairs(), "after {command:?}");
    }
    let twin_dir = tempfile::tempdir().unwrap();
    assert_eq!(rig.snapshot(), twin.snapshot(twin_dir.path().join("snapshot")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_in_memory_equals_the_model(steps in steps()) {
        // A store in memory is lost in a restart: the whole log is applied again.
        check(EngineKind::Memory, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_sled_equals_the_model(mut steps in steps(), discard_at in 0..60_usize) {
        steps.insert(discard_at.min(steps.len()), Step::Discard);
        check(EngineKind::Sled, &steps);
    }

    #[test]
    fn a_store_on_runs_equals_the_model(mut steps in steps(), discard_at in 0..60_usize) {
        steps.insert(discard_at.min(steps.len()), Step::Discard);
        check(EngineKind::Runs, &steps);
    }

    #[test]
    fn a_store_on_redb_equals_the_model(mut steps in steps(), discard_at in 0..60_usize) {
        steps.insert(discard_at.min(steps.len()), Step::Discard);
        check(EngineKind::Redb, &steps);
    }
}
