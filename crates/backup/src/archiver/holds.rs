//! The hold: all members are asked to keep the entries that the store does not have, so that any of them can be read next, and
//! get a report for their status.

use std::time::{Duration, Instant};

use futures::future::join_all;
use helios_archive::History;
use helios_proto::v1::{ArchiverReport, HoldRequest, StoredState};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Archiver;
use super::run::Run;
use crate::members::Members;

/// A hold ends at a member after ten minutes without a repetition; its status shows the lag, which grows while the store fails.
const REPEAT: Duration = Duration::from_secs(10);

/// A request to all members.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub history: History,
    /// The first entry that is needed.
    pub from_index: u64,
    pub report: ArchiverReport,
}

impl Order {
    /// Whether it has to be sent before its time after `sent`. The lag changes with each write.
    pub fn is_news(&self, sent: &Self) -> bool {
        let report = ArchiverReport { lag_ms: sent.report.lag_ms, ..self.report.clone() };
        *sent != Self { report, ..self.clone() }
    }

    fn request(&self, holder: &str) -> HoldRequest {
        HoldRequest {
            holder: holder.to_owned(),
            from_index: self.from_index,
            cluster_id: self.history.cluster_id().to_owned(),
            incarnation: self.history.incarnation(),
            report: Some(self.report.clone()),
        }
    }
}

impl Archiver {
    /// Changes the order that [`hold`] sends.
    pub(super) fn hold(&self) {
        let Some(run) = &self.run else { return };
        let Some(tail) = &run.tail else { return };
        let order = Order {
            history: run.archive.history().clone(),
            from_index: tail.archived() + 1,
            report: self.report(run),
        };
        self.holds.send_if_modified(|held| {
            let is_news = held.as_ref().is_none_or(|held| order.is_news(held));
            *held = Some(order);
            is_news
        });
    }

    fn report(&self, run: &Run) -> ArchiverReport {
        let lag = self.shared.lag().seconds(Instant::now());
        let (state, _) = self.shared.view().state();
        let last_base = run.inventory.newest_base();
        let verified = run.inventory.verified.as_ref();
        ArchiverReport {
            state: state.to_string(),
            archived_index: run.archived(),
            lag_ms: (lag * 1000.0) as u64,
            last_base: last_base.map(|base| StoredState { index: base.id.index, at_ms: base.finished_ms }),
            last_verified_restore: verified
                .map(|drill| StoredState { index: drill.index, at_ms: drill.at_ms }),
        }
    }
}

/// Sends the order to all members when it changes, and repeats it. Ends with the sender of `orders`.
pub async fn hold(members: Members, holder: String, mut orders: watch::Receiver<Option<Order>>) {
    loop {
        if let Ok(Err(_)) = timeout(REPEAT, orders.changed()).await {
            return;
        }
        let Some(order) = orders.borrow_and_update().clone() else { continue };
        let from_index = order.from_index;
        let sent = members.iter().map(async |member| match member.hold(order.request(&holder)).await {
            Ok(first_index) if first_index > from_index => tracing::warn!(
                member = member.address(),
                "the log of the member begins at {first_index}; the archive needs it from {from_index}"
            ),
            Ok(_) => {}
            Err(error) => tracing::debug!("the hold was not taken: {error}"),
        });
        join_all(sent).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_sent_at_once_unless_only_the_lag_is_another() {
        let order = |from_index, lag_ms, state: &str| Order {
            history: History::new("a", 1).unwrap(),
            from_index,
            report: ArchiverReport { state: state.to_owned(), lag_ms, ..ArchiverReport::default() },
        };
        let sent = order(5, 100, "Archiving");
        assert!(!order(5, 900, "Archiving").is_news(&sent));
        assert!(order(6, 100, "Archiving").is_news(&sent));
        assert!(order(5, 100, "StoreUnavailable").is_news(&sent));
    }
}
