//! How long to wait before a peer is dialled again. Pure: chance is passed in.

use std::time::Duration;

const MIN: Duration = Duration::from_millis(10);
const MAX: Duration = Duration::from_millis(500);
/// A peer that refuses us for a lasting reason is asked again this often.
const REFUSED: Duration = Duration::from_secs(2);

/// Doubles from one failure to the next, up to half a second.
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(MIN)
    }
}

impl Backoff {
    /// There was a connection: what ended it may be over at once.
    pub fn reset(&mut self) {
        self.0 = MIN;
    }

    pub fn refused(&mut self) {
        self.0 = REFUSED;
    }

    /// The pause before the next attempt, from a half to one and a half of what is due, by `chance` from 0 to 1: members
    /// that lost one peer together do not dial it together.
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
    fn pauses_double_up_to_a_bound_and_spread_by_half_to_either_side() {
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
    fn a_connection_begins_anew_and_a_refusal_is_not_asked_about_soon() {
        let mut backoff = Backoff::default();
        assert!((0..10).all(|_| backoff.pause(0.5) >= MIN));
        backoff.reset();
        assert_eq!(backoff.pause(0.5), MIN);
        backoff.refused();
        assert_eq!(backoff.pause(0.5), REFUSED);
        assert_eq!(backoff.pause(0.5), MAX, "who is let in again is found soon");
    }
}
