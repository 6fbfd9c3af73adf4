//! A [`ClusterView`] from what the operator reports and what Kubernetes knows of the pods. Pure.

use std::collections::BTreeMap;

use helios_crds::{
    ConditionStatus, ConditionType, HeliosCluster, HeliosClusterStatus, MemberRole, MemberStatus, Reason,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::find::CONTAINER;
use crate::backup_view::BackupView;
use crate::usage::UsageView;
use crate::view::{ClusterView, ConditionView, Health, MemberView, OperationView, Verdict, quorum};

pub fn view(cluster: &HeliosCluster, pods: &[Pod], volumes: &[PersistentVolumeClaim]) -> ClusterView {
    let status = cluster.status.clone().unwrap_or_default();
    let pods: BTreeMap<String, &Pod> = pods.iter().map(|pod| (pod.name_any(), pod)).collect();
    let volumes: BTreeMap<String, &PersistentVolumeClaim> =
        volumes.iter().map(|volume| (volume.name_any(), volume)).collect();
    let mut members: Vec<MemberView> = status
        .members
        .iter()
        .map(|member| {
            let volume = volumes.get(&format!("data-{}", member.name));
            row(member, pods.get(&member.name), volume, cluster.spec.hibernate)
        })
        .collect();
    let unknown: Vec<MemberView> = pods
        .iter()
        .filter(|(name, _)| !members.iter().any(|member| &member.name == *name))
        .map(|(name, pod)| {
            let joining = MemberStatus {
                name: name.clone(),
                role: MemberRole::Joining.into(),
                ..MemberStatus::default()
            };
            row(&joining, Some(pod), volumes.get(&format!("data-{name}")), cluster.spec.hibernate)
        })
        .collect();
    members.extend(unknown);
    ClusterView {
        name: cluster.name_any(),
        namespace: cluster.namespace(),
        verdict: verdict(cluster, &status, &members),
        leader: status.leader.clone(),
        term: status.term.and_then(unsigned),
        version: status.version.clone(),
        members,
        operation: status.operation.map(|operation| OperationView {
            kind: operation.kind.to_string(),
            target: operation.target,
            step: operation.step,
            started_at: operation.started_at.0,
            deadline: operation.deadline.0,
        }),
        backup: status.backup.as_ref().map(BackupView::from),
        conditions: status
            .conditions
            .iter()
            .filter(|condition| says_something(condition))
            .map(shown)
            .collect(),
        cluster_id: status.cluster_id,
    }
}

fn row(
    member: &MemberStatus,
    pod: Option<&&Pod>,
    volume: Option<&&PersistentVolumeClaim>,
    hibernates: bool,
) -> MemberView {
    let MemberStatus {
        name,
        member_id,
        incarnation,
        role,
        ready: _,
        match_index: _,
        lag,
        version,
        config: _,
        receives_snapshot: _,
        snapshot_failures: _,
        usage,
    } = member.clone();
    MemberView {
        name,
        id: unsigned(member_id).filter(|id| *id != 0),
        role: role.to_string(),
        ready: pod.is_some_and(|pod| is_ready(pod)),
        lag: lag.and_then(unsigned),
        version,
        node: pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()),
        volume: volume.map(|volume| volume_text(volume)),
        address: None,
        incarnation: unsigned(incarnation).filter(|starts| *starts != 0),
        trouble: match pod {
            None if hibernates => None,
            None => Some("no pod".to_owned()),
            Some(pod) => trouble(pod),
        },
        usage: usage.as_ref().map(UsageView::from),
    }
}

