//! The gate that makes the simulator credible: every seeded bug is found within a bounded number of seeds. One that is
//! never found is a hole in the checks.

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use helios_sim::{SeededBug, run};

/// Seeds tried for each seeded bug.
const SEEDS: u64 = 6_000;

thread_local! {
    /// File of the last panic of this thread.
    static PANICKED_IN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Returns the first seed that finds `bug`, and its violation.
fn found_by(bug: SeededBug) -> Option<(u64, String)> {
    let (seed, violation) =
        (0..SEEDS).find_map(|seed| Some((seed, run(seed, Some(bug)).violation?.to_string())))?;
    // A panic of the simulator itself finds nothing.
    let file = PANICKED_IN.take();
    assert!(
        !violation.starts_with("panic: ") || !file.starts_with("sim/"),
        "{bug:?}, seed {seed}: {violation}, in {file}"
    );
    Some((seed, violation))
}

#[test]
fn every_seeded_bug_is_found() {
    // A bug may end in a panic of the node's own code, which need not be printed.
    std::panic::set_hook(Box::new(|panic| {
        let file = panic.location().map(|location| location.file().to_owned());
        PANICKED_IN.set(file.unwrap_or_default());
    }));
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let work = || {
        while let Some(bug) = SeededBug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            match found_by(*bug) {
                Some((seed, what)) => {
                    let what: String = what.lines().next().unwrap_or_default().chars().take(110).collect();
                    println!("{bug:?}: seed {seed}: {what}");
                }
                None => missed.lock().expect("no thread panics with it").push(*bug),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        let ended =
            threads.map(|thread| thread.join().map_err(|panic| panic.downcast_ref::<String>().cloned()));
        drop(std::panic::take_hook());
        ended.into_iter().for_each(|ended| assert_eq!(ended, Ok(())));
    });
    let missed = missed.into_inner().expect("no thread panics with it");
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
