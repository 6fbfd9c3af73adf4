//! Backups in an emulator of Azure Blob Storage.

use std::process::{Command, Output, Stdio};

use helios_testing::azurite::Azurite;
use serde_json::Value;

use crate::backup::{Blank, Writer, failure, json, model};
use crate::dev::Dev;

fn backup(server: &Azurite, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliosctl"));
    command.arg("backup").args(words).args(["--output", "json"]);
    command.env_clear().envs(server.environment()).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn backup_is_created_verified_restored_and_deleted_in_azure_blob_storage() {
    let Some(server) = Azurite::start() else { return };
    let store = server.url("team/a");
    let dev = Dev::start();
    let mut writer = Writer::new(&dev);
    (0..10).for_each(|_| writer.write());

    let create = ["create", "--store", &store, "--members", &dev.members(), "--name", "orders"];
    let first = json(&backup(&server, &create));
    // The same member at the same index: its objects are in the store, and are not written again.
    let again = json(&backup(&server, &create));
    assert_eq!(first["index"], again["index"]);
    (0..10).for_each(|_| writer.write());
    let second = json(&backup(&server, &create));
    assert!(first["index"].as_u64() < second["index"].as_u64(), "{first} {second}");

    let of_cluster = ["--store", &store, "--cluster", "orders"];
    let verified = json(&backup(&server, &[&["verify"], &of_cluster[..]].concat()));
    assert_eq!(verified["intact"], true, "{verified}");
    let list = json(&backup(&server, &["list", "--store", &store]));
    let bases = list["histories"][0]["bases"].as_array().unwrap();
    assert_eq!(bases.len(), 2, "{list}");

    let blank = Blank::start();
    let [to, id] = blank.flags();
    let restored = json(&backup(&server, &[&["restore", &to, &id], &of_cluster[..]].concat()));
    assert_eq!(restored["digestMatches"], Value::Bool(true), "{restored}");
    assert_eq!(blank.keys(), model(&writer.writes, |_| true));

    for base in bases {
        let delete = ["delete", base["base"].as_str().unwrap()];
        json(&backup(&server, &[&delete[..], &of_cluster].concat()));
    }
    let dry = failure(&backup(&server, &[&["restore", "--dry-run"], &of_cluster[..]].concat()));
    assert!(dry.contains("no complete base"), "{dry}");

    let missing = store.replace("backups", "missing");
    let missing = failure(&backup(&server, &["list", "--store", &missing]));
    assert!(missing.contains("the prefix or bucket is another one"), "{missing}");
}
