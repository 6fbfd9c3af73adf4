//! Pauses: a growing backoff with jitter, and a limit of bytes per second. Pure but for the random numbers given.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Pause before the next attempt after `failures` in a row; `random` is from 0 to 1.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let grown = FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    // From half to the whole: archivers that failed together do not retry together.
    grown.min(LONGEST).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// Limit of a rate in bytes per second.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// 0: no limit.
    bytes_per_second: u64,
    /// Time in milliseconds until which what was read has used the rate.
    until: u64,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, until: 0 }
    }

    pub fn used(&mut self, bytes: u64, now: u64) {
        if let Some(ms) = bytes.saturating_mul(1000).checked_div(self.bytes_per_second) {
            self.until = self.until.max(now).saturating_add(ms);
        }
    }

    /// Time from which the next bytes may be read.
    pub fn next_at(&self) -> u64 {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_30_seconds_and_has_jitter() {
        assert_eq!(backoff(1, 1.0), Duration::from_millis(500));
        assert_eq!(backoff(1, 0.0), Duration::from_millis(250));
        assert_eq!(backoff(4, 1.0), Duration::from_secs(4));
        for failures in [8, 31, 32, 1000, u32::MAX] {
            assert_eq!(backoff(failures, 1.0), LONGEST);
        }
    }

    #[test]
    fn rate_is_held_over_many_reads() {
        let mut pace = Pace::new(1000);
        for _ in 0..10 {
            pace.used(500, 0);
        }
        assert_eq!(pace.next_at(), 5000);
        pace.used(500, 10_000);
        assert_eq!(pace.next_at(), 10_500);
        let mut free = Pace::new(0);
        free.used(u64::MAX, 5);
        assert_eq!(free.next_at(), 0);
    }
}
