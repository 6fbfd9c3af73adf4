//! The objects of a cluster's backups match the golden file.
#![allow(clippy::unwrap_used)]

use helios_crds::{
    DRILL_LABEL, DrillJobSpec, HeliosBackup, HeliosBackupStore, HeliosCluster, HeliosScheduledBackup,
    RunningDrill,
};
use helios_operator::build::backup::{
    Restore, archiver, archiver_policy, backup_job, backup_policy, drill_cluster, drill_job, drill_policy,
    restore_job, restore_policy,
};
use helios_operator::build::{self, Shape};
use helios_operator::validate::{Defaults, ValidatedCluster, validate};
use k8s_openapi::api::core::v1::PodSpec;
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/backup.yaml");

fn cluster(spec: Value) -> ValidatedCluster {
    let mut cluster = HeliosCluster::new("demo", serde_json::from_value(spec).unwrap());
    cluster.metadata.namespace = Some("default".to_owned());
    cluster.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000001".to_owned());
    let defaults = Defaults {
        node_image: Some("heliosd:0.1.0".to_owned()),
        operator_namespace: "helios-system".to_owned(),
    };
    validate(&cluster, None, &defaults).unwrap()
}

fn store(spec: Value) -> HeliosBackupStore {
    HeliosBackupStore::new("nightly", serde_json::from_value(spec).unwrap())
}

fn s3() -> HeliosBackupStore {
    store(json!({
        "s3": {"bucket": "acme", "prefix": "helios", "endpoint": "https://s3.example.com:9000", "caSecret": "s3-ca"},
        "credentials": {"secretName": "s3-credentials"},
        "encryption": {"keySecret": "backup-keys"},
        "maxBytesPerSecond": 50_000_000,
    }))
}

fn backup(spec: Value) -> HeliosBackup {
    let mut backup = HeliosBackup::new("before-upgrade", serde_json::from_value(spec).unwrap());
    backup.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000002".to_owned());
    backup
}

fn yaml(object: &impl Serialize) -> String {
    let text = serde_saphyr::to_string(&serde_json::to_value(object).unwrap()).unwrap();
    if text.ends_with('\n') { text } else { text + "\n" }
}

fn recovering() -> ValidatedCluster {
    cluster(json!({
        "backup": {"store": "nightly"},
        "bootstrap": {"recovery": {
            "store": "nightly", "cluster": "old", "clusterNamespace": "prod", "target": {"time": "2026-11-21T08:00:00Z"},
        }},
    }))
}

fn restore(cluster: &ValidatedCluster, store: &HeliosBackupStore) -> k8s_openapi::api::batch::v1::Job {
    let recovery = cluster.spec.bootstrap.as_ref().unwrap().recovery.as_ref().unwrap();
    let restore = Restore { cluster_id: "new-id", disk_id: "disk-1", fencing_token: 3, has_admin: true };
    restore_job(cluster, store, recovery, &restore)
}

/// The cluster of a drill of the state of twelve hours before.
fn drill() -> HeliosCluster {
    let drill = json!({"schedule": "0 5 * * *", "storage": {"size": "2Gi"}});
    let spec = json!({"schedule": "0 3 * * *", "backup": {"cluster": "demo"}, "drill": drill});
    let mut scheduled = HeliosScheduledBackup::new("nightly", serde_json::from_value(spec).unwrap());
    scheduled.metadata.namespace = Some("default".to_owned());
    scheduled.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000003".to_owned());
    let members =
        json!({"storage": {"size": "10Gi", "storageClassName": "fast"}, "nodeSelector": {"disk": "nvme"}});
    let mut source = HeliosCluster::new("demo", serde_json::from_value(members).unwrap());
    source.status = Some(serde_json::from_value(json!({"clusterId": "demo-id"})).unwrap());
    let running: RunningDrill = serde_json::from_value(json!({
        "cluster": "nightly-drill-1", "startedAt": "2026-11-21T05:00:00Z", "deadline": "2026-11-21T06:00:00Z",
        "target": "2026-11-20T17:00:00Z",
    }))
    .unwrap();
    let owner = scheduled.controller_owner_ref(&()).unwrap();
    drill_cluster(&scheduled, owner, &source, "nightly", &running)
}

