//! Holds: the part of the log that a member keeps for archivers, whatever its role, up to a limit. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use helios_proto::Error;
use helios_proto::v1::ErrorCode;

/// Time after which a hold ends unless it is repeated.
pub const HOLD_TIME: Duration = Duration::from_secs(600);
/// Limit of the holders.
pub const MAX_HOLDERS: usize = 8;

#[derive(Default)]
pub(super) struct Holds {
    by_holder: BTreeMap<String, Hold>,
    /// Limit of the log from the first held entry on, bytes; that of the last request.
    limit_bytes: u64,
    dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    /// The first entry that is kept.
    from: u64,
    until: Instant,
}

impl Holds {
    /// Begins or repeats the hold of `holder` from entry `from` on; 0 ends it, and so does an entry that the log, which
    /// begins at `first`, no longer has.
    ///
    /// # Errors
    /// `Overloaded`: there are [`MAX_HOLDERS`] others.
    pub fn set(
        &mut self,
        holder: String,
        from: u64,
        limit_bytes: u64,
        first: u64,
        now: Instant,
    ) -> Result<(), Error> {
        self.limit_bytes = limit_bytes;
        self.expire(first, now);
        if from == 0 || from < first {
            self.by_holder.remove(&holder);
            return Ok(());
        }
        if self.by_holder.len() >= MAX_HOLDERS && !self.by_holder.contains_key(&holder) {
            let message = format!("{MAX_HOLDERS} others hold the log of this member already (fixed)");
            return Err(Error::new(ErrorCode::Overloaded, message));
        }
        self.by_holder.insert(holder, Hold { from, until: now + HOLD_TIME });
        Ok(())
    }

    /// Returns the last entry to purge: `floor`, or an earlier one before all that is held. A hold that keeps more than
    /// the limit is dropped: an archiver that stands still must not fill the disk. `bytes_from` returns the size of the
    /// log from an entry on; `first` is its first entry.
    pub fn purge_floor(
        &mut self,
        floor: u64,
        first: u64,
        is_log_short: bool,
        bytes_from: impl Fn(u64) -> u64,
        now: Instant,
    ) -> u64 {
        self.expire(first, now);
        let limit_bytes = if is_log_short { 0 } else { self.limit_bytes };
        while let Some(from) = self.first_held(now).filter(|from| *from <= floor) {
            let bytes = bytes_from(from);
            if bytes <= limit_bytes {
                return from - 1;
            }
            self.drop_at(from, bytes, limit_bytes);
        }
        floor
    }

    fn drop_at(&mut self, from: u64, bytes: u64, limit_bytes: u64) {
        for (holder, _) in self.by_holder.extract_if(.., |_, hold| hold.from == from) {
            self.dropped += 1;
            tracing::warn!(
                %holder, from, bytes, limit_bytes,
                "the log is no longer kept for this archiver, which is too far behind: it needs a new base; see archive.hold"
            );
        }
    }

    /// Removes the holds that were not repeated in time, and those of entries that a snapshot has replaced.
    fn expire(&mut self, first: u64, now: Instant) {
        self.by_holder.retain(|_, hold| hold.until > now && hold.from >= first);
    }

    /// The first entry that is kept.
    pub fn first_held(&self, now: Instant) -> Option<u64> {
        self.by_holder.values().filter(|hold| hold.until > now).map(|hold| hold.from).min()
    }

    /// Number of holds that were dropped at the limit.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 100;
    /// Last entry of the log; each has 10 bytes.
    const LAST: u64 = 50;

    fn bytes_from(from: u64) -> u64 {
        (LAST + 1).saturating_sub(from) * 10
    }

    fn held(from: &[(&str, u64)], now: Instant) -> Holds {
        let mut holds = Holds::default();
        for (holder, from) in from {
            holds.set((*holder).to_owned(), *from, LIMIT, 1, now).unwrap();
        }
        holds
    }

    fn floor(holds: &mut Holds, floor: u64, now: Instant) -> u64 {
        holds.purge_floor(floor, 1, false, bytes_from, now)
    }

    #[test]
    fn log_is_kept_from_the_lowest_hold_on_up_to_the_limit() {
        let now = Instant::now();
        let mut holds = held(&[("a", 45), ("b", 42)], now);
        assert_eq!(floor(&mut holds, 48, now), 41);
        assert_eq!(floor(&mut holds, 30, now), 30, "a hold purges nothing");
        assert_eq!((holds.first_held(now), holds.dropped()), (Some(42), 0));
    }

    #[test]
    fn hold_over_the_limit_is_dropped_and_counted_once() {
        let now = Instant::now();
        let mut holds = held(&[("a", 45), ("b", 10)], now);
        assert_eq!(floor(&mut holds, 9, now), 9);
        assert_eq!(holds.dropped(), 0, "it keeps nothing that would be purged");
        assert_eq!(floor(&mut holds, 48, now), 44, "the other hold counts");
        assert_eq!(floor(&mut holds, 48, now), 44);
        assert_eq!((holds.first_held(now), holds.dropped()), (Some(45), 1));
    }

    #[test]
    fn hold_ends_without_a_repetition_and_by_request() {
        let now = Instant::now();
        let mut holds = held(&[("a", 45)], now);
        holds.set("a".to_owned(), 46, LIMIT, 1, now + HOLD_TIME / 2).unwrap();
        assert_eq!(floor(&mut holds, 48, now + HOLD_TIME), 45);
        assert_eq!(floor(&mut holds, 48, now + HOLD_TIME * 2), 48);
        assert_eq!(holds.dropped(), 0);
        let mut holds = held(&[("a", 45)], now);
        holds.set("a".to_owned(), 0, LIMIT, 1, now).unwrap();
        assert_eq!(floor(&mut holds, 48, now), 48);
    }

    #[test]
    fn hold_of_entries_that_are_gone_is_no_hold() {
        let now = Instant::now();
        let mut holds = held(&[("a", 45)], now);
        holds.set("a".to_owned(), 20, LIMIT, 21, now).unwrap();
        assert_eq!(holds.first_held(now), None);
        let mut holds = held(&[("a", 45)], now);
        assert_eq!(holds.purge_floor(48, 46, false, bytes_from, now), 48);
        assert_eq!(holds.dropped(), 0);
    }

    #[test]
    fn nothing_is_held_while_the_disk_is_full() {
        let now = Instant::now();
        let mut holds = held(&[("a", 45)], now);
        assert_eq!(holds.purge_floor(48, 1, true, bytes_from, now), 48);
        assert_eq!(holds.dropped(), 1);
    }

    #[test]
    fn holders_are_limited_and_expired_ones_make_room() {
        let now = Instant::now();
        let names: Vec<String> = (0..MAX_HOLDERS).map(|number| number.to_string()).collect();
        let mut holds = held(&names.iter().map(|name| (name.as_str(), 45)).collect::<Vec<_>>(), now);
        holds.set(names[0].clone(), 46, LIMIT, 1, now).unwrap();
        let error = holds.set("more".to_owned(), 45, LIMIT, 1, now).unwrap_err();
        assert_eq!(error.code, ErrorCode::Overloaded);
        holds.set("more".to_owned(), 45, LIMIT, 1, now + HOLD_TIME).unwrap();
    }
}
