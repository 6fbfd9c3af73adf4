//! `log skip` for a log entry that ends the process of its member.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::dev::{ctl, free_ports, heliosd};
use crate::process::{Process, eventually};

fn start(dir: &Path) -> Process {
    let mut command = Command::new(heliosd());
    command.args(["--config", "node.yaml"]).current_dir(dir).env_clear();
    command.env("HELIOS_TEST_ABORT_AT_KEY", "poison").stdin(Stdio::null()).stderr(Stdio::null());
    Process::start(&mut command)
}

#[test]
fn log_skip_makes_the_entry_that_ends_a_member_a_no_op() {
    let (offset, _ports) = free_ports();
    let dir = tempfile::tempdir().unwrap();
    let port = |base: u16| base + offset;
    let config = format!(
        "node: {{name: node-1, data_dir: data, bootstrap: single}}\n\
         listen: {{client: '127.0.0.1:{}', peer: '127.0.0.1:{}', metrics: '127.0.0.1:{}'}}\n",
        port(6379),
        port(7000),
        port(9090)
    );
    std::fs::write(dir.path().join("node.yaml"), config).unwrap();
    let endpoint = format!("127.0.0.1:{}", port(7000));
    let words = |words: &[&str]| ctl(&[&["--endpoint", &endpoint], words].concat());
    let done = |said: &[&str]| words(said).status.success().then_some(());
    let skip = |index: &str, crc: &str| {
        let output = words(&["log", "skip", index, "--crc", crc]);
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };

    let mut member = start(dir.path());
    eventually("a write is taken", || done(&["set", "kept", "1"]));
    drop(words(&["set", "poison", "1"]));
    // The process ends when it first applies the entry, and in two tries after a restart; then it holds the
    // entry.
    let held = eventually("the member holds the entry", || {
        if member.0.try_wait().unwrap().is_some() {
            member = start(dir.path());
        }
        let output = words(&["status", "--output", "json"]);
        let view: Value = serde_json::from_slice(&output.stdout).ok()?;
        let trouble = view["members"][0]["trouble"].as_str()?.to_owned();
        trouble.contains("does not apply entry").then_some(trouble)
    });
    let word_after = |word: &str| {
        let rest = &held[held.find(word).unwrap() + word.len()..];
        rest.split(|c: char| !c.is_ascii_alphanumeric()).find(|part| !part.is_empty()).unwrap().to_owned()
    };
    let (index, crc) = (word_after("entry "), word_after("crc "));

    let (is_done, said) = skip(&index, "00000000");
    assert!(!is_done && said.contains("held by 0 of 1 voters") && said.contains(&crc), "{said}");
    let (is_done, said) = skip(&index, &crc);
    assert!(is_done && said.starts_with(&format!("entry {index} changes nothing on any member")), "{said}");
    eventually("the member serves again", || done(&["set", "after", "1"]));
    assert!(done(&["get", "kept"]).is_some() && done(&["get", "poison"]).is_none());
    let (is_done, said) = skip(&index, &crc);
    assert!(!is_done && said.contains(&format!("node-1 has applied entry {index}")), "{said}");
}
