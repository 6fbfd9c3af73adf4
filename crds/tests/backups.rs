//! Rules of the backup resources, and of the fields of a HeliosCluster about backups, as the API server evaluates them.
#![allow(clippy::unwrap_used)]

use helios_crds::{
    HeliosBackup, HeliosBackupStore, HeliosCluster, HeliosScheduledBackup, HeliosScheduledBackupStatus,
    RetentionSpec, manifests,
};
use serde_json::{Value, json};

fn store(spec: Value) -> HeliosBackupStore {
    HeliosBackupStore::new("store", serde_json::from_value(spec).unwrap())
}

fn cluster(spec: Value) -> HeliosCluster {
    HeliosCluster::new("demo", serde_json::from_value(spec).unwrap())
}

#[track_caller]
fn refused<E: std::fmt::Display>(result: Result<(), E>, sentence: &str) {
    let error = result.map_err(|error| error.to_string()).expect_err("accepted");
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn store_has_exactly_one_place() {
    let s3 = json!({ "bucket": "backups" });
    let azure = json!({ "container": "backups", "account": "acme" });
    for good in [
        json!({ "s3": s3 }),
        json!({ "gcs": { "bucket": "backups" } }),
        json!({ "azure": azure }),
        json!({ "volume": { "claimName": "backups" } }),
    ] {
        store(good).validate_cel().unwrap();
    }
    for bad in [json!({}), json!({ "s3": s3, "azure": azure })] {
        refused(store(bad).validate_cel(), "exactly one of s3, gcs, azure and volume");
    }
}

#[test]
fn store_defaults_keep_thirty_days_and_every_moment_of_two_weeks() {
    let found = store(json!({ "s3": { "bucket": "backups" } })).spec.retention;
    assert_eq!(found, RetentionSpec::default());
    assert_eq!((&*found.keep_for, found.keep_last, &*found.log), ("30d", 7, "14d"));
}

#[test]
fn store_has_one_way_to_its_credentials() {
    let credentials = json!({ "secretName": "keys" });
    let both =
        json!({ "s3": { "bucket": "backups" }, "credentials": credentials, "serviceAccountName": "backup" });
    refused(store(both).validate_cel(), "not both");
    let volume = json!({ "volume": { "claimName": "backups" }, "credentials": credentials });
    refused(store(volume).validate_cel(), "which needs none");
}

#[test]
fn endpoint_is_a_url_without_path_and_password() {
    let s3 = |endpoint: &str| store(json!({ "s3": { "bucket": "backups", "endpoint": endpoint } }));
    for good in ["https://minio.example.com:9000", "http://10.0.0.1:8333"] {
        s3(good).validate_cel().unwrap();
    }
    for bad in ["minio:9000", "https://a:b@minio", "https://minio/path", "https://minio?x=1"] {
        refused(s3(bad).validate_cel(), "spec.s3.endpoint: write http:// or https://");
    }
    let ca = json!({ "s3": { "bucket": "backups", "caSecret": "ca" } });
    refused(store(ca).validate_cel(), "together with the endpoint");
}

#[test]
fn backup_is_immutable() {
    let backup = |cluster: &str| {
        HeliosBackup::new("one", serde_json::from_value(json!({ "cluster": cluster })).unwrap())
    };
    backup("demo").validate_cel_update(&backup("demo")).unwrap();
    refused(backup("other").validate_cel_update(&backup("demo")), "a backup cannot change");
}

#[test]
fn names_leave_room_for_the_objects_that_are_named_after_them() {
    let spec = json!({ "cluster": "demo" });
    let backup = |name: &str| HeliosBackup::new(name, serde_json::from_value(spec.clone()).unwrap());
    backup(&"x".repeat(52)).validate_cel().unwrap();
    refused(backup(&"x".repeat(53)).validate_cel(), "at most 52");
    refused(backup("a.b").validate_cel(), "at most 52");
    let scheduled = |name: &str| {
        let spec = json!({ "schedule": "0 3 * * *", "backup": spec });
        HeliosScheduledBackup::new(name, serde_json::from_value(spec).unwrap())
    };
    scheduled(&"x".repeat(39)).validate_cel().unwrap();
    refused(scheduled(&"x".repeat(40)).validate_cel(), "at most 39");
}

#[test]
fn backup_of_a_cluster_archives_every_five_seconds_by_default() {
    let found = cluster(json!({ "backup": { "store": "nightly" } })).spec.backup.unwrap();
    assert!(found.archive);
    assert_eq!((&*found.flush_interval, &*found.base_interval), ("5s", "24h"));
}

#[test]
fn drill_of_a_schedule_restores_the_latest_state_within_an_hour_by_default() {
    let spec = |drill: Value| -> HeliosScheduledBackup {
        let spec = json!({ "schedule": "0 3 * * *", "backup": { "cluster": "demo" }, "drill": drill });
        HeliosScheduledBackup::new("nightly", serde_json::from_value(spec).unwrap())
    };
    let found = spec(json!({ "schedule": "0 5 * * *" }));
    found.validate_cel().unwrap();
    let found = found.spec.drill.unwrap();
    assert_eq!((found.target, found.job, found.keep_on_failure), (None, None, false));
    assert_eq!(found.deadline, "1h");
    let job = json!({ "image": "redis:7", "command": ["sh", "-c", "true"] });
    let all = json!({ "schedule": "0 5 * * *", "target": { "age": "12h" }, "job": job, "deadline": "20m" });
    spec(all).validate_cel().unwrap();
}

/// The phase of another version is kept as it is, and does not make the resource unreadable.
#[test]
fn phase_of_a_drill_of_another_version_is_readable() {
    let running = json!({
        "cluster": "nightly-drill-1", "phase": "Polishing",
        "startedAt": "2026-11-21T05:00:00Z", "deadline": "2026-11-21T06:00:00Z",
    });
    let status: HeliosScheduledBackupStatus =
        serde_json::from_value(json!({ "drill": { "running": running } })).unwrap();
    assert_eq!(serde_json::to_value(status.drill.unwrap().running.unwrap()).unwrap(), running);
}

fn recovery(recovery: Value) -> HeliosCluster {
    cluster(json!({ "bootstrap": { "recovery": recovery } }))
}

#[test]
fn recovery_names_one_cluster_and_at_most_one_target() {
    for good in [
        json!({ "store": "s", "cluster": "demo" }),
        json!({ "store": "s", "cluster": "demo", "clusterNamespace": "prod", "target": {} }),
        json!({ "store": "s", "clusterId": "1", "target": { "index": 7 } }),
    ] {
        recovery(good).validate_cel().unwrap();
    }
    for bad in [json!({ "store": "s" }), json!({ "store": "s", "cluster": "demo", "clusterId": "1" })] {
        refused(recovery(bad).validate_cel(), "write either cluster");
    }
    let namespace = json!({ "store": "s", "clusterId": "1", "clusterNamespace": "prod" });
    refused(recovery(namespace).validate_cel(), "together with cluster");
    let two = json!({ "store": "s", "cluster": "demo", "target": { "index": 7, "backup": "7-1" } });
    refused(recovery(two).validate_cel(), "at most one of time, index and backup");
}

#[test]
fn bootstrap_is_fixed_at_creation() {
    let with = || recovery(json!({ "store": "s", "cluster": "demo" }));
    with().validate_cel_update(&with()).unwrap();
    let other = recovery(json!({ "store": "t", "cluster": "demo" }));
    for (old, new) in [(with(), cluster(json!({}))), (cluster(json!({})), with()), (with(), other)] {
        refused(new.validate_cel_update(&old), "spec.bootstrap: cannot change");
    }
}

#[test]
fn fields_of_backup_resources_are_explained_and_named_by_short_names() {
    let mut short = Vec::new();
    for manifest in manifests() {
        let parsed: Value = serde_saphyr::from_str(&manifest.yaml().unwrap()).unwrap();
        short.push(parsed["spec"]["names"]["shortNames"][0].as_str().unwrap().to_owned());
        assert_eq!(parsed["spec"]["names"]["plural"], manifest.plural);
        let properties = &parsed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        explained("spec", &properties["spec"]);
        explained("status", &properties["status"]);
    }
    assert_eq!(short, ["hc", "hbs", "hbk", "hsb", "hcl"]);
}

fn explained(path: &str, schema: &Value) {
    const BORROWED: [&str; 6] = [
        "resources",
        "tolerations",
        "affinity",
        "topologySpreadConstraints",
        "conditions",
        "namespaceSelector",
    ];
    let (fields, items) = (&schema["properties"], &schema["items"]["properties"]);
    for (name, field) in fields.as_object().into_iter().chain(items.as_object()).flatten() {
        let path = format!("{path}.{name}");
        assert!(
            field["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{path} has no description"
        );
        if !BORROWED.contains(&name.as_str()) {
            explained(&path, field);
        }
    }
}

/// Each document of `examples/backup`, as the API server takes it.
#[test]
fn examples_are_valid() {
    let read = |file: &str| -> Value {
        let path = format!("{}/../examples/backup/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    serde_json::from_value::<HeliosBackupStore>(read("store")).unwrap().validate_cel().unwrap();
    serde_json::from_value::<HeliosCluster>(read("cluster")).unwrap().validate_cel().unwrap();
    serde_json::from_value::<HeliosBackup>(read("backup")).unwrap().validate_cel().unwrap();
    serde_json::from_value::<HeliosScheduledBackup>(read("scheduled")).unwrap().validate_cel().unwrap();
    serde_json::from_value::<HeliosCluster>(read("restore")).unwrap().validate_cel().unwrap();
}
