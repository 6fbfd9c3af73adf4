//! A state machine of the embedding application, driven by the store.

use std::sync::Arc;

use helios_proto::v1::Apply;

use super::*;
use crate::{LogEntry, Shared, StateMachine};

/// A machine that sums its commands and hashes their order.
#[derive(Default, Clone, PartialEq, Debug)]
struct Sum {
    total: u64,
    order: u64,
    padding: Vec<u8>,
}

impl StateMachine for Sum {
    type Query = ();
    type Answer = (u64, u64);

    fn apply(&mut self, entry: LogEntry<'_>) -> Result<Vec<u8>, String> {
        self.order = self.order.wrapping_mul(31).wrapping_add(entry.index);
        let (number, padding) = entry.data.split_at_checked(8).ok_or("too short")?;
        self.total += u64::from_be_bytes(number.try_into().unwrap());
        self.padding.extend(padding);
        Ok(self.total.to_be_bytes().to_vec())
    }

    fn snapshot(&self) -> Vec<u8> {
        [&self.total.to_be_bytes()[..], &self.order.to_be_bytes(), &self.padding].concat()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let number = |at: usize| u64::from_be_bytes(snapshot[at..at + 8].try_into().unwrap());
        *self = Self { total: number(0), order: number(8), padding: snapshot[16..].to_vec() };
        Ok(())
    }

    fn query(&self, _: &()) -> (u64, u64) {
        (self.total, self.order)
    }
}

fn driven(store: &Store) -> Arc<Shared<Sum>> {
    let machine = Arc::new(Shared::new(Sum::default()));
    store.drive(machine.clone()).unwrap();
    machine
}

fn add(number: u64, padding: usize) -> Op {
    let data = [&number.to_be_bytes()[..], &vec![7; padding]].concat();
    Op::Apply(Apply { kind: "add".into(), data: data.into() })
}

#[test]
fn machine_applies_commands_in_order_and_answers_refusals() {
    let mut fed = Machine::in_memory();
    let machine = driven(&fed.store);
    assert_eq!(fed.apply(1, add(2, 0)), Answer::Bytes(Bytes::copy_from_slice(&2_u64.to_be_bytes())));
    let short = Op::Apply(Apply { kind: "add".into(), data: Bytes::from_static(b"x") });
    assert!(matches!(fed.apply(1, short), Answer::Error(error) if error.message == "too short"));
    fed.apply(1, put("key", "value"));
    fed.apply(1, add(40, 0));
    assert_eq!(machine.query(&()).0, 42);
    assert_eq!(fed.pairs().len(), 1, "its records are not keys");
}

#[test]
fn command_without_a_machine_is_refused_with_advice() {
    let answer = Machine::in_memory().apply(1, add(1, 0));
    assert!(matches!(answer, Answer::Error(error) if error.message.contains("start every member")));
}

#[test]
fn machine_is_rebuilt_after_restart_snapshot_and_flush() {
    let dir = tempfile::tempdir().unwrap();
    // No commands, a few commands, and several machine snapshots with commands after the last.
    for (round, count) in [0_u64, 3, 400].into_iter().enumerate() {
        let home = dir.path().join(format!("store-{round}"));
        let mut fed = Machine::on_disk(&home);
        let machine = driven(&fed.store);
        for number in 0..count {
            fed.apply(1, add(number, 3_000));
            if number % 100 == 50 {
                fed.apply(1, flush_all());
                fed.store.checkpoint().unwrap();
            }
        }
        fed.apply(1, put("key", "value"));
        let expected = machine.query(&());
        let file = dir.path().join(format!("snapshot-{round}"));
        fed.snapshot(file.clone());
        drop(fed);

        let again = Store::open(&home, EngineKind::Sled).unwrap();
        assert_eq!(driven(&again).query(&()), expected, "{count} commands, restarted");
        let other = Store::in_memory();
        let machine = driven(&other);
        other.restore(&file).unwrap();
        assert_eq!(machine.query(&()), expected, "{count} commands, by snapshot");
    }
}

#[test]
fn machine_snapshot_replaces_earlier_commands() {
    let mut fed = Machine::in_memory();
    driven(&fed.store);
    for number in 0..2_000 {
        fed.apply(1, add(number, 3_000));
    }
    let bytes = fed.store.bytes();
    assert!(bytes < 16 << 20, "{bytes} bytes for a state of 6 MB and the commands since");
}
