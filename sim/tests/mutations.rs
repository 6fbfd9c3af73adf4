//! The gate that makes the simulator credible: every mistake that a member can be made to make is
//! found within a bounded number of seeds. A mistake that is never found is a hole in the checks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use helios_sim::{Mutation, run};

/// Seeds tried for each mistake.
const SEEDS: u64 = 3_000;

fn found_by(mutation: Mutation) -> Option<(u64, String)> {
    (0..SEEDS)
        .find_map(|seed| run(seed, Some(mutation)).violation.map(|violation| (seed, violation.to_string())))
}

#[test]
fn every_mistake_is_found() {
    // A mistake may end in a panic of the node's own code, which says nothing here.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let work = || {
        while let Some(mutation) = Mutation::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            match found_by(*mutation) {
                Some((seed, what)) => {
                    let what: String = what.lines().next().unwrap_or_default().chars().take(110).collect();
                    println!("{mutation:?}: seed {seed}: {what}");
                }
                None => missed.lock().expect("no thread panics with it").push(*mutation),
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
