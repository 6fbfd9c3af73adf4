//! Reads through an active overlay, a frozen overlay and an engine.

use super::*;

fn keys(store: &Store, start: &str, end: Option<&str>, limit: usize) -> String {
    let found = store.scan(start.as_bytes(), end.map(str::as_bytes), limit, 0).unwrap().pairs;
    found.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>().join(" ")
}

/// Returns a machine with three layers: `a` and `c` come from the engine, `b` and the removal of `d` from the
/// frozen overlay, `e` and the new value of `a` from the active one.
fn layered() -> Machine {
    let mut machine = Machine::in_memory();
    for key in ["a", "c", "d"] {
        machine.apply(1, put(key, "engine"));
    }
    machine.store.checkpoint().unwrap();
    machine.apply(1, put("b", "frozen"));
    machine.apply(1, delete(&["d"]));
    freeze(&machine.store);
    machine.apply(1, put("a", "active"));
    machine.apply(1, put("e", "active"));
    machine
}

/// Freezes the active overlay, as a checkpoint does at its start.
fn freeze(store: &Store) {
    store.inner.edit(|state| {
        let overlay = std::sync::Arc::new(std::mem::take(&mut state.active));
        let meta = state.meta.clone();
        state.frozen = Some(crate::shared::Frozen { overlay, meta });
    });
}

#[test]
fn a_scan_merges_the_layers() {
    let store = layered().store;
    assert_eq!(keys(&store, "", None, 99), "a b c e");
    assert_eq!(keys(&store, "", None, 2), "a b");
    assert_eq!(keys(&store, "", None, 0), "");
    assert_eq!(keys(&store, "b", Some("e"), 99), "b c");
    assert_eq!(keys(&store, "bb", None, 99), "c e");
    assert_eq!(keys(&store, "e", Some("b"), 99), "");
    assert_eq!(store.get(b"a", 0).unwrap().unwrap().data, "active");
    assert_eq!(store.get(b"b", 0).unwrap().unwrap().data, "frozen");
    assert_eq!(store.get(b"c", 0).unwrap().unwrap().data, "engine");
    assert_eq!(store.get(b"d", 0).unwrap(), None);
    assert_eq!(store.key_count(), 4);
}

#[test]
fn range_back_merges_the_layers_as_range_does() {
    let mut machine = layered();
    check_directions(&machine.store);
    machine.apply(1, flush_all());
    machine.apply(1, put("c", "new"));
    check_directions(&machine.store);
    freeze(&machine.store);
    machine.apply(1, put("a", "newest"));
    machine.apply(1, delete(&["c"]));
    check_directions(&machine.store);
}

#[test]
fn a_flush_hides_every_layer_beneath_it() {
    let mut machine = layered();
    machine.apply(1, flush_all());
    assert_eq!(keys(&machine.store, "", None, 99), "");
    assert_eq!(machine.store.get(b"b", 0).unwrap(), None);
    machine.apply(1, put("c", "new"));
    freeze(&machine.store);
    machine.apply(1, put("a", "newest"));
    assert_eq!(keys(&machine.store, "", None, 99), "a c");
    assert_eq!(machine.store.get(b"e", 0).unwrap(), None);
    assert_eq!(machine.store.key_count(), 2);
}

#[test]
fn a_flush_costs_no_removal_per_key_and_survives_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::on_disk(&dir.path().join("state"));
    for key in 0..500 {
        machine.apply(1, put(&format!("key-{key}"), "value"));
    }
    machine.store.checkpoint().unwrap();
    machine.apply(1, flush_all());
    machine.apply(1, put("b", "1"));
    assert!(machine.store.overlay_bytes() < 500);
    assert_eq!(keys(&machine.store, "", None, 99), "b");
    machine.store.checkpoint().unwrap();
    assert_eq!(machine.store.overlay_bytes(), 0);
    machine.apply(1, put("a", "1"));
    assert_eq!(keys(&machine.store, "", None, 99), "a b");
    machine.store.checkpoint().unwrap();
    drop(machine);
    let store = Store::open(&dir.path().join("state"), EngineKind::Sled).unwrap();
    assert_eq!((store.applied().index, store.rebuilds()), (503, 0));
    assert_eq!(keys(&store, "", None, 99), "a b");
}

#[test]
fn reader_hides_keys_that_are_expired_by_its_clock() {
    let mut machine = Machine::in_memory();
    machine.apply(10, set_until("a", "1", 20));
    for (wall_ms, is_there) in [(0, true), (19, true), (20, false)] {
        assert_eq!(machine.store.get(b"a", wall_ms).unwrap().is_some(), is_there, "at {wall_ms}");
        assert_eq!(machine.store.scan(b"", None, 9, wall_ms).unwrap().pairs.len(), usize::from(is_there));
        assert_eq!(machine.store.has_expired(wall_ms).unwrap(), !is_there);
    }
    assert_eq!(machine.store.key_count(), 1, "not purged yet");
}

#[test]
fn earlier_expiry_is_found_after_a_search_for_a_later_one() {
    let mut machine = Machine::in_memory();
    machine.apply(1, set_until("a", "1", 50));
    assert!(!machine.store.has_expired(40).unwrap());
    machine.apply(1, set_until("b", "1", 30));
    assert!(machine.store.has_expired(40).unwrap());
    machine.apply(60, flush_all());
    assert!(!machine.store.has_expired(99).unwrap());
    machine.apply(60, set_until("c", "1", 70));
    assert!(machine.store.has_expired(99).unwrap());
    assert_eq!(machine.apply(99, purge(9)), int(1));
}

#[test]
fn entry_with_several_keys_is_read_atomically() {
    let store = Store::in_memory();
    let writer = store.clone();
    let thread = std::thread::spawn(move || {
        for index in 1..=2000 {
            let value = index.to_string();
            let op = multi_set(&[("a", value.as_str()), ("b", value.as_str())], false);
            writer.apply(index, 1, &command(1, op));
            if index % 100 == 0 {
                writer.checkpoint().unwrap();
            }
        }
    });
    while !thread.is_finished() {
        let found = store.scan(b"", None, 9, 0).unwrap().pairs;
        assert!(found.windows(2).all(|pair| pair[0].1.data == pair[1].1.data), "{found:?}");
        assert_ne!(found.len(), 1);
    }
    thread.join().unwrap();
}

#[test]
#[should_panic(expected = "entry 1 after 1")]
fn entry_applied_twice_panics() {
    let store = Store::in_memory();
    store.apply_empty(1, 1);
    store.apply_empty(1, 1);
}
