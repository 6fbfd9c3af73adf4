//! The seeds that CI runs, and the determinism of a seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use helios_sim::{Fault, Report, run};

const SEEDS: u64 = 1_000;

/// Histories among 100 seeds that may be too complex for the checker.
const MAX_UNJUDGED_PERCENT: u64 = 1;
/// Kinds of requests that clients get answers to, each [`LEAST_ANSWERS`] times at least.
const KINDS: [&str; 12] = [
    "expiry",
    "flush",
    "follow-up",
    "hash",
    "list",
    "retry",
    "script",
    "set",
    "sorted set",
    "text",
    "transaction",
    "void transaction",
];
const LEAST_ANSWERS: u64 = 30;

#[derive(Default)]
struct Sum {
    steps: u64,
    unjudged: u64,
    restores: u64,
    compared: u64,
    kinds: BTreeMap<&'static str, u64>,
    faults: BTreeMap<Fault, u64>,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.unjudged += other.unjudged;
        self.restores += other.restores;
        self.compared += other.compared;
        other.kinds.into_iter().for_each(|(kind, count)| *self.kinds.entry(kind).or_default() += count);
        other.faults.into_iter().for_each(|(fault, count)| *self.faults.entry(fault).or_default() += count);
    }
}

fn clean_seeds(next: &AtomicU64) -> Sum {
    let mut sum = Sum::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= SEEDS {
            return sum;
        }
        let report = run(seed, None);
        let again = format!("cargo run --release -p helios-sim -- --seeds 1 --from {seed}");
        assert_eq!(report.violation, None, "seed {seed}; again: {again}");
        let Report { steps, unjudged, restores, compared, kinds, faults, .. } = report;
        sum.add(Sum { steps, unjudged, restores, compared, kinds, faults });
    }
}

#[test]
fn a_thousand_seeds_are_clean_and_meet_every_fault_and_every_kind_of_command() {
    let next = AtomicU64::new(0);
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| clean_seeds(&next)));
        threads.into_iter().for_each(|thread| sum.add(thread.join().expect("a seed failed; see above")));
    });
    println!("{SEEDS} seeds, {} steps, {} histories not judged", sum.steps, sum.unjudged);
    assert!(sum.unjudged * 100 <= SEEDS * MAX_UNJUDGED_PERCENT, "{} histories not judged", sum.unjudged);
    assert!(sum.restores * 10 >= SEEDS * 9, "{} restores", sum.restores);
    assert!(sum.compared * 10 >= SEEDS, "{} restores compared", sum.compared);
    for kind in KINDS {
        let answers = sum.kinds.get(kind).copied().unwrap_or_default();
        assert!(answers >= LEAST_ANSWERS, "{answers} answers of kind {kind:?}: {:?}", sum.kinds);
    }
    for fault in Fault::ALL {
        assert!(sum.faults.contains_key(&fault), "{fault:?} was never injected: {:?}", sum.faults);
    }
}

#[test]
fn runs_of_one_seed_are_equal() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}
