//! Counts and latencies of all workers together: since the start, and since the last mark.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use helios_e2e::report::Window;
use jiff::Timestamp;
use tokio::sync::watch;

/// Largest number of distinct error texts that are counted separately; others are counted together.
const MAX_TEXTS: usize = 20;
const OTHER_TEXTS: &str = "others";

pub struct Tally {
    state: Mutex<State>,
    acknowledged: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    total: Span,
    window: Span,
    latest: Option<Moment>,
}

#[derive(Clone, Copy)]
struct Moment {
    instant: Instant,
    time: Timestamp,
}

struct Span {
    acknowledged: u64,
    retried: u64,
    failed: u64,
    gap: Duration,
    gap_at: Option<Timestamp>,
    /// Latencies in microseconds.
    latencies: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { state: Mutex::default(), acknowledged: watch::Sender::new(0) }
    }
}

impl Tally {
    pub fn acknowledged(&self, took: Duration, retried: bool) {
        let now = Moment { instant: Instant::now(), time: Timestamp::now() };
        let mut state = self.lock();
        let latest = state.latest.replace(now);
        let State { total, window, .. } = &mut *state;
        for span in [total, window] {
            span.acknowledged += 1;
            span.retried += u64::from(retried);
            span.latencies.saturating_record(took.as_micros().try_into().unwrap_or(u64::MAX));
            span.silence(latest, now.instant);
        }
        // Sent under the lock, so that the count never decreases.
        self.acknowledged.send_replace(state.total.acknowledged);
    }

    pub fn failed(&self) {
        let mut state = self.lock();
        state.total.failed += 1;
        state.window.failed += 1;
    }

    pub fn error(&self, text: &str) {
        let mut state = self.lock();
        let State { total, window, .. } = &mut *state;
        for Span { errors, .. } in [total, window] {
            let text = if errors.len() < MAX_TEXTS || errors.contains_key(text) { text } else { OTHER_TEXTS };
            *errors.entry(text.to_owned()).or_default() += 1;
        }
    }

    pub fn total(&self) -> Window {
        let state = &mut *self.lock();
        state.total.report(state.latest)
    }

    /// Returns the window since the previous mark and starts the next. A gap that spans the mark counts in
    /// both.
    pub fn mark(&self) -> Window {
        let state = &mut *self.lock();
        let window = state.window.report(state.latest);
        state.window = Span::default();
        window
    }

    /// Waits until `writes` more writes are acknowledged.
    pub async fn await_more(&self, writes: u64) {
        let mut count = self.acknowledged.subscribe();
        let enough = count.borrow_and_update().saturating_add(writes);
        // The sender lives as long as `self`, so only the count ends this wait.
        drop(count.wait_for(|count| *count >= enough).await);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Span {
    fn default() -> Self {
        const SIGNIFICANT_DIGITS: u8 = 3;
        const LONGEST: Duration = Duration::from_secs(600);
        let latencies = Histogram::new_with_max(LONGEST.as_micros() as u64, SIGNIFICANT_DIGITS)
            .expect("bounds and digits are constants that it takes");
        Self {
            acknowledged: 0,
            retried: 0,
            failed: 0,
            gap: Duration::ZERO,
            gap_at: None,
            latencies,
            errors: BTreeMap::new(),
        }
    }
}

impl Span {
    fn silence(&mut self, since: Option<Moment>, until: Instant) {
        let Some(since) = since else { return };
        let gap = until.duration_since(since.instant);
        if gap > self.gap {
            self.gap = gap;
            self.gap_at = Some(since.time);
        }
    }

    fn report(&mut self, latest: Option<Moment>) -> Window {
        self.silence(latest, Instant::now());
        let ms = |micros: u64| micros as f64 / 1000.0;
        Window {
            acknowledged: self.acknowledged,
            retried: self.retried,
            failed: self.failed,
            longest_gap_ms: ms(self.gap.as_micros() as u64),
            longest_gap_at: self.gap_at,
            p50_ms: ms(self.latencies.value_at_quantile(0.5)),
            p99_ms: ms(self.latencies.value_at_quantile(0.99)),
            max_ms: ms(self.latencies.max()),
            errors: self.errors.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_starts_a_window_and_keeps_the_total() {
        let tally = Tally::default();
        tally.acknowledged(Duration::from_millis(2), false);
        tally.failed();
        let first = tally.mark();
        tally.acknowledged(Duration::from_millis(3), true);
        let (second, total) = (tally.mark(), tally.total());
        assert_eq!((first.acknowledged, first.retried, first.failed), (1, 0, 1));
        assert_eq!((second.acknowledged, second.retried, second.failed), (1, 1, 0));
        assert_eq!((total.acknowledged, total.retried, total.failed), (2, 1, 1));
    }

    #[test]
    fn gap_that_spans_a_mark_is_reported_in_both_windows() {
        let tally = Tally::default();
        assert_eq!(tally.mark().longest_gap_ms, 0.0, "nothing was acknowledged, so nothing stopped");
        tally.acknowledged(Duration::ZERO, false);
        let silence = Duration::from_millis(20);
        std::thread::sleep(silence);
        let before = tally.mark();
        tally.acknowledged(Duration::ZERO, false);
        let after = tally.mark();
        assert!(before.longest_gap_ms >= 20.0 && after.longest_gap_ms >= before.longest_gap_ms);
        assert_eq!(before.longest_gap_at, after.longest_gap_at);
    }

    #[test]
    fn error_texts_are_bounded_and_all_errors_are_counted() {
        let tally = Tally::default();
        for n in 0..100 {
            tally.error(&format!("error {n}"));
        }
        tally.error("error 0");
        let errors = tally.total().errors;
        assert_eq!(errors.len(), MAX_TEXTS + 1);
        assert_eq!(errors.values().sum::<u64>(), 101);
        assert_eq!(errors["error 0"], 2);
    }
}
