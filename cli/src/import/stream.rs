//! The commands of a source as its replicas get them: decoding, and what is applied (pure).

use std::collections::HashSet;

use super::content::{MAX_UNIT_BYTES, Unit, Words, shown, size};
use super::expiry;

/// Largest command; a value has at most 512 MiB in Redis.
const MAX_WORD_BYTES: usize = 512 << 20;
const MAX_WORDS: usize = 1 << 20;
/// Decodes the first command: its words and its length in bytes. `None` if it is not complete.
///
/// # Errors
/// When the bytes are no command.
pub fn decode(bytes: &[u8]) -> Result<Option<(Words, usize)>, String> {
    let mut at = 0;
    // An empty line is a sign of life.
    if bytes.first() == Some(&b'\n') {
        return Ok(Some((Vec::new(), 1)));
    }
    let Some(count) = number(bytes, &mut at, b'*', MAX_WORDS)? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some(length) = number(bytes, &mut at, b'$', MAX_WORD_BYTES)? else { return Ok(None) };
        let Some(word) = bytes.get(at..at + length + 2) else { return Ok(None) };
        if !word.ends_with(b"\r\n") {
            return Err("a word of the stream does not end where it should".to_owned());
        }
        words.push(at..at + length);
        at += length + 2;
    }
    Ok(Some((words.into_iter().map(|range| bytes[range].to_vec()).collect(), at)))
}

fn number(bytes: &[u8], at: &mut usize, sign: u8, limit: usize) -> Result<Option<usize>, String> {
    let rest = &bytes[*at..];
    let malformed =
        || format!("the stream of the source is malformed: {}", shown(&rest[..rest.len().min(32)]));
    let Some(end) = rest.iter().take(32).position(|byte| *byte == b'\n') else {
        return if rest.len() >= 32 { Err(malformed()) } else { Ok(None) };
    };
    let digits = rest[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(&[sign]));
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    *at += end + 1;
    match number {
        Some(number) if number <= limit => Ok(Some(number)),
        _ => Err(malformed()),
    }
}

/// Effect of a command of the stream.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing is to be applied.
    Nothing,
    /// Commands that belong to one transaction of the target.
    Apply(Unit),
}

/// The state of the stream.
#[derive(Debug)]
pub struct Filter {
    database: u64,
    skip_unsupported: bool,
    /// Whether the target had keys that are not the source's.
    is_shared: bool,
    selected: u64,
    transaction: Option<(Vec<Words>, usize)>,
    pub skipped: u64,
    expiries: Expiries,
}

/// Keys whose expiry is shifted.
#[derive(Debug)]
struct Expiries {
    /// An expiry that is not further away is shifted.
    within_ms: u64,
    has_shifted: bool,
    /// Names of the keys that were shifted, if they are recorded.
    names: Option<HashSet<Vec<u8>>>,
}

impl Expiries {
    /// Returns the expiry as the target gets it.
    fn shift(&mut self, key: &[u8], at_ms: i64, unix_ms: u64) -> Vec<u8> {
        let shifted = u64::try_from(at_ms).ok().and_then(|at| expiry::shifted(at, unix_ms + self.within_ms));
        match shifted {
            Some(shifted) => {
                self.has_shifted = true;
                self.note(key);
                shifted.to_string().into_bytes()
            }
            None => at_ms.to_string().into_bytes(),
        }
    }

    fn note(&mut self, key: &[u8]) {
        if let Some(names) = &mut self.names {
            names.insert(key.to_vec());
        }
    }
}

impl Filter {
    pub fn new(database: u64, skip_unsupported: bool, is_shared: bool) -> Self {
        let expiries = Expiries { within_ms: expiry::COPYING_MS, has_shifted: false, names: None };
        Self { database, skip_unsupported, is_shared, selected: 0, transaction: None, skipped: 0, expiries }
    }

    /// Whether an expiry was shifted.
    pub fn has_shifted(&self) -> bool {
        self.expiries.has_shifted
    }

