//! Bandwidth limit of snapshots: one limit for all snapshots that a member sends.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rate limiter without bursts: idle time is not saved up.
pub struct Bandwidth {
    bytes_per_second: Option<NonZeroU64>,
    free_at: Mutex<Instant>,
}

impl Bandwidth {
    /// Creates a limiter; `None`: no limit.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Resolves when `bytes` may be sent.
    pub async fn take(&self, bytes: usize) {
        if let Some(at) = self.reserve(bytes, Instant::now()) {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// Returns the time at which the bytes may be sent, after all earlier reservations; `None`: at once.
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
    fn bandwidth_is_evenly_spread_and_idle_time_is_not_saved_up() {
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
    fn sends_without_a_bandwidth_limit_do_not_wait() {
        assert_eq!(Bandwidth::new(None).reserve(usize::MAX, Instant::now()), None);
    }
}
