//! Checks of `reads.lease`: off, on or a duration that the voters can keep. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::settings::duration;
use crate::raft::longest_lease;

/// The configured value, unchecked. YAML reads `on` and `off` as booleans.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Lease {
    Switch(bool),
    Text(String),
}

impl Default for Lease {
    fn default() -> Self {
        Self::Switch(false)
    }
}

/// Lease length of `on`, if the voters can keep a lease of this length (docs/design/product.md, C3).
const USUAL: Duration = Duration::from_millis(250);

/// Returns the lease length; `None`: off.
pub fn length(lease: &Lease, election_min: Duration) -> Result<Option<Duration>, ConfigError> {
    let longest = longest_lease(election_min);
    let wanted = match lease {
        Lease::Switch(false) => return Ok(None),
        Lease::Switch(true) => USUAL.min(longest),
        Lease::Text(text) => match text.as_str() {
            "off" => return Ok(None),
            "on" => USUAL.min(longest),
            text => duration("reads.lease", text)?,
        },
    };
    if wanted <= longest && !wanted.is_zero() {
        return Ok(Some(wanted));
    }
    Err(ConfigError(format!(
        "reads.lease ({wanted:?}): with raft.election_timeout_min {election_min:?} the voters keep a lease of at \
         most {} ms; write off, on or less, or raise the election timeout",
        longest.as_millis()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};

    fn settings(more: &str) -> Result<Option<u128>, ConfigError> {
        let yaml = format!("{{node: {{name: a}}, {more}}}");
        let config: Config = serde_saphyr::from_str(&yaml).unwrap();
        Settings::try_from(config).map(|settings| settings.lease.map(|lease| lease.as_millis()))
    }

    #[test]
    fn a_lease_is_off_by_default_and_shorter_than_the_election_timeout() {
        assert_eq!(settings("reads: {}").unwrap(), None);
        for off in ["off", "'off'", "false"] {
            assert_eq!(settings(&format!("reads: {{lease: {off}}}")).unwrap(), None, "{off}");
        }
        for on in ["on", "'on'", "true"] {
            assert_eq!(settings(&format!("reads: {{lease: {on}}}")).unwrap(), Some(249), "{on}");
        }
        assert_eq!(settings("reads: {lease: on}, raft: {preset: wan}").unwrap(), Some(250));
        assert_eq!(settings("reads: {lease: on}, raft: {preset: fast}").unwrap(), Some(99));
        assert_eq!(settings("reads: {lease: 100ms}").unwrap(), Some(100));
        let refused = |more| settings(more).unwrap_err().0;
        let long = refused("reads: {lease: 500ms}");
        assert!(long.contains("500ms") && long.contains("300ms") && long.contains("249 ms"), "{long}");
        assert!(refused("reads: {lease: long}").contains("150ms"));
        let short = "reads: {lease: on}, raft: {heartbeat_interval: 10ms, election_timeout: 40ms}";
        assert!(refused(short).contains("raise"));
    }
}
