//! The objects of the demo cluster as they are on record. A difference in the pod template restarts
//! every member of every cluster when the operator is upgraded; it must be meant.
#![allow(clippy::unwrap_used)]

use helios_crds::{HeliosCluster, HeliosClusterSpec};
use helios_operator::build::{self, Objects, Shape};
use helios_operator::validate::{Defaults, ValidatedCluster, validate};
use serde::Serialize;
use serde_json::json;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/demo.yaml");

fn validated(spec: serde_json::Value) -> ValidatedCluster {
    let spec: HeliosClusterSpec = serde_json::from_value(spec).unwrap();
    let mut cluster = HeliosCluster::new("demo", spec);
    cluster.metadata.namespace = Some("default".to_owned());
    cluster.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000001".to_owned());
    let defaults = Defaults {
        node_image: Some("heliosd:0.1.0".to_owned()),
        operator_namespace: "helios-system".to_owned(),
    };
    validate(&cluster, None, &defaults).unwrap()
}

fn objects(spec: serde_json::Value) -> Objects {
    let cluster = validated(spec);
    build::objects(&cluster, &Shape { replicas: cluster.replicas, template_volume_size: None }).unwrap()
}

fn yaml(object: &impl Serialize) -> String {
    serde_saphyr::to_string(&serde_json::to_value(object).unwrap()).unwrap()
}

fn template(spec: serde_json::Value) -> String {
    yaml(&objects(spec).stateful_set.spec.template)
}

#[test]
fn objects_of_the_demo_match_the_golden_file() {
    let Objects {
        service_account,
        config_map,
        peers,
        client,
        leader,
        read,
        budget,
        network_policy,
        stateful_set,
    } = objects(json!({}));
    let rendered = [
        yaml(&service_account),
        yaml(&config_map),
        yaml(&peers),
        yaml(&client),
        yaml(&leader),
        yaml(&read),
        yaml(&budget.unwrap()),
        yaml(&network_policy.unwrap()),
        yaml(&stateful_set),
    ]
    .map(|document| if document.ends_with('\n') { document } else { document + "\n" })
    .join("---\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(RECORD, &rendered).unwrap();
    }
    let record = std::fs::read_to_string(RECORD).unwrap_or_default();
    assert!(rendered == record, "run with UPDATE_GOLDEN=1 and read the difference:\n{rendered}");
}

/// An operator upgrade alone restarts no pod: these digests stay, or the difference is meant.
#[test]
fn templates_of_samples_match_the_golden_file() {
    let samples = [
        ("defaults", json!({})),
        ("open", json!({ "tls": { "mode": "off" }, "auth": { "enabled": false } })),
        ("own certificate", json!({ "tls": { "mode": "secret", "secretName": "mine", "clients": true } })),
        ("single", json!({ "replicas": 1 })),
        (
            "large",
            json!({ "replicas": 5, "storage": { "size": "1Ti", "storageClassName": "fast", "retain": false } }),
        ),
        ("image", json!({ "image": "registry/heliosd:9" })),
        ("fast", json!({ "raft": { "preset": "fast", "snapshotEntries": 500 } })),
        ("lease", json!({ "reads": { "lease": true } })),
        ("all", json!({ "ack": "all" })),
        ("sled", json!({ "storage": { "engine": "sled" } })),
        ("redb", json!({ "storage": { "engine": "redb" } })),
        ("restarted", json!({ "restartAt": "2026-11-21T08:00:00Z" })),
        (
            "placed",
            json!({
                "nodeSelector": { "disk": "ssd" },
                "tolerations": [{ "key": "database", "operator": "Exists" }],
                "resources": { "limits": { "memory": "1Gi" } },
            }),
        ),
    ];
    let rendered: String = samples
        .into_iter()
        .map(|(name, spec)| format!("{name}: {:08x}\n", crc32c::crc32c(template(spec).as_bytes())))
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/templates.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    let record = std::fs::read_to_string(path).unwrap_or_default();
    assert!(rendered == record, "run with UPDATE_GOLDEN=1 and read the difference:\n{rendered}");
}

