//! Backups of a cluster in `status`: the last base, the lag of the archive, and the last verified restore, from the HeliosCluster or, when
//! members are asked directly, as the archiver reported it to them. Pure.

use helios_crds::ClusterBackupStatus;
use helios_proto::v1::{ArchiverStatus, StoredState};
use jiff::Timestamp;
use serde::Serialize;

use crate::render::length;

/// Times are absent before there is one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupView {
    /// HeliosBackupStore; `None` when members are asked directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// When members are asked directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archiver: Option<ArchiverView>,
    pub last_backup: Option<Moment>,
    /// Age of the oldest write that is not in the store, seconds.
    pub lag_seconds: i64,
    pub last_verified_restore: Option<VerifiedView>,
}

/// The archiver that reported to the members.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiverView {
    pub name: String,
    pub state: String,
    pub reported_seconds_ago: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    pub at: Timestamp,
    pub index: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedView {
    #[serde(flatten)]
    pub moment: Moment,
    /// `None` when members are asked directly.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillView {
    pub keys: i64,
    /// Time until the restored cluster was ready, seconds.
    pub restore_seconds: i64,
    /// HeliosScheduledBackup of the drill.
    pub drill: String,
}

impl From<&ClusterBackupStatus> for BackupView {
    fn from(status: &ClusterBackupStatus) -> Self {
        let last = status.last_backup.as_ref();
        let verified = status.last_verified_restore.as_ref();
        Self {
            store: Some(status.store.clone()),
            archiver: None,
            last_backup: last
                .and_then(|last| Some(Moment { at: last.finished_at.as_ref()?.0, index: last.index })),
            lag_seconds: status.lag_seconds,
            last_verified_restore: verified.map(|verified| VerifiedView {
                moment: Moment { at: verified.at.0, index: verified.index },
                drill: Some(DrillView {
                    keys: verified.keys,
                    restore_seconds: verified.restore_seconds,
                    drill: verified.drill.clone(),
                }),
            }),
        }
    }
}

impl BackupView {
    /// Returns the newest of the reports that members got; `None` if no archiver has reported to them.
    pub fn reported<'a>(reports: impl IntoIterator<Item = &'a ArchiverStatus>) -> Option<Self> {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let newest = reports.into_iter().min_by_key(|archiver| archiver.reported_seconds_ago)?;
        let report = newest.report.as_ref()?;
        let moment = |state: &StoredState| {
            let at = Timestamp::from_millisecond(signed(state.at_ms)).ok()?;
            Some(Moment { at, index: signed(state.index) })
        };
        let verified = report.last_verified_restore.as_ref().and_then(moment);
        Some(Self {
            store: None,
            archiver: Some(ArchiverView {
                name: newest.name.clone(),
                state: report.state.clone(),
                reported_seconds_ago: signed(newest.reported_seconds_ago),
            }),
            last_backup: report.last_base.as_ref().and_then(moment),
            lag_seconds: signed(report.lag_ms / 1000),
            last_verified_restore: verified.map(|moment| VerifiedView { moment, drill: None }),
        })
    }

    /// One line for users.
    pub fn line(&self, now: Timestamp) -> String {
        let seconds = |seconds| length(jiff::SignedDuration::from_secs(seconds));
        let ago = |at: Timestamp| format!("{} ago", length(now.duration_since(at)));
        let base = self.last_backup.as_ref().map_or_else(
            || "no base yet".to_owned(),
            |base| format!("last base {} (index {})", ago(base.at), base.index),
        );
        let restore = self.last_verified_restore.as_ref().map_or_else(
            || "no verified restore".to_owned(),
            |VerifiedView { moment, drill }| {
                let drill =
                    drill.as_ref().map_or_else(String::new, |DrillView { keys, restore_seconds, drill }| {
                        format!(", {keys} keys, in {}, drill of {drill}", seconds(*restore_seconds))
                    });
                format!("last verified restore {} (index {}{drill})", ago(moment.at), moment.index)
            },
        );
        let place = self.store.iter().map(|store| format!(" in {store}"));
        let archiver = self.archiver.iter().map(|ArchiverView { name, state, reported_seconds_ago }| {
            format!(" by {name} ({state}, reported {} ago)", seconds(*reported_seconds_ago))
        });
        let whose: String = place.chain(archiver).collect();
        format!("Backups{whose}: {base}; lag {}; {restore}", seconds(self.lag_seconds))
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::ArchiverReport;
    use serde_json::{Value, json};

    use super::*;

    fn view(status: Value) -> BackupView {
        BackupView::from(&serde_json::from_value::<ClusterBackupStatus>(status).unwrap())
    }

    #[test]
    fn line_has_the_last_base_the_lag_and_the_last_verified_restore() {
        let now = "2026-11-21T10:05:00Z".parse().unwrap();
        let verified = json!({
            "at": "2026-11-21T05:01:00Z", "drill": "nightly", "restoreSeconds": 72, "index": 40, "keys": 6,
        });
        let last = json!({"index": 42, "finishedAt": "2026-11-21T03:00:00Z"});
        let all = view(json!({
            "store": "s3", "lastBackup": last, "lagSeconds": 3, "lastVerifiedRestore": verified,
        }));
        assert_eq!(
            all.line(now),
            "Backups in s3: last base 7h5m ago (index 42); lag 3s; \
             last verified restore 5h4m ago (index 40, 6 keys, in 1m12s, drill of nightly)"
        );
        let shown = serde_json::to_value(&all).unwrap();
        assert_eq!(shown["lastVerifiedRestore"]["index"], 40, "{shown}");
        let none = view(json!({"store": "s3"}));
        assert_eq!(none.line(now), "Backups in s3: no base yet; lag 0s; no verified restore");
    }

    #[test]
    fn newest_report_to_a_member_is_shown() {
        let now: Timestamp = "2026-11-21T10:05:00Z".parse().unwrap();
        let ago =
            |index, hours: u64| StoredState { index, at_ms: now.as_millisecond() as u64 - hours * 3_600_000 };
        let report = |archived_index| ArchiverReport {
            state: "Archiving".to_owned(),
            archived_index,
            lag_ms: 2_500,
            last_base: Some(ago(42, 7)),
            last_verified_restore: Some(ago(40, 5)),
        };
        let status = |name: &str, reported_seconds_ago, report| ArchiverStatus {
            name: name.to_owned(),
            reported_seconds_ago,
            report: Some(report),
        };
        let reports = [
            status("archiver old", 90, ArchiverReport::default()),
            status("archiver shop/orders", 3, report(50)),
        ];
        let shown = BackupView::reported(&reports).unwrap();
        assert_eq!(
            shown.line(now),
            "Backups by archiver shop/orders (Archiving, reported 3s ago): last base 7h0m ago (index 42); lag 2s; \
             last verified restore 5h0m ago (index 40)"
        );
        assert_eq!(serde_json::to_value(&shown).unwrap()["archiver"]["state"], "Archiving");
        assert_eq!(BackupView::reported(&[]), None);
    }
}
