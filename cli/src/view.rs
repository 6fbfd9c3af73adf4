//! What a cluster looks like, whoever was asked: the values behind `status`, `members` and `plan`. Pure.

use jiff::Timestamp;
use serde::Serialize;

/// How a cluster is, in one word; the exit code for scripts comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    /// Does not serve, because that is what was asked for.
    Hibernated,
    /// Serves, and something is under way.
    Changing,
    /// Serves, and something is wrong.
    Degraded,
    /// Does not serve.
    Down,
    /// Nobody can tell.
    Unknown,
}

impl Health {
    /// 0 healthy or hibernated, 1 degraded or changing, 2 down or unknown.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Healthy | Self::Hibernated => 0,
            Self::Changing | Self::Degraded => 1,
            Self::Down | Self::Unknown => 2,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "HEALTHY",
            Self::Hibernated => "HIBERNATED",
            Self::Changing => "CHANGING",
            Self::Degraded => "DEGRADED",
            Self::Down => "DOWN",
            Self::Unknown => "UNKNOWN",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub health: Health,
    /// Why, and what to do about it.
    pub text: String,
}

impl Verdict {
    pub fn new(health: Health, text: impl Into<String>) -> Self {
        Self { health, text: text.into() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    pub leader: Option<String>,
    pub term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub members: Vec<MemberView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationView>,
    /// Those that say more than "as it should be".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionView>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberView {
    pub name: String,
    /// Raft id; `None` before it is a member.
    pub id: Option<u64>,
    pub role: String,
    pub ready: bool,
    /// Committed entries that are not on its disk.
    pub lag: Option<u64>,
    pub version: Option<String>,
    /// Kubernetes node that its pod runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Peer address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Starts of the member on its present disk.
    pub incarnation: Option<u64>,
    /// What is wrong with it, if anything is known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationView {
    pub kind: String,
    pub target: Option<String>,
    pub step: String,
    pub started_at: Timestamp,
    /// When it counts as stalled.
    pub deadline: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConditionView {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// Voters that must agree, of `voters`.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_get_three_answers() {
        let all = [
            Health::Healthy,
            Health::Hibernated,
            Health::Changing,
            Health::Degraded,
            Health::Down,
            Health::Unknown,
        ];
        assert_eq!(all.map(Health::exit_code), [0, 0, 1, 1, 2, 2]);
        assert!(all.is_sorted(), "the worst of several clusters is their maximum");
    }
}
