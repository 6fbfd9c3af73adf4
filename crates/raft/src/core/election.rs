//! Randomised election timeouts from the node's own seed. The raft crate draws them from the
//! thread's random numbers, which no simulation could repeat.

use std::time::Duration;

use raft::{Raft, Storage};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(super) struct ElectionTimeout {
    random: SmallRng,
    /// Ticks: from the first to before the second.
    range: (usize, usize),
    current: usize,
}

impl ElectionTimeout {
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let range = (super::ticks(min), super::ticks(max).max(super::ticks(min) + 1));
        Self { random: SmallRng::seed_from_u64(seed), range, current: range.0 }
    }

    /// To be called before each tick. A timeout that begins anew is drawn anew (Raft paper, 5.2).
    pub fn pin<S: Storage>(&mut self, raft: &mut Raft<S>) {
        if raft.election_elapsed == 0 {
            self.current = self.random.random_range(self.range.0..self.range.1);
        }
        raft.set_randomized_election_timeout(self.current);
    }
}

#[cfg(test)]
mod tests {
    use raft::storage::MemStorage;
    use raft::{Config, RawNode};

    use super::*;

    const MIN: Duration = Duration::from_millis(300);
    const MAX: Duration = Duration::from_millis(600);

    /// The timeouts of so many elections in a row, ticks.
    fn drawn(seed: u64, elections: usize) -> Vec<usize> {
        let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
        let (min, max) = (super::super::ticks(MIN), super::super::ticks(MAX));
        let config = Config {
            id: 1,
            election_tick: min,
            min_election_tick: min,
            max_election_tick: max,
            heartbeat_tick: 1,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RawNode::new(&config, storage, &logger).unwrap();
        let mut timeout = ElectionTimeout::new(MIN, MAX, seed);
        let attempts = (0..elections).map(|_| {
            timeout.pin(&mut node.raft);
            node.raft.election_elapsed = 1;
            timeout.pin(&mut node.raft);
            node.raft.election_elapsed = 0;
            node.raft.randomized_election_timeout()
        });
        attempts.collect()
    }

    #[test]
    fn each_attempt_waits_anew_and_two_that_start_together_do_not_stand_together() {
        const ATTEMPTS: usize = 200;
        let (min, max) = (
            super::super::ticks(Duration::from_millis(300)),
            super::super::ticks(Duration::from_millis(600)),
        );
        let (one, other) = (drawn(1, ATTEMPTS), drawn(2, ATTEMPTS));
        assert!(one.iter().chain(&other).all(|ticks| (min..max).contains(ticks)));
        assert_eq!(one, drawn(1, ATTEMPTS), "a seed is not repeated");
        let together = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        let spread = |all: &[usize]| all.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(
            together * 10 < ATTEMPTS,
            "{together} of {ATTEMPTS} elections were stood for by both at once"
        );
        assert!(spread(&one) > (max - min) / 2, "the attempts of one hardly differ");
    }
}
