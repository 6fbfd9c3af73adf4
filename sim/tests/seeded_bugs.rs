//! The gate that makes the simulator credible: every seeded bug is found within a bounded number of seeds. One that is
//! never found is a hole in the checks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use helios_sim::{SeededBug, run};

/// Seeds tried for each seeded bug.
const SEEDS: u64 = 6_000;

fn found_by(bug: SeededBug) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| run(seed, Some(bug)).violation.map(|violation| (seed, violation.to_string())))
}

#[test]
fn every_seeded_bug_is_found() {
    // A bug may end in a panic of the node's own code, which need not be printed.
    std::panic::set_hook(Box::new(|_| {}));
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
        scope.spawn(work);
        scope.spawn(work);
    });
    drop(std::panic::take_hook());
    let missed = missed.into_inner().expect("no thread panics with it");
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
