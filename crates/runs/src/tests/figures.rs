//! Figures of the engine on the machine's disk; they check nothing.
//! `cargo test --release -p helios-runs --lib -- --ignored --nocapture figures`

use std::time::Instant;

use helios_storage::disk;

use super::*;

const KEYS: u64 = 5_000_000;
const CHECKPOINT: u64 = 50_000;

/// Random numbers below `bound`, the same in every run.
fn random(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % bound
}

fn batch(keys: impl Iterator<Item = u64>, fill: u8) -> Vec<(Bytes, Slot)> {
    let mut keys: Vec<u64> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    let slot = || Some(Bytes::from(vec![fill; 139]));
    keys.into_iter().map(|n| (Bytes::from(format!("dkey:{n:012}")), slot())).collect()
}

#[test]
#[ignore = "prints figures, checks nothing"]
fn figures_of_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { cache_bytes: 128 << 20, seed: 1, ..Options::default() };
    let runs = Runs::open(disk::real(), dir.path(), options).unwrap();
    let mut written = 0;
    let mut user = 0;
    let mut merged_in = std::time::Duration::ZERO;
    let mut merges = 0;
    let mut state = 7;
    let rounds = KEYS / CHECKPOINT;
    for at in 0..rounds + 90 {
        if at == rounds {
            println!("loaded: {:?}, {} MB written for {} MB", runs.view().stats(), written >> 20, user >> 20);
            (written, user, merged_in, merges) = (0, 0, std::time::Duration::ZERO, 0);
        }
        let slots = if at < rounds {
            batch(at * CHECKPOINT..(at + 1) * CHECKPOINT, at as u8)
        } else {
            batch((0..CHECKPOINT).map(|_| random(&mut state, KEYS)), at as u8)
        };
        user += slots
            .iter()
            .map(|(key, slot)| (key.len() + slot.as_ref().map_or(0, Bytes::len)) as u64)
            .sum::<u64>();
        let began = Instant::now();
        let view = checkpoint(&runs, &slots, false, at).unwrap();
        let took = began.elapsed();
        written += view.uppers()[0].run.id.len;
        while let Some(job) = runs.pick(u64::MAX, false) {
            let began = Instant::now();
            let merged = execute(&runs, &job).unwrap();
            written += merged.run.as_ref().map_or(0, |run| run.len);
            runs.commit(&job, merged).unwrap();
            merged_in += began.elapsed();
            merges += 1;
        }
        if at % 30 == 0 {
            println!("{at}: checkpoint {took:?}, {:?}", runs.view().stats());
        }
    }
    println!(
        "overwritten: {} MB written for {} MB by {merges} merges in {merged_in:?}",
        written >> 20,
        user >> 20
    );
    let view = runs.view();
    for (what, suffix) in [("present", ""), ("missing", "x")] {
        let began = Instant::now();
        for _ in 0..500_000 {
            let key = format!("dkey:{:012}{suffix}", random(&mut state, KEYS));
            assert_eq!(view.get(key.as_bytes()).unwrap().is_some(), suffix.is_empty());
        }
        println!("500 000 random lookups of {what} keys in {:?}, {:?}", began.elapsed(), view.stats());
    }
    let began = Instant::now();
    let count = view.range(b"", None).count();
    println!("{count} pairs read in order in {:?}", began.elapsed());
}
