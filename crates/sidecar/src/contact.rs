//! Contact to the cluster while no client has a request: readiness, and the end of a cut.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::upstream::{Dialer, Upstream};

const INTERVAL: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends a PING to the member that is used, again and again, and looks for another one when it does not answer.
pub async fn watch(dialer: Dialer) {
    let mut connection: Option<Upstream> = None;
    loop {
        connection = match connection.take() {
            Some(open) => answers(open, &dialer).await,
            None => dialer.open_once(&[]).await,
        };
        sleep(INTERVAL).await;
    }
}

async fn answers(mut open: Upstream, dialer: &Dialer) -> Option<Upstream> {
    let problem = match timeout(ANSWER_TIMEOUT, open.ask(&["PING"])).await {
        Ok(Ok(None)) => {
            dialer.members.contact();
            let is_listed = dialer.members.is_listed(&open.member);
            return is_listed.then_some(open);
        }
        Ok(Ok(Some(error))) => error,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer to PING within 1 s".to_owned(),
    };
    dialer.members.report(format!("{}: {problem}", open.member.address));
    dialer.members.avoid(&open.member);
    // The next member is tried at once.
    dialer.open_once(&[]).await
}
