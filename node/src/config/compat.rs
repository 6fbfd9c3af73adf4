//! Reads the configuration files and variables of the user's earlier documents unchanged
//! (checklist S4-3, S4-6 to S4-8).

use serde_json::{Map, Value, json};

use super::{ConfigError, InitialMember};

pub fn is_old_style(value: &Value) -> bool {
    value.get("atlas").is_some()
}

/// `atlas`, `gateway` and `observability` as today's sections. Keys without a counterpart here are
/// refused unless their meaning is what this version always does.
pub fn convert(old: &Value) -> Result<Value, ConfigError> {
    let mut out = json!({ "node": {}, "listen": {}, "raft": {}, "log": {} });
    for (key, value) in object(old, "")? {
        match key.as_str() {
            "atlas" => atlas(value, &mut out)?,
            "gateway" => {
                for (key, value) in object(value, "gateway")? {
                    match key.as_str() {
                        "listen" => out["listen"]["gateway"] = value.clone(),
                        _ => return Err(unknown("gateway", key)),
                    }
                }
            }
            "observability" => observability(value, &mut out)?,
            _ => return Err(unknown("", key)),
        }
    }
    Ok(out)
}

fn atlas(value: &Value, out: &mut Value) -> Result<(), ConfigError> {
    for (key, value) in object(value, "atlas")? {
        match key.as_str() {
            "data_dir" => out["node"]["data_dir"] = value.clone(),
            "listen" => out["listen"]["client"] = value.clone(),
            // Every acknowledged write is synced here, whatever is asked (product.md, C4).
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
                     for a node of its own"
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

/// `id:host:port,...` as `HELIOS_RAFT_PEERS` has it.
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
        let error = convert(&json!({ "atlas": { "data_dirr": "x" } })).unwrap_err();
        assert!(error.0.contains("data_dirr"), "{error}");
    }
}
