//! `make clean` and `make clean-log-db` in a directory that has only this repository's Makefile. Another
//! command replaces the local cluster's script, because that cluster belongs to the machine.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const MAKEFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Makefile");
const BUILT: [&str; 2] = ["target/debug/heliosd", "cache/helios/kubernetes/kube"];
const DATABASE: &str = "helios-data/node-1/wal/0001";

fn clone_in_use() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    fs::copy(MAKEFILE, dir.path().join("Makefile")).unwrap();
    write("Cargo.toml", "[package]\nname = \"empty\"\n[workspace]\n");
    write("src/lib.rs", "");
    BUILT.iter().chain([&DATABASE]).for_each(|path| write(path, "x"));
    dir
}

/// Runs make without the environment of this process: its target directory would be emptied.
fn make(dir: &Path, goal: &str) {
    let kept = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
    let done = Command::new("make")
        .current_dir(dir)
        .args([goal, "cluster=echo >>taken-down"])
        .env_clear()
        .envs(kept.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fs::read_to_string(dir.join("taken-down")).unwrap(), "down\n", "the local cluster goes, too");
}

#[test]
fn clean_log_db_removes_databases_and_keeps_build_results() {
    let dir = clone_in_use();
    make(dir.path(), "clean-log-db");
    assert!(!dir.path().join("helios-data").exists());
    assert!(BUILT.iter().all(|path| dir.path().join(path).exists()));
}

#[test]
fn clean_removes_databases_and_build_results() {
    let dir = clone_in_use();
    make(dir.path(), "clean");
    let left: Vec<_> =
        BUILT.iter().chain([&DATABASE]).filter(|path| dir.path().join(path).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(dir.path().join("src/lib.rs").exists());
}
