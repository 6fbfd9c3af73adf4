//! Differences between the configuration that a node runs with and a new one, and which of them a reload applies. Pure.

use serde::Serialize;
use serde_json::Value;

use super::keys::{Change, KEYS, Key};
use super::{Config, ConfigError};

const HIDDEN: &str = "***";

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub key: String,
    /// The running value; `***` for a secret.
    pub from: Value,
    /// The new value; `***` for a secret.
    pub to: Value,
    #[serde(serialize_with = "by_name")]
    pub change: Change,
}

fn by_name<S: serde::Serializer>(change: &Change, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(change.name())
}

pub fn differences(running: &Config, next: &Config) -> Vec<Difference> {
    let (running, next) = (as_value(running), as_value(next));
    let differing = KEYS.iter().filter_map(|key| {
        let (from, to) = (at(&running, key), at(&next, key));
        let shown = |value: &Value| match value {
            Value::Null => Value::Null,
            _ if key.is_secret => HIDDEN.into(),
            value => value.clone(),
        };
        (from != to).then(|| Difference {
            key: key.path(),
            from: shown(from),
            to: shown(to),
            change: key.change,
        })
    });
    differing.collect()
}

/// Returns `running` with those values of `next` that a reload applies.
///
/// # Errors
/// `next` changes a key that cannot change ([`Change::Never`]): none of its values may be applied then.
pub fn reloaded(running: &Config, next: &Config) -> Result<Config, ConfigError> {
    if let Some(fixed) = differences(running, next).iter().find(|found| found.change == Change::Never) {
        return Err(ConfigError(format!(
            "{} cannot become {} (it is {}): it belongs to the disk and to the cluster's record of this member; \
             put the old value back, nothing was changed",
            fixed.key, fixed.to, fixed.from
        )));
    }
    let (mut merged, file, next) = (as_value(running), &next.file_hash, as_value(next));
    for key in KEYS.iter().filter(|key| key.change == Change::Reload) {
        if let Some(value) = merged.pointer_mut(&key.pointer()) {
            *value = at(&next, key).clone();
        }
    }
    let merged: Config =
        serde_json::from_value(merged).map_err(|error| ConfigError(format!("configuration: {error}")))?;
    Ok(Config { file_hash: file.clone(), ..merged })
}

/// Returns all keys and values for display, with `***` in place of secrets.
pub fn redacted(config: &Config) -> Value {
    let mut value = as_value(config);
    for key in KEYS.iter().filter(|key| key.is_secret) {
        if let Some(secret) = value.pointer_mut(&key.pointer())
            && !secret.is_null()
        {
            *secret = HIDDEN.into();
        }
    }
    value
}

pub(super) fn at<'a>(config: &'a Value, key: &Key) -> &'a Value {
    config.pointer(&key.pointer()).unwrap_or(&Value::Null)
}

pub(super) fn as_value(config: &Config) -> Value {
    serde_json::to_value(config).expect("a configuration is text, numbers, switches and lists of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> Config {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn each_difference_names_the_change_that_it_needs() {
        let before = config("{node: {name: a}, client: {password: old}, log: {level: info}}");
        let after =
            config("{node: {name: b}, client: {password: new}, log: {level: debug}, raft: {preset: wan}}");
        let found = differences(&before, &after);
        let shown: Vec<_> = found.iter().map(|one| (one.key.as_str(), one.change.name())).collect();
        let expected = [
            ("node.name", "never"),
            ("raft.preset", "restart"),
            ("client.password", "restart"),
            ("log.level", "reload"),
        ];
        assert_eq!(shown, expected);
        assert_eq!((&found[2].from, &found[2].to), (&HIDDEN.into(), &HIDDEN.into()));
        assert_eq!((&found[3].from, &found[3].to), (&"info".into(), &"debug".into()));
        assert_eq!(differences(&before, &before), []);
    }

    #[test]
    fn a_reload_applies_reloadable_keys_only() {
        let running = config("{node: {name: a}, reads: {lease: on}}");
        let next = config("{node: {name: a}, writes: {ack: all}, gateway: {token: t}, raft: {preset: wan}}");
        let found = reloaded(&running, &next).unwrap();
        assert_eq!((found.writes.ack.as_str(), found.gateway.token.as_deref()), ("all", Some("t")));
        assert_eq!((found.raft.preset.as_deref(), &found.reads), (None, &running.reads));
    }

    #[test]
    fn a_change_of_an_immutable_key_rejects_the_whole_reload() {
        let running = config("{node: {name: a}}");
        let next = config("{node: {name: a, data_dir: /elsewhere}, log: {level: debug}}");
        let error = reloaded(&running, &next).unwrap_err().0;
        assert!(error.contains("node.data_dir") && error.contains("/elsewhere"), "{error}");
    }

    #[test]
    fn secrets_are_redacted() {
        let shown = redacted(&config("{node: {name: a}, client: {password: p4ss}, gateway: {token: t0ken}}"));
        let text = shown.to_string();
        assert!(!text.contains("p4ss") && !text.contains("t0ken"), "{text}");
        assert_eq!(shown["client"]["password"], HIDDEN);
        assert_eq!(redacted(&Config::default())["client"]["password"], Value::Null);
    }
}
