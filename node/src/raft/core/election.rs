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
