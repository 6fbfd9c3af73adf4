//! The component of `heliosctl sidecar kustomize` in the real Kustomize of kubectl.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use helios_crds::{
    INJECT_LABEL, SidecarOffline, SidecarReads, SidecarSettings, sidecar_container, sidecar_volume,
};
use helios_testing::tree::ROOT;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use crate::dev::ctl;

const IMAGE: &str = "heliosd:0.1.0";
const REPLICA: SidecarSettings = SidecarSettings::Replica {
    memory_mib: 32,
    max_staleness_ms: 1_000,
    reads: SidecarReads::Session,
    offline: SidecarOffline::Refuse,
};

fn kustomize(dir: &Path) -> Vec<Value> {
    let output = helios_testing::cluster::run("kubectl", &["kustomize", &dir.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Pod template of a workload; a Pod is one.
fn template(workload: &Value) -> &Value {
    match workload["kind"].as_str().unwrap() {
        "Pod" => workload,
        "CronJob" => &workload["spec"]["jobTemplate"]["spec"]["template"],
        _ => &workload["spec"]["template"],
    }
}

/// Returns the pod template with a sidecar of `client`, by the functions that the webhook uses. Kustomize puts the volume before
/// the others, whose order has no meaning.
fn with_sidecar(before: &Value, client: &str, settings: SidecarSettings) -> PodTemplateSpec {
    let mut pod: PodTemplateSpec = serde_json::from_value(before.clone()).unwrap();
    let labels = pod.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(INJECT_LABEL.to_owned(), client.to_owned());
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers.get_or_insert_default().insert(0, sidecar_container(IMAGE, 6379, settings));
    spec.volumes.get_or_insert_default().insert(0, sidecar_volume(client));
    pod
}

fn component(dir: &Path, arguments: &[&str]) {
    let printed = ctl(&[&["sidecar", "kustomize"], arguments].concat());
    assert!(printed.status.success(), "{printed:?}");
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("kustomization.yaml"), printed.stdout).unwrap();
}

fn workloads() -> Vec<Value> {
    let spec = json!({
        "initContainers": [{"name": "migrate", "image": "app", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "image": "app", "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}],
        "volumes": [{"name": "cache", "emptyDir": {}}],
    });
    let small = json!({"containers": [{"name": "app", "image": "app"}]});
    let pod = |spec: &Value| json!({"metadata": {"labels": {"app": "x"}}, "spec": spec});
    let job = json!({"template": {"spec": small}});
    let workload = |api: &str, kind: &str, spec: Value| {
        let metadata = json!({"name": kind.to_lowercase(), "labels": {INJECT_LABEL: "orders"}});
        json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})
    };
    let mut other = workload("apps/v1", "Deployment", json!({"template": pod(&spec)}));
    other["metadata"] = json!({"name": "other", "labels": {INJECT_LABEL: "audit"}});
    let mut none = other.clone();
    none["metadata"] = json!({"name": "none"});
    vec![
        workload("apps/v1", "Deployment", json!({"template": pod(&spec)})),
        workload("apps/v1", "StatefulSet", json!({"template": pod(&spec)})),
        workload("apps/v1", "DaemonSet", json!({"template": pod(&small)})),
        workload("apps/v1", "ReplicaSet", json!({"template": pod(&small)})),
        workload("batch/v1", "Job", job.clone()),
        workload("batch/v1", "CronJob", json!({"jobTemplate": {"spec": job}})),
        workload("v1", "Pod", spec),
        other,
        none,
    ]
}

#[test]
fn workloads_with_the_label_have_the_sidecar_of_the_webhook_and_others_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    component(
        &path.join("orders"),
        &[
            "--client",
            "orders",
            "--mode",
            "replica",
            "--memory",
            "32Mi",
            "--reads",
            "any",
            "--offline",
            "serve-stale",
        ],
    );
    component(&path.join("audit"), &["--client", "audit"]);
    let before = workloads();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": before});
    fs::write(path.join("workloads.yaml"), list.to_string()).unwrap();
    let kustomization = json!({"resources": ["workloads.yaml"], "components": ["orders", "audit"]});
    fs::write(path.join("kustomization.yaml"), kustomization.to_string()).unwrap();

    let name = |it: &Value| (it["kind"].to_string(), it["metadata"]["name"].to_string());
    let after: BTreeMap<_, _> = kustomize(path).into_iter().map(|it| (name(&it), it)).collect();
    assert_eq!(after.len(), before.len());
    for workload in &before {
        let changed = &after[&name(workload)];
        let settings = match workload["metadata"]["labels"][INJECT_LABEL].as_str() {
            Some("orders") => {
                Some(("orders", REPLICA.reading(SidecarReads::Any, SidecarOffline::ServeStale)))
            }
            Some(client) => Some((client, SidecarSettings::Proxy)),
            None => None,
        };
        let Some((client, settings)) = settings else {
            assert_eq!(changed, workload);
            continue;
        };
        let found: PodTemplateSpec = serde_json::from_value(template(changed).clone()).unwrap();
        assert_eq!(found, with_sidecar(template(workload), client, settings), "{workload}");
        assert_eq!(changed["metadata"], workload["metadata"]);
    }
}

#[test]
fn example_of_kustomize_has_the_sidecar_in_both_workloads() {
    let dir = Path::new(ROOT).join("examples/sidecar/kustomize");
    let plain = fs::read_to_string(dir.join("workloads.yaml")).unwrap();
    let plain: Vec<Value> =
        plain.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect();
    let found = kustomize(&dir);
    assert_eq!((plain.len(), found.len()), (2, 2));
    for before in &plain {
        let after = found.iter().find(|it| it["kind"] == before["kind"]).unwrap();
        let after: PodTemplateSpec = serde_json::from_value(template(after).clone()).unwrap();
        assert_eq!(after, with_sidecar(template(before), "orders", REPLICA));
    }
}
