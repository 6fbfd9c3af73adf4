//! The container of the sidecar, to be pasted into the pod template of an application. Pure.

use helios_crds::{SIDECAR_PROBE_PORT as PROBES, client_secret, is_client_name};

use crate::error::Error;

/// Returns the parts of a pod's spec that run a sidecar for a HeliosClient: a native sidecar container, which starts before
/// the application and stops after it, and the volume with its Secret.
///
/// # Errors
/// The name is none of an object, or the port is the one of the probes.
pub fn yaml(client: &str, image: &str, port: u16) -> Result<String, Error> {
    if !is_client_name(client) {
        return Err(Error::Impossible(format!(
            "--client {client:?}: write the name of a HeliosClient, lower case letters, digits and '-'"
        )));
    }
    if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c == '\'') {
        return Err(Error::Impossible(format!("--image {image:?}: write an image of heliosd")));
    }
    if matches!(port, 0 | PROBES) {
        return Err(Error::Impossible(format!("--port {port}: write another one, as 6379")));
    }
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
  ports:
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
      memory: 32Mi
    limits:
      memory: 96Mi
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
  secret:
    secretName: {}
",
        client_secret(client)
    ))
}

#[cfg(test)]
mod tests {
    use helios_crds::{sidecar_container, sidecar_volume};
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    #[test]
    fn sidecar_to_paste_matches_the_golden_file_and_is_part_of_a_pod() {
        let text = yaml("orders", "heliosd:0.1.0", 6379).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sidecar.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap());
        let spec: PodSpec = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(spec.init_containers, Some(vec![sidecar_container("heliosd:0.1.0", 6379)]));
        assert_eq!(spec.volumes, Some(vec![sidecar_volume("orders")]));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "Orders", "-a", "a-", "a b", "a\nb", &"a".repeat(64)] {
            assert!(yaml(name, "heliosd:0.1.0", 6379).is_err(), "{name:?}");
        }
        assert!(yaml("a", "x\ny", 6379).is_err() && yaml("a", "x", 9121).is_err());
    }
}
