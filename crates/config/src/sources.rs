//! Sources of the configuration and their order of precedence. Merging works on plain JSON values; only the merged
//! result is typed, so that one place rejects unknown keys.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Config, ConfigError, RunArgs, compat};

/// Sources of a node's configuration: a file, and the environment and flags that override it.
#[derive(Debug, Clone)]
pub struct Source {
    args: RunArgs,
    environment: Vec<(String, String)>,
}

impl Source {
    pub fn new(args: &RunArgs, environment: impl Iterator<Item = (String, String)>) -> Self {
        Self { args: args.clone(), environment: environment.collect() }
    }

    /// Returns the path of the configuration file: the flag's, or that of `CONFIG_PATH`.
    pub fn file(&self) -> Option<PathBuf> {
        self.args.config.clone().or_else(|| self.variable("CONFIG_PATH").map(PathBuf::from))
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Loads file, then environment, then flags; later sources override earlier ones.
    ///
    /// # Errors
    /// One line that names the file, key or variable and what to write there.
    pub fn load(&self) -> Result<Config, ConfigError> {
        if self.args.raft == Some(false) {
            return Err(ConfigError(
                "-raft=false is not supported: every node replicates; leave the flag out".into(),
            ));
        }
        let has_token = self.variable("HELIOS__GATEWAY__TOKEN").is_some_and(|token| !token.is_empty());
        let (mut merged, warnings, file_hash) = match self.file() {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    ConfigError(format!("configuration file {}: {error}", path.display()))
                })?;
                let (sections, warnings) = read_sections(&path, &text, has_token)?;
                (sections, warnings, format!("{:08x}", crc32c::crc32c(text.as_bytes())))
            }
            None => (Value::Object(Map::new()), Vec::new(), String::new()),
        };
        // Variables of the earlier documents (S2). Other programs use these names too, so `HELIOS__LOG__*` overrides
        // them.
        for (variable, key) in [("LOG_LEVEL", "level"), ("LOG_DIR", "dir")] {
            if let Some(text) = self.variable(variable) {
                set(&mut merged, &["log", key], text.into(), variable)?;
            }
        }
        // Earlier versions ignore this variable, so the operator can set it for nodes of every version.
        if let Some(text) = self.variable("HELIOS_PROTECTED_MODE") {
            set(&mut merged, &["client", "protected_mode"], text.into(), "HELIOS_PROTECTED_MODE")?;
        }
        for (key, value) in &self.environment {
            if let Some(path) = key.strip_prefix("HELIOS__") {
                let path = path.to_ascii_lowercase();
                let path: Vec<_> = path.split("__").collect();
                set(&mut merged, &path, value.as_str().into(), key)?;
            }
        }
        for (path, value) in self.args.overrides() {
            set(&mut merged, &path, value, "flag")?;
        }
        let mut config: Config = serde_path_to_error::deserialize(merged).map_err(|error| {
            let (at, reason) = (error.path(), error.inner());
            ConfigError(format!("configuration: {at}: {reason}; see docs/reference/config.md"))
        })?;
        if let Some(peers) = self.variable("HELIOS_RAFT_PEERS") {
            config.node.initial_members = compat::parse_peers(peers)?;
        }
        (config.warnings, config.file_hash) = (warnings, file_hash);
        Ok(config)
    }
}

