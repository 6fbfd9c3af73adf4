//! The state of a cluster as seen by any source: the values behind `status`, `members` and `plan`. Pure.

use jiff::Timestamp;
use serde::Serialize;

use crate::backup_view::BackupView;
use crate::usage::UsageView;

/// Health of a cluster in one word, ordered from best to worst; it determines the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    /// Stopped on request; does not serve.
    Hibernated,
    /// Serves, with an operation in progress.
    Changing,
    /// Serves, with a problem.
    Degraded,
    /// Does not serve.
    Down,
    /// Not observable.
    Unknown,
}

impl Health {
    /// Returns 0 for healthy or hibernated, 1 for degraded or changing, 2 for down or unknown.
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
    /// Reason, and the remedy.
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
    /// `None` for a cluster without backups, and when members are asked to which no archiver has reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupView>,
    /// Conditions that deviate from the normal state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionView>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberView {
    pub name: String,
    /// Raft id; `None` before the node is a member.
    pub id: Option<u64>,
    pub role: String,
    pub ready: bool,
    /// Number of committed entries that are not on its disk.
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
    /// Number of starts of the member on its present disk.
    pub incarnation: Option<u64>,
    /// Known problem of the member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// `None` if the member does not answer or is of an earlier build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationView {
    pub kind: String,
    pub target: Option<String>,
    pub step: String,
    pub started_at: Timestamp,
    /// Time after which the operation counts as stalled.
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

/// Returns the quorum of `voters`.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_is_0_1_or_2_by_health() {
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
