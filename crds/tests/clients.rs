//! Rules of HeliosClient, and of the field of a HeliosCluster about clients, as the API server evaluates them.
#![allow(clippy::unwrap_used)]

use helios_crds::{ClientRole, HeliosClient, HeliosCluster};
use serde_json::{Value, json};

fn client(spec: Value) -> HeliosClient {
    HeliosClient::new("shop", serde_json::from_value(spec).unwrap())
}

fn granting(entry: Value) -> HeliosCluster {
    HeliosCluster::new("demo", serde_json::from_value(json!({ "clients": { "allow": [entry] } })).unwrap())
}

#[track_caller]
fn refused<E: std::fmt::Display>(result: Result<(), E>, sentence: &str) {
    let error = result.map_err(|error| error.to_string()).expect_err("accepted");
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn client_defaults_to_role_read_write_and_a_new_password_every_thirty_days() {
    let found = client(json!({ "cluster": { "name": "demo" } }));
    found.validate_cel().unwrap();
    let rotation = &found.spec.password_rotation;
    assert_eq!(
        (found.spec.role, &*rotation.interval, &*rotation.overlap),
        (ClientRole::ReadWrite, "30d", "24h")
    );
}

#[test]
fn cluster_of_a_client_is_fixed() {
    let of = |cluster: Value| client(json!({ "cluster": cluster }));
    let old = of(json!({ "name": "demo" }));
    of(json!({ "name": "demo" })).validate_cel_update(&old).unwrap();
    for new in [json!({ "name": "other" }), json!({ "name": "demo", "namespace": "data" })] {
        refused(of(new).validate_cel_update(&old), "spec.cluster: cannot change");
    }
}

#[test]
fn roles_for_all_keys_have_no_prefixes() {
    for (role, accepted) in [("read-only", true), ("read-write", true), ("backup", false), ("admin", false)] {
        let with = |prefixes: Value| {
            client(json!({ "cluster": { "name": "demo" }, "role": role, "prefixes": prefixes }))
        };
        with(json!([])).validate_cel().unwrap();
        match accepted {
            true => with(json!(["shop:"])).validate_cel().unwrap(),
            false => refused(with(json!(["shop:"])).validate_cel(), "are for all keys"),
        }
    }
}

#[test]
fn settings_of_the_sidecar_are_checked_alike_by_the_api_server_and_the_webhook() {
    let with = |field: &str, value: &str| {
        client(json!({ "cluster": { "name": "demo" }, "mode": "Replica", field: value }))
    };
    for (field, value, accepted) in [
        ("memory", "8Mi", true),
        ("memory", "64Gi", true),
        ("memory", "7Mi", false),
        ("memory", "65Gi", false),
        ("memory", "64M", false),
        ("memory", "08Mi", false),
        ("maxStaleness", "100ms", true),
        ("maxStaleness", "600s", true),
        ("maxStaleness", "99ms", false),
        ("maxStaleness", "601s", false),
        ("maxStaleness", "1m", false),
    ] {
        let found = with(field, value);
        match accepted {
            true => found.validate_cel().unwrap(),
            false => refused(found.validate_cel(), &format!("spec.{field}: write a ")),
        }
        assert_eq!(found.spec.sidecar().is_ok(), accepted, "{field}: {value}");
    }
    let plain = client(json!({ "cluster": { "name": "demo" } }));
    assert_eq!(plain.spec.sidecar(), Ok(helios_crds::SidecarSettings::Proxy));
    let reading = client(json!({
        "cluster": { "name": "demo" }, "mode": "Replica", "reads": "Bounded", "offline": "ServeStale",
    }));
    reading.validate_cel().unwrap();
    let flags = reading.spec.sidecar().unwrap().flags();
    assert_eq!(flags[3..], ["--reads=bounded", "--offline=serve-stale"]);
    let unknown = json!({ "cluster": { "name": "demo" }, "reads": "Eventual" });
    assert!(serde_json::from_value::<helios_crds::HeliosClientSpec>(unknown).is_err());
}

#[test]
fn name_of_a_client_fits_into_the_name_of_its_user() {
    let named = |name: &str| HeliosClient::new(name, client(json!({ "cluster": { "name": "demo" } })).spec);
    named("shop-2").validate_cel().unwrap();
    refused(named("a.b").validate_cel(), "metadata.name");
    refused(named(&"x".repeat(64)).validate_cel(), "metadata.name");
}

#[test]
fn grant_names_namespaces_in_one_way() {
    for good in [json!({ "namespaces": ["shop"] }), json!({ "namespaceSelector": {} })] {
        granting(good).validate_cel().unwrap();
    }
    for bad in [json!({ "maxRole": "admin" }), json!({ "namespaces": ["shop"], "namespaceSelector": {} })] {
        refused(granting(bad).validate_cel(), "either namespaces or namespaceSelector");
    }
}

#[test]
fn roles_are_included_as_members_include_them() {
    use ClientRole::{Admin, Backup, ReadOnly, ReadWrite};
    for (most, included) in [
        (ReadOnly, vec![ReadOnly]),
        (ReadWrite, vec![ReadOnly, ReadWrite]),
        (Backup, vec![ReadOnly, Backup]),
        (Admin, vec![ReadOnly, ReadWrite, Backup, Admin]),
    ] {
        for role in [ReadOnly, ReadWrite, Backup, Admin] {
            assert_eq!(most.includes(role), included.contains(&role), "{most:?} {role:?}");
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
    }
}
