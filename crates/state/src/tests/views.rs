//! Views: readers hold no lock, and their view does not change while entries are applied and checkpointed.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

fn raw(store: &Store, state: &crate::shared::State, key: &str) -> Option<Bytes> {
    let raw_key = crate::value::data_key(key.as_bytes());
    let raw = state.view().get(&raw_key).unwrap_or_else(|error| panic!("{error}: {:?}", store.failure()));
    raw.map(|raw| Value::decode(raw).unwrap().data)
}

#[test]
fn view_does_not_change_or_block_the_next_entry() {
    let mut machine = Machine::in_memory();
    machine.apply(1, put("k", "old"));
    let view = machine.store.inner.state();
    machine.apply(1, put("k", "new"));
    machine.apply(1, Op::FlushAll(FlushAll {}));
    assert_eq!(raw(&machine.store, &view, "k"), Some(bytes("old")));
    assert_eq!(machine.store.get(b"k", 0).unwrap(), None);
}

#[test]
fn view_keeps_its_values_during_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    for engine in [EngineKind::Sled, EngineKind::Redb] {
        let path = dir.path().join(format!("{engine:?}"));
        let mut machine = Machine { store: Store::open(&path, engine).unwrap(), log: Vec::new() };
        machine.apply(1, put("k", "engine"));
        machine.store.checkpoint().unwrap();
        let view = machine.store.inner.state();
        machine.apply(1, put("k", "later"));
        machine.apply(1, delete(&["gone"]));

        // The checkpoint must not write to the engine while this view is held.
        let store = machine.store.clone();
        let (done, ended) = mpsc::channel();
        let checkpoint = thread::spawn(move || done.send(store.checkpoint().unwrap()).unwrap());
        while machine.store.inner.state().frozen.is_none() {
            thread::yield_now();
        }
        machine.apply(1, put("k", "last"));
        assert_eq!(ended.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
        assert_eq!(raw(&machine.store, &view, "k"), Some(bytes("engine")), "{engine:?}");
        drop(view);
        assert_eq!(ended.recv().unwrap().index, 3);
        checkpoint.join().unwrap();
        assert_eq!(machine.store.get(b"k", 0).unwrap().unwrap().data, "last");
    }
}

#[test]
fn batch_is_read_atomically() {
    let store = Store::in_memory();
    let mut batch = store.batch();
    batch.apply(1, 1, &command(1, put("a", "1")));
    batch.apply(2, 1, &command(1, put("b", "2")));
    assert_eq!((store.applied().index, store.key_count()), (0, 0));
    batch.publish();
    assert_eq!((store.applied().index, store.key_count()), (2, 2));
    let page = store.changes_after(0).unwrap();
    assert_eq!((page.entries.len(), page.through), (2, 2));
}

#[test]
fn expiry_written_during_a_search_for_the_earliest_is_found() {
    let mut machine = Machine::in_memory();
    let floor = |store: &Store| store.inner.published.floor().at_ms();
    machine.apply(1, set_until("late", "1", 9_000));
    assert!(!machine.store.has_expired(1).unwrap());
    assert_eq!(floor(&machine.store), 9_000);
    // The steps of has_expired, with an entry between its read of the state and its result.
    let version = machine.store.inner.published.floor().version();
    machine.apply(1, set_until("early", "1", 2_000));
    machine.store.inner.published.floor().raise(9_000, version);
    assert_eq!(floor(&machine.store), 2_000);
    assert!(machine.store.has_expired(2_000).unwrap());
}

/// Only the leader looks for expired keys; followers know of them by its purges.
#[test]
fn purge_raises_the_floor_of_the_expiry_index() {
    let mut machine = Machine::in_memory();
    let floor = |machine: &Machine| machine.store.inner.published.floor().at_ms();
    for (key, at_ms) in [("a", 10), ("b", 20), ("c", 20), ("d", 90)] {
        machine.apply(1, set_until(key, "1", at_ms));
    }
    assert_eq!(floor(&machine), 0);
    machine.apply(50, purge(2));
    assert_eq!(floor(&machine), 20, "another key may expire at the time of the last one");
    machine.apply(50, purge(2));
    assert_eq!(floor(&machine), 50);
    machine.apply(50, set_until("e", "1", 60));
    machine.apply(95, purge(9));
    assert_eq!((floor(&machine), machine.store.key_count()), (95, 0));
}
