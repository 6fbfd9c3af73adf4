//! `heliosd.yaml`: the settings that all members share. Those that differ between members are in their environment.

use std::collections::BTreeMap;

use helios_config::{Config, Lease, ListenSection, RaftSection, TlsFilesSection, WritesSection, sparse_yaml};
use helios_crds::{Ack, StateEngine, TlsMode};
use k8s_openapi::api::core::v1::ConfigMap;

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

/// Sections in the order of the file. Another order is another text, and so another hash, which restarts members.
const SECTIONS: [&str; 11] =
    ["node", "listen", "raft", "client", "state", "reads", "writes", "tls", "auth", "gateway", "log"];
/// Keys that are written even with their default value. The others are left out with it: an operator that learns of a new
/// setting must not restart members that do not use it.
const ALWAYS: [&str; 1] = ["log.level"];

pub fn config_map(cluster: &ValidatedCluster) -> Result<ConfigMap, BuildError> {
    Ok(ConfigMap {
        metadata: metadata(cluster, cluster.name.clone()),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), text(&node_config(cluster))?)])),
        ..ConfigMap::default()
    })
}

/// Digest of the file, as members that run with it report it.
///
/// # Errors
/// As `config_map`.
pub fn file_hash(cluster: &ValidatedCluster) -> Result<String, BuildError> {
    Ok(digest(&text(&node_config(cluster))?))
}

/// Digest of the settings that need a restart: those that members reload have their defaults in it.
///
/// # Errors
/// As `config_map`.
pub fn restart_hash(cluster: &ValidatedCluster) -> Result<String, BuildError> {
    Ok(digest(&text(&Config { writes: WritesSection::default(), ..node_config(cluster) })?))
}

/// Only its change matters, so a checksum is enough.
fn digest(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

fn text(config: &Config) -> Result<String, BuildError> {
    sparse_yaml(config, &SECTIONS, &ALWAYS).map_err(|error| BuildError(error.to_string()))
}

fn node_config(cluster: &ValidatedCluster) -> Config {
    let (raft, spec) = (&cluster.raft, &cluster.spec);
    let everywhere = |port: i32| format!("0.0.0.0:{port}");
    let mut config = Config::default();
    config.node.data_dir = "/data".into();
    config.node.bootstrap = Some("operator".into());
    config.listen = ListenSection {
        client: everywhere(CLIENT_PORT),
        peer: everywhere(PEER_PORT),
        grpc: Some(everywhere(GRPC_PORT)),
        metrics: Some(everywhere(METRICS_PORT)),
        // Off loopback the gateway needs a token, and that comes with the password.
        gateway: Some(if spec.auth.enabled { everywhere(GATEWAY_PORT) } else { String::new() }),
    };
    config.raft = RaftSection {
        preset: Some(raft.preset.into()),
        heartbeat_interval: Some(format!("{}ms", raft.heartbeat_ms)),
        election_timeout_min: Some(format!("{}ms", raft.election_min_ms)),
        election_timeout_max: Some(format!("{}ms", raft.election_max_ms)),
        snapshot_entries: Some(raft.snapshot_entries),
        ..RaftSection::default()
    };
    config.client.shutdown_delay = SHUTDOWN_DELAY.into();
    config.state.engine = match spec.storage.engine {
        StateEngine::Runs => Some("runs".into()),
        // Left out as by earlier operators, so that an upgrade of the operator restarts no member.
        StateEngine::Sled => None,
        StateEngine::Redb => Some("redb".into()),
    };
    config.reads.lease = Lease::Switch(spec.reads.lease);
    config.writes.ack = match spec.ack {
        Ack::Majority => "majority".into(),
        Ack::All => "all".into(),
    };
    if spec.tls.mode != TlsMode::Off {
        config.tls.peer = TlsFilesSection { ca_file: format!("{TLS_DIR}/{AUTHORITY}"), ..certificate() };
        if spec.tls.clients {
            config.tls.client = certificate();
        }
    }
    if spec.auth.enabled {
        config.auth.users_file = format!("{AUTH_DIR}/{USERS}");
        config.gateway.token_file = format!("{AUTH_DIR}/{TOKEN}");
    }
    config.log.format = "json".into();
    config
}

fn certificate() -> TlsFilesSection {
    let file = |name: &str| format!("{TLS_DIR}/{name}");
    TlsFilesSection { cert_file: file(CERTIFICATE), key_file: file(KEY), ca_file: String::new() }
}