fn verdict(cluster: &HeliosCluster, status: &HeliosClusterStatus, members: &[MemberView]) -> Verdict {
    use ConditionType::{Available, Degraded, FaultToleranceReduced, Progressing, Ready};
    let message = |type_| status.condition(type_).map_or("", |condition| &condition.message).to_owned();
    let reason = |type_| status.condition(type_).map_or("", |condition| &condition.reason).to_owned();

    if status.conditions.is_empty() {
        let why = "no operator has looked at it; heliosctl doctor looks for the reason";
        return Verdict::new(Health::Unknown, why.to_owned());
    }
    if status.reason(Degraded) == Some(Reason::InvalidSpec) {
        let health = if status.is(Available) { Health::Degraded } else { Health::Down };
        return Verdict::new(health, format!("the spec is refused: {}", message(Degraded)));
    }
    if let Some(asleep) = asleep(cluster, status) {
        return asleep;
    }
    if !status.bootstrapped {
        let health = if status.is(Degraded) { Health::Down } else { Health::Changing };
        return Verdict::new(health, format!("starting: {}", message(Progressing)));
    }
    if let Some(available) = status.condition(Available).filter(|_| !status.is(Available)) {
        let health = if available.status == ConditionStatus::False { Health::Down } else { Health::Unknown };
        let how_to = status.recovery.as_ref().and_then(|recovery| recovery.how_to.as_ref());
        let how_to = how_to.map_or_else(String::new, |how_to| format!("; {how_to}"));
        return Verdict::new(health, format!("{}: {}{how_to}", available.reason, available.message));
    }
    let voters =
        members.iter().filter(|member| member.id.is_some() && member.role != MemberRole::Learner).count();
    let ready = members.iter().filter(|member| member.ready).count();
    if ready < quorum(voters) {
        let counted = format!("{ready} of {voters} pods are ready, {} are needed", quorum(voters));
        return Verdict::new(
            Health::Unknown,
            format!(
                "{counted}, and the operator has not seen it yet; heliosctl doctor checks whether it runs"
            ),
        );
    }
    if status.is(Degraded) {
        return Verdict::new(Health::Degraded, format!("{}: {}", reason(Degraded), message(Degraded)));
    }
    if status.observed_generation < cluster.metadata.generation {
        return Verdict::new(Health::Changing, "the operator has not acted on the last edit yet".to_owned());
    }
    if status.is(Progressing) {
        return Verdict::new(Health::Changing, format!("{}: {}", reason(Progressing), message(Progressing)));
    }
    if status.is(FaultToleranceReduced) {
        return Verdict::new(Health::Degraded, message(FaultToleranceReduced));
    }
    if !status.is(Ready) {
        return Verdict::new(Health::Degraded, format!("{}: {}", reason(Ready), message(Ready)));
    }
    if let Some(member) = members.iter().find(|member| !member.ready || member.trouble.is_some()) {
        let trouble = member.trouble.as_deref().unwrap_or("not ready");
        return Verdict::new(
            Health::Degraded,
            format!("{}: {trouble}, and the operator has not seen it yet", member.name),
        );
    }
    let paused = if cluster.spec.paused { "; paused: the operator changes nothing" } else { "" };
    let spare = voters.saturating_sub(quorum(voters));
    Verdict::new(Health::Healthy, format!("{ready} of {voters} members in service, {spare} may fail{paused}"))
}

/// Verdict on a cluster that hibernates, as the spec asks for.
fn asleep(cluster: &HeliosCluster, status: &HeliosClusterStatus) -> Option<Verdict> {
    let found = |reason: Reason| status.conditions.iter().find(|condition| condition.reason == reason);
    let name = cluster.name_any();
    if let Some(asleep) = found(Reason::Hibernated) {
        return Some(match cluster.spec.hibernate {
            true => {
                Verdict::new(Health::Hibernated, format!("{}; heliosctl wake {name} does it", asleep.message))
            }
            false => Verdict::new(Health::Changing, "the operator has not begun to wake it yet"),
        });
    }
    found(Reason::Hibernating)
        .map(|going| Verdict::new(Health::Changing, format!("{}: {}", going.reason, going.message)))
}

/// The condition differs from the one of a healthy cluster.
fn says_something(condition: &Condition) -> bool {
    let good = match (condition.type_.parse(), condition.reason.parse()) {
        // The verdict has it.
        (_, Ok(Reason::Hibernated)) => return false,
        // As asked for, but to be known.
        (_, Ok(Reason::EvenReplicas)) => return true,
        // The line of the backups has it.
        (_, Ok(Reason::NoDrill)) => return false,
        (
            Ok(
                ConditionType::Ready
                | ConditionType::Available
                | ConditionType::Archiving
                | ConditionType::BackupHealthy
                | ConditionType::RestoreVerified,
            ),
            _,
        ) => ConditionStatus::True,
        (Ok(ConditionType::Progressing), Ok(Reason::Settled)) => ConditionStatus::False,
        (Ok(ConditionType::Progressing), _) => return true,
        _ => ConditionStatus::False,
    };
    condition.status != good
}

