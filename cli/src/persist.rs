//! Retries of requests that were refused for the moment only, e.g. during an election.

use std::time::{Duration, Instant};

use crate::error::Error;

const PAUSE: Duration = Duration::from_millis(200);

/// Repeats `attempt` until it succeeds, is refused for good, or `limit` has passed. `attempt` must be
/// idempotent, as every call of the management service is.
///
/// # Errors
/// The last error of `attempt`.
pub async fn persist<T>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Err(Error::Refused { retryable: true, .. }) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(retryable: bool) -> Error {
        let word = || String::new();
        Error::Refused { member: word(), doing: word(), message: word(), hint: word(), retryable }
    }

    #[tokio::test]
    async fn retryable_refusal_is_retried() {
        let mut answers = vec![Ok(7), Err(refused(true)), Err(refused(true))];
        let found = persist(Duration::from_secs(600), async || answers.pop().unwrap()).await;
        assert_eq!(found.unwrap(), 7);
    }

    #[tokio::test]
    async fn final_or_late_refusal_is_not_retried() {
        let mut asked = 0;
        let mut ask = async |retryable, limit| {
            persist::<()>(limit, async || {
                asked += 1;
                Err(refused(retryable))
            })
            .await
            .unwrap_err();
        };
        ask(false, Duration::from_secs(600)).await;
        ask(true, Duration::ZERO).await;
        assert_eq!(asked, 2);
    }
}
