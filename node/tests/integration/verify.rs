//! `heliosd verify` on data directories of real nodes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Cluster, Load, free_standing, temporary_directory};

/// Runs `heliosd verify`; returns its exit code and output.
fn verify(data_dir: &Path) -> (i32, String) {
    let output = free_standing(Path::new("/"))
        .arg("verify")
        .arg(data_dir)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), said)
}

fn first_segment(data_dir: &Path) -> PathBuf {
    let paths = fs::read_dir(data_dir.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "wal")).min().unwrap()
}

#[tokio::test]
async fn verify_distinguishes_intact_from_damaged_and_refuses_a_directory_in_use() {
    let mut cluster = Cluster::of_three_with("snapshot_entries: 300, trailing_entries: 100").await;
    let load = Load::start(&cluster.client_ports());
    load.wait_for(1_000).await;
    let (code, said) = verify(&cluster[0].data_dir());
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("is in use: stop the node first") && said.lines().count() == 1, "{said}");

    // The first node was stopped cleanly, the second killed; the first is damaged below.
    cluster[0].terminate().await;
    load.wait_for(100).await;
    load.finish().await;
    cluster[1].kill();
    for node in [0, 1] {
        let (code, said) = verify(&cluster[node].data_dir());
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("snapshot  whole") && said.contains("together  whole"), "{said}");
    }
    let segment = first_segment(&cluster[0].data_dir());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (code, said) = verify(&cluster[0].data_dir());
    assert_eq!(code, 1, "{said}");
    let line = said.lines().find(|line| line.starts_with("log       DAMAGED")).unwrap();
    assert!(line.contains(segment.to_str().unwrap()) && line.contains("byte 48"), "{line}");
}

#[tokio::test]
async fn verify_rejects_a_directory_without_node_data() {
    let dir = temporary_directory();
    let (code, said) = verify(dir.path());
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("is not the data directory of a node"), "{said}");
}
