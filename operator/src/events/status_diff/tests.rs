use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;
use crate::plan::Kind;

const ALL: [Notice; 20] = [
    Notice::MemberJoined,
    Notice::MemberPromoted,
    Notice::MemberLeft,
    Notice::MemberFailed,
    Notice::MemberRecovered,
    Notice::QuorumAchieved,
    Notice::QuorumLost,
    Notice::QuorumUnknown,
    Notice::LeaderElected,
    Notice::LeaderMoved,
    Notice::LeaderLost,
    Notice::SnapshotStarted,
    Notice::SnapshotDone,
    Notice::SnapshotFailed,
    Notice::ConfigReloaded,
    Notice::CertificateRenewed,
    Notice::NameTaken,
    Notice::NearLimit,
    Notice::RestoreVerified,
    Notice::DrillFailed,
];

fn member(ordinal: i64, role: MemberRole) -> MemberStatus {
    MemberStatus {
        name: format!("demo-{ordinal}"),
        member_id: ordinal + 1,
        incarnation: 1,
        role: role.into(),
        ready: role != MemberRole::Unknown,
        config: Some("one".to_owned()),
        match_index: Some(100),
        ..MemberStatus::default()
    }
}

fn available_as(status: &mut HeliosClusterStatus, value: &str, reason: &str) {
    status.conditions = vec![Condition {
        type_: "Available".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: format!("it is {reason}"),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }];
}

/// Three members, of which the first leads in term 3.
fn three() -> HeliosClusterStatus {
    let mut status = HeliosClusterStatus {
        leader: Some("demo-0".to_owned()),
        term: Some(3),
        members: vec![
            member(0, MemberRole::Leader),
            member(1, MemberRole::Follower),
            member(2, MemberRole::Follower),
        ],
        ..HeliosClusterStatus::default()
    };
    available_as(&mut status, "True", "QuorumHealthy");
    status
}

fn changed(change: impl FnOnce(&mut HeliosClusterStatus)) -> HeliosClusterStatus {
    let mut status = three();
    change(&mut status);
    status
}

/// Each as `Reason pod`.
fn names(old: &HeliosClusterStatus, new: &HeliosClusterStatus) -> Vec<String> {
    let word = |change: Change| format!("{:?} {}", change.notice, change.pod.unwrap_or_default());
    status_diff(old, new).into_iter().map(|change| word(change).trim_end().to_owned()).collect()
}

#[test]
fn unchanged_status_has_no_change_when_only_positions_move() {
    assert_eq!(names(&three(), &three()), [""; 0]);
    let busy = changed(|status| status.members[1].match_index = Some(9_000));
    assert_eq!(names(&three(), &busy), [""; 0]);
}

#[test]
fn member_is_reported_when_it_joins_votes_and_leaves() {
    let learner = changed(|status| status.members.push(member(3, MemberRole::Learner)));
    let voter = changed(|status| status.members.push(member(3, MemberRole::Follower)));
    assert_eq!(names(&three(), &learner), ["MemberJoined demo-3"]);
    assert_eq!(names(&learner, &voter), ["MemberPromoted demo-3"]);
    assert_eq!(names(&voter, &three()), ["MemberLeft demo-3"]);
    let joining = changed(|status| {
        status.members.push(MemberStatus { member_id: 0, ..member(3, MemberRole::Joining) })
    });
    assert_eq!(names(&three(), &joining), [""; 0], "a pod is no member yet");
    let again = changed(|status| status.members[2].member_id = 9);
    assert_eq!(
        names(&three(), &again),
        ["MemberLeft demo-2", "MemberJoined demo-2"],
        "a new disk, a new member"
    );
}

#[test]
fn member_is_reported_when_it_fails_and_recovers_without_the_operator() {
    let away = changed(|status| status.members[2] = member(2, MemberRole::Unknown));
    assert_eq!(names(&three(), &away), ["MemberFailed demo-2"]);
    assert_eq!(names(&away, &away), [""; 0]);
    assert_eq!(names(&away, &three()), ["MemberRecovered demo-2"]);
    let unready = changed(|status| status.members[1].ready = false);
    assert_eq!(names(&three(), &unready), ["MemberFailed demo-1"]);
    let meant = changed(|status| {
        status.members[2] = member(2, MemberRole::Unknown);
        status.operation = Some(helios_crds::OperationStatus {
            kind: Kind::RollingUpdate.into(),
            target: Some("demo-2".to_owned()),
            step: String::new(),
            step_id: None,
            started_at: Time(Timestamp::UNIX_EPOCH),
            deadline: Time(Timestamp::UNIX_EPOCH),
            steady_since: None,
        });
    });
    assert_eq!((names(&three(), &meant), names(&meant, &three())), (vec![], vec![]));
}

