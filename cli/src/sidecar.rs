//! The container of the sidecar, to be pasted into the pod template of an application. Pure.

use helios_crds::{
    SIDECAR_PROBE_PORT as PROBES, SidecarMode, SidecarOffline, SidecarReads, SidecarSettings, client_secret,
    is_client_name,
};

use crate::args::{Mode, Offline, Reads, SidecarYaml};
use crate::error::Error;

/// Returns the parts of a pod's spec that run a sidecar for a HeliosClient: a native sidecar container, which starts before
/// the application and stops after it, and the volume with its Secret.
///
/// # Errors
/// The name is none of an object, the port is the one of the probes, or a setting is out of its range.
pub fn yaml(args: &SidecarYaml) -> Result<String, Error> {
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
        "# Paste into the spec of a pod or pod template. The application connects to redis://localhost:{port}.
initContainers:
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
            assert!(yaml(&args(name)).is_err(), "{name:?}");
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
