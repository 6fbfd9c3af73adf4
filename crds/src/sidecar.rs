//! The sidecar in a pod: its container, and the volume with the Secret of a HeliosClient. Pure.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, HTTPGetAction, KeyToPath, Probe, ProjectedVolumeSource,
    ResourceRequirements, SeccompProfile, SecretProjection, SecurityContext, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
/// Flag of `heliosd sidecar` in mode Replica.
pub const REPLICA_FLAG: &str = "--mode=replica";

/// Memory limit of a sidecar that holds no keys, MiB: 32 for the process, and 64 for requests and replies that wait
/// (`--max-memory-bytes`).
const PROXY_MIB: u64 = 96;
/// Memory limit of one that holds keys, beside five quarters of `spec.memory`, MiB: its memory while all keys are
/// overwritten was measured (docs/adr/0039-mode-of-a-heliosclient.md).
const REPLICA_MIB: u64 = 128;
/// Requested memory of a sidecar beside the keys that it holds, MiB.
const REQUESTED_MIB: u64 = 32;
/// Limits of `spec.memory`, MiB, and of `spec.maxStaleness`, milliseconds.
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 8..=64 << 10;
const STALENESS_MS: std::ops::RangeInclusive<u64> = 100..=600_000;
/// Suffix of the name of a HeliosClient in the name of its Secret.
const SECRET_SUFFIX: &str = "-helios";
const SECRET_DIR: &str = "/etc/helios-sidecar";
const SECRET_FILES: [&str; 3] = ["uri", "user", "password"];
/// Those of a cluster with TLS, of an operator that writes it, and of members that require a client certificate.
const OPTIONAL_FILES: [&str; 4] = ["ca.crt", "follow", "tls.crt", "tls.key"];
const PROBE_PORT_NAME: &str = "helios-metrics";

/// Where the sidecar of an application answers reads.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SidecarMode {
    #[default]
    Proxy,
    Replica,
}

/// Level of reads of a sidecar of mode Replica, on connections that do not choose it by `HELIOS.READ`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SidecarReads {
    #[default]
    Session,
    Bounded,
    Linearizable,
    Any,
}

impl SidecarReads {
    /// Value of `--reads`.
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Bounded => "bounded",
            Self::Linearizable => "linearizable",
            Self::Any => "any",
        }
    }
}

/// Reply to a read of a sidecar of mode Replica that no member answers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SidecarOffline {
    #[default]
    Refuse,
    ServeStale,
}

/// Settings of a sidecar, checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SidecarSettings {
    #[default]
    Proxy,
    Replica {
        memory_mib: u64,
        max_staleness_ms: u64,
        reads: SidecarReads,
        offline: SidecarOffline,
    },
}

impl SidecarSettings {
    /// Checks `memory` (`64Mi` by default) and `max_staleness` (`1s`). In mode Proxy they have no effect. The others are
    /// the defaults, see [`Self::reading`].
    ///
    /// # Errors
    /// The field of HeliosClient and what to write.
    pub fn new(mode: SidecarMode, memory: Option<&str>, max_staleness: Option<&str>) -> Result<Self, String> {
        let memory_mib = number(memory.unwrap_or("64Mi"), &[("Mi", 1), ("Gi", 1 << 10)], MEMORY_MIB)
            .ok_or("spec.memory: write a number with Mi or Gi, from 8Mi to 64Gi, as 256Mi")?;
        let max_staleness_ms =
            number(max_staleness.unwrap_or("1s"), &[("ms", 1), ("s", 1_000)], STALENESS_MS)
                .ok_or("spec.maxStaleness: write a time in ms or s, from 100ms to 600s, as 500ms")?;
        Ok(match mode {
            SidecarMode::Proxy => Self::Proxy,
            SidecarMode::Replica => Self::Replica {
                memory_mib,
                max_staleness_ms,
                reads: SidecarReads::default(),
                offline: SidecarOffline::default(),
            },
        })
    }

    /// Sets what reads see. It has no effect in mode Proxy.
    #[must_use]
    pub fn reading(mut self, level: SidecarReads, in_a_cut: SidecarOffline) -> Self {
        if let Self::Replica { reads, offline, .. } = &mut self {
            (*reads, *offline) = (level, in_a_cut);
        }
        self
    }

    /// Returns the flags of `heliosd sidecar` for these settings; none for what is its default.
    pub fn flags(self) -> Vec<String> {
        let Self::Replica { memory_mib, max_staleness_ms, reads, offline } = self else { return Vec::new() };
        let mut flags = vec![
            REPLICA_FLAG.to_owned(),
            format!("--replica-memory-bytes={}", memory_mib << 20),
            format!("--max-staleness-ms={max_staleness_ms}"),
        ];
        if reads != SidecarReads::default() {
            flags.push(format!("--reads={}", reads.name()));
        }
        if offline == SidecarOffline::ServeStale {
            flags.push("--offline=serve-stale".to_owned());
        }
        flags
    }

    /// Returns the requested memory and the limit of the container.
    pub fn memory(self) -> (String, String) {
        let (requested, limit) = match self {
            Self::Proxy => (REQUESTED_MIB, PROXY_MIB),
            Self::Replica { memory_mib, .. } => {
                (REQUESTED_MIB + memory_mib, REPLICA_MIB + memory_mib + memory_mib.div_ceil(4))
            }
        };
        (format!("{requested}Mi"), format!("{limit}Mi"))
    }
}