#[test]
fn leader_is_reported_when_it_is_lost_elected_and_moved() {
    let gap = changed(|status| {
        (status.leader, status.term) = (None, None);
        status.members[0] = member(0, MemberRole::Unknown);
        available_as(status, "False", "NoLeader");
    });
    let next = changed(|status| {
        (status.leader, status.term) = (Some("demo-1".to_owned()), Some(4));
        status.members[0] = member(0, MemberRole::Unknown);
        status.members[1].role = MemberRole::Leader.into();
    });
    let moved = changed(|status| {
        (status.leader, status.term) = (Some("demo-1".to_owned()), Some(4));
        status.members[0].role = MemberRole::Follower.into();
    });
    assert_eq!(names(&three(), &gap), ["MemberFailed demo-0", "LeaderLost demo-0"]);
    assert_eq!(names(&gap, &next), ["LeaderElected demo-1"]);
    assert_eq!(names(&three(), &next), ["MemberFailed demo-0", "LeaderElected demo-1"]);
    assert_eq!(names(&three(), &moved), ["LeaderMoved demo-1"]);
    let later = changed(|status| status.term = Some(5));
    assert_eq!(names(&three(), &later), ["LeaderElected demo-0"], "again");
}

#[test]
fn quorum_is_one_change_when_members_are_unreachable() {
    let lost = changed(|status| {
        (status.leader, status.term) = (None, None);
        status.members = vec![
            member(0, MemberRole::Candidate),
            member(1, MemberRole::Unknown),
            member(2, MemberRole::Unknown),
        ];
        available_as(status, "False", "NoQuorum");
    });
    assert_eq!(
        names(&three(), &lost),
        ["MemberFailed demo-1", "MemberFailed demo-2", "QuorumLost", "LeaderLost demo-0"]
    );
    let choosing = changed(|status| {
        (status.leader, status.term) = (None, None);
        status.members[0].role = MemberRole::Candidate.into();
        available_as(status, "False", "NoLeader");
    });
    assert_eq!(
        names(&lost, &choosing),
        ["MemberRecovered demo-1", "MemberRecovered demo-2", "QuorumAchieved"]
    );
    assert_eq!(names(&choosing, &three()), ["LeaderElected demo-0"]);

    let unreachable = changed(|status| {
        (status.leader, status.term) = (None, None);
        status.members.iter_mut().for_each(|member| member.role = MemberRole::Unknown.into());
        available_as(status, "Unknown", "Unreachable");
    });
    assert_eq!(
        names(&three(), &unreachable),
        ["QuorumUnknown"],
        "five hundred clusters at once have as many"
    );
    assert_eq!(names(&unreachable, &three()), ["QuorumAchieved"]);
    assert_eq!(status_diff(&unreachable, &three())[0].note, "it is QuorumHealthy; demo-0 leads in term 3");
}

#[test]
fn hibernated_members_are_not_reported_as_failed() {
    let asleep = changed(|status| {
        (status.leader, status.term) = (None, None);
        status
            .members
            .iter_mut()
            .for_each(|member| (member.role, member.ready) = (MemberRole::Unknown.into(), false));
        available_as(status, "False", "Hibernated");
    });
    assert_eq!(names(&three(), &asleep), [""; 0]);
    assert_eq!(names(&asleep, &three()), ["QuorumAchieved", "LeaderElected demo-0"]);
}

#[test]
fn snapshots_settings_and_certificates_are_reported_when_they_change() {
    let sending = changed(|status| status.members[2].receives_snapshot = true);
    let arrived = changed(|status| status.members[2].match_index = Some(101));
    assert_eq!(names(&three(), &sending), ["SnapshotStarted demo-2"]);
    assert_eq!(names(&sending, &arrived), ["SnapshotDone demo-2"]);
    assert_eq!(names(&sending, &three()), ["SnapshotFailed demo-2"]);
    let failing = changed(|status| status.members[1].snapshot_failures = 1);
    assert_eq!(names(&three(), &failing), ["SnapshotFailed demo-1"]);
    assert_eq!(names(&failing, &three()), [""; 0], "its process was started again");

    let reloaded = changed(|status| status.members[1].config = Some("two".to_owned()));
    assert_eq!(names(&three(), &reloaded), ["ConfigReloaded demo-1"]);
    let restarted = changed(|status| {
        (status.members[1].config, status.members[1].incarnation) = (Some("two".to_owned()), 2);
    });
    assert_eq!(names(&three(), &restarted), [""; 0]);

    let ends = |second| {
        changed(|status| status.certificate_expires_at = Timestamp::from_second(second).ok().map(Time))
    };
    assert_eq!(
        names(&three(), &ends(1_800_000_000)),
        [""; 0],
        "the first one, or an operator that did not report it"
    );
    assert_eq!(names(&ends(1_800_000_000), &ends(1_900_000_000)), ["CertificateRenewed"]);
}

