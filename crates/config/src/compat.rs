//! Reads the configuration files and variables of the user's earlier documents unchanged
//! (checklist S4-3, S4-6 to S4-8).

use serde_json::{Map, Value, json};

use super::{ConfigError, InitialMember};

pub fn is_old_style(value: &Value) -> bool {
    value.get("atlas").is_some()
}

/// Converts the sections `atlas`, `gateway` and `observability` to today's sections; also returns warnings about
/// differences. Keys without a counterpart are rejected unless this version always does what they ask for.
/// `has_token`: the environment sets a gateway token, which these files cannot.
pub fn convert(old: &Value, has_token: bool) -> Result<(Value, Vec<String>), ConfigError> {
    let mut out = json!({ "node": {}, "listen": {}, "raft": {}, "log": {} });
    let mut warnings = Vec::new();
    for (key, value) in object(old, "")? {
        match key.as_str() {
            "atlas" => atlas(value, &mut out)?,
            "gateway" => {
                for (key, value) in object(value, "gateway")? {
                    match key.as_str() {
                        "listen" if has_token => out["listen"]["gateway"] = value.clone(),
                        "listen" => out["listen"]["gateway"] = gateway(value, &mut warnings),
                        _ => return Err(unknown("gateway", key)),
                    }
                }
            }
            "observability" => observability(value, &mut out)?,
            _ => return Err(unknown("", key)),
        }
    }
    if out["listen"]["client"].is_null()
        && let Some(port) = client_port(&out["listen"]["peer"])
    {
        out["listen"]["client"] = json!(format!("127.0.0.1:{port}"));
    }
    Ok((out, warnings))
}

/// Returns the gateway's listen address. The files name every interface; without a token the gateway listens on
/// loopback only (M-14).
fn gateway(value: &Value, warnings: &mut Vec<String>) -> Value {
    let Some((host, port)) = value.as_str().and_then(|text| text.rsplit_once(':')) else {
        return value.clone();
    };
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    if host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
        return value.clone();
    }
    warnings.push(format!(
        "gateway.listen {value}: the gateway listens on 127.0.0.1:{port} only, as it has no token: set HELIOS__GATEWAY__TOKEN"
    ));
    json!(format!("127.0.0.1:{port}"))
}

/// Derives the client port, which the files omit: it is as far from 6379 as the peer port is from 7000, so that the
/// three nodes that they describe start on one host (S4-2).
fn client_port(peer: &Value) -> Option<u16> {
    let port = peer.as_str()?.rsplit_once(':')?.1.parse::<u16>().ok()?;
    port.checked_sub(7000).filter(|offset| *offset < 100).map(|offset| 6379 + offset)
}

fn atlas(value: &Value, out: &mut Value) -> Result<(), ConfigError> {
    for (key, value) in object(value, "atlas")? {
        match key.as_str() {
            "data_dir" => out["node"]["data_dir"] = value.clone(),
            "listen" => out["listen"]["client"] = value.clone(),
            // Every acknowledged write is synced, whatever the value (docs/design/product.md, C4).
            "aof_fsync" => {}
            "snapshot_interval_cmds" => out["raft"]["snapshot_entries"] = value.clone(),
            "snapshot_interval_time" => out["raft"]["snapshot_interval"] = value.clone(),
            "raft" => raft(value, out)?,
            _ => return Err(unknown("atlas", key)),
        }
    }
    Ok(())
}

fn raft(value: &Value, out: &mut Value) -> Result<(), ConfigError> {
    for (key, value) in object(value, "atlas.raft")? {
        match key.as_str() {
            "enabled" if value == &Value::Bool(true) => {}
            "enabled" => {
                return Err(ConfigError(
                    "atlas.raft.enabled: false is not supported; leave it out, and set node.bootstrap: single \
                     for a single-node cluster"
                        .into(),
                ));
            }
            "node_id" => out["node"]["name"] = value.clone(),
            "bind_addr" => out["listen"]["peer"] = value.clone(),
            "data_dir" => out["node"]["wal_dir"] = value.clone(),
            "heartbeat_timeout" => out["raft"]["heartbeat_interval"] = value.clone(),
            "election_timeout" => out["raft"]["election_timeout"] = value.clone(),
            "snapshot_threshold" => out["raft"]["snapshot_entries"] = value.clone(),
            "peers" => {
                let peers = value
                    .as_array()
                    .ok_or_else(|| ConfigError("atlas.raft.peers: expected a list".into()))?;
                let members =
                    peers.iter().map(|peer| json!({ "name": peer["id"], "address": peer["address"] }));
                out["node"]["initial_members"] = members.collect();
            }
            _ => return Err(unknown("atlas.raft", key)),
        }
    }
    Ok(())
}

