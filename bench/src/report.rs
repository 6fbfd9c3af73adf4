//! The report: Markdown that is readable on a terminal, too.

use std::fmt::{self, Write};

/// The head and all sections of the report.
pub struct Report {
    text: String,
}

impl Report {
    pub fn new(has_peers: bool, machine: Vec<(&'static str, String)>, note: Option<&str>) -> Self {
        let (title, how) = match has_peers {
            true => ("heliosd beside etcd and Redis", HOW),
            false => ("heliosd", HOW_ALONE),
        };
        let mut table = Table::new(["", "value"]);
        for (what, value) in machine {
            table.row([what.to_owned(), value]);
        }
        let mut text = format!("# {title}\n\n```sh\n{}\n```\n\n{table}\n", command());
        if let Some(note) = note {
            text += &format!("What else ran: {note}\n\n");
        }
        text += how;
        println!("{text}");
        Self { text }
    }

    pub fn push(&mut self, section: String) {
        self.text += "\n";
        self.text += &section;
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

const HOW: &str = "\
All systems run on one machine and one disk, with their clients on the same cores: the figures are for comparison and do not predict what
another machine would do. heliosd and etcd have three members each; **Redis is one node without any replica**, with `appendonly yes` and
`appendfsync always`. Each syncs to the disk before it acknowledges (etcd and heliosd: on a majority). Values have 128 bytes, keys 16.
";
const HOW_ALONE: &str = "\
Three members and their clients run on one machine and one disk, with the clients on the same cores. Values have 128 bytes, keys 16.
";

/// Returns the command that a user would type: without the program paths that the script fills in.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).map(|argument| quoted(&argument)).collect();
    match arguments.is_empty() {
        true => "make bench".to_owned(),
        false => format!("scripts/bench.sh {}", arguments.join(" ")),
    }
}

fn quoted(argument: &str) -> String {
    let is_plain = argument.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.,/=".contains(letter));
    if is_plain { argument.to_owned() } else { format!("'{}'", argument.replace('\'', "'\\''")) }
}

/// A Markdown table with padded columns.
pub struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub fn new(head: [&str; COLUMNS]) -> Self {
        Self { rows: vec![head.map(str::to_owned)] }
    }

    pub fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::from("|");
            for (cell, width) in row.iter().zip(widths) {
                write!(line, " {cell:width$} |")?;
            }
            writeln!(f, "{line}")?;
            if number == 0 {
                let rule: String = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
                writeln!(f, "|{rule}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_columns_are_padded() {
        let mut table = Table::new(["a", "bcd"]);
        table.row(["12".into(), "3".into()]);
        assert_eq!(table.to_string(), "| a  | bcd |\n|----|-----|\n| 12 | 3   |\n");
    }

    #[test]
    fn arguments_are_quoted_for_the_shell() {
        assert_eq!(quoted("--parts"), "--parts");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
