//! The longest common subsequence of two strings.

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;

use super::super::command::{Failure, Outcome, invalid};
use super::super::txn::Txn;
use super::strings::content;
use super::words::{Words, is, syntax};
use super::{integer, list, replies};

/// Maximum number of cells of the table (64 MiB).
const MAX_CELLS: usize = 16 << 20;

struct Options {
    length_only: bool,
    index: bool,
    with_lengths: bool,
    min_length: usize,
}

/// A run of the common subsequence: its positions in the first and the second string, and its length.
struct Run {
    left: usize,
    right: usize,
    length: usize,
}

pub fn lcs(txn: &mut Txn<'_>, mut words: Words<'_>) -> Outcome {
    let (left, right) = (string(txn, words.word()?)?, string(txn, words.word()?)?);
    let options = options(words)?;
    let table = Table::of(txn, &left, &right)?;
    if options.length_only {
        return integer(table.at(left.len(), right.len()) as usize);
    }
    let (text, runs) = table.walk(&left, &right);
    if !options.index {
        return Ok(Answer::Bytes(text.into()));
    }
    let total = text.len();
    let matches = runs.into_iter().filter(|run| run.length >= options.min_length).map(|run| {
        let range = |start: usize| {
            list([start, start + run.length - 1].map(|position| Answer::Integer(position as i64)))
        };
        let length = options.with_lengths.then_some(Answer::Integer(run.length as i64));
        list([range(run.left), range(run.right)].into_iter().chain(length))
    });
    let matches = list(matches);
    let name = |text: &'static str| Answer::Bytes(Bytes::from_static(text.as_bytes()));
    Ok(Answer::Map(replies([name("matches"), matches, name("len"), Answer::Integer(total as i64)])))
}

fn string(txn: &mut Txn<'_>, key: &Bytes) -> Result<Bytes, Failure> {
    Ok(content(txn, key)?.unwrap_or_default())
}

fn options(mut words: Words<'_>) -> Result<Options, Failure> {
    let mut options = Options { length_only: false, index: false, with_lengths: false, min_length: 0 };
    while let Some(word) = words.next() {
        match word {
            word if is(word, "len") => options.length_only = true,
            word if is(word, "idx") => options.index = true,
            word if is(word, "withmatchlen") => options.with_lengths = true,
            word if is(word, "minmatchlen") => {
                options.min_length = usize::try_from(words.integer()?).unwrap_or(0);
            }
            _ => return Err(syntax()),
        }
    }
    if options.length_only && options.index {
        return Err(invalid("If you want both the length and indexes, please just use IDX."));
    }
    Ok(options)
}

/// The lengths of the longest common subsequences of all pairs of prefixes.
struct Table {
    cells: Vec<u32>,
    width: usize,
}

impl Table {
    fn of(txn: &Txn<'_>, left: &[u8], right: &[u8]) -> Result<Self, Failure> {
        let width = right.len() + 1;
        let size = (left.len() + 1).saturating_mul(width);
        if size > MAX_CELLS {
            return Err(invalid(format!(
                "LCS of {} and {} bytes needs too much memory; the product may be {MAX_CELLS}",
                left.len(),
                right.len()
            )));
        }
        txn.charge(0, (size * size_of::<u32>()) as u64)?;
        let mut table = Self { cells: vec![0; size], width };
        for (row, left) in left.iter().enumerate() {
            for (column, right) in right.iter().enumerate() {
                let longest = if left == right {
                    table.at(row, column) + 1
                } else {
                    table.at(row, column + 1).max(table.at(row + 1, column))
                };
                table.cells[(row + 1) * width + column + 1] = longest;
            }
        }
        Ok(table)
    }

    fn at(&self, row: usize, column: usize) -> u32 {
        self.cells[row * self.width + column]
    }

    /// Returns the common subsequence, and its runs from the last to the first.
    fn walk(&self, left: &[u8], right: &[u8]) -> (Vec<u8>, Vec<Run>) {
        let (mut row, mut column) = (left.len(), right.len());
        let (mut text, mut runs): (Vec<u8>, Vec<Run>) = (Vec::new(), Vec::new());
        while row > 0 && column > 0 {
            if left[row - 1] == right[column - 1] {
                (row, column) = (row - 1, column - 1);
                text.push(left[row]);
                match runs.last_mut() {
                    Some(run) if (run.left, run.right) == (row + 1, column + 1) => {
                        *run = Run { left: row, right: column, length: run.length + 1 };
                    }
                    _ => runs.push(Run { left: row, right: column, length: 1 }),
                }
            } else if self.at(row - 1, column) > self.at(row, column - 1) {
                row -= 1;
            } else {
                column -= 1;
            }
        }
        text.reverse();
        (text, runs)
    }
}
