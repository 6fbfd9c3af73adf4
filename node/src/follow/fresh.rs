//! How old the state that a stream has sent may be. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// A state at `index` or later has all writes that any member had acknowledged at `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    pub at: Instant,
    pub index: u64,
}

/// Moments of fresh states, of one stream.
#[derive(Debug, Default)]
pub struct Freshness {
    reached: Option<Instant>,
    /// Not reached yet. A later one does not replace it: a stream that is always a little behind would reach none.
    next: Option<Fresh>,
}

impl Freshness {
    /// Returns the age of the state at `position`; `latest` is the latest that the member knows.
    pub fn age(&mut self, latest: Option<Fresh>, position: u64, now: Instant) -> Option<Duration> {
        for fresh in [self.next, latest].into_iter().flatten() {
            if fresh.index <= position {
                self.reached = self.reached.max(Some(fresh.at));
                self.next = None;
            } else if self.next.is_none() {
                self.next = Some(fresh);
            }
        }
        self.reached.map(|at| now.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_counts_from_the_last_moment_whose_index_was_sent() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let fresh = |ms, index| Some(Fresh { at: at(ms), index });
        let ms = |ms| Some(Duration::from_millis(ms));
        let mut stream = Freshness::default();
        assert_eq!(stream.age(None, 5, at(0)), None);
        assert_eq!(stream.age(fresh(0, 6), 5, at(10)), None, "the state lacks entry 6");
        assert_eq!(stream.age(fresh(100, 9), 7, at(110)), ms(110), "the earlier moment was kept");
        assert_eq!(stream.age(fresh(200, 12), 9, at(210)), ms(110));
        assert_eq!(stream.age(fresh(200, 12), 12, at(220)), ms(20));
        assert_eq!(stream.age(fresh(200, 12), 12, at(500)), ms(300), "no majority confirms a later one");
    }
}
