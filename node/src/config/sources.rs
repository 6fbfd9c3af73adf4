//! Where configuration comes from, and in which order it wins. Merging is on plain JSON values;
//! only the merged result is given types, so that one place refuses unknown keys.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Config, ConfigError, RunArgs, compat};

/// File, then environment, then flags; later wins.
pub fn load(
    args: &RunArgs,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let environment: Vec<_> = environment.collect();
    let file = args
        .config
        .clone()
        .or_else(|| environment.iter().find(|(key, _)| key == "CONFIG_PATH").map(|(_, path)| path.into()));
    let (mut merged, warnings) = match &file {
        Some(path) => read_file(path)?,
        None => (Value::Object(Map::new()), Vec::new()),
    };
    for (key, value) in &environment {
        if let Some(path) = key.strip_prefix("HELIOS__") {
            let path = path.to_ascii_lowercase();
            let path: Vec<_> = path.split("__").collect();
            set(&mut merged, &path, environment_value(&path, value), key)?;
        }
    }
    for (path, value) in args.overrides() {
        set(&mut merged, &path, value, "flag")?;
    }
    let mut config: Config = serde_path_to_error::deserialize(merged).map_err(|error| {
        let (at, reason) = (error.path(), error.inner());
        ConfigError(format!("configuration: {at}: {reason}; see docs/reference/config.md"))
    })?;
    if let Some((_, peers)) = environment.iter().find(|(key, _)| key == "HELIOS_RAFT_PEERS") {
        config.node.initial_members = compat::parse_peers(peers)?;
    }
    config.warnings = warnings;
    Ok(config)
}

/// The sections of a file, and what its user should be told.
fn read_file(path: &Path) -> Result<(Value, Vec<String>), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("configuration file {}: {error}", path.display())))?;
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| {
        // Its first line names the place; the rest shows the text around it.
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        ConfigError(format!("configuration file {}: {reason}", path.display()))
    })?;
    match value {
        Value::Null => Ok((Value::Object(Map::new()), Vec::new())),
        Value::Object(_) if compat::is_old_style(&value) => compat::convert(&value),
        Value::Object(_) => Ok((value, Vec::new())),
        _ => Err(ConfigError(format!(
            "configuration file {}: expected sections, found a plain value",
            path.display()
        ))),
    }
}

fn set(target: &mut Value, path: &[&str], value: Value, source: &str) -> Result<(), ConfigError> {
    let Some((last, parents)) = path.split_last() else { return Ok(()) };
    let mut at = target;
    for name in parents {
        at = match at {
            Value::Object(map) => map.entry(*name).or_insert_with(|| Value::Object(Map::new())),
            _ => return Err(ConfigError(format!("{source}: {} is a value, not a section", path.join(".")))),
        };
    }
    match at {
        Value::Object(map) => drop(map.insert((*last).to_owned(), value)),
        _ => return Err(ConfigError(format!("{source}: {} is a value, not a section", path.join(".")))),
    }
    Ok(())
}

/// Fields that take a number; every other value of the environment stays text.
const NUMBERS: [[&str; 2]; 5] = [
    ["raft", "snapshot_entries"],
    ["raft", "snapshot_bytes_per_second"],
    ["raft", "trailing_entries"],
    ["raft", "segment_bytes"],
    ["client", "max_connections"],
];

fn environment_value(path: &[&str], text: &str) -> Value {
    match text.parse::<u64>() {
        Ok(number) if NUMBERS.iter().any(|field| field == path) => Value::from(number),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn load_text(text: &str, environment: &[(&str, &str)], mut args: RunArgs) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        args.config = Some(file.path().to_owned());
        load(&args, environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn flags_win_over_environment_and_that_over_the_file() {
        let text = "node: {name: a, data_dir: /f}\nlisten: {client: '1.1.1.1:1'}\n";
        let environment = [("HELIOS__NODE__DATA_DIR", "/e"), ("HELIOS__LISTEN__CLIENT", "2.2.2.2:2")];
        let args = RunArgs { listen: Some("3.3.3.3:3".into()), ..RunArgs::default() };
        let config = load_text(text, &environment, args).unwrap();
        assert_eq!(config.node.name, "a");
        assert_eq!(config.node.data_dir, "/e");
        assert_eq!(config.listen.client, "3.3.3.3:3");
    }

    #[test]
    fn a_typo_is_named() {
        let error = load_text("raft: {election_timout_min: 1s}", &[], RunArgs::default()).unwrap_err();
        assert!(error.0.contains("election_timout_min"), "{error}");
    }

    #[test]
    fn a_number_in_the_environment_is_a_number() {
        let config = load_text("", &[("HELIOS__RAFT__SNAPSHOT_ENTRIES", "500")], RunArgs::default()).unwrap();
        assert_eq!(config.raft.snapshot_entries, Some(500));
    }

    #[test]
    fn the_peers_variable_is_honoured() {
        let environment = [("HELIOS_RAFT_PEERS", "node-2:127.0.0.1:7001,node-3:127.0.0.1:7002")];
        let config = load_text("", &environment, RunArgs::default()).unwrap();
        assert_eq!(config.node.initial_members.len(), 2);
        assert_eq!(config.node.initial_members[0].name, "node-2");
        assert_eq!(config.node.initial_members[0].address, "127.0.0.1:7001");
    }
}
