//! Every rule of the CRD, evaluated as the API server evaluates it, and the size and freshness of
//! the generated manifests.
#![allow(clippy::unwrap_used)]

use helios_crds::{HeliosCluster, HeliosClusterSpec, TlsMode, manifests};
use serde_json::{Value, json};

fn cluster(spec: Value) -> HeliosCluster {
    named("demo", spec)
}

fn named(name: &str, spec: Value) -> HeliosCluster {
    let spec: HeliosClusterSpec = serde_json::from_value(spec).unwrap();
    HeliosCluster::new(name, spec)
}

#[track_caller]
fn refused(cluster: &HeliosCluster, sentence: &str) {
    let error = cluster.validate_cel().expect_err("accepted").to_string();
    assert!(error.contains(sentence), "{error}");
}

#[track_caller]
fn refused_update(old: Value, new: Value, sentence: &str) {
    let error = cluster(new).validate_cel_update(&cluster(old)).expect_err("accepted").to_string();
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn an_empty_spec_is_three_members_of_ten_gibibytes() {
    let empty = cluster(json!({}));
    empty.validate_cel().unwrap();
    assert_eq!(empty.spec, HeliosClusterSpec::default());
    assert_eq!((empty.spec.replicas, empty.spec.storage.size.as_str()), (3, "10Gi"));
    assert!(empty.spec.storage.retain && empty.spec.pod_disruption_budget.enabled);
    assert!(empty.spec.tls.mode == TlsMode::Auto && !empty.spec.tls.clients);
    assert!(empty.spec.auth.enabled && empty.spec.network_policy.enabled);
}

#[test]
fn replicas_are_odd_unless_asked_otherwise() {
    for replicas in [1, 3, 5, 7] {
        cluster(json!({ "replicas": replicas })).validate_cel().unwrap();
    }
    for replicas in [-1, 0, 2, 4, 6, 8, 9] {
        refused(&cluster(json!({ "replicas": replicas })), "write 1, 3, 5 or 7");
    }
    cluster(json!({ "replicas": 4, "allowEvenReplicas": true })).validate_cel().unwrap();
    refused(&cluster(json!({ "replicas": 8, "allowEvenReplicas": true })), "write 1, 3, 5 or 7");
}

#[test]
fn a_volume_may_grow_and_not_shrink() {
    let size = |size: &str| json!({ "storage": { "size": size } });
    cluster(size("20Gi")).validate_cel_update(&cluster(size("10Gi"))).unwrap();
    cluster(size("1Ti")).validate_cel_update(&cluster(size("1024Gi"))).unwrap();
    refused_update(size("10Gi"), size("5Gi"), "a volume cannot shrink");
    refused_update(size("1Gi"), size("1023Mi"), "a volume cannot shrink");
}

#[test]
fn the_storage_class_is_fixed() {
    let class = |class: &str| json!({ "storage": { "storageClassName": class } });
    cluster(class("fast")).validate_cel_update(&cluster(class("fast"))).unwrap();
    for (old, new) in [(class("a"), class("b")), (class("a"), json!({})), (json!({}), class("a"))] {
        refused_update(old, new, "spec.storage.storageClassName: cannot change");
    }
}

#[test]
fn engine_may_change() {
    let engine = |engine: &str| json!({ "storage": { "engine": engine } });
    for name in ["sled", "redb", "runs"] {
        cluster(engine(name)).validate_cel_update(&cluster(json!({}))).unwrap();
    }
}

#[test]
fn source_of_the_certificate_is_immutable() {
    let tls = |tls: Value| json!({ "tls": tls });
    let own = tls(json!({ "mode": "secret", "secretName": "mine" }));
    cluster(tls(json!({ "mode": "auto", "clients": true })))
        .validate_cel_update(&cluster(json!({})))
        .unwrap();
    for (old, new) in [
        (json!({}), tls(json!({ "mode": "off" }))),
        (tls(json!({ "mode": "off" })), json!({})),
        (own.clone(), json!({})),
        (json!({}), own),
    ] {
        refused_update(old, new, "spec.tls.mode: cannot change");
    }
}

#[test]
fn ones_own_certificate_has_a_name_and_clients_have_tls_only_with_one() {
    cluster(json!({ "tls": { "mode": "secret", "secretName": "mine" } })).validate_cel().unwrap();
    for half in [json!({ "mode": "secret" }), json!({ "secretName": "mine" })] {
        refused(&cluster(json!({ "tls": half })), "together with mode: secret");
    }
    refused(&cluster(json!({ "tls": { "mode": "off", "clients": true } })), "only with a certificate");
}

#[test]
fn a_recovery_names_a_survivor_and_confirms_the_loss() {
    cluster(json!({ "recovery": { "survivor": "demo-1", "confirm": "id" } })).validate_cel().unwrap();
    for half in [json!({ "survivor": "demo-1" }), json!({ "confirm": "id" })] {
        refused(&cluster(json!({ "recovery": half })), "write both survivor and confirm");
    }
}

#[test]
fn timings_must_be_in_order_whatever_the_preset() {
    for good in [
        json!({ "preset": "wan", "heartbeatInterval": "1s" }),
        json!({ "heartbeatInterval": "50ms", "electionTimeoutMin": "150ms", "electionTimeoutMax": "200ms" }),
    ] {
        cluster(json!({ "raft": good })).validate_cel().unwrap();
    }
    for bad in [
        json!({ "heartbeatInterval": "300ms" }),
        json!({ "preset": "fast", "heartbeatInterval": "200ms" }),
        json!({ "preset": "wan", "electionTimeoutMin": "400ms" }),
    ] {
        refused(&cluster(json!({ "raft": bad })), "write a heartbeatInterval below electionTimeoutMin");
    }
    for bad in
        [json!({ "electionTimeoutMax": "300ms" }), json!({ "preset": "wan", "electionTimeoutMax": "2s" })]
    {
        refused(&cluster(json!({ "raft": bad })), "write an electionTimeoutMax above electionTimeoutMin");
    }
}

#[test]
fn names_leave_room_for_what_is_appended() {
    for good in ["demo", "d", &"x".repeat(40)] {
        named(good, json!({})).validate_cel().unwrap();
    }
    for bad in [&*"x".repeat(41), "1st", "a.b", "ends-"] {
        refused(&named(bad, json!({})), "write at most 40 characters");
    }
}

#[test]
fn names_of_others_objects_are_refused_at_creation_and_stay_editable() {
    for bad in ["default", "kubernetes", "demo-leader", "demo-read", "a-peers", "a-archiver", "a-restore"] {
        refused(&named(bad, json!({})), "choose a name other than default and kubernetes");
        let mut existing = named(bad, json!({}));
        let mut seen_by = |generation: i64| {
            existing.status = serde_json::from_value(json!({ "observedGeneration": generation })).unwrap();
            existing.validate_cel()
        };
        seen_by(1).unwrap_or_else(|error| panic!("{bad} exists and cannot be edited any more: {error}"));
        assert!(seen_by(-1).is_err(), "{bad}: the default of a new object's status");
    }
    for good in ["leader", "reads", "demo-leaders", "my-default", "read-demo"] {
        named(good, json!({})).validate_cel().unwrap();
    }
}

#[test]
fn manifests_are_small_enough_for_plain_apply() {
    for manifest in manifests() {
        let (size, limit) = (manifest.yaml().unwrap().len(), [25_000, 100_000]);
        let limit = limit[usize::from(manifest.plural == "heliosclusters")];
        assert!(size < limit, "{}: {size} bytes", manifest.plural);
    }
}

/// The definition of `plural` as its file has it.
fn definition(plural: &str) -> Value {
    let manifest = manifests().into_iter().find(|manifest| manifest.plural == plural).unwrap();
    serde_saphyr::from_str(&manifest.yaml().unwrap()).unwrap()
}

#[test]
fn the_manifest_says_what_it_says() {
    let parsed = definition("heliosclusters");
    let names = &parsed["spec"]["names"];
    assert_eq!((&names["shortNames"], &names["categories"]), (&json!(["hc"]), &json!(["all"])));
    let version = &parsed["spec"]["versions"][0];
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    let columns: Vec<_> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    let basic = ["Ready", "Leader", "Version", "Status"];
    let of_backups = ["Last Backup", "Archived", "Lag", "Verified", "Restore"];
    assert_eq!(columns, [&basic[..], &of_backups, &["Age"]].concat());
    assert_eq!(version["subresources"]["scale"]["labelSelectorPath"], ".status.selector");
    let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"];
    assert_eq!(status["default"]["observedGeneration"], -1, "helm --wait would not wait");
    let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    assert_eq!(status["conditions"]["x-kubernetes-list-map-keys"], json!(["type"]));
}

#[test]
fn every_field_of_the_spec_is_explained() {
    let parsed = definition("heliosclusters");
    let schema = &parsed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    explained("spec", schema, &["resources", "tolerations", "affinity", "topologySpreadConstraints"]);
}

fn explained(path: &str, schema: &Value, foreign: &[&str]) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let text = field["description"].as_str().unwrap_or_default();
        let group = field["properties"].is_object() && !foreign.contains(&name.as_str());
        assert!(!text.is_empty(), "{path} has no description");
        assert!(
            group || text.contains("Restarts members: "),
            "{path} does not say whether it restarts members"
        );
        if group {
            explained(&path, field, foreign);
        }
    }
}

#[test]
fn chart_toggles_wrap_the_same_definitions() {
    for manifest in manifests() {
        let template = manifest.helm_template().unwrap();
        let bare: String = template
            .lines()
            .filter(|line| !line.contains("{{") && !line.contains("resource-policy"))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(bare.replacen("  annotations:\n", "", 1), manifest.yaml().unwrap());
        assert_eq!(template.matches("{{").count(), 4, "nothing in the definition itself is a template");
    }
}