/// Parses digits and a unit; `None` if it is no such text, or out of `range`.
fn number(text: &str, units: &[(&str, u64)], range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let is_digit = |byte: u8| byte.is_ascii_digit();
    let (digits, factor) = units.iter().find_map(|(unit, factor)| {
        let digits = text.strip_suffix(unit)?;
        digits.bytes().all(is_digit).then_some((digits, factor))
    })?;
    let value = digits.parse::<u64>().ok()?.checked_mul(*factor)?;
    (!digits.starts_with('0') && range.contains(&value)).then_some(value)
}

/// Returns a native sidecar container, which starts before the application and stops after it. It meets the restricted
/// Pod Security Standard and has no fixed user id.
pub fn sidecar_container(image: &str, port: u16, settings: SidecarSettings) -> Container {
    let probe = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(PROBE_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    };
    let quantities = |pairs: Vec<(&str, String)>| {
        Some(pairs.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount))).collect())
    };
    let (requested, limit) = settings.memory();
    let mut args = vec![
        "sidecar".to_owned(),
        format!("--secret-dir={SECRET_DIR}"),
        format!("--listen=127.0.0.1:{port},[::1]:{port}"),
        format!("--metrics-listen=0.0.0.0:{SIDECAR_PROBE_PORT}"),
    ];
    args.extend(settings.flags());
    Container {
        name: SIDECAR.to_owned(),
        image: Some(image.to_owned()),
        restart_policy: Some("Always".to_owned()),
        args: Some(args),
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
            requests: quantities(vec![("cpu", "10m".to_owned()), ("memory", requested)]),
            limits: quantities(vec![("memory", limit)]),
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

/// Returns the volume of [`sidecar_container`]: files of the Secret of the HeliosClient `client`. A pod waits until
/// the first ones exist, which is when members accept the password.
pub fn sidecar_volume(client: &str) -> Volume {
    let files = |names: &[&str], optional| VolumeProjection {
        secret: Some(SecretProjection {
            name: client_secret(client),
            items: Some(
                names
                    .iter()
                    .map(|name| KeyToPath {
                        key: (*name).to_owned(),
                        path: (*name).to_owned(),
                        ..KeyToPath::default()
                    })
                    .collect(),
            ),
            optional,
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: SIDECAR.to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(vec![files(&SECRET_FILES, None), files(&OPTIONAL_FILES, Some(true))]),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Returns the name of the Secret that the operator writes for the HeliosClient `client`.
pub fn client_secret(client: &str) -> String {
    format!("{client}{SECRET_SUFFIX}")
}

/// Returns the HeliosClient for which the operator writes the Secret `secret`; `None` for the name of another Secret.
pub fn client_of_secret(secret: &str) -> Option<&str> {
    secret.strip_suffix(SECRET_SUFFIX)
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
    fn memory_limit_of_a_sidecar_follows_that_of_its_keys() {
        use SidecarMode::{Proxy, Replica};
        let memory = |mode, memory| SidecarSettings::new(mode, memory, None).unwrap().memory();
        assert_eq!(memory(Proxy, Some("1Gi")), ("32Mi".to_owned(), "96Mi".to_owned()));
        assert_eq!(memory(Replica, None), ("96Mi".to_owned(), "208Mi".to_owned()));
        assert_eq!(memory(Replica, Some("1Gi")), ("1056Mi".to_owned(), "1408Mi".to_owned()));
    }

    #[test]
    fn values_that_are_none_are_refused_with_the_field() {
        let error = |memory, age| SidecarSettings::new(SidecarMode::Proxy, memory, age).unwrap_err();
        for memory in ["", "Mi", "64", "64M", "+9Mi", "064Mi", "7Mi", "65Gi", "99999999999999999999Gi"] {
            assert!(error(Some(memory), None).starts_with("spec.memory: "), "{memory:?}");
        }
        for age in ["", "s", "1m", "99ms", "601s", "1.5s"] {
            assert!(error(None, Some(age)).starts_with("spec.maxStaleness: "), "{age:?}");
        }
        let settings = SidecarSettings::new(SidecarMode::Replica, Some("8Mi"), Some("100ms")).unwrap();
        let (reads, offline) = (SidecarReads::Session, SidecarOffline::Refuse);
        let expected = SidecarSettings::Replica { memory_mib: 8, max_staleness_ms: 100, reads, offline };
        assert_eq!(settings, expected);
    }

    #[test]
    fn flags_of_a_sidecar_are_those_that_differ_from_its_defaults() {
        let flags = |mode, reads, offline| {
            SidecarSettings::new(mode, None, None).unwrap().reading(reads, offline).flags().join(" ")
        };
        let (replica, proxy) = (SidecarMode::Replica, SidecarMode::Proxy);
        let common = "--mode=replica --replica-memory-bytes=67108864 --max-staleness-ms=1000";
        assert_eq!(flags(replica, SidecarReads::Session, SidecarOffline::Refuse), common);
        for (reads, name) in [
            (SidecarReads::Bounded, "bounded"),
            (SidecarReads::Linearizable, "linearizable"),
            (SidecarReads::Any, "any"),
        ] {
            let expected = format!("{common} --reads={name} --offline=serve-stale");
            assert_eq!(flags(replica, reads, SidecarOffline::ServeStale), expected);
        }
        assert_eq!(flags(proxy, SidecarReads::Any, SidecarOffline::ServeStale), "");
    }

    #[test]
    fn names_of_clients_are_labels_of_dns() {
        assert!(["a", "orders-2", &"a".repeat(63)].into_iter().all(is_client_name));
        for name in ["", "Orders", "-a", "a-", "a b", "a.b", "a\nb", &"a".repeat(64)] {
            assert!(!is_client_name(name), "{name:?}");
        }
    }
}