/// Parses a file into sections and warnings for its user.
fn read_sections(path: &Path, text: &str, has_token: bool) -> Result<(Value, Vec<String>), ConfigError> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        // The first line names the position; the rest quotes the file.
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        ConfigError(format!("configuration file {}: {reason}", path.display()))
    })?;
    match value {
        Value::Null => Ok((Value::Object(Map::new()), Vec::new())),
        Value::Object(_) if compat::is_old_style(&value) => compat::convert(&value, has_token),
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn load_text(text: &str, environment: &[(&str, &str)], mut args: RunArgs) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        args.config = Some(file.path().to_owned());
        let environment = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Source::new(&args, environment).load()
    }

    #[test]
    fn flags_override_the_environment_and_the_environment_overrides_the_file() {
        let text = "node: {name: a, data_dir: /f}\nlisten: {client: '1.1.1.1:1'}\n";
        let environment = [("HELIOS__NODE__DATA_DIR", "/e"), ("HELIOS__LISTEN__CLIENT", "2.2.2.2:2")];
        let args = RunArgs { listen: Some("3.3.3.3:3".into()), ..RunArgs::default() };
        let config = load_text(text, &environment, args).unwrap();
        assert_eq!(config.node.name, "a");
        assert_eq!(config.node.data_dir, "/e");
        assert_eq!(config.listen.client, "3.3.3.3:3");
    }

    #[test]
    fn an_unknown_key_in_the_file_is_named() {
        let error = load_text("raft: {election_timout_min: 1s}", &[], RunArgs::default()).unwrap_err();
        assert!(error.0.contains("election_timout_min"), "{error}");
    }

    #[test]
    fn environment_variables_set_numbers_switches_and_text_with_digits() {
        let environment = [
            ("HELIOS__RAFT__SNAPSHOT_ENTRIES", "500"),
            ("HELIOS__CLIENT__MAX_CONNECTIONS", "20"),
            ("HELIOS__WRITES__STRICT", "false"),
            ("HELIOS__READS__LEASE", "on"),
            ("HELIOS__CLIENT__PASSWORD", "123456"),
        ];
        let config = load_text("", &environment, RunArgs::default()).unwrap();
        assert_eq!(config.raft.snapshot_entries, Some(500));
        assert_eq!((config.client.max_connections, config.writes.strict), (20, false));
        assert_eq!(config.client.password.as_deref(), Some("123456"));
        for (variable, text) in [("RAFT__SNAPSHOT_ENTRIES", "many"), ("WRITES__STRICT", "perhaps")] {
            let error = load_text("", &[(&format!("HELIOS__{variable}"), text)], RunArgs::default());
            let error = error.unwrap_err().0;
            assert!(error.contains(text) && error.contains("write"), "{error}");
        }
        let error = load_text("raft: {snapshot_entries: -1}", &[], RunArgs::default()).unwrap_err().0;
        assert!(error.contains("raft.snapshot_entries") && error.contains("number"), "{error}");
    }

    #[test]
    fn level_and_directory_of_the_log_have_short_names_too() {
        let level = |environment: &[(&str, &str)]| {
            load_text("log: {level: warn}", environment, RunArgs::default()).unwrap().log.level
        };
        assert_eq!(level(&[]), "warn");
        assert_eq!(level(&[("LOG_LEVEL", "debug")]), "debug");
        assert_eq!(level(&[("HELIOS__LOG__LEVEL", "trace"), ("LOG_LEVEL", "debug")]), "trace");
        let dir = load_text("", &[("LOG_DIR", "logs")], RunArgs::default()).unwrap().log.dir;
        assert_eq!(dir, "logs");
    }

    #[test]
    fn protected_mode_has_a_variable_that_earlier_versions_ignore() {
        let protected = |environment: &[(&str, &str)]| {
            load_text("", environment, RunArgs::default()).map(|config| config.client.protected_mode)
        };
        assert_eq!(protected(&[]), Ok(true));
        assert_eq!(protected(&[("HELIOS_PROTECTED_MODE", "false")]), Ok(false));
        let both = [("HELIOS__CLIENT__PROTECTED_MODE", "true"), ("HELIOS_PROTECTED_MODE", "false")];
        assert_eq!(protected(&both), Ok(true));
        assert!(protected(&[("HELIOS_PROTECTED_MODE", "perhaps")]).unwrap_err().0.contains("perhaps"));
    }

    #[test]
    fn helios_raft_peers_sets_the_initial_members() {
        let environment = [("HELIOS_RAFT_PEERS", "node-2:127.0.0.1:7001,node-3:127.0.0.1:7002")];
        let config = load_text("", &environment, RunArgs::default()).unwrap();
        assert_eq!(config.node.initial_members.len(), 2);
        assert_eq!(config.node.initial_members[0].name, "node-2");
        assert_eq!(config.node.initial_members[0].address, "127.0.0.1:7001");
    }
}
