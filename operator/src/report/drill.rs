//! Drills in the status: the last verified restore, and the condition RestoreVerified.

use helios_crds::ConditionStatus::Unknown;
use helios_crds::{ConditionType, DrillResult, Reason, VerifiedRestoreStatus};

use super::conditions::Finding;
use crate::backups::of_result;
use crate::observe::DrillSeen;

/// The last restore that was verified. `old` stays when its HeliosScheduledBackup is gone: it is a fact of the past.
pub fn last_verified(
    drills: &[DrillSeen],
    old: Option<VerifiedRestoreStatus>,
) -> Option<VerifiedRestoreStatus> {
    let found =
        drills.iter().filter_map(|drill| Some(verified(&drill.scheduled, drill.last_passed.as_ref()?)));
    found.chain(old).max_by_key(|verified| verified.at.0)
}

fn verified(scheduled: &str, passed: &DrillResult) -> VerifiedRestoreStatus {
    VerifiedRestoreStatus {
        at: passed.finished_at.clone(),
        drill: scheduled.to_owned(),
        restore_seconds: passed.restore_seconds.unwrap_or_default(),
        took: passed.took.clone().unwrap_or_default(),
        base: passed.base.clone(),
        index: passed.index.unwrap_or_default(),
        as_of: passed.as_of.clone(),
        keys: passed.keys.unwrap_or_default(),
    }
}

/// The last drill.
pub fn last(drills: &[DrillSeen]) -> Option<&DrillResult> {
    drills.iter().filter_map(|drill| drill.last.as_ref()).max_by_key(|result| result.finished_at.0)
}

/// The condition; `None` for a cluster without drills.
pub fn finding(drills: &[DrillSeen]) -> Option<(ConditionType, Finding)> {
    let finding = match last(drills) {
        None if drills.is_empty() => return None,
        None => Finding::new(Unknown, Reason::NoDrill, "no drill has ended yet"),
        Some(result) => {
            let (status, reason, message) = of_result(result);
            Finding::new(status, reason, message)
        }
    };
    Some((ConditionType::RestoreVerified, finding))
}

#[cfg(test)]
mod tests {
    use helios_crds::ConditionStatus::{False, True};
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn result(second: i64, passed: bool) -> DrillResult {
        let time = Timestamp::from_second(1_800_000_000 + second).unwrap().to_string();
        serde_json::from_value(json!({
            "passed": passed, "cluster": "nightly-drill-1", "startedAt": time, "finishedAt": time,
            "restoreSeconds": 72, "took": "1m12s", "index": second, "keys": 5, "base": "7-2",
        }))
        .unwrap()
    }

    fn drill(scheduled: &str, last: Option<DrillResult>, last_passed: Option<DrillResult>) -> DrillSeen {
        DrillSeen { scheduled: scheduled.to_owned(), last, last_passed }
    }

    #[test]
    fn last_verified_restore_is_the_newest_one_and_stays_when_its_schedule_is_gone() {
        let hourly = drill("hourly", Some(result(30, false)), Some(result(20, true)));
        let nightly = drill("nightly", Some(result(10, true)), Some(result(10, true)));
        let found = last_verified(&[nightly, hourly], None).unwrap();
        assert_eq!((found.drill.as_str(), found.index, found.took.as_str()), ("hourly", 20, "1m12s"));
        assert_eq!(last_verified(&[], Some(found.clone())), Some(found));
    }

    #[test]
    fn condition_is_that_of_the_last_drill_of_all_schedules() {
        let found = |drills: &[DrillSeen]| {
            let (_, finding) = finding(drills)?;
            Some((finding.status, finding.reason))
        };
        assert_eq!(found(&[]), None);
        let waiting = drill("nightly", None, None);
        assert_eq!(found(std::slice::from_ref(&waiting)), Some((Unknown, Reason::NoDrill)));
        let passed = drill("hourly", Some(result(10, true)), Some(result(10, true)));
        assert_eq!(found(&[waiting, passed.clone()]), Some((True, Reason::DrillPassed)));
        let failed = drill("nightly", Some(result(20, false)), Some(result(5, true)));
        assert_eq!(found(&[failed, passed]), Some((False, Reason::DrillFailed)));
    }
}
