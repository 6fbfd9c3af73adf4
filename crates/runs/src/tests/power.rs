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
        // The next start continues from there.
        assert_eq!(run(&disk, seed + 200), 8);
        assert_eq!(content(&open(&disk, 300).unwrap().view()), contents[8]);
    }
}

/// After a failed sync the frame may be in the page cache only: a start must not build on it.
#[test]
fn power_cut_after_a_failed_sync_and_a_restart_leaves_what_the_restart_found() {
    for sync in 0..40 {
        for seed in 0..6 {
            let disk = SimDisk::new(seed);
            let runs = open(&disk, seed).unwrap();
            for at in 1..=4 {
                checkpoint(&runs, &slots(at, 40, 2), false, at).unwrap();
            }
            // Fails one of the syncs of the next steps.
            let mut left = sync;
            for at in 5..=8 {
                if disk.stats().failed_syncs > 0 {
                    break;
                }
                if left == 0 {
                    disk.fail_next_sync();
                }
                left -= 1;
                let _ = checkpoint(&runs, &slots(at, 40, 2), false, at).and_then(|_| merge(&runs));
            }
            drop(runs);
            disk.kill();
            let runs = open(&disk, seed + 50).unwrap();
            let found = (record(&runs.view()), content(&runs.view()));
            drop(runs);
            disk.crash();
            let runs = open(&disk, seed + 90).unwrap();
            assert_eq!((record(&runs.view()), content(&runs.view())), found, "sync {sync}, seed {seed}");
            runs.view().verify().unwrap();
        }
    }
}
