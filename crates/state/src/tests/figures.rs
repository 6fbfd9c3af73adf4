//! Measurements, printed: `cargo test --release -p helios-state tests::figures -- --ignored --nocapture`.

use std::time::Instant;

use super::*;
use crate::budget::{ENTRY_BUDGET, FEWEST_VISITS};
use crate::{Limits, commands};

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

/// Strings of 4 MiB and 1 MiB in one record, as entries of log format 7 write them, and in chunks; in turns.
#[test]
#[ignore = "prints figures, checks nothing"]
fn costs_of_long_strings() {
    const ROUNDS: u32 = 200;
    let call = |words: &[&str]| commands::call(words[0], words[1..].iter().map(|word| bytes(word)).collect());
    let open = |dir: &Path| {
        let options = StoreOptions { engine: EngineKind::Runs, ..StoreOptions::default() };
        Store::open_with(helios_storage::disk::real(), dir, options).unwrap()
    };
    let (long, short) = ("x".repeat(4 << 20), "y".repeat(1 << 20));
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let stores = [(FEWEST_VISITS, "one record"), (ENTRY_BUDGET, "chunks")];
    let stores: Vec<_> =
        stores.iter().zip(&dirs).map(|((budget, name), dir)| (*budget, *name, open(dir.path()))).collect();
    for turn in 0..3 {
        for (budget, name, store) in &stores {
            let apply = |words: &[&str]| {
                let index = store.applied().index + 1;
                let entry = Command { budget: *budget, ..command(1, Op::Call(call(words))) };
                let reply = store.apply(index, 1, &entry);
                assert_eq!(code(&reply.kind.unwrap()), None);
            };
            let read = |words: &[&str]| drop(store.query(&call(words), 1, Limits::DEFAULT_READ).unwrap());
            apply(&["set", "long", &long]);
            apply(&["set", "short", &short]);
            apply(&["set", "middle", &short[..100 << 10]]);
            store.checkpoint().unwrap();
            let timed = |what: &str, run: &mut dyn FnMut(u32)| {
                let start = Instant::now();
                (0..ROUNDS).for_each(&mut *run);
                println!(
                    "turn {turn}, {name}: {what}: {} us",
                    start.elapsed().as_micros() / u128::from(ROUNDS)
                );
            };
            timed("GET 100 KiB from the engine", &mut |_| read(&["get", "middle"]));
            timed("GET 1 MiB from the engine", &mut |_| read(&["get", "short"]));
            timed("GETRANGE of 10 bytes of 4 MiB", &mut |_| read(&["getrange", "long", "100000", "100009"]));
            timed("SETBIT in 4 MiB", &mut |n| apply(&["setbit", "long", &(n * 150_001).to_string(), "1"]));
            timed("SETRANGE in 4 MiB", &mut |n| {
                apply(&["setrange", "long", &(n * 19_001).to_string(), "word"])
            });
            timed("APPEND to 4 MiB", &mut |_| apply(&["append", "long", "word"]));
            timed("PEXPIREAT of 4 MiB", &mut |n| apply(&["pexpireat", "long", &(n + 1_000_000).to_string()]));
            let bytes = store.overlay_bytes();
            let start = Instant::now();
            store.checkpoint().unwrap();
            println!("turn {turn}, {name}: checkpoint of {bytes} bytes: {} us", start.elapsed().as_micros());
            timed("SET of 1 MiB", &mut |_| apply(&["set", "short", &short]));
            timed("GET 1 MiB from the overlay", &mut |_| read(&["get", "short"]));
            timed("SET of 100 bytes", &mut |_| apply(&["set", "small", &short[..100]]));
            store.checkpoint().unwrap();
            merge(store).unwrap();
        }
    }
}
