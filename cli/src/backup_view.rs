//! Backups of a cluster in `status`: the last base, the lag of the archive, and the last verified restore. Pure.

use helios_crds::ClusterBackupStatus;
use jiff::Timestamp;
use serde::Serialize;

use crate::render::length;

/// Times are absent before there is one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupView {
    /// HeliosBackupStore.
    pub store: String,
    pub last_backup: Option<Moment>,
    /// Age of the oldest write that is not in the store, seconds.
    pub lag_seconds: i64,
    pub last_verified_restore: Option<VerifiedView>,
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
            store: status.store.clone(),
            last_backup: last
                .and_then(|last| Some(Moment { at: last.finished_at.as_ref()?.0, index: last.index })),
            lag_seconds: status.lag_seconds,
            last_verified_restore: verified.map(|verified| VerifiedView {
                moment: Moment { at: verified.at.0, index: verified.index },
                keys: verified.keys,
                restore_seconds: verified.restore_seconds,
                drill: verified.drill.clone(),
            }),
        }
    }
}

impl BackupView {
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
            |VerifiedView { moment, keys, restore_seconds, drill }| {
                let took = seconds(*restore_seconds);
                let what = format!("index {}, {keys} keys, in {took}, drill of {drill}", moment.index);
                format!("last verified restore {} ({what})", ago(moment.at))
            },
        );
        format!("Backups in {}: {base}; lag {}; {restore}", self.store, seconds(self.lag_seconds))
    }
}

#[cfg(test)]
mod tests {
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
}
