//! Delays after failed authentication attempts, by address: from the fifth failure on, attempts from the address are
//! checked one after the other, each after a delay that doubles. Pure: the caller passes the time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failed attempts without a delay: room for typing errors, and for one client with an old password.
pub use helios_config::MAX_AUTH_DELAY as MAX_WAIT;

/// Attempts that fail without a delay: typing errors, and one client with an old password.
pub const FREE_FAILURES: u32 = 4;
/// Longest wait for the turn of an attempt; one whose turn is later is refused, and its client may retry.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Time without a failure after which an address is forgotten.
pub const MEMORY: Duration = Duration::from_secs(600);
/// Limit of remembered addresses; at the limit the one that failed least recently is forgotten.
pub const MAX_ADDRESSES: usize = 4_096;

/// Failures by address.
#[derive(Debug, Default)]
pub struct Guesses(HashMap<IpAddr, Record>);

#[derive(Debug)]
struct Record {
    failures: u32,
    last: Instant,
    /// Time at which the next attempt may be checked.
    next: Instant,
}

impl Guesses {
    /// Returns the time at which an attempt that arrives at `now` may be checked. `None`: not within [`MAX_WAIT`]; the
    /// attempt then takes no turn.
    pub fn turn(&mut self, from: IpAddr, longest: Duration, now: Instant) -> Option<Instant> {
        let key = key(from);
        let Some(record) = self.0.get_mut(&key) else { return Some(now) };
        if now.saturating_duration_since(record.last) >= MEMORY {
            self.0.remove(&key);
            return Some(now);
        }
        let delay = delay(record.failures, longest);
        if delay.is_zero() {
            return Some(now);
        }
        let turn = record.next.max(now);
        if turn.saturating_duration_since(now) > MAX_WAIT {
            return None;
        }
        record.next = turn + delay;
        Some(turn)
    }

    /// Counts a failed attempt; returns the number of failed attempts of this address.
    pub fn failed(&mut self, from: IpAddr, longest: Duration, now: Instant) -> u32 {
        let key = key(from);
        if !self.0.contains_key(&key) && self.0.len() >= MAX_ADDRESSES {
            self.forget_one(now);
        }
        let record = self.0.entry(key).or_insert(Record { failures: 0, last: now, next: now });
        record.failures = record.failures.saturating_add(1);
        record.last = now;
        record.next = record.next.max(now + delay(record.failures, longest));
        record.failures
    }

    /// Forgets all addresses older than `MEMORY` or, if there is none, the oldest one.
    fn forget_one(&mut self, now: Instant) {
        self.0.retain(|_, record| now.saturating_duration_since(record.last) < MEMORY);
        if self.0.len() >= MAX_ADDRESSES
            && let Some(oldest) = self.0.iter().min_by_key(|(_, record)| record.last).map(|(from, _)| *from)
        {
            self.0.remove(&oldest);
        }
    }
}

fn delay(failures: u32, longest: Duration) -> Duration {
    match failures.checked_sub(FREE_FAILURES + 1) {
        Some(doublings) => (FIRST_DELAY * (1 << doublings.min(16))).min(longest),
        None => Duration::ZERO,
    }
}

/// Returns the key of an address: for IPv6 its /64, as a host usually has a whole /64.
fn key(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(2);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Returns how many guesses an address gets in `period`, with `at_once` of them always waiting.
    fn guesses_in(period: Duration, at_once: usize) -> usize {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        let from = address("192.0.2.1");
        let mut waiting = vec![start; at_once];
        let mut count = 0;
        loop {
            waiting.sort_unstable();
            let now = waiting[0];
            if now.duration_since(start) > period {
                return count;
            }
            match guesses.turn(from, LONGEST, now) {
                Some(turn) if turn > now => waiting[0] = turn,
                Some(_) => {}
                None => {
                    waiting[0] = now + MAX_WAIT;
                    continue;
                }
            }
            count += 1;
            guesses.failed(from, LONGEST, waiting[0]);
            waiting[0] += Duration::from_micros(1);
        }
    }

    #[test]
    fn guesses_of_an_address_are_limited_for_any_number_of_connections() {
        let minute = Duration::from_secs(60);
        for at_once in [1, 100] {
            let count = guesses_in(minute, at_once);
            // One every two seconds, and the first ones, for which the delay was shorter.
            assert!((30..60).contains(&count), "{count} guesses of {at_once} at once");
        }
    }

    #[test]
    fn first_failures_and_other_addresses_are_not_delayed() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        let from = address("192.0.2.1");
        for _ in 0..FREE_FAILURES {
            assert_eq!(guesses.turn(from, LONGEST, now), Some(now));
            guesses.failed(from, LONGEST, now);
        }
        assert_eq!(guesses.turn(from, LONGEST, now), Some(now));
        assert_eq!(guesses.failed(from, LONGEST, now), FREE_FAILURES + 1);
        assert_eq!(guesses.turn(from, LONGEST, now), Some(now + FIRST_DELAY));
        assert_eq!(guesses.turn(address("192.0.2.2"), LONGEST, now), Some(now));
        assert_eq!(guesses.turn(address("::ffff:192.0.2.2"), LONGEST, now), Some(now));
    }

    #[test]
    fn waiting_attempts_get_turns_and_an_attempt_beyond_the_limit_is_refused_without_one() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        let from = address("192.0.2.1");
        (0..20).for_each(|_| _ = guesses.failed(from, LONGEST, now));
        let turns: Vec<_> = std::iter::from_fn(|| guesses.turn(from, LONGEST, now)).take(100).collect();
        assert_eq!(turns.len(), (MAX_WAIT.as_secs() / LONGEST.as_secs()) as usize);
        assert!(turns.windows(2).all(|pair| pair[1] - pair[0] == LONGEST), "{turns:?}");
        // Refused attempts took no turn: the next turn is as far away as before.
        let later = now + LONGEST;
        assert_eq!(guesses.turn(from, LONGEST, later), Some(later + MAX_WAIT));
    }

    #[test]
    fn the_table_of_guesses_is_bounded_and_forgets_old_addresses() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        let host = |number: u32| IpAddr::V4(number.into());
        for number in 0..2 * MAX_ADDRESSES as u32 {
            guesses.failed(host(number), LONGEST, now + Duration::from_micros(number.into()));
        }
        assert_eq!(guesses.0.len(), MAX_ADDRESSES);
        assert!(!guesses.0.contains_key(&host(0)));
        let from = address("192.0.2.1");
        (0..20).for_each(|_| _ = guesses.failed(from, LONGEST, now));
        let later = now + MEMORY + Duration::from_secs(1);
        assert_eq!(guesses.turn(from, LONGEST, later), Some(later));
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        let failed = ["2001:db8::1", "2001:db8::2"].map(|from| guesses.failed(address(from), LONGEST, now));
        assert_eq!(failed, [1, 2]);
        assert_eq!(guesses.failed(address("2001:db8:0:1::1"), LONGEST, now), 1);
    }
}
