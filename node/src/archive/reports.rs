//! Reports of archivers to this member, for its status. They are in memory only: an archiver repeats its report every few seconds.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use helios_proto::v1::{ArchiverReport, ArchiverStatus};

use crate::error::Error;
use crate::raft::MAX_HOLDERS;

/// Limit of the name of a state, bytes.
const MAX_STATE_BYTES: usize = 64;
/// Time for which a report is shown. One that ended long ago may have another name now.
const KEPT: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
pub struct Reports(Mutex<BTreeMap<String, (Instant, ArchiverReport)>>);

impl Reports {
    /// Records the report of a holder. One more than [`MAX_HOLDERS`] takes the place of the oldest.
    ///
    /// # Errors
    /// The name of the state is too long.
    pub fn put(&self, holder: String, report: ArchiverReport, now: Instant) -> Result<(), Error> {
        if report.state.len() > MAX_STATE_BYTES {
            return Err(Error::invalid(format!("report.state: at most {MAX_STATE_BYTES} bytes")));
        }
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() >= MAX_HOLDERS && !reports.contains_key(&holder) {
            let oldest = reports.iter().min_by_key(|(_, (at, _))| *at).map(|(holder, _)| holder.clone());
            if let Some(oldest) = oldest {
                reports.remove(&oldest);
            }
        }
        reports.insert(holder, (now, report));
        Ok(())
    }

    /// The reports of the last day, by name.
    pub fn all(&self, now: Instant) -> Vec<ArchiverStatus> {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.retain(|_, (at, _)| now.saturating_duration_since(*at) < KEPT);
        let status = |(name, (at, report)): (&String, &(Instant, ArchiverReport))| ArchiverStatus {
            name: name.clone(),
            reported_seconds_ago: now.saturating_duration_since(*at).as_secs(),
            report: Some(report.clone()),
        };
        reports.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(archived_index: u64) -> ArchiverReport {
        ArchiverReport { archived_index, ..ArchiverReport::default() }
    }

    #[test]
    fn last_report_of_each_archiver_is_shown_with_its_age_for_a_day() {
        let (reports, now) = (Reports::default(), Instant::now());
        reports.put("a".to_owned(), report(1), now).unwrap();
        reports.put("a".to_owned(), report(2), now + Duration::from_secs(5)).unwrap();
        let all = reports.all(now + Duration::from_secs(7));
        let [shown] = &*all else { panic!("{all:?}") };
        assert_eq!((shown.name.as_str(), shown.reported_seconds_ago), ("a", 2));
        assert_eq!(shown.report, Some(report(2)));
        assert!(reports.all(now + KEPT + Duration::from_secs(5)).is_empty());
    }

    #[test]
    fn reports_are_limited_and_the_oldest_makes_room() {
        let (reports, now) = (Reports::default(), Instant::now());
        for number in 0..=MAX_HOLDERS as u64 {
            reports.put(number.to_string(), report(number), now + Duration::from_secs(number)).unwrap();
        }
        let shown = reports.all(now + Duration::from_secs(60));
        assert_eq!(shown.len(), MAX_HOLDERS);
        assert!(shown.iter().all(|archiver| archiver.name != "0"));
        let long = ArchiverReport { state: "x".repeat(MAX_STATE_BYTES + 1), ..report(1) };
        assert!(reports.put("a".to_owned(), long, now).is_err());
    }
}
