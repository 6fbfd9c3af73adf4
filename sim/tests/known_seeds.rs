//! The table of bugs in README.md, replayed.

use helios_sim::{SeededBug, run};

const README: &str = include_str!("../README.md");
/// Seeds tried to find the next one that shows a seeded bug.
const SEEDS: u64 = 3_000;

struct Row {
    bug: Option<SeededBug>,
    seed: Option<u64>,
}

/// Rows of the table of bugs.
fn table() -> Vec<Row> {
    let lines = README.lines().skip_while(|line| !line.ends_with("| seeded bug | seed |")).skip(2);
    let rows: Vec<_> = lines.take_while(|line| line.starts_with('|')).map(row).collect();
    assert!(rows.len() > 5, "README.md has no table of bugs");
    rows
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let named = |bug: &&SeededBug| cells.contains(&format!("`{bug:?}`").as_str());
    Row {
        bug: SeededBug::ALL.iter().find(named).copied(),
        seed: cells.last().and_then(|seed| seed.parse().ok()),
    }
}

#[test]
fn seeds_of_fixed_bugs_are_clean() {
    for Row { seed, .. } in table() {
        if let Some(seed) = seed {
            assert_eq!(run(seed, None).violation, None, "seed {seed}");
        }
    }
}

#[test]
fn seeds_of_seeded_bugs_fail_with_the_bug() {
    // A bug may end in a panic of the node's own code, which need not be printed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut moved = Vec::new();
    for Row { bug, seed } in table() {
        let (Some(bug), Some(seed)) = (bug, seed) else { continue };
        if run(seed, Some(bug)).violation.is_none() {
            let now = (0..SEEDS).find(|seed| run(*seed, Some(bug)).violation.is_some());
            moved.push(format!("{bug:?}: {now:?} in place of {seed}"));
        }
    }
    drop(std::panic::take_hook());
    assert!(moved.is_empty(), "sim/README.md names seeds that do not show their bug: {moved:#?}");
}
