//! The next step of the archiver. Pure: a function of what it knows and of the time.

/// Facts that the decision is made from. Times are milliseconds of a monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub now: u64,
    /// The process was asked to end.
    pub is_stopping: bool,
    /// A flush failed after the process was asked to end.
    pub last_flush_failed: bool,
    /// A second writer archives this history.
    pub is_forked: bool,
    /// The history of the members is known.
    pub has_history: bool,
    /// The origin is in the store, and the listing was read.
    pub has_begun: bool,
    /// The next entry is known, and a member may have it.
    pub has_position: bool,
    pub log: Log,
    /// Since when the oldest entry waits that the store does not have.
    pub waiting_since: Option<u64>,
    /// An entry was received that has no room beside those that wait.
    pub is_full: bool,
    pub flush_interval: u64,
    /// When a base is due; `None`: never.
    pub base_at: Option<u64>,
    pub collection_at: u64,
    pub check_at: u64,
    pub survey_at: u64,
    pub surveyed_at: Option<u64>,
    pub busy: Busy,
    /// After failures: no call before these times.
    pub store_retry_at: u64,
    pub member_retry_at: u64,
    pub base_retry_at: u64,
}

/// The stream of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Log {
    #[default]
    Closed,
    Opening,
    /// Time at which the member is taken for dead, unless a chunk arrives.
    Open {
        dead_at: u64,
    },
}

/// Work in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Busy {
    pub survey: bool,
    pub begin: bool,
    pub base: bool,
    /// The garbage collection, or a check that the store still has what was written.
    pub store: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Stop,
    /// Ask the members for their status.
    Survey,
    /// Write the origin and read the listing.
    Begin,
    /// Write the entries that wait.
    Flush,
    TakeBase,
    OpenLog,
    CloseLog,
    Collect,
    Check,
    /// Nothing is due before this time.
    Wait(u64),
}

/// An answer of a survey is too old to open a stream by it after this time.
const FRESH_MS: u64 = 3_000;
/// Longest wait, after which the facts are looked at again.
const LONGEST_WAIT_MS: u64 = 60_000;

/// Decides what is next.
pub fn decide(facts: &Facts) -> Step {
    let Facts { now, busy, .. } = *facts;
    let is_due = |at: u64| at <= now;
    if facts.is_stopping {
        let can_flush = facts.waiting_since.is_some() && !facts.is_forked && !facts.last_flush_failed;
        return if can_flush { Step::Flush } else { Step::Stop };
    }
    if facts.is_forked {
        return Step::Wait(now + LONGEST_WAIT_MS);
    }
    if matches!(facts.log, Log::Open { dead_at } if is_due(dead_at)) {
        return Step::CloseLog;
    }
    let is_fresh = facts.surveyed_at.is_some_and(|at| now < at.saturating_add(FRESH_MS));
    let opens = facts.has_begun && facts.has_position && facts.log == Log::Closed;
    let starts_base = facts.has_begun && facts.base_at.is_some_and(is_due) && !busy.base;
    let needs_member = !facts.has_history
        || (opens && is_due(facts.member_retry_at))
        || (starts_base && is_due(facts.base_retry_at));
    if !busy.survey
        && (is_due(facts.survey_at) || (needs_member && !is_fresh && is_due(facts.member_retry_at)))
    {
        return Step::Survey;
    }
    if facts.has_history && !facts.has_begun && !busy.begin && is_due(facts.store_retry_at) {
        return Step::Begin;
    }
    if flush_at(facts).is_some_and(is_due) {
        return Step::Flush;
    }
    if starts_base && is_fresh && is_due(facts.base_retry_at) {
        return Step::TakeBase;
    }
    if opens && is_fresh && is_due(facts.member_retry_at) {
        return Step::OpenLog;
    }
    let is_idle = facts.has_begun && !busy.store && !busy.base && is_due(facts.store_retry_at);
    if is_idle && is_due(facts.collection_at) {
        return Step::Collect;
    }
    if is_idle && is_due(facts.check_at) {
        return Step::Check;
    }
    Step::Wait(next_time(facts))
}

/// When the entries that wait are written; `None` if there are none.
fn flush_at(facts: &Facts) -> Option<u64> {
    let since = facts.waiting_since?;
    let due = if facts.is_full { facts.now } else { since.saturating_add(facts.flush_interval) };
    Some(due.max(facts.store_retry_at))
}

