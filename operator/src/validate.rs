//! Spec to a checked value with every default applied. Builders and planners see only the result,
//! so none of them meets a text that does not parse or a number out of range.
//!
//! The API server has refused most mistakes already (CEL); what is left here is what a spec written
//! before a rule existed, or an operator without a default image, can get wrong.

use std::time::Duration;

use helios_crds::{DRILL_LABEL, HeliosCluster, HeliosClusterSpec, RaftPreset, RaftSpec, Reason, TlsMode};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::build;
use crate::security::Problem;

/// A spec that cannot be acted upon, in a sentence that says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// Defaults that the operator has for every cluster.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Image for clusters that name none.
    pub node_image: Option<String>,
    /// Where its own pods are, which may use the members' peer port.
    pub operator_namespace: String,
}

#[derive(Debug, Clone)]
pub struct ValidatedCluster {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub owner: OwnerReference,
    pub replicas: u32,
    pub image: String,
    pub volume: VolumeSettings,
    pub raft: RaftSettings,
    pub rollout: RolloutSettings,
    pub repair: RepairSettings,
    pub operator_namespace: String,
    /// The spec as written has no password, whichever is in force.
    pub declines_password: bool,
    /// Why the spec in force is not the one as written.
    pub problem: Option<Problem>,
    /// It is the one of a drill.
    pub is_drill: bool,
    /// The spec in force; its other fields are copied into objects as they are.
    pub spec: HeliosClusterSpec,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSettings {
    pub size_bytes: u64,
    pub retain: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftSettings {
    pub preset: &'static str,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    pub snapshot_entries: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutSettings {
    pub max_lag_entries: u64,
    pub transfer_timeout: Duration,
    pub stable_for: Duration,
    pub paused: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairSettings {
    pub after: Duration,
    pub without_quarantine: bool,
}

impl ValidatedCluster {
    /// Not for a single member: a budget could only block the drain of its node for ever.
    pub fn has_budget(&self) -> bool {
        self.replicas != 1 && self.spec.pod_disruption_budget.enabled
    }
}

/// Checks `cluster`, whose StatefulSet is `live`, and applies defaults.
///
/// # Errors
/// [`Invalid`] with what to write instead.
pub fn validate(
    cluster: &HeliosCluster,
    live: Option<&StatefulSet>,
    defaults: &Defaults,
) -> Result<ValidatedCluster, Invalid> {
    let (spec, problem) = spec_in_force(cluster, live);
    let spec = &spec;
    let owner = cluster
        .controller_owner_ref(&())
        .ok_or_else(|| Invalid("metadata.uid is missing; apply the object to an API server".to_owned()))?;
    let image = spec.image.clone().or_else(|| defaults.node_image.clone()).ok_or_else(|| {
        Invalid("spec.image: write an image; this operator was started without --node-image".to_owned())
    })?;
    Ok(ValidatedCluster {
        name: cluster.name_any(),
        namespace: cluster.namespace().unwrap_or_default(),
        uid: owner.uid.clone(),
        owner,
        replicas: replicas(spec)?,
        image,
        volume: VolumeSettings {
            size_bytes: quantity("spec.storage.size", &spec.storage.size)?,
            retain: spec.storage.retain,
        },
        raft: raft(&spec.raft)?,
        rollout: RolloutSettings {
            max_lag_entries: positive(
                "spec.updateStrategy.maxLagEntries",
                spec.update_strategy.max_lag_entries,
            )?,
            transfer_timeout: duration(
                "spec.updateStrategy.leaderTransferTimeout",
                &spec.update_strategy.leader_transfer_timeout,
            )?,
            stable_for: duration("spec.updateStrategy.stableFor", &spec.update_strategy.stable_for)?,
            paused: spec.update_strategy.paused,
        },
        repair: RepairSettings {
            after: duration("spec.repair.after", &spec.repair.after)?,
            without_quarantine: spec.repair.without_quarantine,
        },
        operator_namespace: defaults.operator_namespace.clone(),
        declines_password: !cluster.spec.auth.enabled,
        problem,
        is_drill: cluster.labels().contains_key(DRILL_LABEL),
        spec: spec.clone(),
    })
}

/// The spec of `cluster` as far as it applies. A cluster that was created before there was TLS, or before there were
/// passwords, stays without: members with TLS and without would reject each other while they are restarted one at a
/// time, and an upgrade of the operator must not lock out clients that know no password.
pub fn spec_in_force(
    cluster: &HeliosCluster,
    live: Option<&StatefulSet>,
) -> (HeliosClusterSpec, Option<Problem>) {
    let mut spec = cluster.spec.clone();
    let Some(live) = live else { return (spec, None) };
    let problem = match (without_tls(&mut spec, live), without_password(&mut spec, live, &cluster.name_any()))
    {
        (Some(tls), Some(password)) => {
            Some(Problem::warning(tls.reason, format!("{}. And {}", tls.message, password.message)))
        }
        (tls, password) => tls.or(password),
    };
    (spec, problem)
}

fn without_tls(spec: &mut HeliosClusterSpec, live: &StatefulSet) -> Option<Problem> {
    if spec.tls.mode == TlsMode::Off || build::has_certificate(live) {
        return None;
    }
    (spec.tls.mode, spec.tls.clients) = (TlsMode::Off, false);
    let message = "TLS is off because this cluster was created without it; to enable it, delete the HeliosCluster while \
                   spec.storage.retain is true and apply it again, which stops it for a moment and keeps the data";
    Some(Problem::warning(Reason::NotEncrypted, message))
}

/// An explicit `auth.enabled: false` is recorded on the StatefulSet; a cluster with neither predates authentication.
fn without_password(spec: &mut HeliosClusterSpec, live: &StatefulSet, name: &str) -> Option<Problem> {
    if !spec.auth.enabled || build::has_password(live) || build::has_declined_password(live) {
        return None;
    }
    spec.auth.enabled = false;
    let message = "authentication is off because this cluster was created without it, and every client is let in; write \
                   spec.auth.enabled: false, which changes nothing but this message, and true once the clients know \
                   the password: the members then restart one at a time and make Secret NAME-auth";
    Some(Problem::warning(Reason::NoPassword, message.replace("NAME", name)))
}

fn replicas(spec: &HeliosClusterSpec) -> Result<u32, Invalid> {
    match spec.replicas {
        n @ (1 | 3 | 5 | 7) => Ok(n.unsigned_abs()),
        n @ (2 | 4 | 6) if spec.allow_even_replicas => Ok(n.unsigned_abs()),
        n => Err(Invalid(format!("spec.replicas is {n}: write 1, 3, 5 or 7"))),
    }
}

fn raft(spec: &RaftSpec) -> Result<RaftSettings, Invalid> {
    let (preset, heartbeat, election_min) = match spec.preset {
        RaftPreset::Lan => ("lan", 100, 300),
        RaftPreset::Fast => ("fast", 30, 150),
        RaftPreset::Wan => ("wan", 500, 2500),
    };
    let millis = |field: &str, value: &Option<String>, default: u64| match value {
        Some(text) => duration(&format!("spec.raft.{field}"), text).map(|d| d.as_millis() as u64),
        None => Ok(default),
    };
    let heartbeat_ms = millis("heartbeatInterval", &spec.heartbeat_interval, heartbeat)?;
    let election_min_ms = millis("electionTimeoutMin", &spec.election_timeout_min, election_min)?;
    let election_max_ms = millis("electionTimeoutMax", &spec.election_timeout_max, 2 * election_min_ms)?;
    if heartbeat_ms >= election_min_ms {
        return Err(Invalid(format!(
            "spec.raft: write a heartbeatInterval below electionTimeoutMin; they are {heartbeat_ms} ms and {election_min_ms} ms"
        )));
    }
    if election_min_ms >= election_max_ms {
        return Err(Invalid(format!(
            "spec.raft: write an electionTimeoutMax above electionTimeoutMin; they are {election_max_ms} ms and {election_min_ms} ms"
        )));
    }
    let snapshot_entries = positive("spec.raft.snapshotEntries", spec.snapshot_entries.unwrap_or(10_000))?;
    Ok(RaftSettings { preset, heartbeat_ms, election_min_ms, election_max_ms, snapshot_entries })
}

fn positive(field: &str, value: i64) -> Result<u64, Invalid> {
    match u64::try_from(value) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(Invalid(format!("{field} is {value}: write a number above 0"))),
    }
}

/// Parses `100ms`, `5s` or `10m`.
fn duration(field: &str, text: &str) -> Result<Duration, Invalid> {
    let unit = |unit: &str, millis: u64| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(millis);
    unit("ms", 1)
        .or_else(|| unit("s", 1000))
        .or_else(|| unit("m", 60_000))
        .map(Duration::from_millis)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| Invalid(format!("{field} is {text:?}: write digits and a unit, such as 100ms or 5s")))
}

/// Bytes of a size that the CRD admits: digits and `Mi`, `Gi` or `Ti`.
pub fn quantity(field: &str, text: &str) -> Result<u64, Invalid> {
    [("Mi", 1u64 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40)]
        .into_iter()
        .find_map(|(unit, bytes)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(bytes))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| Invalid(format!("{field} is {text:?}: write digits and Mi, Gi or Ti, such as 10Gi")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raft_of(json: serde_json::Value) -> Result<RaftSettings, Invalid> {
        raft(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn presets_are_those_of_the_product() {
        let times = |preset: &str| {
            let r = raft_of(serde_json::json!({ "preset": preset })).unwrap();
            (r.heartbeat_ms, r.election_min_ms, r.election_max_ms)
        };
        assert_eq!(times("lan"), (100, 300, 600));
        assert_eq!(times("fast"), (30, 150, 300));
        assert_eq!(times("wan"), (500, 2500, 5000));
    }

    #[test]
    fn override_is_rejected_with_both_values_when_it_contradicts_the_preset() {
        let error = raft_of(serde_json::json!({ "heartbeatInterval": "1s" })).unwrap_err();
        assert!(error.0.contains("1000 ms and 300 ms"), "{error}");
        let error = raft_of(serde_json::json!({ "electionTimeoutMax": "200ms" })).unwrap_err();
        assert!(error.0.contains("200 ms and 300 ms"), "{error}");
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(quantity("f", "10Gi"), Ok(10 << 30));
        assert_eq!(quantity("f", "512Mi"), Ok(512 << 20));
        for bad in ["10", "10G", "Gi", "0Gi", "-1Gi", "99999999999999999999Gi", "9999999999999Ti"] {
            assert!(quantity("f", bad).is_err(), "{bad}");
        }
    }
}
