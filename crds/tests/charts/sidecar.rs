//! The library chart `helios-sidecar`, used by the chart of examples/sidecar/helm.

use std::fs;
use std::path::Path;

use helios_crds::{
    INJECT_LABEL, SIDECAR_URL, SidecarMode, SidecarOffline, SidecarReads, SidecarSettings, sidecar_container,
    sidecar_volume,
};
use helios_testing::tree::ROOT;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::{Value, json};

use super::{helm, render};

const LIBRARY: &str = "helm/helios-sidecar";
const EXAMPLE: &str = "examples/sidecar/helm";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = fs::copy(entry.path(), target).unwrap(),
        }
    }
}

/// A copy of the example with the library, as `helm dependency update` puts it there.
struct Example(tempfile::TempDir);

impl Example {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for chart in [LIBRARY, EXAMPLE] {
            copy(&Path::new(ROOT).join(chart), &dir.path().join(chart));
        }
        let example = Self(dir);
        let output = helm(&["dependency", "update", "--skip-refresh", &example.chart()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        example
    }

    fn chart(&self) -> String {
        self.0.path().join(EXAMPLE).display().to_string()
    }

    fn pod(&self, values: &[&str]) -> Result<PodTemplateSpec, String> {
        let deployment = render(&self.chart(), values)?.remove(0);
        Ok(serde_json::from_value(deployment["spec"]["template"].clone()).unwrap())
    }
}

/// The parts of a pod that a sidecar adds.
fn added(spec: &PodSpec) -> Value {
    json!([spec.init_containers, spec.volumes, spec.containers[0].env])
}

fn replica(memory: &str, max_staleness: &str) -> SidecarSettings {
    SidecarSettings::new(SidecarMode::Replica, Some(memory), Some(max_staleness)).unwrap()
}

#[test]
fn library_chart_has_the_sidecar_of_the_webhook() {
    let example = Example::new();
    for (values, image, port, settings) in [
        (vec![], "heliosd:0.1.0", 6379, replica("32Mi", "1s")),
        (vec![r#"sidecar.mode="Proxy""#], "heliosd:0.1.0", 6379, SidecarSettings::Proxy),
        (
            vec![
                r#"sidecar.memory="3Gi""#,
                r#"sidecar.maxStaleness="250ms""#,
                r#"sidecar.reads="Linearizable""#,
                r#"sidecar.offline="ServeStale""#,
                "sidecar.port=7000",
                r#"sidecar.image="registry.example.com/heliosd@sha256:0""#,
            ],
            "registry.example.com/heliosd@sha256:0",
            7000,
            replica("3Gi", "250ms").reading(SidecarReads::Linearizable, SidecarOffline::ServeStale),
        ),
    ] {
        let pod = example.pod(&values).unwrap();
        assert_eq!(pod.metadata.unwrap().labels.unwrap()[INJECT_LABEL], "orders");
        let wanted = json!([
            [sidecar_container(image, port, settings)],
            [sidecar_volume("orders")],
            [{"name": SIDECAR_URL, "value": format!("redis://localhost:{port}")}],
        ]);
        assert_eq!(added(&pod.spec.unwrap()), wanted, "{values:?}");
    }
}

#[test]
fn workloads_of_one_chart_have_sidecars_of_different_clients() {
    let example = Example::new();
    let other = r#"
kind: Pod
spec:
  initContainers:
    {{- include "helios.sidecar" (merge (dict "client" "audit" "mode" "Proxy") .Values.sidecar) | nindent 4 }}
  containers: [{name: app}]
  volumes:
    {{- include "helios.sidecar.volume" (merge (dict "client" "audit") .Values.sidecar) | nindent 4 }}
"#;
    fs::write(Path::new(&example.chart()).join("templates/pod.yaml"), other).unwrap();
    let documents = render(&example.chart(), &[]).unwrap();
    let of_kind = |kind: &str| documents.iter().find(|it| it["kind"] == kind).unwrap();
    let pod: PodSpec = serde_json::from_value(of_kind("Pod")["spec"].clone()).unwrap();
    let deployment = &of_kind("Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod.volumes, Some(vec![sidecar_volume("audit")]));
    assert_eq!(
        pod.init_containers,
        Some(vec![sidecar_container("heliosd:0.1.0", 6379, SidecarSettings::Proxy)])
    );
    assert_eq!(deployment["volumes"], json!([sidecar_volume("orders")]));
}

#[test]
fn memory_and_age_of_the_library_chart_are_rounded_and_refused_as_those_of_a_heliosclient() {
    let example = Example::new();
    for memory in ["8Mi", "9Mi", "63Mi", "64Gi", "7Mi", "65Gi", "064Mi", "64", "64M", "99999Gi"] {
        let found = example.pod(&[&format!("sidecar.memory={}", json!(memory))]);
        match SidecarSettings::new(SidecarMode::Replica, Some(memory), None) {
            Ok(settings) => {
                let container = &found.unwrap().spec.unwrap().init_containers.unwrap()[0];
                assert_eq!(container, &sidecar_container("heliosd:0.1.0", 6379, settings), "{memory}");
            }
            Err(reason) => {
                let found = found.unwrap_err();
                assert!(found.contains(reason.trim_start_matches("spec.")), "{memory}: {found}");
            }
        }
    }
    for (values, word) in [
        (r#"sidecar.maxStaleness="99ms""#, "maxStaleness: write a time in ms or s, from 100ms to 600s"),
        (r#"sidecar.maxStaleness="601s""#, "maxStaleness: write a time in ms or s, from 100ms to 600s"),
        (r#"sidecar.client="Orders""#, r#"client: "Orders" is not the name of a HeliosClient"#),
        (r#"sidecar.client="""#, r#"client: "" is not the name of a HeliosClient"#),
        ("sidecar.port=9121", "port: 9121: write another one"),
        (r#"sidecar.mode="Cache""#, "mode"),
        (r#"sidecar.reads="Eventual""#, "reads"),
        (r#"sidecar.offline="Serve""#, "offline"),
        (r#"sidecar.memroy="64Mi""#, "memroy"),
    ] {
        let refusal = example.pod(&[values]).unwrap_err();
        assert!(refusal.contains(word), "{values}: {refusal}");
    }
}
