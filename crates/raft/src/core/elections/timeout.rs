//! Randomized election timeouts from the node's seed. The raft crate draws them from the
//! thread's random generator, which a simulation cannot repeat.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::ticks;

pub(super) struct ElectionTimeout {
    random: SmallRng,
    /// Bounds in ticks; the second one is exclusive.
    range: (usize, usize),
    current: usize,
}

impl ElectionTimeout {
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let range = (ticks(min), ticks(max).max(ticks(min) + 1));
        Self { random: SmallRng::seed_from_u64(seed), range, current: range.0 }
    }

    /// Returns the timeout in ticks for the next tick, `elapsed` ticks after it began. A timeout that begins again is
    /// drawn again (Raft paper, 5.2).
    pub fn before_tick(&mut self, elapsed: usize) -> usize {
        if elapsed == 0 {
            self.current = self.random.random_range(self.range.0..self.range.1);
        }
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(300);
    const MAX: Duration = Duration::from_millis(600);

    /// Timeouts of a number of elections in a row, in ticks.
    fn drawn(seed: u64, elections: usize) -> Vec<usize> {
        let mut timeout = ElectionTimeout::new(MIN, MAX, seed);
        let attempts = (0..elections).map(|_| {
            let begun = timeout.before_tick(0);
            assert_eq!(timeout.before_tick(1), begun, "it changed while it ran");
            begun
        });
        attempts.collect()
    }

    #[test]
    fn timeouts_differ_between_attempts_and_between_members() {
        const ATTEMPTS: usize = 200;
        let (min, max) = (ticks(Duration::from_millis(300)), ticks(Duration::from_millis(600)));
        let (one, other) = (drawn(1, ATTEMPTS), drawn(2, ATTEMPTS));
        assert!(one.iter().chain(&other).all(|ticks| (min..max).contains(ticks)));
        assert_eq!(one, drawn(1, ATTEMPTS), "a seed is not repeated");
        let together = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        let spread = |all: &[usize]| all.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(
            together * 10 < ATTEMPTS,
            "both members campaigned at once in {together} of {ATTEMPTS} elections"
        );
        assert!(spread(&one) > (max - min) / 2, "the timeouts of one member hardly differ");
    }
}
