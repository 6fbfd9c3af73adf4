//! Checks of `reads.lease`: off, on or a duration that the voters can keep. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::settings::duration;

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

/// Interval of the Raft clock, of which the presets are multiples. `helios_raft` has it, and [`longest_lease`], too: a
/// configuration is read without the consensus crate (the operator does so), and the crates below both, `proto` and
/// `state`, know no Raft timing. `configuration_and_core_agree_on_the_longest_lease` of the node compares the two.
pub const TICK: Duration = Duration::from_millis(10);
/// Time by which a voter may run ahead of the leader: one tick for its own rounding and three that it makes up for.
const ROUNDING: Duration = Duration::from_millis(40);
/// Time that passes between two readings of the clock.
const MARGIN: Duration = Duration::from_millis(10);
/// Drift of two clocks that NTP slews apart by 500 ppm each.
const DRIFT_PER_MILLE: u32 = 1;

/// The longest lease that voters with this least election timeout keep; zero when the timeout is too short for any.
/// The same rule as `helios_raft::longest_lease`; see [`TICK`].
pub fn longest_lease(election_min: Duration) -> Duration {
    (election_min.saturating_sub(ROUNDING) * (1_000 - DRIFT_PER_MILLE) / 1_000).saturating_sub(MARGIN)
}

/// Lease of `on`, where the voters keep one of that length (docs/design/product.md, C3).
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
    use crate::{Config, Settings};

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
