//! Backups in the status: the state of the archiver, and the conditions Archiving and BackupHealthy. Those of drills are in `drill`.

use helios_crds::ConditionStatus::{False, True, Unknown};
use helios_crds::ConditionType::{self, Archiving, BackupHealthy};
use helios_crds::{
    ClusterBackupStatus, GapStatus, HeliosClusterStatus, LastBackupStatus, Reason, RecoverableRange,
    RecoverySourceStatus,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::Finding;
use super::{drill, signed};
use crate::backups::span;
use crate::metrics::BackupFacts;
use crate::names;
use crate::observe::archiver::{ArchiverStatus, Base, moment};
use crate::observe::{RestoreSeen, StoreProblem};
use crate::plan::View;

/// Time for which a store or all members may be away before it is a condition.
const TOLERATED: f64 = 60.0;
/// Age of positions in the status at which they are news.
const REFRESHED: SignedDuration = SignedDuration::from_mins(1);
/// Entries of each list in the status.
const MOST_LISTED: usize = 10;
const MAX_MESSAGE: usize = 1000;

/// Status of the backups; `None` for a cluster without. What the archiver reported last stays while it does not answer.
pub fn status(view: &View, old: Option<&ClusterBackupStatus>) -> Option<ClusterBackupStatus> {
    let Some(spec) = &view.cluster.spec.backup else {
        // Kept until the archiver is deleted: without it nobody would look for one.
        return old.filter(|_| view.seen.backup.has_archiver).cloned();
    };
    let old = old.filter(|old| old.store == spec.store).cloned().unwrap_or_default();
    let last_verified_restore = drill::last_verified(&view.seen.backup.drills, old.last_verified_restore);
    let old = ClusterBackupStatus { store: spec.store.clone(), state: None, last_verified_restore, ..old };
    let Some(archiver) = &view.seen.backup.archiver else { return Some(old) };
    // One that has not read the store yet knows less than the status does.
    if archiver.cluster_id.is_empty() {
        return Some(ClusterBackupStatus { state: Some(archiver.state.clone()), ..old });
    }
    Some(reported(archiver, old))
}

fn reported(archiver: &ArchiverStatus, old: ClusterBackupStatus) -> ClusterBackupStatus {
    let time = |ms| moment(ms).map(Time);
    let gaps = archiver.gaps.iter().rev().take(MOST_LISTED).rev();
    let ranges = archiver.recoverable.iter().rev().take(MOST_LISTED).rev();
    ClusterBackupStatus {
        state: Some(archiver.state.clone()),
        last_backup: archiver.last_base.as_ref().map(last_backup).or(old.last_backup),
        archived_index: signed(archiver.archived_index),
        archived_at: time(archiver.archived_now_ms),
        lag_seconds: archiver.lag_seconds.max(0.0) as i64,
        gaps: gaps.map(|gap| GapStatus { from: signed(gap.from), to: signed(gap.to) }).collect(),
        recoverable: ranges
            .map(|range| RecoverableRange {
                from_index: signed(range.from_index),
                to_index: signed(range.to_index),
                from: time(range.from_ms),
                to: time(range.to_ms),
                bases: signed(range.bases),
                bytes: signed(range.bytes),
            })
            .collect(),
        last_gc: archiver.last_gc_ms.and_then(time),
        encrypted: archiver.encrypted,
        ..old
    }
}

fn last_backup(base: &Base) -> LastBackupStatus {
    LastBackupStatus {
        index: signed(base.index),
        term: signed(base.term),
        finished_at: moment(base.finished_ms).map(Time),
        bytes: signed(base.bytes),
        stored_bytes: signed(base.stored_bytes),
        keys: signed(base.keys),
        digest: base.state_digest.clone().filter(|digest| !digest.is_empty()),
        member: base.member.clone(),
    }
}

/// Returns `new` with the positions of `old`, which move with every write, unless they are old enough to be news.
pub fn with_positions_of(old: &HeliosClusterStatus, new: &mut HeliosClusterStatus) {
    let (Some(old), Some(new)) = (&old.backup, &mut new.backup) else { return };
    let age = match (&old.archived_at, &new.archived_at) {
        (Some(old), Some(new)) => new.0.duration_since(old.0).abs(),
        (None, None) => SignedDuration::ZERO,
        _ => return,
    };
    let lag_moved = SignedDuration::from_secs(old.lag_seconds.abs_diff(new.lag_seconds).cast_signed());
    let bases =
        |status: &ClusterBackupStatus| status.recoverable.iter().map(|range| range.bases).sum::<i64>();
    if age < REFRESHED && lag_moved < REFRESHED && bases(old) == bases(new) {
        new.archived_index = old.archived_index;
        new.archived_at.clone_from(&old.archived_at);
        new.lag_seconds = old.lag_seconds;
        new.recoverable.clone_from(&old.recoverable);
        new.last_gc.clone_from(&old.last_gc);
    }
}

/// The same for the metrics.
pub fn facts(view: &View) -> BackupFacts {
    let status = status(view, view.seen.status.backup.as_ref());
    if view.cluster.spec.backup.is_none() {
        return BackupFacts::default();
    }
    let verified = status.as_ref().and_then(|status| status.last_verified_restore.as_ref());
    let of_drills = BackupFacts {
        is_drill_failed: drill::last(&view.seen.backup.drills).map(|result| !result.passed),
        last_verified_restore: verified.map(|verified| verified.at.0),
        restore_seconds: verified.map(|verified| verified.restore_seconds as f64),
        ..BackupFacts::default()
    };
    let archiving = archiving(view);
    if [Reason::ArchiveOff, Reason::Bootstrapping, Reason::Hibernated].contains(&archiving.reason) {
        return of_drills;
    }
    let last = status.and_then(|status| status.last_backup);
    let last_base = last.and_then(|last| last.finished_at).map(|time| time.0);
    let interval = view.cluster.spec.backup.as_ref().and_then(|backup| span(&backup.base_interval));
    let is_old = |last| interval.is_some_and(|interval| is_too_old(last, view.seen.now, interval));
    BackupFacts {
        is_archiving: Some(archiving.status == True),
        is_base_overdue: Some(last_base.is_none_or(is_old)),
        last_base,
        lag: view.seen.backup.archiver.as_ref().map(|archiver| archiver.lag_seconds),
        ..of_drills
    }
}

/// The conditions; none for a cluster without backups.
pub fn findings(view: &View, status: Option<&ClusterBackupStatus>) -> Vec<(ConditionType, Finding)> {
    if view.cluster.spec.backup.is_none() {
        return Vec::new();
    }
    let archiving = archiving(view);
    let healthy = healthy(view, status, &archiving);
    let drill = drill::finding(&view.seen.backup.drills);
    [(Archiving, archiving), (BackupHealthy, healthy)].into_iter().chain(drill).collect()
}

fn archiving(view: &View) -> Finding {
    let (seen, spec) = (&view.seen.backup, &view.cluster.spec);
    match () {
        () if !spec.backup.as_ref().is_some_and(|backup| backup.archive) => {
            return Finding::new(
                False,
                Reason::ArchiveOff,
                "off by spec.backup.archive; only HeliosBackups are taken",
            );
        }
        () if spec.hibernate => {
            return Finding::new(
                False,
                Reason::Hibernated,
                "no member runs; all acknowledged writes stay on the volumes",
            );
        }
        () if !view.seen.status.bootstrapped => {
            return Finding::new(Unknown, Reason::Bootstrapping, "begins when the cluster exists");
        }
        () => {}
    }
    if let Some(problem) = &seen.problem {
        let reason = match problem {
            StoreProblem::Missing(_) => Reason::StoreMissing,
            StoreProblem::SecretMissing(_) => Reason::SecretMissing,
            StoreProblem::Refused(_) => Reason::BackupsRefused,
        };
        return Finding::new(False, reason, problem.message());
    }
    let Some(archiver) = &seen.archiver else {
        let name = names::archiver(&view.cluster.name);
        return match (&seen.pod_problem, &seen.address) {
            (Some(problem), _) => {
                Finding::new(False, Reason::ArchiverUnreachable, format!("Deployment {name}: {problem}"))
            }
            (None, None) => {
                Finding::new(Unknown, Reason::ArchiverStarting, format!("waiting for Deployment {name}"))
            }
            (None, Some(_)) => Finding::new(
                Unknown,
                Reason::ArchiverUnreachable,
                format!(
                    "the pod of Deployment {name} does not answer; see its log, and policies that keep the operator out"
                ),
            ),
        };
    };
    of_state(archiver)
}

fn of_state(archiver: &ArchiverStatus) -> Finding {
    let reason = archiver.state.parse().unwrap_or(Reason::Stalled);
    let is_late = archiver.lag_seconds >= TOLERATED;
    let message: String = archiver.message.chars().take(MAX_MESSAGE).collect();
    match reason {
        Reason::Archiving if is_late => Finding::new(
            False,
            Reason::ArchiveLag,
            "writes of more than a minute are not in the store yet; see the lag in status.backup",
        ),
        Reason::Archiving | Reason::TakingBase => Finding::new(True, reason, message),
        // The members keep the log meanwhile.
        Reason::StoreUnavailable | Reason::NoMember if !is_late => Finding::new(True, reason, message),
        _ => Finding::new(False, reason, message),
    }
}

fn healthy(view: &View, status: Option<&ClusterBackupStatus>, archiving: &Finding) -> Finding {
    if [Reason::ArchiveOff, Reason::Bootstrapping].contains(&archiving.reason) {
        return Finding::new(Unknown, archiving.reason, archiving.message.clone());
    }
    if archiving.status == False && archiving.reason != Reason::Hibernated {
        return Finding::new(False, archiving.reason, archiving.message.clone());
    }
    let Some(last) = status.and_then(|status| status.last_backup.as_ref()) else {
        let starting = archiving.status == Unknown || archiving.reason == Reason::TakingBase;
        let status = if starting { Unknown } else { False };
        return Finding::new(status, Reason::NoBackup, "no base is complete yet, so nothing can be restored");
    };
    let interval = view.cluster.spec.backup.as_ref().and_then(|backup| span(&backup.base_interval));
    if let (Some(interval), Some(finished)) = (interval, &last.finished_at)
        && is_too_old(finished.0, view.seen.now, interval)
        && archiving.reason != Reason::Hibernated
    {
        let message = format!(
            "the last base is of {}, older than two intervals of spec.backup.baseInterval",
            finished.0
        );
        return Finding::new(False, Reason::BackupTooOld, message);
    }
    Finding::new(True, Reason::BackupsComplete, "")
}

fn is_too_old(finished: Timestamp, now: Timestamp, interval: SignedDuration) -> bool {
    now.duration_since(finished) > interval.saturating_add(interval)
}

/// The source of a restore, from the state of its Job.
pub fn source(view: &View, old: Option<RecoverySourceStatus>) -> Option<RecoverySourceStatus> {
    let bootstrap = view.cluster.spec.bootstrap.as_ref();
    let Some(recovery) = bootstrap.and_then(|bootstrap| bootstrap.recovery.as_ref()) else { return old };
    let at = |phase: &str, message: Option<String>| RecoverySourceStatus {
        store: recovery.store.clone(),
        phase: phase.to_owned(),
        message,
        ..RecoverySourceStatus::default()
    };
    Some(match &view.seen.backup.restore {
        RestoreSeen::Unneeded => return old,
        // It was deleted after the members had begun.
        RestoreSeen::Absent | RestoreSeen::Blocked(_) if view.seen.status.bootstrapped => {
            at("Completed", None)
        }
        RestoreSeen::Absent => return old,
        RestoreSeen::Blocked(message) => at("Pending", Some(message.clone())),
        RestoreSeen::Running(message) => at("Running", message.clone()),
        RestoreSeen::Failed { reason, message } => at("Failed", Some(format!("{reason}: {message}"))),
        RestoreSeen::Completed(report) => RecoverySourceStatus {
            cluster_id: Some(report.source_cluster_id.clone()),
            base: (report.base_index > 0).then(|| format!("{}-{}", report.base_index, report.base_term)),
            base_keys: report.base_keys.map(signed),
            index: Some(signed(report.index)),
            as_of: moment(report.now_ms).map(Time),
            keys: Some(signed(report.keys)),
            digest_matches: report.digest_matches,
            took_seconds: Some(signed(report.took_ms.div_ceil(1000))),
            ..at("Completed", report.comparison.clone())
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archiver(state: &str, lag_seconds: f64) -> ArchiverStatus {
        ArchiverStatus {
            cluster_id: "c".to_owned(),
            state: state.to_owned(),
            message: "why".to_owned(),
            lag_seconds,
            ..ArchiverStatus::default()
        }
    }

    #[test]
    fn archiving_has_the_state_of_the_archiver_as_its_reason() {
        let found = |state: &str, lag: f64| {
            let finding = of_state(&archiver(state, lag));
            (finding.status, finding.reason)
        };
        assert_eq!(found("Archiving", 2.0), (True, Reason::Archiving));
        assert_eq!(found("Archiving", 61.0), (False, Reason::ArchiveLag));
        assert_eq!(found("TakingBase", 2.0), (True, Reason::TakingBase));
        assert_eq!(
            found("StoreUnavailable", 59.0),
            (True, Reason::StoreUnavailable),
            "the members keep the log"
        );
        assert_eq!(found("StoreUnavailable", 60.0), (False, Reason::StoreUnavailable));
        for state in
            [Reason::StoreRefused, Reason::StoreFull, Reason::Forked, Reason::WrongKey, Reason::Damaged]
        {
            assert_eq!(found(&state.to_string(), 0.0), (False, state));
        }
        assert_eq!(found("Sparkling", 0.0), (False, Reason::Stalled), "of another version");
    }

    #[test]
    fn positions_are_news_once_a_minute_and_bases_at_once() {
        let at = |second: i64, bases: i64| {
            let time = Time(Timestamp::from_second(1_800_000_000 + second).unwrap());
            let backup = ClusterBackupStatus {
                archived_index: second,
                archived_at: Some(time),
                recoverable: vec![RecoverableRange {
                    to_index: second,
                    bases,
                    ..RecoverableRange::default()
                }],
                ..ClusterBackupStatus::default()
            };
            HeliosClusterStatus { backup: Some(backup), ..HeliosClusterStatus::default() }
        };
        let differs = |mut new: HeliosClusterStatus| {
            with_positions_of(&at(0, 1), &mut new);
            new != at(0, 1)
        };
        assert!(!differs(at(59, 1)) && differs(at(60, 1)) && differs(at(1, 2)));
    }

    #[test]
    fn base_is_too_old_after_two_intervals() {
        let (now, day) = (Timestamp::from_second(1_800_000_000).unwrap(), SignedDuration::from_hours(24));
        let ago = |hours: i64| now - SignedDuration::from_hours(hours);
        assert!(!is_too_old(ago(48), now, day) && is_too_old(ago(49), now, day));
        assert_eq!(
            (span("24h"), span("1d"), span("90m")),
            (Some(day), Some(day), Some(SignedDuration::from_mins(90)))
        );
        assert_eq!(span("0"), None);
    }

    #[test]
    fn report_of_an_archiver_that_has_just_started_does_not_erase_what_is_known() {
        let known = ClusterBackupStatus {
            archived_index: 7,
            last_backup: Some(LastBackupStatus::default()),
            ..Default::default()
        };
        let merged = reported(&archiver("Archiving", 0.0), known.clone());
        assert_eq!(merged.last_backup, known.last_backup, "a base that was taken stays");
    }
}