    /// From now on only near expiries are shifted, and the names of their keys are recorded.
    pub fn record_shifted(&mut self) {
        self.expiries.within_ms = expiry::FOLLOWING_MS;
        self.expiries.names.get_or_insert_default();
    }

    pub fn take_shifted(&mut self) -> Vec<Vec<u8>> {
        self.expiries.names.as_mut().map(std::mem::take).unwrap_or_default().into_iter().collect()
    }

    pub fn return_shifted(&mut self, names: Vec<Vec<u8>>) {
        self.expiries.names.get_or_insert_default().extend(names);
    }

    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Takes the next command. `unix_ms`: time at which it arrived.
    ///
    /// # Errors
    /// When the command cannot be applied to HeliosDB.
    pub fn take(&mut self, words: Words, unix_ms: u64) -> Result<Step, String> {
        let name =
            words.first().map_or_else(String::new, |name| String::from_utf8_lossy(name).to_uppercase());
        match name.as_str() {
            // A message or a cached script is no data.
            "" | "PING" | "REPLCONF" | "PUBLISH" | "SPUBLISH" | "SCRIPT" => return Ok(Step::Nothing),
            "SELECT" => {
                let number = words.get(1).and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
                self.selected = number.ok_or("SELECT has no number")?;
                return Ok(Step::Nothing);
            }
            "MULTI" => {
                self.transaction = Some((Vec::new(), 0));
                return Ok(Step::Nothing);
            }
            "EXEC" => {
                let commands = self.transaction.take().map(|(commands, _)| commands).unwrap_or_default();
                return Ok(if commands.is_empty() { Step::Nothing } else { Step::Apply(commands) });
            }
            _ => {}
        }
        let Some(command) = self.command(&name, words, unix_ms)? else { return Ok(Step::Nothing) };
        let bytes = size(&command) + self.transaction.as_ref().map_or(0, |(_, bytes)| *bytes);
        if bytes > MAX_UNIT_BYTES {
            return Err(format!(
                "{}: a command or transaction of the source has more than {MAX_UNIT_BYTES} bytes",
                described(&name, &command)
            ));
        }
        match &mut self.transaction {
            Some((commands, sum)) => {
                *sum = bytes;
                commands.push(command);
                Ok(Step::Nothing)
            }
            None => Ok(Step::Apply(vec![command])),
        }
    }

    /// The command for the target, if there is one.
    fn command(&mut self, name: &str, words: Words, unix_ms: u64) -> Result<Option<Words>, String> {
        let refused = |why: &str| Err(format!("{}: {why}", described(name, &words)));
        match name {
            "FLUSHALL" | "FLUSHDB" => {
                if name == "FLUSHDB" && self.selected != self.database {
                    return Ok(None);
                }
                if self.is_shared {
                    return refused("it would remove the keys that the target had before");
                }
                // The marker is set again by the same transaction.
                return Ok(Some(vec!["FLUSHALL".into()]));
            }
            "SWAPDB" => return refused("HeliosDB has one database"),
            "FUNCTION" if self.skip_unsupported => {
                self.skipped += 1;
                return Ok(None);
            }
            "MOVE" => {
                let to = words.get(2).map(Vec::as_slice);
                if self.selected == self.database || to == Some(self.database.to_string().as_bytes()) {
                    return refused("HeliosDB has one database");
                }
            }
            _ => {}
        }
        if self.selected != self.database {
            let is_copy = name == "COPY" && words.iter().skip(3).any(|word| word.eq_ignore_ascii_case(b"db"));
            return if is_copy { refused("HeliosDB has one database") } else { Ok(None) };
        }
        match name {
            "XADD" | "XDEL" | "XTRIM" | "XGROUP" | "XCLAIM" | "XACK" | "XSETID" | "XAUTOCLAIM"
            | "XREADGROUP" => {
                if self.skip_unsupported {
                    self.skipped += 1;
                    return Ok(None);
                }
                refused("HeliosDB has no streams; leave them out with --skip-unsupported")
            }
            "EVAL" | "EVALSHA" | "FCALL" => refused(
                "the source replicates scripts and not their effects; lua-replicate-commands yes changes that",
            ),
            "RESTORE" | "RESTORE-ASKING" => refused(
                "its value is in the format of Redis, which is read in a file only: start the import again",
            ),
            "COPY" if words.iter().skip(3).any(|word| word.eq_ignore_ascii_case(b"db")) => {
                refused("HeliosDB has one database")
            }
            _ => {
                if matches!(name, "RENAME" | "RENAMENX" | "COPY")
                    && let Some(to) = words.get(2)
                {
                    self.expiries.note(to);
                }
                Ok(Some(self.expiries.absolute(name, words, unix_ms)))
            }
        }
    }
}