#[test]
fn configuration_has_the_settings_of_the_spec() {
    let config = |spec| objects(spec).config_map.data.unwrap()["heliosd.yaml"].clone();
    let plain = config(json!({}));
    assert!(plain.contains("engine: runs"));
    for section in ["reads:", "writes:"] {
        assert!(!plain.contains(section), "what is the node's default is left to the node");
    }
    let text = config(json!({ "reads": { "lease": true }, "ack": "all", "storage": { "engine": "redb" } }));
    for line in ["lease: true", "ack: all", "engine: redb"] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

/// The template from before certificates, passwords and the engine runs; protected mode was added since.
#[test]
fn template_is_unchanged_when_there_is_no_tls_and_no_password() {
    let open = template(
        json!({ "tls": { "mode": "off" }, "auth": { "enabled": false }, "storage": { "engine": "sled" } }),
    );
    let lines: Vec<_> = open.lines().collect();
    let added = lines.iter().position(|line| line.contains("HELIOS_PROTECTED_MODE")).unwrap();
    let open: String =
        [&lines[..added], &lines[added + 2..]].concat().iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(format!("{:08x}", crc32c::crc32c(open.as_bytes())), "23905a4f");
}

#[test]
fn certificate_and_password_are_mounted_and_the_key_of_the_authority_is_not() {
    let Objects { config_map, stateful_set, .. } = objects(json!({}));
    let config = config_map.data.unwrap()["heliosd.yaml"].clone();
    for line in [
        "cert_file: /etc/helios-tls/tls.crt",
        "ca_file: /etc/helios-tls/ca.crt",
        "users_file: /etc/helios-auth/users.yaml",
        "token_file: /etc/helios-auth/token",
        "gateway: 0.0.0.0:8443",
    ] {
        assert!(config.contains(line), "{line} is missing in\n{config}");
    }
    assert!(!config.contains("client:\n    cert_file"), "client ports have no TLS unless asked to");
    let template = yaml(&stateful_set.spec.template);
    assert!(template.contains("secretName: demo-peer-tls") && template.contains("secretName: demo-auth"));
    assert!(
        !template.contains("demo-ca") && !template.contains("ca.key") && !template.contains("key: password")
    );
}

#[test]
fn peer_port_is_open_to_members_and_the_operator_only() {
    assert!(objects(json!({ "networkPolicy": { "enabled": false } })).network_policy.is_none());
    let policy = objects(json!({})).network_policy.unwrap().spec.unwrap();
    let rules = policy.ingress.unwrap();
    let ports = |at: usize| -> Vec<String> {
        let ports = rules[at].ports.clone().unwrap();
        ports
            .into_iter()
            .map(|port| serde_json::to_value(port.port).unwrap().as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (ports(0), ports(1)),
        (vec!["peer".to_owned()], ["client", "grpc", "gateway", "metrics"].map(str::to_owned).to_vec())
    );
    let from = rules[0].from.clone().unwrap();
    assert!(from.len() == 2 && from[0].namespace_selector.is_none(), "members of this namespace: {from:?}");
    let operator = from[1].namespace_selector.clone().unwrap().match_labels.unwrap();
    assert_eq!(operator["kubernetes.io/metadata.name"], "helios-system");
    assert!(rules[1].from.is_none());
}

#[test]
fn template_changes_only_when_a_setting_needs_a_restart() {
    let base = template(json!({}));
    for rolls in [
        json!({ "image": "heliosd:2" }),
        json!({ "raft": { "preset": "fast" } }),
        json!({ "raft": { "snapshotEntries": 500 } }),
        json!({ "reads": { "lease": true } }),
        json!({ "tls": { "clients": true } }),
        json!({ "auth": { "enabled": false } }),
        json!({ "restartAt": "2026-11-21T08:00:00Z" }),
        json!({ "nodeSelector": { "disk": "ssd" } }),
        json!({ "resources": { "requests": { "cpu": "1" } } }),
    ] {
        assert_ne!(template(rolls.clone()), base, "{rolls}");
    }
    for quiet in [
        json!({ "ack": "all" }),
        json!({ "replicas": 5 }),
        json!({ "storage": { "size": "20Gi", "retain": false } }),
        json!({ "service": { "type": "LoadBalancer" } }),
        json!({ "podDisruptionBudget": { "enabled": false } }),
        json!({ "networkPolicy": { "enabled": false } }),
        json!({ "updateStrategy": { "maxLagEntries": 5, "paused": true } }),
        json!({ "updateStrategy": { "stableFor": "9s" }, "repair": { "after": "1m", "withoutQuarantine": true } }),
        json!({ "recovery": { "survivor": "demo-0", "confirm": "id" } }),
        json!({ "hibernate": true }),
        json!({ "paused": true }),
    ] {
        assert_eq!(template(quiet.clone()), base, "{quiet}");
    }
}

#[test]
fn budget_is_absent_when_there_is_one_member() {
    assert!(objects(json!({ "replicas": 1 })).budget.is_none());
    assert!(objects(json!({ "podDisruptionBudget": { "enabled": false } })).budget.is_none());
    assert!(objects(json!({ "replicas": 3 })).budget.is_some());
}

#[test]
fn pods_meet_the_restricted_standard() {
    let pod = objects(json!({})).stateful_set.spec.template.spec.unwrap();
    let of_pod = pod.security_context.unwrap();
    assert_eq!(of_pod.run_as_non_root, Some(true));
    assert_eq!(of_pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let of_container = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(of_container.allow_privilege_escalation, Some(false));
    assert_eq!(of_container.read_only_root_filesystem, Some(true));
    assert_eq!(of_container.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(pod.automount_service_account_token, Some(false));
}

#[test]
fn claim_template_is_kept_when_it_is_live() {
    let cluster = validated(json!({ "storage": { "size": "20Gi" } }));
    let shape = Shape { replicas: 3, template_volume_size: Some("10Gi".to_owned()) };
    let claims = build::objects(&cluster, &shape).unwrap().stateful_set.spec.volume_claim_templates.unwrap();
    let requests = claims[0].spec.clone().unwrap().resources.unwrap().requests.unwrap();
    assert_eq!(requests["storage"].0, "10Gi");
}

#[test]
fn protected_mode_is_off_only_when_there_are_no_users() {
    const VARIABLE: &str = "HELIOS_PROTECTED_MODE";
    assert!(!template(json!({})).contains(VARIABLE));
    let open = template(json!({"auth": {"enabled": false}}));
    let (_, rest) = open.split_once(VARIABLE).unwrap();
    assert!(
        rest.lines().nth(1).is_some_and(|line| line.contains("value") && line.contains("false")),
        "{rest}"
    );
}
