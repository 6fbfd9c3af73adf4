//! The table "Where it is decided" of ARCHITECTURE.md names functions that exist, in the files that it links.
//! `links.rs` checks that the files exist.

use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Names in backticks that may be functions: no paths, types, settings or commands.
fn function_names(cell: &str) -> Vec<&str> {
    let is_name = |name: &&str| {
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
    };
    cell.split('`').skip(1).step_by(2).filter(is_name).collect()
}

/// Targets of `[text](target)`.
fn targets(cell: &str) -> Vec<&str> {
    cell.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)).collect()
}

#[test]
fn functions_of_the_map_exist_in_the_linked_files() {
    let page = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let (_, table) = page.split_once("## Where it is decided").expect("the section");
    let table = table.split("\n## ").next().unwrap_or_default();
    let mut missing = Vec::new();
    let mut checked = 0;
    for row in table.lines() {
        let Some((_, answer)) = row.trim_start_matches("| ").split_once(" | ") else { continue };
        let files = targets(answer).into_iter().map(|path| {
            fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
        });
        let files: Vec<_> = files.collect();
        for name in function_names(answer) {
            let declarations = [format!("fn {name}("), format!("fn {name}<")];
            let is_found =
                files.iter().any(|file| declarations.iter().any(|declaration| file.contains(declaration)));
            if !is_found {
                missing.push(format!("{name} ({})", targets(answer).join(", ")));
            }
            checked += 1;
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md names functions that are not there: {missing:#?}");
    assert!(checked > 30, "{checked} functions: the table was not read");
}
