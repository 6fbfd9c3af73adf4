//! The hold: all members are asked to keep the entries that the store does not have, so that any of them can be read next.

use std::time::Duration;

use futures::future::join_all;
use helios_archive::History;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::members::Members;

/// A hold ends at a member after ten minutes without a repetition.
const REPEAT: Duration = Duration::from_secs(60);

/// The first entry that is needed, and its history.
pub type Order = Option<(History, u64)>;

/// Sends the order to all members when it changes, and repeats it. Ends with the sender of `orders`.
pub async fn hold(members: Members, holder: String, mut orders: watch::Receiver<Order>) {
    loop {
        if let Ok(Err(_)) = timeout(REPEAT, orders.changed()).await {
            return;
        }
        let Some((history, from_index)) = orders.borrow_and_update().clone() else { continue };
        let sent =
            members.iter().map(async |member| match member.hold(&holder, &history, from_index).await {
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
