//! Power cuts before every operation on the disk.

use super::*;

/// The content after checkpoint `at` of [`run`].
fn expected(at: u64) -> Vec<(Bytes, Bytes)> {
    let mut model = std::collections::BTreeMap::new();
    for at in 1..=at {
        if at == 6 {
            model.clear();
        }
        for (key, slot) in slots(at, 40, 2) {
            match slot {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
        }
    }
    model.into_iter().collect()
}

/// Writes eight checkpoints with merges between them. Returns the number of the last that succeeded.
fn run(disk: &SimDisk, seed: u64) -> u64 {
    let Ok(runs) = open(disk, seed) else { return 0 };
    for at in record(&runs.view()) + 1..=8 {
        if checkpoint(&runs, &slots(at, 40, 2), at == 6, at).is_err() {
            return at - 1;
        }
        for _ in 0..3 {
            if merge(&runs).is_err() {
                return at;
            }
        }
    }
    8
}

#[test]
fn power_cut_before_any_operation_leaves_the_last_checkpoint_or_the_next() {
    let disk = SimDisk::new(0);
    assert_eq!(run(&disk, 0), 8);
    let operations = disk.stats().operations;
    let contents: Vec<_> = (0..=8).map(expected).collect();
    for (at, seed) in (0..operations).flat_map(|at| (0..6).map(move |seed| (at, seed))) {
        let disk = SimDisk::new(seed << 32 | at);
        disk.cut_power_after(at);
        let promised = run(&disk, seed);
        disk.crash();
        let runs =
            open(&disk, seed + 100).unwrap_or_else(|error| panic!("operation {at}, seed {seed}: {error}"));
        let view = runs.view();
        let found = record(&view);
        assert!(found == promised || found == promised + 1, "operation {at}: {found} instead of {promised}");
        assert_eq!(content(&view), contents[found as usize], "operation {at}, seed {seed}");
        view.verify().unwrap();
        drop((view, runs));
        // The next start goes on from there.
        assert_eq!(run(&disk, seed + 200), 8);
        assert_eq!(content(&open(&disk, 300).unwrap().view()), contents[8]);
    }
}
