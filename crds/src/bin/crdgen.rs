//! Writes the generated manifests; `--check` only compares and fails on a difference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("crdgen: unknown argument {other:?}; run it with --check or without arguments");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files: [(PathBuf, String); 3] = [
        (root.join("crds/yaml/heliosclusters.yaml"), helios_crds::yaml()?),
        (root.join("helm/helios-operator/templates/crd-heliosclusters.yaml"), helios_crds::helm_template()?),
        (root.join("helm/helios-cluster/values.schema.json"), helios_crds::values_schema()?),
    ];
    for (path, wanted) in files {
        if check {
            compare(&path, &wanted)?;
        } else {
            std::fs::write(&path, wanted).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        }
    }
    Ok(())
}

fn compare(path: &Path, wanted: &str) -> Result<(), String> {
    let found = std::fs::read_to_string(path).unwrap_or_default();
    if found == wanted {
        return Ok(());
    }
    Err(format!("{} is out of date; run `cargo run -p helios-crds --bin crdgen`", path.display()))
}
