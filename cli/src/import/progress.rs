//! Output for the user: lines on standard error during the import, and the report at its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::content::Survey;

const EVERY: Duration = Duration::from_secs(2);

/// Prints a line for the user.
pub fn note(line: &str) {
    eprintln!("heliosctl: {line}");
}

pub struct Progress {
    pub keys: u64,
    pub commands: u64,
    started: Instant,
    last: Instant,
}

impl Progress {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { keys: 0, commands: 0, started: now, last: now }
    }

    /// Returns whether a line is due.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.last.elapsed() >= EVERY;
        if is_due {
            self.last = Instant::now();
        }
        is_due
    }

    pub fn loading(&mut self, bytes: u64, all_keys: u64) {
        if self.is_due() {
            let rate = self.keys as f64 / self.started.elapsed().as_secs_f64().max(0.001);
            note(&format!("{} of {all_keys} keys, {} of the file, {rate:.0} keys/s", self.keys, mib(bytes)));
        }
    }

    pub fn following(&self, lag_bytes: u64, lag: Duration) {
        note(&format!("{} commands, lag {lag_bytes} bytes, {:.1} s", self.commands, lag.as_secs_f64()));
    }
}

pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The cut-over, times in milliseconds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CutOver {
    /// From the pause of the writes at the source until the target was complete and compared.
    pub paused_ms: u64,
    pub drain_ms: u64,
    pub compare_ms: u64,
    pub source_keys: u64,
    pub target_keys: u64,
    pub compared_keys: u64,
    pub fenced: bool,
    /// Advice for the user.
    pub next: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Keys of the file, or of the first copy of the source.
    pub keys: u64,
    pub seconds: f64,
    pub keys_per_second: f64,
    /// Keys that had expired.
    pub expired: u64,
    /// Left out, because HeliosDB does not have it.
    pub skipped: BTreeMap<String, u64>,
    /// Commands that followed the first copy.
    pub commands: u64,
    /// Batches that were sent again, or read back, after an answer was lost or the target refused for the moment.
    pub retries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_over: Option<CutOver>,
}

impl Report {
    pub fn new(survey: &Survey, keys: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        Self {
            keys,
            seconds,
            keys_per_second: keys as f64 / seconds.max(0.001),
            expired: survey.expired,
            skipped: survey.unsupported.iter().map(|(what, (count, _))| (what.to_string(), *count)).collect(),
            commands: 0,
            retries: 0,
            cut_over: None,
        }
    }

    pub fn text(&self) -> String {
        let Self { keys, seconds, keys_per_second, expired, skipped, commands, cut_over, .. } = self;
        let mut text = format!("{keys} keys in {seconds:.1} s ({keys_per_second:.0} keys/s)");
        if *expired > 0 {
            let _ = write!(text, ", {expired} had expired");
        }
        if *commands > 0 {
            let _ = write!(text, ", then {commands} commands");
        }
        text.push('\n');
        for (what, count) in skipped {
            let _ = writeln!(text, "left out: {count} of: {what}");
        }
        if let Some(CutOver {
            paused_ms,
            drain_ms,
            compare_ms,
            source_keys,
            target_keys,
            compared_keys,
            next,
            ..
        }) = cut_over
        {
            let _ = writeln!(
                text,
                "cut-over: writes were paused for {paused_ms} ms (rest applied in {drain_ms} ms, compared in {compare_ms} ms); \
                 keys: source {source_keys}, target {target_keys}; values of {compared_keys} keys are equal\n{next}"
            );
        }
        text
    }
}