fn shown(condition: &Condition) -> ConditionView {
    ConditionView {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why a pod does not run, as Kubernetes says it.
fn trouble(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("leaving".to_owned());
    }
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|container| container.name == CONTAINER);
    let waiting = container.and_then(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    waiting.filter(|reason| reason != "ContainerCreating").or_else(|| {
        let all = status.conditions.as_deref()?;
        all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?.reason.clone()
    })
}

fn volume_text(volume: &PersistentVolumeClaim) -> String {
    let status = volume.status.as_ref();
    let bound =
        status.and_then(|status| status.capacity.as_ref()).and_then(|capacity| capacity.get("storage"));
    match (bound, status.and_then(|status| status.phase.as_deref())) {
        (Some(size), Some("Bound")) => format!("{} {}", volume.name_any(), size.0),
        (_, phase) => format!("{} {}", volume.name_any(), phase.unwrap_or("Unknown")),
    }
}

fn unsigned(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::render::{Colour, members, plan, status};

    const NOW: &str = "2026-11-21T10:05:00Z";

    fn cluster(status: Value) -> HeliosCluster {
        serde_json::from_value(json!({
            "apiVersion": "heliosdb.io/v1alpha1", "kind": "HeliosCluster",
            "metadata": {"name": "demo", "namespace": "default", "generation": 2},
            "spec": {}, "status": status,
        }))
        .unwrap()
    }

    fn healthy() -> Value {
        let member = |n: u32, role: &str| {
            json!({"name": format!("demo-{n}"), "memberId": n + 1, "incarnation": 1, "role": role, "ready": true,
                   "matchIndex": 40, "lag": 0, "version": "0.1.0"})
        };
        json!({
            "phase": "Healthy", "observedGeneration": 2, "bootstrapped": true, "leader": "demo-0", "term": 4,
            "version": "0.1.0",
            "members": [member(0, "Leader"), member(1, "Follower"), member(2, "Follower")],
            "conditions": [
                condition("Ready", "True", "Healthy", "3 of 3 members are in service"),
                condition("Available", "True", "QuorumHealthy", "3 of 3 voters answer, 2 are needed"),
                condition("Progressing", "False", "Settled", ""),
                condition("Degraded", "False", "AllMembersHealthy", ""),
                condition("FaultToleranceReduced", "False", "AsDesigned", "1 members may fail"),
            ],
        })
    }

    fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": message,
               "lastTransitionTime": "2026-11-21T10:00:00Z"})
    }

    fn with(mut status: Value, changed: Value) -> Value {
        let conditions = status["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != changed["type"]);
        conditions.push(changed);
        status
    }

    fn pod(n: u32, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("demo-{n}")},
            "spec": {"nodeName": format!("node-{}", n + 1), "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    fn volume(n: u32) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": format!("data-demo-{n}")},
            "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}},
        }))
        .unwrap()
    }

    fn seen(status: Value, ready: [bool; 3]) -> ClusterView {
        let pods: Vec<Pod> = (0..3).map(|n| pod(n, ready[n as usize])).collect();
        view(&cluster(status), &pods, &(0..3).map(volume).collect::<Vec<_>>())
    }

    fn health(status: Value) -> Health {
        seen(status, [true; 3]).verdict.health
    }

    #[test]
    fn a_healthy_cluster_is_one_table_and_one_line() {
        let seen = seen(healthy(), [true; 3]);
        assert_eq!(
            status(&seen, NOW.parse().unwrap(), Colour(false)),
            "demo in default: leader demo-0, term 4, version 0.1.0\n\n\
             MEMBER   ROLE       READY   LAG   VERSION   NODE     VOLUME\n\
             demo-0   Leader     yes     0     0.1.0     node-1   data-demo-0 10Gi\n\
             demo-1   Follower   yes     0     0.1.0     node-2   data-demo-1 10Gi\n\
             demo-2   Follower   yes     0     0.1.0     node-3   data-demo-2 10Gi\n\n\
             HEALTHY: 3 of 3 members in service, 1 may fail\n"
        );
        assert!(members(&seen).starts_with("MEMBER   ID   ROLE "), "{}", members(&seen));
    }

    #[test]
    fn a_rolling_change_says_what_since_when_and_until_when() {
        let mut rolling =
            with(healthy(), condition("Progressing", "True", "RollingUpdate", "waiting for demo-1"));
        rolling["operation"] = json!({
            "kind": "RollingUpdate", "target": "demo-1", "step": "waiting for demo-1 to be ready",
            "startedAt": "2026-11-21T10:03:50Z", "deadline": "2026-11-21T10:08:50Z",
        });
        let seen = seen(rolling, [true, false, true]);
        let now: Timestamp = NOW.parse().unwrap();
        let shown = status(&seen, now, Colour(false));
        assert!(shown.contains("\nUnder way: RollingUpdate of demo-1: waiting for demo-1 to be ready (for 1m10s, expected within 3m50s)\n"), "{shown}");
        assert!(shown.ends_with("\nCHANGING: RollingUpdate: waiting for demo-1\n"), "{shown}");
        assert_eq!(
            plan(&seen, now, Colour(false)),
            "demo: RollingUpdate of demo-1\n  \
             step      waiting for demo-1 to be ready\n  \
             since     2026-11-21T10:03:50Z (1m10s)\n  \
             expected  by 2026-11-21T10:08:50Z (in 3m50s)\n  \
             Progressing (RollingUpdate): waiting for demo-1\n\
             CHANGING: RollingUpdate: waiting for demo-1\n"
        );
        let late = plan(&seen, "2026-11-21T10:09:00Z".parse().unwrap(), Colour(false));
        assert!(late.contains("overdue by 10s"), "{late}");
    }

    #[test]
    fn the_word_follows_from_the_conditions() {
        for (changed, expected) in [
            (condition("Degraded", "True", "MemberDown", "not answering: demo-1"), Health::Degraded),
            (condition("Progressing", "True", "AddingMember", "x"), Health::Changing),
            (condition("FaultToleranceReduced", "True", "FewerFailuresSurvivable", "x"), Health::Degraded),
            (condition("Available", "False", "NoLeader", "x"), Health::Down),
            (condition("Available", "False", "NoQuorum", "x"), Health::Down),
            (condition("Available", "False", "QuorumLost", "x"), Health::Down),
            (condition("Available", "Unknown", "Unreachable", "x"), Health::Unknown),
            (condition("Ready", "False", "NotReady", "x"), Health::Degraded),
            (condition("Degraded", "True", "InvalidSpec", "x"), Health::Degraded),
        ] {
            assert_eq!(health(with(healthy(), changed.clone())), expected, "{changed}");
        }
        assert_eq!(health(json!({})), Health::Unknown, "no operator");
    }

    #[test]
    fn a_lost_quorum_says_what_to_write_and_one_that_may_come_back_does_not() {
        let mut lost = with(healthy(), condition("Available", "False", "QuorumLost", "2 disks are lost"));
        lost["recovery"] = json!({"howTo": "set spec.recovery"});
        let verdict = |status| seen(status, [true, false, false]).verdict;
        assert_eq!(verdict(lost).text, "QuorumLost: 2 disks are lost; set spec.recovery");
        let away = with(healthy(), condition("Available", "False", "NoQuorum", "see why pods do not run"));
        assert_eq!(verdict(away).text, "NoQuorum: see why pods do not run");
    }

    #[test]
    fn even_number_of_members_is_healthy_and_reported() {
        let even = condition("FaultToleranceReduced", "False", "EvenReplicas", "no more failures than 3");
        let seen = seen(with(healthy(), even), [true; 3]);
        assert_eq!(seen.verdict.health, Health::Healthy);
        assert!(seen.conditions.iter().any(|condition| condition.reason == "EvenReplicas"));
    }

    #[test]
    fn member_near_a_limit_is_healthy_and_reported_with_its_usage() {
        let near = condition("NearLimit", "True", "VolumeNearLimit", "write spec.storage.size: 15Gi or more");
        let mut near = with(healthy(), near);
        near["members"][1]["usage"] = json!({
            "stateBytes": 2_147_483_648_u64, "logBytes": 1_048_576, "durableIndex": 40,
            "scrubbedAt": "2026-11-21T10:03:00Z", "volumeUsedBytes": 8_589_934_592_u64,
            "volumeBytes": 10_737_418_240_u64, "volumeNearLimit": true,
        });
        let seen = seen(near, [true; 3]);
        assert_eq!(seen.verdict.health, Health::Healthy);
        let text = status(&seen, NOW.parse().unwrap(), Colour(false));
        let usage = "\n\nMEMBER   STATE   LOG     DURABLE   SCRUB      MEMORY   DISK\n\
                     demo-1   2.0Gi   1.0Mi   40        2m0s ago   0        8.0Gi of 10.0Gi (80%)\n\n\
                     NearLimit (VolumeNearLimit): write spec.storage.size: 15Gi or more\n";
        assert!(text.contains(usage), "{text}");
    }

    #[test]
    fn backups_are_a_line_and_a_failed_drill_a_condition() {
        let mut backed_up = with(healthy(), condition("Archiving", "True", "Archiving", ""));
        backed_up["backup"] = json!({"store": "s3", "lagSeconds": 2});
        let text = |status_: Value| status(&seen(status_, [true; 3]), NOW.parse().unwrap(), Colour(false));
        let line = "\n\nBackups in s3: no base yet; lag 2s; no verified restore\n\nHEALTHY";
        assert!(text(backed_up.clone()).contains(line), "{}", text(backed_up));
        let failed = condition("RestoreVerified", "False", "DrillFailed", "nightly-drill-1");
        let failed = text(with(backed_up, failed));
        assert!(failed.contains("\nRestoreVerified=False (DrillFailed): nightly-drill-1\n"), "{failed}");
    }

    #[test]
    fn asleep_is_as_it_should_be_and_on_the_way_there_it_changes() {
        let pods = |status: Value, hibernate: bool| {
            let mut cluster = cluster(status);
            cluster.spec.hibernate = hibernate;
            view(&cluster, &[], &(0..3).map(volume).collect::<Vec<_>>())
        };
        let mut stopped = healthy();
        for (type_, status) in [
            ("Ready", "False"),
            ("Available", "False"),
            ("Progressing", "False"),
            ("FaultToleranceReduced", "False"),
        ] {
            stopped = with(stopped, condition(type_, status, "Hibernated", "stopped by spec.hibernate"));
        }
        let text = status(&pods(stopped.clone(), true), NOW.parse().unwrap(), Colour(false));
        assert!(
            text.ends_with(
                "data-demo-2 10Gi\n\nHIBERNATED: stopped by spec.hibernate; heliosctl wake demo does it\n"
            ),
            "{text}"
        );
        assert_eq!(pods(stopped, false).verdict.health, Health::Changing);

        let on_the_way = with(healthy(), condition("Available", "False", "NoQuorum", "x"));
        let on_the_way = with(on_the_way, condition("Progressing", "True", "Hibernating", "1 is stopping"));
        let verdict = pods(on_the_way, true).verdict;
        assert_eq!((verdict.health, verdict.text.as_str()), (Health::Changing, "Hibernating: 1 is stopping"));
    }

    #[test]
    fn an_edit_that_nobody_has_acted_on_is_a_change() {
        let mut late = healthy();
        late["observedGeneration"] = json!(1);
        assert_eq!(health(late), Health::Changing);
    }

    #[test]
    fn the_pods_are_believed_more_than_a_status_that_nobody_updates() {
        assert_eq!(seen(healthy(), [true, true, false]).verdict.health, Health::Degraded);
        assert_eq!(seen(healthy(), [true, false, false]).verdict.health, Health::Unknown);
    }

    #[test]
    fn a_member_without_pod_and_a_pod_that_is_no_member_yet_are_rows() {
        let pods = [pod(0, true), pod(1, true), pod(3, false)];
        let seen = view(&cluster(healthy()), &pods, &[]);
        let rows: Vec<_> =
            seen.members.iter().map(|m| (m.name.as_str(), m.role.as_str(), m.trouble.as_deref())).collect();
        assert_eq!(rows[2], ("demo-2", "Follower", Some("no pod")));
        assert_eq!(rows[3], ("demo-3", "Joining", None));
    }
}
