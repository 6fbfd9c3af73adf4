//! `heliosd.yaml`: settings that all members share. Those that differ between them are in the environment.

use std::collections::BTreeMap;

use helios_crds::{Ack, StateEngine, TlsMode};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use super::statefulset::{AUTH_DIR, TLS_DIR};
use super::{BuildError, metadata};
use crate::names::{CLIENT_PORT, GATEWAY_PORT, GRPC_PORT, METRICS_PORT, PEER_PORT};
use crate::security::certificates::{AUTHORITY, CERTIFICATE, KEY};
use crate::security::users::{TOKEN, USERS};
use crate::validate::ValidatedCluster;

pub const CONFIG_FILE: &str = "heliosd.yaml";
/// Annotation on the pod template; a changed configuration changes it, and so restarts the members, unless they can
/// reload the change.
pub const CONFIG_HASH: &str = "heliosdb.io/config-hash";

/// Time until every proxy has removed a stopping pod from its endpoints.
const SHUTDOWN_DELAY: &str = "2s";

#[derive(Serialize)]
struct NodeConfig {
    node: Node,
    listen: Listen,
    raft: Raft,
    client: Client,
    // What is as the node has it by default is left out: an operator that learns of a new setting must
    // not restart members that do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<Reads>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<Writes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<Auth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<Gateway>,
    log: Log,
}

#[derive(Serialize)]
struct Node {
    data_dir: &'static str,
    bootstrap: &'static str,
}

#[derive(Serialize)]
struct Listen {
    client: String,
    peer: String,
    grpc: String,
    metrics: String,
    /// Empty: none.
    gateway: String,
}

#[derive(Serialize)]
struct Raft {
    preset: &'static str,
    heartbeat_interval: String,
    election_timeout_min: String,
    election_timeout_max: String,
    snapshot_entries: u64,
}

#[derive(Serialize)]
struct Client {
    shutdown_delay: &'static str,
}

#[derive(Serialize)]
struct State {
    engine: StateEngine,
}

#[derive(Serialize)]
struct Reads {
    lease: bool,
}

#[derive(Serialize)]
struct Writes {
    ack: Ack,
}

#[derive(Serialize)]
struct Tls {
    peer: Certificate,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Certificate>,
}

#[derive(Serialize)]
struct Certificate {
    cert_file: String,
    key_file: String,
    /// Authority of the certificate that clients must show.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
}

#[derive(Serialize)]
struct Auth {
    users_file: String,
}

#[derive(Serialize)]
struct Gateway {
    token_file: String,
}

#[derive(Serialize)]
struct Log {
    level: &'static str,
    format: &'static str,
}

pub fn config_map(cluster: &ValidatedCluster) -> Result<ConfigMap, BuildError> {
    Ok(ConfigMap {
        metadata: metadata(cluster, cluster.name.clone()),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), text(&node_config(cluster))?)])),
        ..ConfigMap::default()
    })
}

/// Digest of the file, as members report it that have loaded it.
///
/// # Errors
/// When the configuration cannot be written as YAML.
pub fn file_hash(cluster: &ValidatedCluster) -> Result<String, BuildError> {
    Ok(digest(&text(&node_config(cluster))?))
}

/// Digest of the settings that need a restart; the others have their defaults in it.
///
/// # Errors
/// When the configuration cannot be written as YAML.
pub fn restart_hash(cluster: &ValidatedCluster) -> Result<String, BuildError> {
    Ok(digest(&text(&NodeConfig { writes: None, ..node_config(cluster) })?))
}

/// Only its change matters, so a checksum is enough.
fn digest(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

fn text(config: &NodeConfig) -> Result<String, BuildError> {
    serde_saphyr::to_string(config).map_err(|error| BuildError(error.to_string()))
}

fn node_config(cluster: &ValidatedCluster) -> NodeConfig {
    let (raft, spec) = (&cluster.raft, &cluster.spec);
    let everywhere = |port: i32| format!("0.0.0.0:{port}");
    NodeConfig {
        node: Node { data_dir: "/data", bootstrap: "operator" },
        listen: Listen {
            client: everywhere(CLIENT_PORT),
            peer: everywhere(PEER_PORT),
            grpc: everywhere(GRPC_PORT),
            metrics: everywhere(METRICS_PORT),
            // Open to all, it needs a token, and that comes with the password.
            gateway: if spec.auth.enabled { everywhere(GATEWAY_PORT) } else { String::new() },
        },
        raft: Raft {
            preset: raft.preset,
            heartbeat_interval: format!("{}ms", raft.heartbeat_ms),
            election_timeout_min: format!("{}ms", raft.election_min_ms),
            election_timeout_max: format!("{}ms", raft.election_max_ms),
            snapshot_entries: raft.snapshot_entries,
        },
        client: Client { shutdown_delay: SHUTDOWN_DELAY },
        state: unless_default(spec.storage.engine).map(|engine| State { engine }),
        reads: unless_default(spec.reads.lease).map(|lease| Reads { lease }),
        writes: unless_default(spec.ack).map(|ack| Writes { ack }),
        tls: (spec.tls.mode != TlsMode::Off).then(|| Tls {
            peer: Certificate { ca_file: Some(format!("{TLS_DIR}/{AUTHORITY}")), ..certificate() },
            client: spec.tls.clients.then(certificate),
        }),
        auth: spec.auth.enabled.then(|| Auth { users_file: format!("{AUTH_DIR}/{USERS}") }),
        gateway: spec.auth.enabled.then(|| Gateway { token_file: format!("{AUTH_DIR}/{TOKEN}") }),
        log: Log { level: "info", format: "json" },
    }
}

fn certificate() -> Certificate {
    let file = |name: &str| format!("{TLS_DIR}/{name}");
    Certificate { cert_file: file(CERTIFICATE), key_file: file(KEY), ca_file: None }
}

fn unless_default<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}
