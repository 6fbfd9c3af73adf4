//! Programs of the local Kubernetes cluster (`e2e/kubernetes/cluster.sh prepare`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::tree::ROOT;

/// Returns the path of a program of the local cluster.
///
/// # Panics
/// If the programs are not built yet.
pub fn program(name: &str) -> PathBuf {
    let script = Path::new(ROOT).join("e2e/kubernetes/cluster.sh");
    let found = Command::new(script).arg("path").output().expect("the script of the local cluster starts");
    let program = Path::new(String::from_utf8_lossy(&found.stdout).trim()).join(name);
    assert!(program.exists(), "there is no {name} yet; run `e2e/kubernetes/cluster.sh prepare` once");
    program
}

/// Runs the program `name` of the PATH, or that of the local cluster, in the root of the repository.
///
/// # Panics
/// If there is neither.
pub fn run(name: &str, arguments: &[&str]) -> Output {
    let run = |program: &Path| Command::new(program).args(arguments).current_dir(ROOT).output();
    run(Path::new(name)).or_else(|_| run(&program(name))).expect("the program of the local cluster starts")
}
