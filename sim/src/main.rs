//! `helios-sim`: runs seeds and prints their outcome.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use helios_sim::{Fault, Report, SeededBug, run};

#[derive(Parser)]
#[command(about = "Runs HeliosDB's Raft core, log and state machine in a deterministic simulation of faults")]
struct Options {
    /// Number of seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// First seed; with `--seeds 1` the only one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Number of threads that run seeds side by side.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Continue after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Seeded bug that all members have, by its name in crates/storage/src/seeded_bug.rs.
    #[arg(long, value_parser = seeded_bug)]
    seeded_bug: Option<SeededBug>,
    /// Run each seed twice and compare the two runs.
    #[arg(long)]
    twice: bool,
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    steps: u64,
    faults: BTreeMap<Fault, u64>,
    elections: u64,
    snapshots: u64,
    resumed: u64,
    repairs: u64,
    restores: u64,
    compared: u64,
    fetches: u64,
    rebuilds: u64,
    answered: u64,
    unknown: u64,
    committed: u64,
    kinds: BTreeMap<&'static str, u64>,
    unjudged: u64,
    /// XOR of the fingerprints of all runs, in any order; equal for two builds whose members behave the same.
    fingerprint: u64,
    failed: Vec<Report>,
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.steps += report.steps;
        for (fault, count) in &report.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        self.elections += report.elections;
        self.snapshots += report.snapshots_installed;
        self.resumed += report.snapshots_resumed;
        self.repairs += report.repairs;
        self.restores += report.restores;
        self.compared += report.compared;
        self.fetches += report.fetches;
        self.rebuilds += report.rebuilds;
        self.answered += report.answered;
        self.unknown += report.unknown;
        self.committed += report.committed;
        self.unjudged += report.unjudged;
        self.fingerprint ^= report.fingerprint;
        for (kind, count) in &report.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        if !report.is_clean() {
            self.failed.push(report);
        }
    }

    fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.elections += other.elections;
        self.snapshots += other.snapshots;
        self.resumed += other.resumed;
        self.repairs += other.repairs;
        self.restores += other.restores;
        self.compared += other.compared;
        self.fetches += other.fetches;
        self.rebuilds += other.rebuilds;
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.committed += other.committed;
        self.unjudged += other.unjudged;
        self.fingerprint ^= other.fingerprint;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.failed.extend(other.failed);
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let started = Instant::now();
    let next = AtomicU64::new(options.from);
    let work = || {
        let mut sum = Sum::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= options.from + options.seeds {
                return sum;
            }
            let report = live(seed, &options);
            if !report.is_clean() && !options.keep_going {
                next.store(u64::MAX / 2, Ordering::Relaxed);
            }
            sum.add(report);
        }
    };
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            sum.merge(thread.join().expect("a panic of a run is caught and reported as its violation"));
        }
    });
    print(&sum, started);
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seeded_bug(name: &str) -> Result<SeededBug, String> {
    let all = SeededBug::ALL.iter().map(|bug| format!("{bug:?}"));
    let found = SeededBug::ALL.iter().find(|bug| format!("{bug:?}") == name);
    found.copied().ok_or_else(|| format!("expected one of {}", all.collect::<Vec<_>>().join(", ")))
}

fn live(seed: u64, options: &Options) -> Report {
    let mut report = run(seed, options.seeded_bug);
    if options.twice && run(seed, options.seeded_bug) != report {
        report.violation = Some(helios_sim::Violation("two runs of the same seed differ".to_owned()));
    }
    report
}

fn print(sum: &Sum, started: Instant) {
    for report in &sum.failed {
        let what = report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
        println!("seed {} FAILED after {} steps: {what}", report.seed, report.steps);
        println!("  again: cargo run --release -p helios-sim -- --seeds 1 --from {}", report.seed);
    }
    let faults: Vec<String> = sum.faults.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
    println!(
        "{} seeds, {} steps, {:.1} s; faults: {}",
        sum.seeds,
        sum.steps,
        started.elapsed().as_secs_f64(),
        faults.join(", ")
    );
    println!(
        "{} elections, {} snapshots installed, {} snapshot transfers resumed, {} states fetched from another member, {} restores, {} of them compared with another base, {} fetches of entries, {} states rebuilt, {} entries committed, {} operations answered, {} of unknown outcome",
        sum.elections,
        sum.snapshots,
        sum.resumed,
        sum.repairs,
        sum.restores,
        sum.compared,
        sum.fetches,
        sum.rebuilds,
        sum.committed,
        sum.answered,
        sum.unknown
    );
    let kinds: Vec<String> = sum.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("answered: {}; {} histories not judged", kinds.join(", "), sum.unjudged);
    let verdict = if sum.failed.is_empty() { "clean" } else { "FAILED" };
    println!(
        "{verdict}: {} of {} seeds failed; fingerprint {:016x}",
        sum.failed.len(),
        sum.seeds,
        sum.fingerprint
    );
}
