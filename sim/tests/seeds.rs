//! Seeds that CI lives through, and what one seed promises.

use helios_sim::run;

const SEEDS: u64 = 1_000;

#[test]
fn a_thousand_seeds_are_clean() {
    let next = std::sync::atomic::AtomicU64::new(0);
    let work = || {
        let mut steps = 0;
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= SEEDS {
                return steps;
            }
            let report = run(seed, None);
            let again = format!("cargo run --release -p helios-sim -- --seeds 1 --from {seed}");
            assert_eq!(report.violation, None, "seed {seed}; again: {again}");
            steps += report.steps;
        }
    };
    let steps: u64 = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().expect("a seed failed; see above")).iter().sum()
    });
    println!("{SEEDS} seeds, {steps} steps");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}