/// The same, as the API server has it and the operator takes it.
fn drilled() -> ValidatedCluster {
    let mut drill = drill();
    drill.validate_cel().unwrap();
    drill.metadata.uid = Some("5c0ffee0-0000-4000-8000-000000000004".to_owned());
    let defaults = Defaults {
        node_image: Some("heliosd:0.1.0".to_owned()),
        operator_namespace: "helios-system".to_owned(),
    };
    validate(&drill, None, &defaults).unwrap()
}

fn check() -> k8s_openapi::api::batch::v1::Job {
    let job = json!({"image": "redis:7", "command": ["sh", "-c", "redis-cli -u $REDIS_URL exists orders"]});
    drill_job(&drilled(), &serde_json::from_value::<DrillJobSpec>(job).unwrap(), 3000)
}

#[test]
fn backup_objects_match_the_golden_file() {
    let cluster = recovering();
    let once = backup(json!({"cluster": "demo"}));
    let owner = once.controller_owner_ref(&()).unwrap();
    let volume = store(json!({"volume": {"claimName": "backups", "subPath": "helios"}}));
    let rendered = [
        yaml(&archiver(&cluster, &s3(), 1).unwrap()),
        yaml(&archiver_policy(&cluster, &s3()).unwrap()),
        yaml(&backup_job(&once, owner.clone(), &cluster, &volume)),
        yaml(&backup_policy(&once, owner, &cluster, &s3()).unwrap()),
        yaml(&restore(&cluster, &s3())),
        yaml(&restore_policy(&cluster, &s3()).unwrap()),
        yaml(&drill()),
        yaml(&check()),
        yaml(&drill_policy(&drilled()).unwrap()),
    ]
    .join("---\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(RECORD, &rendered).unwrap();
    }
    let record = std::fs::read_to_string(RECORD).unwrap_or_default();
    assert!(rendered == record, "run with UPDATE_GOLDEN=1 and read the difference:\n{rendered}");
}

fn pods() -> Vec<PodSpec> {
    let cluster = recovering();
    let once = backup(json!({"cluster": "demo"}));
    let owner = once.controller_owner_ref(&()).unwrap();
    let jobs = [backup_job(&once, owner, &cluster, &s3()), restore(&cluster, &s3()), check()];
    let deployment = archiver(&cluster, &s3(), 1).unwrap();
    let jobs = jobs.map(|job| job.spec.unwrap().template);
    [deployment.spec.template].into_iter().chain(jobs).map(|template| template.spec.unwrap()).collect()
}

