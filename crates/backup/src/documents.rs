//! Answers of commands: a JSON document, and the same as text for users.

use serde_json::Value;

/// The answer of a command.
#[derive(Debug)]
pub struct Answer {
    pub document: Value,
    pub text: String,
    /// Why the exit code is 1 although there is an answer.
    pub problem: Option<String>,
}

impl Answer {
    pub fn new(document: Value, text: impl Into<String>) -> Self {
        Self { document, text: text.into(), problem: None }
    }
}

/// Rows under headers, in columns as wide as needed.
pub fn table<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> =
        headers.iter().enumerate().map(|(at, header)| width(at).max(header.len())).collect();
    let line = |cells: [&str; N]| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line(std::array::from_fn(|at| row[at].as_str())));
    line(headers) + &rows.collect::<String>()
}

/// A size for users, in binary units.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [["12-3", "1 KiB"], ["1234567-3", "9 B"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["BASE", "SIZE"], &rows), "BASE        SIZE\n12-3        1 KiB\n1234567-3   9 B\n");
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(
            [0, 1023, 1024, 1 << 20, 5 << 40].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "5.0 TiB"]
        );
    }
}
