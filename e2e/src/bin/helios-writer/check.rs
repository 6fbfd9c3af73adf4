//! Reads back all acknowledged writes.

use std::time::Duration;

use tokio::time::Instant;

use crate::link::Link;
use crate::load::{Written, key};

/// Keys of one MGET.
const CHUNK: usize = 500;
/// Time for which reading a chunk is retried; longer than an election and the restart of a member.
const RETRY_FOR: Duration = Duration::from_secs(30);
const MAX_EXAMPLES: usize = 10;

/// Acknowledged writes that were not read back as they were written.
#[derive(Debug, Default)]
pub struct Finding {
    pub missing: u64,
    pub wrong: u64,
    pub unread: u64,
    pub examples: Vec<String>,
}

pub async fn read_back(mut link: Link, prefix: &str, written: &[Written]) -> Finding {
    let mut finding = Finding::default();
    for written in written {
        let numbers: Vec<u64> = written.acknowledged().collect();
        for chunk in numbers.chunks(CHUNK) {
            let keys: Vec<String> = chunk.iter().map(|&n| key(prefix, written.worker, n)).collect();
            let mut command = redis::cmd("MGET");
            command.arg(&keys);
            let values = link.persist::<Vec<Option<String>>>(&command, Instant::now() + RETRY_FOR).await;
            finding.compare(&keys, chunk, values.unwrap_or_default());
        }
    }
    finding
}

impl Finding {
    /// Compares `keys` with the `values` read; keys beyond the end of `values` count as unread.
    fn compare(&mut self, keys: &[String], numbers: &[u64], values: Vec<Option<String>>) {
        let values = values.into_iter().map(Some).chain(std::iter::repeat(None));
        for ((key, number), value) in keys.iter().zip(numbers).zip(values) {
            let count = match value {
                Some(Some(value)) if value == number.to_string() => continue,
                Some(Some(_)) => &mut self.wrong,
                Some(None) => &mut self.missing,
                None => &mut self.unread,
            };
            *count += 1;
            if self.examples.len() < MAX_EXAMPLES {
                self.examples.push(key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_wrong_and_unread_keys_are_counted_separately() {
        let keys: Vec<String> = (1..=4).map(|n| key("p", 0, n)).collect();
        let mut finding = Finding::default();
        finding.compare(&keys, &[1, 2, 3, 4], vec![Some("1".into()), None, Some("9".into())]);
        assert_eq!((finding.missing, finding.wrong, finding.unread), (1, 1, 1));
        assert_eq!(finding.examples, ["p:0:2", "p:0:3", "p:0:4"]);
    }

    #[test]
    fn failed_write_is_not_read_back() {
        let written = Written { worker: 0, last: 4, failed: [2, 3].into() };
        assert_eq!(written.acknowledged().collect::<Vec<_>>(), [1, 4]);
    }
}
