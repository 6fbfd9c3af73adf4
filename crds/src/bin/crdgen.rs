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
    let mut files: Vec<(PathBuf, String)> =
        vec![(root.join("helm/helios-cluster/values.schema.json"), helios_crds::values_schema()?)];
    for manifest in helios_crds::manifests() {
        let plural = manifest.plural;
        files.push((root.join(format!("crds/yaml/{plural}.yaml")), manifest.yaml()?));
        let template = format!("helm/helios-operator/templates/crd-{plural}.yaml");
        files.push((root.join(template), manifest.helm_template()?));
    }
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
