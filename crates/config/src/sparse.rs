//! A configuration as a file that leaves the defaults out.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

use super::changes::{as_value, at};
use super::keys::KEYS;
use super::{Config, ConfigError};

/// `config` as YAML, without the keys that have their default value: a key that is added to [`Config`] later does not
/// change the text. `sections` is the order of the sections, `always` holds keys that are written even with their
/// default value. The keys of a section are in the order of the reference page.
///
/// # Errors
/// When the text cannot be written.
pub fn sparse_yaml(config: &Config, sections: &[&str], always: &[&str]) -> Result<String, ConfigError> {
    let (value, default) = (as_value(config), as_value(&Config::default()));
    let mut file = Map::default();
    for section in sections {
        for key in KEYS.iter().filter(|key| key.section == *section) {
            let found = at(&value, key);
            if found != at(&default, key) || always.contains(&key.path().as_str()) {
                let path = key.path();
                file.insert(&path.split('.').collect::<Vec<_>>(), found.clone());
            }
        }
    }
    serde_saphyr::to_string(&file).map_err(|error| ConfigError(format!("configuration: {error}")))
}

/// A mapping that keeps the order of insertion, which `serde_json::Map` does not.
#[derive(Default)]
struct Map(Vec<(String, Node)>);

enum Node {
    Map(Map),
    Value(Value),
}

impl Map {
    fn insert(&mut self, path: &[&str], value: Value) {
        let Some((name, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            return self.0.push(((*name).to_owned(), Node::Value(value)));
        }
        if !self.0.iter().any(|(known, _)| known == name) {
            self.0.push(((*name).to_owned(), Node::Map(Map::default())));
        }
        for (known, node) in &mut self.0 {
            if let Node::Map(map) = node
                && known == name
            {
                map.insert(rest, value);
                return;
            }
        }
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, node) in &self.0 {
            map.serialize_entry(name, node)?;
        }
        map.end()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Map(map) => map.serialize(serializer),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_file_reads_back_as_the_configuration_it_was_made_of() {
        let mut config = Config::default();
        config.node.name = "a".into();
        config.listen.gateway = Some(String::new());
        config.raft.snapshot_entries = Some(7);
        config.tls.peer.cert_file = "/tls/cert".into();
        config.tls.client.key_file = "/tls/key".into();
        let text = sparse_yaml(&config, &["tls", "node", "listen", "raft", "log"], &["log.level"]).unwrap();
        let expected = "tls:\n  peer:\n    cert_file: /tls/cert\n  client:\n    key_file: /tls/key\nnode:\n  name: a\n\
                        listen:\n  gateway: \"\"\nraft:\n  snapshot_entries: 7\nlog:\n  level: info\n";
        assert_eq!(text, expected);
        assert_eq!(serde_saphyr::from_str::<Config>(&text).unwrap(), config);
    }

    #[test]
    fn section_that_is_not_listed_is_left_out() {
        let mut config = Config::default();
        config.writes.ack = "all".into();
        assert_eq!(sparse_yaml(&config, &["reads", "writes"], &[]).unwrap(), "writes:\n  ack: all\n");
    }
}
