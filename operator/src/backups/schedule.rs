//! Which time of a schedule is due; pure. A time that was missed is started late within the deadline, the last one only, and
//! otherwise counted: times are never piled up.

use std::sync::LazyLock;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, Zoned};

/// Missed times that are counted one by one; more are a clock that was wrong, or a schedule that changed.
const MOST_COUNTED: usize = 1000;

/// Time zones of this program: its image has no database of them, and one beside it would hide that from the tests.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

#[derive(Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// Work of a schedule at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Time of the backup or drill to start now.
    pub start: Option<Timestamp>,
    /// The last time of the schedule that is not after now; `None` if there is none since the last one handled.
    pub handled: Option<Timestamp>,
    /// Times at which nothing was started, and the last of them.
    pub missed: usize,
    pub last_missed: Option<Timestamp>,
    pub next: Option<Timestamp>,
}

impl Schedule {
    /// Parses five fields of cron, which the spec has in `field`, and the IANA name of a time zone.
    ///
    /// # Errors
    /// In words, with what to write.
    pub fn parse(field: &str, pattern: &str, zone: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(pattern);
        let cron = cron.map_err(|e| format!("{field}: {e}; write five fields of cron, such as 0 3 * * *"))?;
        let unknown = |e| format!("spec.timeZone: {e}; write an IANA name, such as Europe/Berlin");
        Ok(Self { cron, zone: ZONES.get(zone).map_err(unknown)? })
    }

    /// The first time after `moment`. `None` for a schedule without one, such as February 30.
    pub fn next(&self, moment: Timestamp) -> Option<Timestamp> {
        let zoned: Zoned = moment.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&zoned, false).ok().map(|time| time.timestamp())
    }

    /// Work that is due `now`, when the times up to `since` have been handled. `is_busy`: a backup or drill of the schedule
    /// is running, and the next one waits for it.
    pub fn due(&self, since: Timestamp, now: Timestamp, deadline: SignedDuration, is_busy: bool) -> Due {
        let mut times = Vec::new();
        let mut at = since;
        while let Some(time) = self.next(at).filter(|time| *time <= now) {
            times.push(time);
            at = time;
            if times.len() >= MOST_COUNTED {
                break;
            }
        }
        let next = self.next(now);
        let (Some(&last), before) = (times.last(), times.len().saturating_sub(1)) else {
            return Due { start: None, handled: None, missed: 0, last_missed: None, next };
        };
        let is_late = now.duration_since(last) > deadline;
        match (is_late, is_busy) {
            // It may start within the deadline yet, and the earlier ones are counted with it then.
            (false, true) => Due { start: None, handled: None, missed: 0, last_missed: None, next },
            (false, false) => Due {
                start: Some(last),
                handled: Some(last),
                missed: before,
                last_missed: before.checked_sub(1).map(|at| times[at]),
                next,
            },
            (true, _) => {
                Due { start: None, handled: Some(last), missed: times.len(), last_missed: Some(last), next }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn nightly() -> Schedule {
        Schedule::parse("spec.schedule", "0 3 * * *", "UTC").unwrap()
    }

    #[test]
    fn next_time_follows_the_time_zone_over_its_changes() {
        let berlin = Schedule::parse("spec.schedule", "30 2 * * *", "Europe/Berlin").unwrap();
        assert_eq!(berlin.next(at("2026-11-21T00:00:00Z")), Some(at("2026-11-21T01:30:00Z")));
        // 02:30 does not exist on 2026-03-29.
        let skipped = berlin.next(at("2026-03-28T12:00:00Z")).unwrap();
        assert!(skipped > at("2026-03-29T00:59:00Z") && skipped <= at("2026-03-30T00:30:00Z"), "{skipped}");
    }

    #[test]
    fn backup_is_due_once_for_each_time() {
        let due = nightly().due(at("2026-11-20T03:00:00Z"), at("2026-11-21T03:00:01Z"), HOUR, false);
        let time = at("2026-11-21T03:00:00Z");
        assert_eq!((due.start, due.handled, due.missed), (Some(time), Some(time), 0));
        assert_eq!(due.next, Some(at("2026-11-22T03:00:00Z")));
        let again = nightly().due(time, at("2026-11-21T03:00:02Z"), HOUR, false);
        assert_eq!((again.start, again.handled, again.missed), (None, None, 0));
    }

    #[test]
    fn only_the_last_time_is_started_when_several_were_missed() {
        let due = nightly().due(at("2026-11-18T03:00:00Z"), at("2026-11-21T03:30:00Z"), HOUR, false);
        assert_eq!((due.start, due.missed), (Some(at("2026-11-21T03:00:00Z")), 2));
        assert_eq!(due.last_missed, Some(at("2026-11-20T03:00:00Z")));
    }

    #[test]
    fn time_is_missed_when_its_deadline_has_passed() {
        let due = nightly().due(at("2026-11-20T03:00:00Z"), at("2026-11-21T04:00:01Z"), HOUR, false);
        let time = at("2026-11-21T03:00:00Z");
        assert_eq!((due.start, due.handled, due.missed, due.last_missed), (None, Some(time), 1, Some(time)));
    }

    #[test]
    fn backup_waits_for_the_one_before_until_its_deadline() {
        let (since, time) = (at("2026-11-20T03:00:00Z"), at("2026-11-21T03:00:00Z"));
        let waits = nightly().due(since, at("2026-11-21T03:30:00Z"), HOUR, true);
        assert_eq!((waits.start, waits.handled, waits.missed), (None, None, 0));
        let late = nightly().due(since, at("2026-11-21T04:30:00Z"), HOUR, true);
        assert_eq!((late.start, late.handled, late.missed), (None, Some(time), 1));
        let free = nightly().due(since, at("2026-11-21T03:59:00Z"), HOUR, false);
        assert_eq!(free.start, Some(time));
    }

    #[test]
    fn bad_schedule_is_refused_with_what_to_write() {
        for (pattern, zone, words) in [
            ("0 3 * *", "UTC", "five fields"),
            ("0 0 3 * * *", "UTC", "five fields"),
            ("61 3 * * *", "UTC", "five fields"),
            ("0 3 * * *", "Europe/Atlantis", "IANA name"),
        ] {
            let error = Schedule::parse("spec.schedule", pattern, zone).unwrap_err();
            assert!(error.contains(words), "{pattern} {zone}: {error}");
        }
    }

    #[test]
    fn schedule_without_a_time_has_no_next_one() {
        let never = Schedule::parse("spec.schedule", "0 0 30 2 *", "UTC").unwrap();
        assert_eq!(never.next(at("2026-11-20T03:00:00Z")), None);
    }

    #[test]
    fn counting_ends_when_a_clock_was_far_off() {
        let minutely = Schedule::parse("spec.schedule", "* * * * *", "UTC").unwrap();
        let due = minutely.due(at("2020-01-01T00:00:00Z"), at("2026-11-21T00:00:00Z"), HOUR, false);
        assert_eq!(
            (due.start, due.missed),
            (None, MOST_COUNTED),
            "the rest is counted by the next reconciles"
        );
    }
}