/// The next time at which something may be due. What runs in the background ends the wait when it is done.
fn next_time(facts: &Facts) -> u64 {
    let dead_at = if let Log::Open { dead_at } = facts.log { Some(dead_at) } else { None };
    let times = [
        flush_at(facts),
        dead_at,
        facts.base_at,
        Some(facts.base_retry_at),
        Some(facts.member_retry_at),
        Some(facts.store_retry_at),
        (!facts.busy.survey).then_some(facts.survey_at),
        Some(facts.collection_at),
        Some(facts.check_at),
    ];
    let later = times.into_iter().flatten().filter(|at| *at > facts.now).min();
    later.unwrap_or(u64::MAX).min(facts.now.saturating_add(LONGEST_WAIT_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 100_000;
    const LATER: u64 = NOW + 50_000;

    /// Everything is as it should be, and nothing is due.
    fn idle() -> Facts {
        Facts {
            now: NOW,
            has_history: true,
            has_begun: true,
            has_position: true,
            log: Log::Open { dead_at: LATER },
            flush_interval: 5_000,
            base_at: Some(LATER),
            collection_at: LATER,
            check_at: LATER,
            survey_at: NOW + 9_000,
            surveyed_at: Some(NOW - 1_000),
            ..Facts::default()
        }
    }

    #[test]
    fn nothing_is_done_until_the_next_time_when_nothing_is_due() {
        assert_eq!(decide(&idle()), Step::Wait(NOW + 9_000));
    }

    #[test]
    fn new_process_asks_the_members_first_then_begins_in_the_store_then_takes_a_base() {
        let mut facts = Facts { now: NOW, flush_interval: 5_000, base_at: Some(0), ..Facts::default() };
        assert_eq!(decide(&facts), Step::Survey);
        facts.busy.survey = true;
        assert!(matches!(decide(&facts), Step::Wait(_)));
        facts = Facts {
            has_history: true,
            surveyed_at: Some(NOW),
            survey_at: LATER,
            busy: Busy::default(),
            ..facts
        };
        assert_eq!(decide(&facts), Step::Begin);
        facts.has_begun = true;
        assert_eq!(decide(&facts), Step::TakeBase);
        facts.busy.base = true;
        assert!(!matches!(decide(&facts), Step::OpenLog));
        facts.has_position = true;
        assert_eq!(decide(&facts), Step::OpenLog);
    }

    #[test]
    fn entries_are_flushed_when_they_are_old_or_fill_a_segment() {
        let young = Facts { waiting_since: Some(NOW - 4_000), ..idle() };
        assert_eq!(decide(&young), Step::Wait(NOW + 1_000));
        assert_eq!(decide(&Facts { waiting_since: Some(NOW - 5_000), ..idle() }), Step::Flush);
        assert_eq!(decide(&Facts { is_full: true, ..young.clone() }), Step::Flush);
        let failed = Facts { is_full: true, store_retry_at: NOW + 300, ..young };
        assert_eq!(decide(&failed), Step::Wait(NOW + 300));
    }

    #[test]
    fn stop_flushes_once_and_ends() {
        let stopping = Facts { is_stopping: true, waiting_since: Some(NOW), ..idle() };
        assert_eq!(decide(&stopping), Step::Flush);
        assert_eq!(decide(&Facts { last_flush_failed: true, ..stopping.clone() }), Step::Stop);
        assert_eq!(decide(&Facts { waiting_since: None, ..stopping }), Step::Stop);
    }

    #[test]
    fn second_writer_stops_everything() {
        let facts =
            Facts { is_forked: true, is_full: true, waiting_since: Some(0), log: Log::Closed, ..idle() };
        assert!(matches!(decide(&facts), Step::Wait(_)));
        assert_eq!(decide(&Facts { is_stopping: true, ..facts }), Step::Stop);
    }

    #[test]
    fn stream_is_opened_by_fresh_answers_only_and_after_the_pause() {
        let closed = Facts { log: Log::Closed, ..idle() };
        assert_eq!(decide(&closed), Step::OpenLog);
        assert_eq!(decide(&Facts { surveyed_at: Some(NOW - 3_000), ..closed.clone() }), Step::Survey);
        let paused = Facts { member_retry_at: NOW + 100, ..closed.clone() };
        assert_eq!(decide(&paused), Step::Wait(NOW + 100));
        assert_eq!(decide(&Facts { log: Log::Opening, ..closed }), Step::Wait(NOW + 9_000));
    }

    #[test]
    fn silent_member_is_left() {
        assert_eq!(decide(&Facts { log: Log::Open { dead_at: NOW }, ..idle() }), Step::CloseLog);
    }

    #[test]
    fn base_is_taken_when_due_one_at_a_time_and_after_the_pause() {
        let due = Facts { base_at: Some(NOW), ..idle() };
        assert_eq!(decide(&due), Step::TakeBase);
        assert_eq!(
            decide(&Facts { busy: Busy { base: true, ..Busy::default() }, ..due.clone() }),
            Step::Wait(NOW + 9_000)
        );
        assert_eq!(decide(&Facts { base_retry_at: NOW + 700, ..due }), Step::Wait(NOW + 700));
        assert!(matches!(decide(&Facts { base_at: None, ..idle() }), Step::Wait(_)));
    }

    #[test]
    fn garbage_is_collected_alone() {
        let due = Facts { collection_at: NOW, ..idle() };
        assert_eq!(decide(&due), Step::Collect);
        for busy in [Busy { base: true, ..Busy::default() }, Busy { store: true, ..Busy::default() }] {
            assert!(matches!(decide(&Facts { busy, ..due.clone() }), Step::Wait(_)), "{busy:?}");
        }
        assert_eq!(decide(&Facts { check_at: NOW, ..idle() }), Step::Check);
    }

    #[test]
    fn wait_never_ends_in_the_past() {
        for store_retry_at in [0, NOW, NOW + 1] {
            let facts = Facts {
                base_at: Some(0),
                busy: Busy { base: true, ..Busy::default() },
                store_retry_at,
                ..idle()
            };
            assert!(matches!(decide(&facts), Step::Wait(at) if at > NOW), "{store_retry_at}");
        }
    }
}
