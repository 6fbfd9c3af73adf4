//! The container of the sidecar for the pod template of an application: to be pasted, or as a component of Kustomize.
//! Pure.

use std::fmt::Write as _;

use helios_crds::{
    INJECT_LABEL, SIDECAR_PROBE_PORT as PROBES, SidecarMode, SidecarOffline, SidecarReads, SidecarSettings,
    client_secret, is_client_name,
};

use crate::args::{Mode, Offline, Reads, SidecarYaml};
use crate::error::Error;

/// Kinds of workloads, as a regular expression of Kustomize, and the path of their pod template.
const WORKLOADS: [(&str, &[&str]); 3] = [
    ("Deployment|StatefulSet|DaemonSet|ReplicaSet|Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
    ("Pod", &[]),
];

/// Returns the parts of a pod's spec that run a sidecar for a HeliosClient: a native sidecar container, which starts before
/// the application and stops after it, and the volume with its Secret.
///
/// # Errors
/// The name is none of an object, the port is the one of the probes, or a setting is out of its range.
pub fn yaml(args: &SidecarYaml) -> Result<String, Error> {
    let parts = parts(args)?;
    let port = args.port;
    Ok(format!(
        "# Paste into the spec of a pod or pod template. The application connects to redis://localhost:{port}.\n{parts}"
    ))
}

/// Returns the `kustomization.yaml` of a component that adds the sidecar to all workloads whose label
/// [`INJECT_LABEL`] names the HeliosClient, and the label to their pods. A component has no parameters, so there is one
/// for each HeliosClient.
///
/// # Errors
/// Those of [`yaml`].
pub fn component(args: &SidecarYaml) -> Result<String, Error> {
    let parts = parts(args)?;
    let SidecarYaml { client, port, .. } = args;
    let mut text = format!(
        "# Adds the sidecar of the HeliosClient {client} to the workloads of a kustomization that have the label {INJECT_LABEL}: {client}.
# The application connects to redis://localhost:{port}.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
"
    );
    for (kinds, path) in WORKLOADS {
        // A Pod has the label, by which it was selected.
        let labels = match path {
            [] => String::new(),
            _ => format!("metadata:\n  labels:\n    {INJECT_LABEL}: {client}\n"),
        };
        let pod = format!("{labels}spec:\n{}", indented(&parts, 2));
        let fields = path.iter().rev();
        let patch = fields.fold(pod, |inner, field| format!("{field}:\n{}", indented(&inner, 2)));
        _ = write!(
            text,
            "- target:\n    kind: {kinds}\n    labelSelector: {INJECT_LABEL}={client}\n  patch: |\n"
        );
        // Kustomize takes kind and name from the workload, not from the patch.
        text.push_str(&indented("apiVersion: v1\nkind: Any\nmetadata:\n  name: any\n", 4));
        text.push_str(&indented(&patch, 4));
    }
    Ok(text)
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// Returns `initContainers` and `volumes` of a pod's spec.
fn parts(args: &SidecarYaml) -> Result<String, Error> {
    let SidecarYaml { client, image, port, mode, memory, max_staleness, reads, offline } = args;
    if !is_client_name(client) {
        return Err(Error::Impossible(format!(
            "--client {client:?}: write the name of a HeliosClient, lower case letters, digits and '-'"
        )));
    }
    if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c == '\'') {
        return Err(Error::Impossible(format!("--image {image:?}: write an image of heliosd")));
    }
    if matches!(*port, 0 | PROBES) {
        return Err(Error::Impossible(format!("--port {port}: write another one, as 6379")));
    }
    let mode = match mode {
        Mode::Proxy => SidecarMode::Proxy,
        Mode::Replica => SidecarMode::Replica,
    };
    let settings =
        SidecarSettings::new(mode, Some(memory), Some(max_staleness)).map_err(Error::Impossible)?;
    let reads = match reads {
        Reads::Session => SidecarReads::Session,
        Reads::Bounded => SidecarReads::Bounded,
        Reads::Linearizable => SidecarReads::Linearizable,
        Reads::Any => SidecarReads::Any,
    };
    let offline = match offline {
        Offline::Refuse => SidecarOffline::Refuse,
        Offline::ServeStale => SidecarOffline::ServeStale,
    };
    let settings = settings.reading(reads, offline);
    let flags: String = settings.flags().iter().map(|flag| format!("  - {flag}\n")).collect();
    let (requested, limit) = settings.memory();
    let secret = client_secret(client);
    Ok(format!(
        "initContainers:
- name: helios-sidecar
  image: '{image}'
  # A native sidecar: it starts before the application and stops after it.
  restartPolicy: Always
  args:
  - sidecar
  - --secret-dir=/etc/helios-sidecar
  - --listen=127.0.0.1:{port},[::1]:{port}
  - --metrics-listen=0.0.0.0:{PROBES}
{flags}  ports:
  - name: helios-metrics
    containerPort: {PROBES}
  startupProbe:
    httpGet:
      path: /readyz
      port: helios-metrics
    periodSeconds: 1
    failureThreshold: 120
  livenessProbe:
    httpGet:
      path: /livez
      port: helios-metrics
  resources:
    requests:
      cpu: 10m
      memory: {requested}
    limits:
      memory: {limit}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      drop:
      - ALL
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
  - name: helios-sidecar
    mountPath: /etc/helios-sidecar
    readOnly: true
volumes:
- name: helios-sidecar
  projected:
    sources:
    - secret:
        name: {secret}
        items:
        - key: uri
          path: uri
        - key: user
          path: user
        - key: password
          path: password
    - secret:
        name: {secret}
        optional: true
        items:
        - key: ca.crt
          path: ca.crt
        - key: follow
          path: follow
        - key: tls.crt
          path: tls.crt
        - key: tls.key
          path: tls.key
"
    ))
}

#[cfg(test)]
mod tests {
    use helios_crds::{sidecar_container, sidecar_volume};
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn args(client: &str) -> SidecarYaml {
        SidecarYaml {
            client: client.to_owned(),
            image: "heliosd:0.1.0".to_owned(),
            port: 6379,
            mode: Mode::Proxy,
            memory: "64Mi".to_owned(),
            max_staleness: "1s".to_owned(),
            reads: Reads::Session,
            offline: Offline::Refuse,
        }
    }

    #[test]
    fn sidecar_to_paste_matches_the_golden_file_and_is_part_of_a_pod() {
        let replica = SidecarYaml {
            mode: Mode::Replica,
            memory: "1Gi".to_owned(),
            reads: Reads::Any,
            offline: Offline::ServeStale,
            ..args("orders")
        };
        let settings = SidecarSettings::Replica {
            memory_mib: 1024,
            max_staleness_ms: 1_000,
            reads: SidecarReads::Any,
            offline: SidecarOffline::ServeStale,
        };
        for (args, settings, name) in [
            (args("orders"), SidecarSettings::Proxy, "sidecar.yaml"),
            (replica, settings, "sidecar-replica.yaml"),
        ] {
            let text = yaml(&args).unwrap();
            let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            assert_eq!(text, std::fs::read_to_string(&path).unwrap());
            let spec: PodSpec = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(spec.init_containers, Some(vec![sidecar_container("heliosd:0.1.0", 6379, settings)]));
            assert_eq!(spec.volumes, Some(vec![sidecar_volume("orders")]));
        }
    }

    #[test]
    fn component_of_the_example_is_the_one_that_is_printed() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/sidecar/kustomize/sidecar/kustomization.yaml");
        let replica = SidecarYaml { mode: Mode::Replica, memory: "32Mi".to_owned(), ..args("orders") };
        let text = component(&replica).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap_or_default(), "{path}");
    }

    #[test]
    fn example_has_the_sidecar_that_is_printed() {
        let example = include_str!("../../examples/sidecar/pasted.yaml");
        let job: serde_json::Value = serde_saphyr::from_str(example).unwrap();
        let replica = SidecarYaml { mode: Mode::Replica, memory: "32Mi".to_owned(), ..args("orders") };
        let printed: serde_json::Value = serde_saphyr::from_str(&yaml(&replica).unwrap()).unwrap();
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(
            (&spec["initContainers"], &spec["volumes"]),
            (&printed["initContainers"], &printed["volumes"])
        );
    }

    #[test]
    fn values_that_are_none_are_refused() {
        for name in ["", "Orders", "-a", "a-", "a b", "a\nb", &"a".repeat(64)] {
            assert!(yaml(&args(name)).is_err() && component(&args(name)).is_err(), "{name:?}");
        }
        for wrong in [
            SidecarYaml { image: "x\ny".to_owned(), ..args("a") },
            SidecarYaml { port: 9121, ..args("a") },
            SidecarYaml { memory: "64".to_owned(), ..args("a") },
            SidecarYaml { max_staleness: "1".to_owned(), ..args("a") },
        ] {
            assert!(yaml(&wrong).is_err(), "{wrong:?}");
        }
    }
}
