//! Restores that begin at the base of one member and are compared with the base of another one on the way.

use std::process::Output;

use helios_archive::base::{BaseRequest, BaseWriter, Begun, Options};
use helios_archive::{Archive, BaseId, History, Keyring, Store};
use serde_json::Value;

use crate::backup::{Archiver, Blank, Writer, failure, json, model, store_in};
use crate::dev::{Dev, ctl, free_ports};

/// Writes a base whose member had another state at its index.
fn write_other_base(store: &str, history: &Value, index: u64, term: u64) {
    let history =
        History::new(history["clusterId"].as_str().unwrap(), history["incarnation"].as_u64().unwrap());
    let archive = Archive::new(Store::open(store).unwrap(), history.unwrap(), Keyring::unencrypted());
    let request = BaseRequest {
        id: BaseId { index, term },
        now_ms: 1,
        snapshot_version: 1,
        snapshot_crc32c: None,
        source: "other".to_owned(),
        member: "other".to_owned(),
        started_ms: 1,
        keys: Some(40),
        state_digest: Some("0123456789abcdef".to_owned()),
    };
    let write = async {
        let Begun::Writer(mut writer) =
            BaseWriter::begin(&archive, request, Options::default()).await.unwrap()
        else {
            panic!("the base is there")
        };
        writer.write(&mut &b"a state"[..]).await.unwrap();
        writer.finish(2).await.unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(write);
}

/// Restores into a new node, with a record in the store.
fn restore(store: &str, words: &[&str]) -> (Blank, Output) {
    let node = Blank::start();
    let output = node.restore(store, &[&["--cluster", "orders", "--record"], words].concat());
    (node, output)
}

#[test]
fn log_after_a_base_yields_the_state_of_the_base_of_another_member() {
    let dev = Dev::start();
    let dir = tempfile::tempdir().unwrap();
    let (store, (offset, _ports)) = (store_in(&dir), free_ports());
    let mut writer = Writer::new(&dev);
    (0..40).for_each(|_| writer.write());
    let archiver = Archiver::start(&dir, &dev.members(), 9090 + offset);
    let first = archiver.until("the first base", |status| !status["lastBase"].is_null())["lastBase"].clone();
    (0..50).for_each(|_| writer.write());
    let members = dev.members();
    let create = ["backup", "create", "--members", &members, "--store", &store, "--output", "json"];
    let second = json(&ctl(&create));
    assert_ne!(first["member"], second["member"], "bases alternate between the followers");
    (0..30).for_each(|_| writer.write());
    let last = writer.writes.last().unwrap().index;
    archiver.until("all is archived", |status| status["archivedIndex"].as_u64() >= Some(last));
    archiver.stop();

    let (node, output) = restore(&store, &["--cross-check", "always"]);
    let compared = json(&output);
    let text = compared["comparison"].as_str().unwrap();
    assert_eq!(compared["comparisonMatches"], true, "{compared}");
    assert_eq!(compared["baseIndex"], first["index"], "{compared}");
    for base in [&first, &second] {
        let base =
            format!("base {}-{} of member {}", base["index"], base["term"], base["member"].as_str().unwrap());
        assert!(text.contains(&base), "{base}: {text}");
    }
    assert!(text.ends_with(&format!("at index {}", second["index"])), "{text}");
    assert_eq!(node.keys(), model(&writer.writes, |_| true));

    // Each second restore that is recorded compares; the others begin at the newest base.
    for is_compared in [false, true] {
        let (_node, output) = restore(&store, &["--cross-check", "alternate"]);
        let restored = json(&output);
        assert_eq!(!restored["comparison"].is_null(), is_compared, "{restored}");
        let begin = if is_compared { &first } else { &second };
        assert_eq!(restored["baseIndex"], begin["index"], "{restored}");
    }
    let before = (second["index"].as_u64().unwrap() - 1).to_string();
    let (_node, output) = restore(&store, &["--cross-check", "always", "--index", &before]);
    assert!(failure(&output).contains("there is no base before"), "{output:?}");

    write_other_base(&store, &second, last, second["term"].as_u64().unwrap());
    let (_node, output) = restore(&store, &["--cross-check", "always"]);
    let message = failure(&output);
    let (member, index) = (second["member"].as_str().unwrap(), format!("at index {last}"));
    for part in [member, "of member other", &index, "0123456789abcdef"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["reason"], "MembersDiffer", "{document}");
    assert_eq!(document["comparisonMatches"], false, "{document}");
}
