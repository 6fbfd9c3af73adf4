//! The written rules of the layout, held: which crate may use which, which module never sees which, how long a file
//! may be, and that ARCHITECTURE.md names every crate and every top module.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use helios_testing::tree::{ROOT, sources, text};

/// The crates of this repository that each crate may use.
const EDGES: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("crds", &[]),
    ("sim/history", &[]),
    ("crates/storage", &[]),
    ("crates/runs", &["helios-storage"]),
    ("crates/state", &["helios-proto", "helios-runs", "helios-storage"]),
    ("crates/raft", &["helios-proto", "helios-state", "helios-storage"]),
    ("crates/config", &["helios-proto", "helios-state"]),
    ("crates/service", &["helios-config", "helios-proto", "helios-state"]),
    ("crates/redis", &["helios-proto", "helios-service", "helios-state"]),
    ("crates/archive", &[]),
    ("crates/backup", &["helios-archive", "helios-proto"]),
    ("crates/sidecar", &["helios-proto", "helios-redis", "helios-service", "helios-state"]),
    ("crates/rdb", &[]),
    (
        "node",
        &[
            "helios-backup",
            "helios-config",
            "helios-proto",
            "helios-raft",
            "helios-redis",
            "helios-service",
            "helios-sidecar",
            "helios-state",
            "helios-storage",
        ],
    ),
    ("sim", &["helios-history", "helios-proto", "helios-raft", "helios-state", "helios-storage"]),
    ("operator", &["helios-config", "helios-crds", "helios-proto"]),
    ("cli", &["helios-backup", "helios-crds", "helios-proto", "helios-rdb"]),
];
/// Third-party crates that a crate never uses: consensus and the crates below it serve no port, a configuration opens no
/// connection, and Redis is the only protocol of its crate.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("crates/storage", PORTS),
    ("crates/runs", PORTS),
    ("crates/state", PORTS),
    ("crates/raft", PORTS),
    ("crates/archive", PORTS),
    ("crates/rdb", PORTS),
    ("crates/backup", &["warp", "kube", "raft", "sled", "redb", "mlua"]),
    ("crates/sidecar", &["warp", "kube", "raft", "sled", "redb", "mlua"]),
    ("crates/config", PORTS),
    ("crates/config", &["tokio", "rustls"]),
    ("crates/redis", &["warp", "hyper", "hyper-util", "kube", "tonic", "raft", "sled", "redb"]),
    ("crates/service", &["warp", "hyper", "hyper-util", "kube", "raft", "sled", "redb", "mlua"]),
];
const PORTS: &[&str] =
    &["warp", "hyper", "hyper-util", "kube", "tonic", "tonic-health", "tonic-reflection", "mlua"];

/// A folder of node/src, and the modules and crates that it never imports.
const UNSEEN: &[(&str, &[&str])] =
    &[("grpc", &["wal", "redis", "http"]), ("http", &["wal", "redis", "grpc"])];

const MAX_LINES: usize = 520;
/// Longer today. None may be added.
const LONG: &[&str] = &["crates/redis/src/connection/mod.rs", "sim/src/clients.rs"];

/// Names in the table `[dependencies]` of a crate.
fn dependencies(package: &str) -> Vec<String> {
    let manifest = text(&format!("{package}/Cargo.toml"));
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| line.contains('='))
        .filter_map(|line| Some(line.split(['.', ' ']).next()?.to_owned()))
        .collect()
}

fn members() -> Vec<String> {
    let manifest = text("Cargo.toml");
    let (_, list) = manifest.split_once("members = [").expect("a list of members");
    list.split_once(']').expect("its end").0.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn crates_use_only_the_crates_below_them() {
    for (package, allowed) in EDGES {
        let found = dependencies(package);
        let ours = found.iter().filter(|name| name.starts_with("helios"));
        let above: Vec<_> = ours.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(above.is_empty(), "{package} may not use {above:?}");
    }
    for (package, forbidden) in FORBIDDEN {
        let found = dependencies(package);
        let used: Vec<_> = found.iter().filter(|name| forbidden.contains(&name.as_str())).collect();
        assert!(used.is_empty(), "{package} may not use {used:?}");
    }
    assert!(
        dependencies("node").contains(&"helios-raft".to_owned()),
        "the table of dependencies is not read"
    );
}

/// Names of the modules, and of the crates of this repository, that a source uses: `a`, `b` and `c` of `crate::a`, `helios_b::x` and
/// `crate::{c::y, ..}`.
fn imports(text: &str) -> BTreeSet<&str> {
    fn name(text: &str) -> &str {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    }
    let mut found = BTreeSet::new();
    for (at, prefix) in text.match_indices("crate::").chain(text.match_indices("helios_storage::")) {
        let rest = &text[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let mut depth = 1;
        let mut start = 0;
        for (position, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && character == ',') {
                found.insert(name(list[start..position].trim_start()));
                start = position + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.extend(text.match_indices("helios_").map(|(at, prefix)| name(&text[at + prefix.len()..])));
    found
}

#[test]
fn imports_of_every_form_are_found() {
    let text = "use crate::wal::Wal; use crate::{http::{self, a}, node, raft::x}; use helios_redis as redis; \
                use helios_storage::{disk, lifecycle};";
    let expected = ["disk", "http", "lifecycle", "node", "raft", "redis", "storage", "wal"];
    assert_eq!(imports(text), BTreeSet::from(expected));
}

#[test]
fn protocols_never_import_each_other_nor_the_log() {
    for (folder, unseen) in UNSEEN {
        let files = sources(&Path::new(ROOT).join("node/src").join(folder));
        assert!(!files.is_empty());
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let imported = imports(&text);
            let seen: Vec<_> = unseen.iter().filter(|module| imported.contains(**module)).collect();
            assert!(seen.is_empty(), "{} imports {seen:?}", file.display());
        }
    }
}

#[test]
fn files_have_at_most_520_lines() {
    let mut long = Vec::new();
    for member in members() {
        let Ok(root) = Path::new(ROOT).join(&member).canonicalize() else { panic!("no folder {member}") };
        for folder in ["src", "tests"].map(|folder| root.join(folder)).iter().filter(|folder| folder.exists())
        {
            for file in sources(folder) {
                let lines = fs::read_to_string(&file).unwrap().lines().count();
                let name = format!(
                    "{member}{}",
                    file.display().to_string().trim_start_matches(&*root.to_string_lossy())
                );
                if lines > MAX_LINES && !LONG.contains(&name.as_str()) {
                    long.push(format!("{name}: {lines}"));
                }
            }
        }
    }
    assert!(long.is_empty(), "longer than {MAX_LINES} lines: {long:#?}");
}

#[test]
fn architecture_names_every_crate_and_top_module() {
    let page = text("ARCHITECTURE.md");
    let named = |name: &str| page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}/"));
    let mut missing: Vec<_> = members().into_iter().filter(|member| !named(member)).collect();
    let headed = |member: &String| page.contains(&format!("\n#### {member}\n"));
    missing.extend(members().into_iter().filter(|member| member.starts_with("crates/") && !headed(member)));
    for folder in [
        "node/src",
        "operator/src",
        "crates/storage/src",
        "crates/state/src",
        "crates/raft/src",
        "crates/config/src",
        "crates/service/src",
        "crates/redis/src",
        "crates/archive/src",
        "crates/backup/src",
        "crates/sidecar/src",
    ] {
        for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
            if !["lib", "mod", "tests"].contains(&name.as_str()) && !named(&name) {
                missing.push(format!("{folder}/{name}"));
            }
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:#?}");
}
