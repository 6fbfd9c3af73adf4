//! The measured figures beside the goals.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::report::Table;
use crate::say;
use crate::stats::{Spread, short};

#[derive(Default)]
pub struct Figures {
    rows: Vec<[String; 3]>,
    /// Phases without figures, each with the reason.
    not_measured: Vec<(String, String)>,
}

impl Figures {
    pub fn push(&mut self, figure: impl Into<String>, measured: impl Into<String>, goal: &str) {
        let (figure, measured) = (figure.into(), measured.into());
        say(&format!("  {figure}: {measured}"));
        self.rows.push([figure, measured, goal.to_owned()].map(|cell| cell.replace('|', "\\|")));
    }

    /// Records that a phase failed.
    pub fn end_phase(&mut self, phase: &str, result: Result<()>) {
        if let Err(error) = result {
            // An error may have the end of a log file, which is many lines.
            let error = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
            self.push(phase, format!("**failed**: {error}"), "");
            self.not_measured(phase, "it failed; what it measured before is in the table");
        }
    }

    pub fn not_measured(&mut self, phase: &str, reason: &str) {
        self.not_measured.push((phase.to_owned(), reason.to_owned()));
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["figure", "measured", "goal"]);
        self.rows.iter().for_each(|row| table.row(row.clone()));
        write!(f, "{table}")?;
        if !self.not_measured.is_empty() {
            writeln!(f, "\nNot measured:\n")?;
            self.not_measured.iter().try_for_each(|(phase, reason)| writeln!(f, "- {phase}: {reason}"))?;
        }
        Ok(())
    }
}

/// Formats bytes as GB, or as MB below one GB.
pub fn gb(bytes: f64) -> String {
    if bytes >= 1e9 { format!("{} GB", short(bytes / 1e9)) } else { format!("{} MB", short(bytes / 1e6)) }
}

/// Formats the median and the range of bytes of the members.
pub fn gb_spread(bytes: impl IntoIterator<Item = u64>) -> String {
    Spread::of(bytes.into_iter().map(|bytes| bytes as f64)).map_or_else(String::new, |spread| {
        format!("{} ({} to {})", gb(spread.median), gb(spread.min), gb(spread.max))
    })
}

/// Formats the median and the maximum of seconds.
pub fn seconds(times: &[Duration]) -> String {
    Spread::of(times.iter().map(Duration::as_secs_f64)).map_or_else(String::new, |spread| {
        format!("{} s (most {} s of {})", short(spread.median), short(spread.max), times.len())
    })
}

/// Formats milliseconds.
pub fn ms(time: Duration) -> String {
    format!("{} ms", short(time.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_phase_is_one_row_and_is_named_as_not_measured() {
        let mut figures = Figures::default();
        figures.push("a", "1", "<= 2");
        figures.end_phase("b", Ok(()));
        figures.end_phase("c", Err(anyhow::anyhow!("ended; its log:\nx | y")));
        let text = figures.to_string();
        assert!(
            text.contains("| a      | 1 ") && text.contains("**failed**: ended; its log: x \\| y"),
            "{text}"
        );
        assert!(text.contains("\n- c: it failed") && !text.contains("- b"), "{text}");
    }

    #[test]
    fn bytes_and_times_have_units() {
        assert_eq!(gb(2.1e9), "2.10 GB");
        assert_eq!(gb_spread([1_000_000, 3_000_000_000, 20_000_000]), "20.0 MB (1.00 MB to 3.00 GB)");
        assert_eq!(seconds(&[1, 3, 2].map(Duration::from_secs)), "2.00 s (most 3.00 s of 3)");
        assert_eq!(ms(Duration::from_micros(1_500)), "1.50 ms");
    }
}
