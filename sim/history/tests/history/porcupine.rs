//! Comparison with Porcupine, an established linearizability checker in Go.
//!
//! `cargo test -p helios-history porcupine -- --ignored --nocapture`; needs Go and its module proxy.

use std::io::Write;
use std::process::{Command, Stdio};

use helios_history::{History, Verdict, check};

use crate::made::{Shape, damaged, legal};

const HISTORIES: u64 = 500;

#[test]
#[ignore = "needs Go"]
fn porcupine_agrees_on_500_histories() {
    let histories: Vec<History> = (0..HISTORIES).map(made).collect();
    let text: Vec<_> = histories.iter().map(History::to_porcupine_json).collect();
    let theirs = ask_porcupine(&text.join("\n"));
    assert_eq!(theirs.len(), histories.len());
    let mut illegal = 0;
    for (seed, (history, theirs)) in histories.iter().zip(&theirs).enumerate() {
        let ours = match check(history) {
            Verdict::Legal => "legal",
            Verdict::Illegal(_) => "illegal",
            Verdict::Unknown { .. } => "unknown",
        };
        assert_eq!(ours, theirs, "seed {seed}:\n{}", history.to_porcupine_json());
        illegal += u32::from(ours == "illegal");
    }
    println!("{HISTORIES} histories, {illegal} of them illegal: Porcupine agrees on each");
    assert!(illegal > 100, "only {illegal} are illegal: not a fair sample");
}

/// Generates a history; every second one has changed answers.
fn made(seed: u64) -> History {
    let shape = Shape { operations: 40, keys: 3, overlap: 1 + seed % 6, unknown_percent: 10, values: 4 };
    if seed.is_multiple_of(2) { legal(seed, shape) } else { damaged(seed, shape) }
}

fn ask_porcupine(histories: &str) -> Vec<String> {
    let mut porcupine = Command::new("go")
        .args(["run", "."])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/porcupine"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    porcupine.stdin.take().unwrap().write_all(histories.as_bytes()).unwrap();
    let output = porcupine.wait_with_output().unwrap();
    assert!(output.status.success(), "porcupine: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
