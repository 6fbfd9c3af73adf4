//! The webhook as a process, asked by a real API server with the configuration of the chart. The test copies the Secret
//! into the webhook's directory, as the kubelet does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use helios_crds::{
    HeliosClient, INJECT_LABEL, SIDECAR, SidecarOffline, SidecarReads, SidecarSettings, sidecar_container,
    sidecar_volume,
};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::operator::Operator;
use super::server::{Process, Server, free_port};
use super::{begin, until};

const NAME: &str = "demo-helios-operator-webhook";

/// Objects of the operator's chart with this `injection.mode`.
pub fn chart(mode: &str) -> Vec<Value> {
    let mode = format!("injection.mode={mode}");
    let name =
        ["template", "demo", "helm/helios-operator", "--namespace", "apps", "--kube-version", "1.34.4"];
    let output = helios_testing::cluster::run("helm", &[&name[..], &["--set", &mode]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents = String::from_utf8(output.stdout).unwrap();
    let documents = documents.split("\n---").filter(|document| document.contains("kind:"));
    documents.map(|document| serde_saphyr::from_str(document.trim_start_matches("---")).unwrap()).collect()
}

/// The configuration of the chart, for a webhook that is a process on this machine.
fn configuration(port: u16) -> MutatingWebhookConfiguration {
    let found = chart("webhook").into_iter().find(|object| object["kind"] == "MutatingWebhookConfiguration");
    let mut found = found.unwrap();
    found["webhooks"][0]["clientConfig"] = json!({"url": format!("https://localhost:{port}/inject")});
    serde_json::from_value(found).unwrap()
}

fn webhook(server: &Server, dir: &Path, port: u16) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_helios-operator"));
    command.args(["webhook", "--node-image", "heliosd:test", "--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--http-addr", &format!("127.0.0.1:{}", free_port())]).arg("--certificate-dir").arg(dir);
    command.env("KUBECONFIG", server.kubeconfig());
    Process::start(&mut command, &server.directory().join("webhook.log"))
}

/// Copies the Secret, if it is there, until dropped.
async fn kubelet(client: Client, dir: PathBuf) {
    let api = Api::<Secret>::default_namespaced(client);
    loop {
        if let Ok(Some(secret)) = api.get_opt(NAME).await {
            for name in ["tls.crt", "tls.key"] {
                if let Some(found) = secret.data.as_ref().and_then(|data| data.get(name)) {
                    std::fs::write(dir.join(name), &found.0).unwrap();
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub fn pod(name: &str, spec: Value) -> Pod {
    let metadata = json!({"name": name, "labels": {INJECT_LABEL: "orders"}});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
        .unwrap()
}

pub fn plain() -> Value {
    json!({"containers": [{"name": "app", "image": "app"}]})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn pods_with_the_label_get_a_sidecar_and_others_never_wait() {
    let (server, _nodes) = begin().await;
    let client = server.client.clone();
    let (port, dir) = (free_port(), server.directory().join("webhook"));
    std::fs::create_dir(&dir).unwrap();
    let configurations = Api::<MutatingWebhookConfiguration>::all(client.clone());
    configurations.create(&PostParams::default(), &configuration(port)).await.unwrap();
    let pods = Api::<Pod>::default_namespaced(client.clone());
    let create = async |pod: &Pod| pods.create(&PostParams::default(), pod).await;

    // Without a webhook: a pod with the label is refused, others are created.
    let refused = create(&pod("early", plain())).await.unwrap_err().to_string();
    assert!(refused.contains("inject.heliosdb.io"), "{refused}");
    let mut unlabelled = pod("other", plain());
    unlabelled.metadata.labels = None;
    create(&unlabelled).await.unwrap();

    let _operator = Operator::start_with(&server, "a", &["--injection-webhook", NAME]);
    let _kubelet = tokio::spawn(kubelet(client.clone(), dir.clone()));
    let process = webhook(&server, &dir, port);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let answers = async || {
        let created = pods.create(&dry, &pod("dry", plain())).await;
        created.is_err_and(|refused| {
            refused.to_string().contains("there is no HeliosClient orders in namespace default")
        })
    };
    until("the API server trusts the webhook", Duration::from_secs(90), answers).await;
    let clients = Api::<HeliosClient>::default_namespaced(client.clone());
    let orders = |spec: Value| HeliosClient::new("orders", serde_json::from_value(spec).unwrap());
    let turbo = json!({"apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosClient", "metadata": {"name": "orders"},
        "spec": {"cluster": {"name": "demo"}, "mode": "Replica", "memory": "1Mi"}});
    let refused = clients.create(&PostParams::default(), &serde_json::from_value(turbo).unwrap()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("spec.memory: write a number with Mi or Gi, from 8Mi to 64Gi"), "{refused}");
    let proxy = orders(json!({"cluster": {"name": "demo"}}));
    clients.create(&PostParams::default(), &proxy).await.unwrap();

    let works = async || pods.create(&dry, &pod("dry", plain())).await.is_ok();
    let memory_mib = 256;
    for (name, mode, settings) in [
        ("app", json!({"mode": "Proxy"}), SidecarSettings::Proxy),
        (
            "reader",
            json!({"mode": "Replica", "memory": "256Mi", "maxStaleness": "2s", "reads": "Any", "offline": "ServeStale"}),
            SidecarSettings::Replica {
                memory_mib,
                max_staleness_ms: 2_000,
                reads: SidecarReads::Any,
                offline: SidecarOffline::ServeStale,
            },
        ),
    ] {
        let patch = Patch::Merge(json!({"spec": mode}));
        clients.patch("orders", &PatchParams::default(), &patch).await.unwrap();
        let spec = create(&pod(name, plain())).await.unwrap().spec.unwrap();
        let sidecar = &spec.init_containers.as_ref().unwrap()[0];
        let wanted = sidecar_container("heliosd:test", 6379, settings);
        assert_eq!((&sidecar.name, &sidecar.args), (&wanted.name, &wanted.args));
        assert_eq!((&sidecar.image, &sidecar.resources), (&wanted.image, &wanted.resources));
        assert_eq!(sidecar.restart_policy.as_deref(), Some("Always"));
        assert!(spec.volumes.unwrap().iter().any(|it| it.name == sidecar_volume("orders").name));
    }
    let taken =
        json!({"containers": [{"name": "cache", "image": "redis", "ports": [{"containerPort": 6379}]}]});
    let refused = create(&pod("taken", taken)).await.unwrap_err().to_string();
    assert!(refused.contains("container cache uses port 6379"), "{refused}");
    let pasted = json!({
        "initContainers": [{"name": SIDECAR, "image": "mine", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "image": "app"}],
    });
    let spec = create(&pod("pasted", pasted)).await.unwrap().spec.unwrap();
    assert_eq!(spec.init_containers.unwrap()[0].image.as_deref(), Some("mine"));

    // Another certificate of another CA: the process takes it over without a restart.
    let secrets = Api::<Secret>::default_namespaced(client.clone());
    let before = secrets.get(NAME).await.unwrap();
    secrets.delete(NAME, &DeleteParams::default()).await.unwrap();
    let is_new = async || secrets.get(NAME).await.is_ok_and(|now| now.data != before.data);
    until("the operator has written another certificate", Duration::from_secs(90), is_new).await;
    until("the webhook shows it", Duration::from_secs(90), works).await;

    drop(process);
    assert!(
        create(&pod("late", plain())).await.is_err(),
        "a pod with the label does not start without its sidecar"
    );
    let mut unlabelled = pod("another", plain());
    unlabelled.metadata.labels = None;
    create(&unlabelled).await.unwrap();
}
