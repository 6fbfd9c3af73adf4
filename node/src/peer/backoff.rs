//! Backoff between connection attempts to a peer. Pure: the caller passes the random number.

use std::time::Duration;

const MIN: Duration = Duration::from_millis(10);
const MAX: Duration = Duration::from_millis(500);
/// Pause after a refusal that is not retryable.
const REFUSED: Duration = Duration::from_secs(2);

/// Next pause; doubles with each failure, up to `MAX`.
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(MIN)
    }
}

impl Backoff {
    /// Resets the pause after a connection: the reason that ended it may be over at once.
    pub fn reset(&mut self) {
        self.0 = MIN;
    }

    pub fn refused(&mut self) {
        self.0 = REFUSED;
    }

    /// Returns the pause before the next attempt, jittered by `chance` (0 to 1) to between a half and one and a half of
    /// it, so that members that lost a peer at the same time do not dial it at the same time.
    pub fn pause(&mut self, chance: f64) -> Duration {
        let pause = self.0.mul_f64(0.5 + chance);
        self.0 = (self.0 * 2).min(MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_with_jitter_of_half() {
        let pauses = |chance| {
            let mut backoff = Backoff::default();
            [(); 10].map(|()| backoff.pause(chance).as_micros())
        };
        let middle = pauses(0.5);
        assert_eq!(middle[..4], [10_000, 20_000, 40_000, 80_000]);
        assert_eq!(middle[6..], [500_000; 4]);
        for ((least, middle), most) in pauses(0.0).into_iter().zip(middle).zip(pauses(1.0)) {
            assert_eq!((2 * least, 2 * most), (middle, 3 * middle));
        }
    }

    #[test]
    fn a_connection_resets_the_pause_and_a_refusal_lengthens_it() {
        let mut backoff = Backoff::default();
        assert!((0..10).all(|_| backoff.pause(0.5) >= MIN));
        backoff.reset();
        assert_eq!(backoff.pause(0.5), MIN);
        backoff.refused();
        assert_eq!(backoff.pause(0.5), REFUSED);
        assert_eq!(backoff.pause(0.5), MAX, "a peer that accepts again is reached soon");
    }
}