#[test]
fn pods_of_backups_meet_the_restricted_standard_and_have_no_token_of_kubernetes() {
    for pod in pods() {
        let of_pod = pod.security_context.unwrap();
        assert_eq!(of_pod.run_as_non_root, Some(true));
        assert_eq!(of_pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let of_container = pod.containers[0].security_context.clone().unwrap();
        assert_eq!(of_container.allow_privilege_escalation, Some(false));
        assert_eq!(of_container.read_only_root_filesystem, Some(true));
        assert_eq!(of_container.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(pod.automount_service_account_token, Some(false));
    }
}

#[test]
fn members_are_unchanged_when_backups_are_turned_on() {
    let template = |spec| {
        let shape = Shape { replicas: 3, template_volume_size: None };
        yaml(&build::objects(&cluster(spec), &shape).unwrap().stateful_set.spec.template)
    };
    let backup = json!({"backup": {"store": "nightly", "flushInterval": "1s"}});
    assert_eq!(template(backup), template(json!({})));
}

#[test]
fn services_and_budgets_of_members_select_no_pod_of_backups() {
    let shape = Shape { replicas: 3, template_volume_size: None };
    let objects = build::objects(&recovering(), &shape).unwrap();
    let selectors = [objects.client, objects.leader, objects.read, objects.peers]
        .map(|service| service.spec.unwrap().selector.unwrap());
    let labels = archiver(&recovering(), &s3(), 1).unwrap().spec.template.metadata.unwrap().labels.unwrap();
    for selector in selectors {
        assert!(selector.iter().any(|(key, value)| labels.get(key) != Some(value)), "{selector:?}");
    }
}

#[test]
fn client_ports_of_a_drill_are_open_to_its_job_only() {
    let shape = Shape { replicas: 1, template_volume_size: None };
    let objects = build::objects(&drilled(), &shape).unwrap();
    let rules = objects.network_policy.unwrap().spec.unwrap().ingress.unwrap();
    let has_port = |name: &str| {
        let of = |rule: &&k8s_openapi::api::networking::v1::NetworkPolicyIngressRule| {
            yaml(&rule.ports).contains(&format!("port: {name}\n"))
        };
        rules.iter().filter(of).cloned().collect::<Vec<_>>()
    };
    for port in ["client", "grpc", "gateway"] {
        let [rule] = &has_port(port)[..] else { panic!("{port}: {rules:?}") };
        let [peer] = rule.from.as_deref().unwrap() else { panic!("{rule:?}") };
        let selected = peer.pod_selector.clone().unwrap().match_labels.unwrap();
        let labels = check().spec.unwrap().template.metadata.unwrap().labels.unwrap();
        assert!(selected.iter().all(|(key, value)| labels.get(key) == Some(value)), "{selected:?}");
    }
    assert_eq!(has_port("metrics").len(), 1);
    // The PodMonitor of the members leaves it out.
    let labels = objects.stateful_set.spec.template.metadata.unwrap().labels.unwrap();
    assert!(labels.contains_key(DRILL_LABEL));
}

#[test]
fn restore_of_a_drill_is_recorded_in_the_store() {
    let args = |cluster: &ValidatedCluster| {
        restore(cluster, &s3()).spec.unwrap().template.spec.unwrap().containers[0].args.clone().unwrap()
    };
    let is_recorded = |cluster: &ValidatedCluster| args(cluster).contains(&"--record".to_owned());
    assert!(is_recorded(&drilled()) && !is_recorded(&recovering()));
}

#[test]
fn every_second_restore_of_a_drill_compares_two_bases_and_no_other_restore_does() {
    let env = |cluster: &ValidatedCluster| {
        let container = restore(cluster, &s3()).spec.unwrap().template.spec.unwrap().containers.remove(0);
        container.env.unwrap_or_default().into_iter().map(|one| (one.name, one.value)).collect::<Vec<_>>()
    };
    let expected = ("HELIOS_BACKUP_CROSS_CHECK".to_owned(), Some("alternate".to_owned()));
    assert_eq!((env(&drilled()), env(&recovering())), (vec![expected], Vec::new()));
}

#[test]
fn policies_are_left_out_when_the_spec_declines_them() {
    let open = cluster(json!({"backup": {"store": "s"}, "networkPolicy": {"enabled": false}}));
    let once = backup(json!({"cluster": "demo"}));
    let owner = once.controller_owner_ref(&()).unwrap();
    assert_eq!(archiver_policy(&open, &s3()), None);
    assert_eq!(backup_policy(&once, owner, &open, &s3()), None);
    assert_eq!(restore_policy(&open, &s3()), None);
}

#[test]
fn peer_port_is_open_to_the_restore_only_when_the_cluster_has_one() {
    let from = |spec| {
        let shape = Shape { replicas: 3, template_volume_size: None };
        let policy = build::objects(&cluster(spec), &shape).unwrap().network_policy.unwrap();
        policy.spec.unwrap().ingress.unwrap()[0].from.clone().unwrap().len()
    };
    let recovery = json!({"bootstrap": {"recovery": {"store": "nightly", "cluster": "old"}}});
    assert_eq!((from(json!({})), from(recovery)), (2, 3));
}

#[test]
fn archiver_has_neither_user_nor_certificate_when_the_members_have_none() {
    let open = json!({"backup": {"store": "s"}, "auth": {"enabled": false}, "tls": {"mode": "off"}});
    let gcs = store(json!({"gcs": {"bucket": "acme"}, "serviceAccountName": "backup"}));
    let pod = archiver(&cluster(open), &gcs, 1).unwrap().spec.template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap().join(" ");
    assert!(!args.contains("--user") && !args.contains("--tls") && !args.contains("--key-dir"), "{args}");
    assert_eq!(pod.service_account_name.as_deref(), Some("backup"));
    let clients = json!({"backup": {"store": "s"}, "tls": {"clients": true}});
    let pod = archiver(&cluster(clients), &gcs, 1).unwrap().spec.template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap().join(" ");
    assert!(args.contains("--tls-ca-file /etc/helios-tls/ca.crt"), "{args}");
    let off = json!({"backup": {"store": "s", "archive": false}});
    assert!(archiver(&cluster(off), &gcs, 1).is_none());
}
