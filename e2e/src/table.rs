//! Table of the figures of all stories: a line for each part of a story, with the worst figure of all rounds.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::report::Window;

#[derive(Default)]
struct Table {
    writes: Vec<Line<Window>>,
    times: Vec<Line<Duration>>,
}

/// Figures of one part of one story, of all rounds.
struct Line<T> {
    story: &'static str,
    part: String,
    seen: Vec<T>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { writes: Vec::new(), times: Vec::new() });

/// Records the writes of a part of a story.
pub fn note_writes(story: &'static str, part: &str, window: Window) {
    note(&mut lock().writes, story, part, window);
}

/// Records a duration.
pub fn note_time(story: &'static str, what: &str, took: Duration) {
    note(&mut lock().times, story, what, took);
}

fn note<T>(lines: &mut Vec<Line<T>>, story: &'static str, part: &str, seen: T) {
    match lines.iter_mut().find(|line| line.story == story && line.part == part) {
        Some(line) => line.seen.push(seen),
        None => lines.push(Line { story, part: part.to_owned(), seen: vec![seen] }),
    }
}

fn lock() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the table so far; empty when nothing was recorded.
pub fn text() -> String {
    let table = lock();
    writes(&table.writes) + &times(&table.times)
}

fn writes(lines: &[Line<Window>]) -> String {
    let mut text = String::new();
    if lines.is_empty() {
        return text;
    }
    row(
        &mut text,
        "story",
        "writes during",
        ["times", "acknowledged", "retried", "failed", "longest gap", "p99", "max"],
    );
    for Line { story, part, seen } in lines {
        let sum = |of: fn(&Window) -> u64| seen.iter().map(of).sum::<u64>().to_string();
        let worst = |of: fn(&Window) -> f64| format!("{:.0} ms", seen.iter().map(of).fold(0.0, f64::max));
        let figures = [
            seen.len().to_string(),
            sum(|window| window.acknowledged),
            sum(|window| window.retried),
            sum(|window| window.failed),
            worst(|window| window.longest_gap_ms),
            worst(|window| window.p99_ms),
            worst(|window| window.max_ms),
        ];
        row(&mut text, story, part, figures.each_ref().map(String::as_str));
    }
    text
}

fn row(text: &mut String, story: &str, part: &str, figures: [&str; 7]) {
    if text.is_empty() {
        text.push('\n');
    }
    let [times, acknowledged, retried, failed, gap, p99, max] = figures;
    let line = format!(
        "{story:<28} {part:<40} {times:>5} {acknowledged:>12} {retried:>8} {failed:>7} {gap:>11} {p99:>8} {max:>8}\n"
    );
    text.push_str(&line);
}

fn times(lines: &[Line<Duration>]) -> String {
    let mut text = String::new();
    if lines.is_empty() {
        return text;
    }
    text.push('\n');
    // Writing to a string cannot fail.
    _ = writeln!(
        text,
        "{:<28} {:<40} {:>5} {:>9} {:>9}",
        "story", "time until", "times", "shortest", "longest"
    );
    for Line { story, part, seen } in lines {
        let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
        let (shortest, longest) = (seconds(seen.iter().min()), seconds(seen.iter().max()));
        _ = writeln!(text, "{story:<28} {part:<40} {:>5} {shortest:>7.1} s {longest:>7.1} s", seen.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(failed: u64, gap: f64) -> Window {
        Window {
            acknowledged: 10,
            retried: 1,
            failed,
            longest_gap_ms: gap,
            longest_gap_at: None,
            p50_ms: 1.0,
            p99_ms: 2.0,
            max_ms: gap,
            errors: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn repeated_part_is_one_line_with_the_worst_figures() {
        let mut lines = Vec::new();
        note(&mut lines, "roll", "image", window(1, 40.0));
        note(&mut lines, "roll", "timeout", window(0, 10.0));
        note(&mut lines, "roll", "image", window(2, 30.0));
        let text = writes(&lines);
        let rows: Vec<Vec<&str>> =
            text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["roll", "image", "2", "20", "2", "3", "40", "ms", "2", "ms", "40", "ms"]);
        assert_eq!(rows[1][..3], ["roll", "timeout", "1"]);
    }

    #[test]
    fn repeated_time_shows_shortest_and_longest() {
        let mut lines = Vec::new();
        note(&mut lines, "install", "ready", Duration::from_millis(2500));
        note(&mut lines, "install", "ready", Duration::from_millis(1500));
        let text = times(&lines);
        let row: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["install", "ready", "2", "1.5", "s", "2.5", "s"]);
        assert!(times(&[]).is_empty());
    }
}
