//! How much of the network snapshots may take: one limit for all that a member sends.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Spreads what is sent evenly; time in which nothing was sent is not made up for.
pub struct Bandwidth {
    bytes_per_second: Option<NonZeroU64>,
    free_at: Mutex<Instant>,
}

impl Bandwidth {
    /// `None`: as much as there is.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Resolves when `bytes` may be sent.
    pub async fn take(&self, bytes: usize) {
        if let Some(at) = self.reserve(bytes, Instant::now()) {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// When they may be sent, after all that was reserved before.
    fn reserve(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let bytes_per_second = self.bytes_per_second?;
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.max(*free_at);
        *free_at = at + Duration::from_secs_f64(bytes as f64 / bytes_per_second.get() as f64);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_its_share_and_silence_is_not_saved_up() {
        let bandwidth = Bandwidth::new(NonZeroU64::new(1_000));
        let begin = Instant::now() + Duration::from_secs(1);
        let after = |at: Option<Instant>| at.unwrap() - begin;
        let first_three = [(); 3].map(|()| after(bandwidth.reserve(500, begin)).as_millis());
        assert_eq!(first_three, [0, 500, 1_000]);
        let later = begin + Duration::from_secs(60);
        let next_two = [(); 2].map(|()| after(bandwidth.reserve(500, later)).as_millis());
        assert_eq!(next_two, [60_000, 60_500]);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        assert_eq!(Bandwidth::new(None).reserve(usize::MAX, Instant::now()), None);
    }
}
