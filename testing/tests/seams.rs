//! Two seams of the lower crates, held: one file knows the raft crate's node, and seeded bugs are called through the
//! `faults.rs` of their crate.

use std::fs;
use std::path::Path;

use helios_testing::tree::{ROOT, sources, text};

/// The node is a private field there, so the compiler holds what these words do not.
const RAFT_RS: &str = "crates/raft/src/core/raft_rs.rs";
const RAFT_INTERNALS: &[&str] = &["RawNode", "raft_log", ".prs()", "become_follower", "election_elapsed ="];

#[test]
fn only_raft_rs_reaches_into_the_raft_crate() {
    let inside = text(RAFT_RS);
    assert!(RAFT_INTERNALS.iter().all(|word| inside.contains(word)), "the list of words is not up to date");
    for file in sources(&Path::new(ROOT).join("crates/raft/src")) {
        if file.ends_with("core/raft_rs.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let found: Vec<_> = RAFT_INTERNALS.iter().filter(|word| text.contains(**word)).collect();
        assert!(found.is_empty(), "{} contains {found:?}: add a function to {RAFT_RS}", file.display());
    }
}

#[test]
fn seeded_bugs_are_behind_the_seam_of_each_crate() {
    let mut seams = String::new();
    for folder in ["crates", "node/src"] {
        for file in sources(&Path::new(ROOT).join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            match file.file_name().and_then(|name| name.to_str()) {
                Some("faults.rs") => seams.push_str(&text),
                Some("seeded_bug.rs") => {}
                _ => assert!(!text.contains("SeededBug::"), "{}: use the crate's faults.rs", file.display()),
            }
        }
    }
    let list = text("crates/storage/src/seeded_bug.rs");
    let all: Vec<_> = list.lines().filter_map(|line| line.trim().strip_prefix("Self::")).collect();
    assert!(all.len() > 50, "the list of seeded bugs is not read");
    for bug in all.iter().map(|bug| bug.trim_end_matches(',')) {
        assert!(seams.contains(&format!("SeededBug::{bug}.is_on()")), "{bug} is in no faults.rs");
    }
}