#[test]
fn taken_name_is_reported_again_only_when_another_one_is_taken() {
    let taken = |message: &str| {
        changed(|status| {
            status.conditions.push(Condition {
                type_: "Degraded".to_owned(),
                status: "True".to_owned(),
                reason: "NameTaken".to_owned(),
                message: message.to_owned(),
                observed_generation: None,
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            });
        })
    };
    assert_eq!(names(&three(), &taken("Service demo")), ["NameTaken"]);
    assert_eq!(names(&taken("Service demo"), &taken("Service demo")), [""; 0]);
    assert_eq!(names(&taken("Service demo"), &taken("Secret demo-ca")), ["NameTaken"]);
    assert_eq!(names(&taken("Secret demo-ca"), &three()), [""; 0]);
}

#[test]
fn member_near_a_limit_is_reported_once_for_each_advice() {
    let near = |status_: &str, message: &str| {
        changed(|status| {
            status.conditions.push(Condition {
                type_: "NearLimit".to_owned(),
                status: status_.to_owned(),
                reason: "VolumeNearLimit".to_owned(),
                message: message.to_owned(),
                observed_generation: None,
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            });
        })
    };
    assert_eq!(names(&three(), &near("True", "demo-0")), ["NearLimit"]);
    assert_eq!(names(&near("True", "demo-0"), &near("True", "demo-0")), [""; 0]);
    assert_eq!(names(&near("True", "demo-0"), &near("True", "demo-0, demo-1")), ["NearLimit"]);
    assert_eq!(names(&near("True", "demo-0"), &near("False", "")), [""; 0]);
}

#[test]
fn drill_is_reported_once() {
    let drill = |status_: &str, reason: &str, second: i64| {
        changed(|status| {
            status.conditions.push(Condition {
                type_: "RestoreVerified".to_owned(),
                status: status_.to_owned(),
                reason: reason.to_owned(),
                message: "5 keys at index 9".to_owned(),
                observed_generation: None,
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            });
            let at = Timestamp::from_second(second).unwrap().to_string();
            let verified = serde_json::json!({"at": at, "drill": "nightly"});
            let backup = serde_json::json!({"lastVerifiedRestore": verified});
            status.backup = Some(serde_json::from_value(backup).unwrap());
        })
    };
    let passed = drill("True", "DrillPassed", 1);
    assert_eq!(names(&three(), &passed), ["RestoreVerified"]);
    assert_eq!(names(&passed, &passed), [""; 0]);
    assert_eq!(names(&passed, &drill("True", "DrillPassed", 2)), ["RestoreVerified"], "the next night");
    assert_eq!(names(&passed, &drill("False", "DrillFailed", 1)), ["DrillFailed"]);
    assert_eq!(names(&three(), &drill("Unknown", "NoDrill", 1)), [""; 0]);
}

#[test]
fn changes_are_bounded_when_everything_changes() {
    let crowd =
        changed(|status| status.members.extend((3..40).map(|ordinal| member(ordinal, MemberRole::Learner))));
    assert_eq!(names(&three(), &crowd).len(), MOST);
}

/// The page is for people who write alerts on reasons; each is there once, with its type.
#[test]
fn reference_of_events_has_each_reason() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/events.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut listed: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next()).collect();
    let rows: Vec<String> =
        ALL.map(|notice| format!("| `{}` | {:?} | ", notice.name(), notice.type_())).into();
    for row in &rows {
        assert_eq!(page.lines().filter(|line| line.starts_with(row)).count(), 1, "{row}");
    }
    listed.retain(|reason| !ALL.iter().any(|notice| format!("{}`", notice.name()) == **reason));
    let of_the_operator = Kind::ALL.map(|kind| format!("{kind}`"));
    let mut expected: Vec<&str> = of_the_operator.iter().map(String::as_str).collect();
    expected.push("Unreadable`");
    assert_eq!(listed, expected);
}
