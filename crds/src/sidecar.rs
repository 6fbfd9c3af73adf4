//! The sidecar in a pod: its container, and the volume with the Secret of a HeliosClient. Pure.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, HTTPGetAction, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Label on a pod that asks for a sidecar; its value is the name of a HeliosClient in the namespace of the pod.
pub const INJECT_LABEL: &str = "heliosdb.io/inject";
/// Name of the container, and of its volume.
pub const SIDECAR: &str = "helios-sidecar";
/// Port on localhost where the application connects.
pub const SIDECAR_PORT: u16 = 6379;
/// Port of the probes and metrics.
pub const SIDECAR_PROBE_PORT: u16 = 9121;
/// Environment variable of the application's containers: the URL of the sidecar.
pub const SIDECAR_URL: &str = "HELIOS_URL";

const SECRET_DIR: &str = "/etc/helios-sidecar";
const PROBE_PORT_NAME: &str = "helios-metrics";

/// Returns a native sidecar container, which starts before the application and stops after it. It meets the restricted
/// Pod Security Standard and has no fixed user id.
pub fn sidecar_container(image: &str, port: u16) -> Container {
    let probe = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(PROBE_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    };
    let quantities = |pairs: &[(&str, &str)]| {
        Some(
            pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect(),
        )
    };
    Container {
        name: SIDECAR.to_owned(),
        image: Some(image.to_owned()),
        restart_policy: Some("Always".to_owned()),
        args: Some(vec![
            "sidecar".to_owned(),
            format!("--secret-dir={SECRET_DIR}"),
            format!("--listen=127.0.0.1:{port},[::1]:{port}"),
            format!("--metrics-listen=0.0.0.0:{SIDECAR_PROBE_PORT}"),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some(PROBE_PORT_NAME.to_owned()),
            container_port: i32::from(SIDECAR_PROBE_PORT),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(120),
            ..probe("/readyz")
        }),
        liveness_probe: Some(probe("/livez")),
        resources: Some(ResourceRequirements {
            requests: quantities(&[("cpu", "10m"), ("memory", "32Mi")]),
            limits: quantities(&[("memory", "96Mi")]),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: SIDECAR.to_owned(),
            mount_path: SECRET_DIR.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// Returns the volume of [`sidecar_container`]: the Secret of the HeliosClient `client`.
pub fn sidecar_volume(client: &str) -> Volume {
    Volume {
        name: SIDECAR.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(client_secret(client)),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Returns the name of the Secret that the operator writes for the HeliosClient `client`.
pub fn client_secret(client: &str) -> String {
    format!("{client}-helios")
}

/// Whether a HeliosClient can have this name: a label of DNS, as the rule of the resource says.
pub fn is_client_name(name: &str) -> bool {
    let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(is_label)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clients_are_labels_of_dns() {
        assert!(["a", "orders-2", &"a".repeat(63)].into_iter().all(is_client_name));
        for name in ["", "Orders", "-a", "a-", "a b", "a.b", "a\nb", &"a".repeat(64)] {
            assert!(!is_client_name(name), "{name:?}");
        }
    }
}