fn observability(value: &Value, out: &mut Value) -> Result<(), ConfigError> {
    let section = object(value, "observability")?;
    for (key, value) in section {
        match key.as_str() {
            "log_level" => out["log"]["level"] = value.clone(),
            "metrics_port" if section.get("metrics_enabled") != Some(&Value::Bool(false)) => {
                out["listen"]["metrics"] = value.clone();
            }
            "metrics_enabled" if value == &Value::Bool(false) => out["listen"]["metrics"] = json!(""),
            "metrics_enabled" | "metrics_port" => {}
            _ => return Err(unknown("observability", key)),
        }
    }
    Ok(())
}

/// Parses `id:host:port,...`, the form of `HELIOS_RAFT_PEERS`.
pub fn parse_peers(text: &str) -> Result<Vec<InitialMember>, ConfigError> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (name, address) = entry.split_once(':').unwrap_or((entry, ""));
            if name.is_empty() || !address.contains(':') {
                return Err(ConfigError(format!(
                    "HELIOS_RAFT_PEERS: {entry:?} is not of the form id:host:port"
                )));
            }
            Ok(InitialMember { name: name.to_owned(), address: address.to_owned() })
        })
        .collect()
}

fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>, ConfigError> {
    value.as_object().ok_or_else(|| ConfigError(format!("{at}: expected a section")))
}

fn unknown(section: &str, key: &str) -> ConfigError {
    ConfigError(format!("configuration: unknown key {key:?} in section {section:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_without_a_port_are_refused() {
        assert!(parse_peers("node-2:127.0.0.1").is_err());
        assert!(parse_peers(":127.0.0.1:7000").is_err());
        assert_eq!(parse_peers("").unwrap(), []);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = convert(&json!({ "atlas": { "data_dirr": "x" } }), false).unwrap_err();
        assert!(error.0.contains("data_dirr"), "{error}");
    }

    #[test]
    fn a_gateway_on_every_interface_without_a_token_listens_on_loopback_with_a_warning() {
        let old = |gateway: &str| json!({ "gateway": { "listen": gateway } });
        let listen = |gateway: &str| convert(&old(gateway), false).unwrap();
        assert_eq!(convert(&old(":8443"), true).unwrap().0["listen"]["gateway"], ":8443");
        for open in [":8443", "0.0.0.0:8443", "[::]:8443", "10.0.0.1:8443"] {
            let (out, warnings) = listen(open);
            assert_eq!(out["listen"]["gateway"], "127.0.0.1:8443");
            assert!(warnings[0].contains("127.0.0.1:8443"), "{warnings:?}");
        }
        for near in ["127.0.0.1:8443", "localhost:8443", "[::1]:8443"] {
            assert_eq!(
                listen(near),
                (json!({ "node": {}, "listen": { "gateway": near }, "raft": {}, "log": {} }), vec![])
            );
        }
    }

    #[test]
    fn the_client_port_follows_the_peer_port_unless_it_is_given() {
        let client =
            |atlas: Value| convert(&json!({ "atlas": atlas }), false).unwrap().0["listen"]["client"].clone();
        assert_eq!(client(json!({ "raft": { "bind_addr": "127.0.0.1:7002" } })), "127.0.0.1:6381");
        assert_eq!(client(json!({ "raft": { "bind_addr": "127.0.0.1:7002" }, "listen": ":1" })), ":1");
        assert_eq!(client(json!({ "raft": { "bind_addr": "10.0.0.1:9000" } })), Value::Null);
    }
}