fn described(name: &str, words: &Words) -> String {
    let key = words.get(1).map_or_else(String::new, |key| format!(" {}", shown(key)));
    format!("the source executed {name}{key}, which cannot be applied")
}

impl Expiries {
    /// Makes an expiry absolute, and shifts it if it is near. Redis before 7 sends it to its replicas as it was given.
    fn absolute(&mut self, name: &str, mut words: Words, unix_ms: u64) -> Words {
        let now = i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let at = |word: &[u8], unit: i64, base: i64| -> Option<i64> {
            let count: i64 = std::str::from_utf8(word).ok()?.parse().ok()?;
            count.checked_mul(unit)?.checked_add(base)
        };
        let unit = if name.starts_with('P') { 1 } else { 1000 };
        match (name, words.len()) {
            ("EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT", 3..) => {
                let base = if name.ends_with("AT") { 0 } else { now };
                if let Some(at) = at(&words[2], unit, base) {
                    let at = self.shift(&words[1], at, unix_ms);
                    // The source has evaluated options like GT, and they held.
                    words.truncate(2);
                    words[0] = "PEXPIREAT".into();
                    words.push(at);
                }
            }
            ("SETEX" | "PSETEX", 4) => {
                if let Some(at) = at(&words[2], unit, now) {
                    let at = self.shift(&words[1], at, unix_ms);
                    let value = words.swap_remove(3);
                    words = vec!["SET".into(), words.swap_remove(1), value, "PXAT".into(), at];
                }
            }
            ("SET", 4..) => {
                for option in 3..words.len() - 1 {
                    let (unit, base) = match words[option].to_ascii_uppercase().as_slice() {
                        b"EX" => (1000, now),
                        b"PX" => (1, now),
                        b"EXAT" => (1000, 0),
                        b"PXAT" => (1, 0),
                        _ => continue,
                    };
                    if let Some(at) = at(&words[option + 1], unit, base) {
                        (words[option], words[option + 1]) =
                            ("PXAT".into(), self.shift(&words[1].clone(), at, unix_ms));
                    }
                }
            }
            _ => {}
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Words {
        line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    fn take(filter: &mut Filter, line: &str) -> Result<String, String> {
        let text = |commands: Vec<Words>| {
            let lines = commands.iter().map(|words| String::from_utf8(words.join(&b' ')).unwrap());
            lines.collect::<Vec<_>>().join("; ")
        };
        Ok(match filter.take(words(line), 1000)? {
            Step::Nothing => String::new(),
            Step::Apply(commands) => text(commands),
        })
    }

    #[test]
    fn command_is_decoded_when_it_is_complete() {
        let bytes = b"*2\r\n$4\r\nPING\r\n$2\r\n\r\n\r\n*1\r\n";
        for end in 0..bytes.len() - 4 {
            let expected = (end >= 22).then(|| (vec![b"PING".to_vec(), b"\r\n".to_vec()], 22));
            assert_eq!(decode(&bytes[..end]).unwrap(), expected, "{end}");
        }
        assert_eq!(decode(b"\n*1").unwrap(), Some((vec![], 1)));
        for wrong in [
            &b"PING\r\n"[..],
            b"*1\r\n+OK\r\n",
            b"*-1\r\n",
            b"*1\r\n$1\r\nabc",
            b"*9999999999\r\n",
            &[b'*'; 40],
        ] {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn commands_of_the_chosen_database_are_applied_and_transactions_are_kept() {
        let mut filter = Filter::new(2, false, false);
        for line in ["PING", "SET a 1", "SELECT 2", "PUBLISH c m", "REPLCONF GETACK *"] {
            assert_eq!(take(&mut filter, line).unwrap(), "", "{line}");
        }
        assert_eq!(take(&mut filter, "set b 1").unwrap(), "set b 1");
        for line in ["MULTI", "INCR x", "SELECT 0", "INCR y", "FLUSHDB", "SELECT 2", "incr z"] {
            assert_eq!(take(&mut filter, line).unwrap(), "", "{line}");
            assert!(filter.is_in_transaction());
        }
        assert_eq!(take(&mut filter, "EXEC").unwrap(), "INCR x; incr z");
        assert_eq!(take(&mut filter, "FLUSHDB ASYNC").unwrap(), "FLUSHALL");
        assert!(!filter.is_in_transaction());
    }

    #[test]
    fn command_that_cannot_be_applied_is_named() {
        let mut filter = Filter::new(0, false, true);
        for line in [
            "XADD s * a b",
            "SWAPDB 0 1",
            "MOVE k 1",
            "FLUSHALL",
            "EVAL x 0",
            "RESTORE k 0 x",
            "COPY a b DB 1",
        ] {
            let name = line.split(' ').next().unwrap();
            let error = take(&mut filter, line).unwrap_err();
            assert!(error.contains(&format!("executed {name}")), "{error}");
        }
        let mut filter = Filter::new(0, true, false);
        assert_eq!(take(&mut filter, "XADD s * a b").unwrap(), "");
        assert_eq!(filter.skipped, 1);
        let large = vec![b"SET".to_vec(), b"k".to_vec(), vec![b'x'; 8 << 20]];
        assert!(filter.take(large, 0).unwrap_err().contains("more than 8323072 bytes"));
    }

    #[test]
    fn expiry_is_absolute_and_shifted_while_it_is_near() {
        let mut filter = Filter::new(0, false, false);
        let far = 700_000_000_u64;
        for (line, expected) in [
            ("EXPIRE k 700000 GT", format!("PEXPIREAT k {}", far + 1000)),
            ("EXPIREAT k 700000", format!("PEXPIREAT k {far}")),
            ("PEXPIREAT k 700000000", format!("PEXPIREAT k {far}")),
            ("PEXPIRE k 2 NX", format!("PEXPIREAT k {}", (1_u64 << 50) + 1002)),
            ("SETEX k 700000 v", format!("SET k v PXAT {}", far + 1000)),
            ("PSETEX k 2 v", format!("SET k v PXAT {}", (1_u64 << 50) + 1002)),
            ("SET k EX ex 700000 NX", format!("SET k EX PXAT {} NX", far + 1000)),
            ("SET k v PXAT 7", format!("SET k v PXAT {}", (1_u64 << 50) + 7)),
            ("SET k v EXAT 700000", format!("SET k v PXAT {far}")),
        ] {
            assert_eq!(take(&mut filter, line).unwrap(), expected);
        }
        assert!(filter.has_shifted() && filter.take_shifted().is_empty());
        filter.record_shifted();
        assert_eq!(take(&mut filter, "EXPIRE later 121").unwrap(), "PEXPIREAT later 122000");
        take(&mut filter, "EXPIRE soon 120").unwrap();
        take(&mut filter, "RENAME soon renamed").unwrap();
        let mut names = filter.take_shifted();
        names.sort();
        assert_eq!(names, [b"renamed".to_vec(), b"soon".to_vec()]);
    }
}
