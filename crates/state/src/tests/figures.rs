//! Measurements, printed: `cargo test --release -p helios-state tests::figures -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

const KEYS: u64 = 100_000;

#[test]
#[ignore = "prints figures, checks nothing"]
fn costs_over_sled() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let store = Store::open(&dir, EngineKind::Sled).unwrap();
    let value = "v".repeat(100);
    let command = |key: u64| command(1, put(&format!("key-{key:08}"), &value));
    let mut index = 0;
    let mut apply_all = |what: &str| {
        let commands: Vec<_> = (0..KEYS).map(|key| command(key * 7919 % KEYS)).collect();
        let start = Instant::now();
        for command in &commands {
            index += 1;
            store.apply(index, 1, command);
        }
        println!("{what}: {} ns per Set", start.elapsed().as_nanos() as u64 / KEYS);
    };
    let timed = |what: &str, call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        println!("{what}: {} ms", start.elapsed().as_millis());
    };
    apply_all("apply over a blank engine");
    timed("checkpoint of 100k new keys", &mut || assert!(store.checkpoint().is_ok()));
    apply_all("apply over sled with 100k keys, overlay blank");
    apply_all("apply over sled with 100k keys, overlay full");
    timed("checkpoint of 100k changed keys", &mut || assert!(store.checkpoint().is_ok()));
    let reads = |what: &str| {
        let start = Instant::now();
        for key in 0..KEYS {
            assert!(store.get(format!("key-{:08}", key * 7919 % KEYS).as_bytes(), 0).unwrap().is_some());
        }
        println!("{what}: {} ns per get", start.elapsed().as_nanos() as u64 / KEYS);
    };
    reads("get from sled");
    timed("scan of 100k keys", &mut || drop(pairs(&store)));
    let file = temp.path().join("snapshot");
    timed("snapshot of 100k keys", &mut || drop(store.write_snapshot(&file).unwrap()));
    timed("restore of 100k keys", &mut || assert!(store.restore(&file).is_ok()));
    println!("{} bytes on disk", store.bytes());
    drop(store);
    timed("open and verify 100k keys", &mut || drop(Store::open(&dir, EngineKind::Sled).unwrap()));
}

#[test]
#[ignore = "prints figures, checks nothing"]
fn longest_read_and_apply_while_a_checkpoint_runs() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("state"), EngineKind::Sled).unwrap();
    let value = "v".repeat(100);
    let mut index = 0;
    let mut apply = |key: u64| {
        index += 1;
        store.apply(index, 1, &command(1, put(&format!("key-{key:08}"), &value)));
    };
    (0..KEYS).for_each(&mut apply);
    store.checkpoint().unwrap();
    (0..KEYS).for_each(&mut apply);
    let checkpointer = store.clone();
    let start = Instant::now();
    let thread = std::thread::spawn(move || checkpointer.checkpoint().unwrap());
    let (mut longest_get, mut longest_apply) = (0, 0);
    let mut key = KEYS;
    while !thread.is_finished() {
        key += 1;
        let start = Instant::now();
        store.get(format!("missing-{key}").as_bytes(), 0).unwrap();
        longest_get = longest_get.max(start.elapsed().as_micros());
        let start = Instant::now();
        apply(key);
        longest_apply = longest_apply.max(start.elapsed().as_micros());
    }
    println!(
        "checkpoint {} ms, longest get {longest_get} us, longest apply {longest_apply} us",
        start.elapsed().as_millis()
    );
}
