//! A file's content: whether it can be imported, and the commands that create it (pure, but for the channel).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use helios_rdb::{Key, Kind, Unsupported, Visitor};
use tokio::sync::mpsc;

use super::args::ImportArgs;
use super::expiry;

/// Words of a command.
pub type Words = Vec<Vec<u8>>;
/// Commands that belong to one transaction.
pub type Unit = Vec<Words>;

/// Largest transaction: a log entry has 8 MiB, or less with a small `raft.segment_bytes`.
pub const MAX_UNIT_BYTES: usize = (8 << 20) - (64 << 10);
/// Limits of values and names (docs/reference/limits.md).
const MAX_VALUE_BYTES: usize = MAX_UNIT_BYTES - MAX_NAME_BYTES;
const MAX_NAME_BYTES: usize = 64 << 10;
/// A command for a part of a collection ends at either.
const PART_ELEMENTS: usize = 512;
const PART_BYTES: usize = 256 << 10;
/// A batch ends at either.
pub const BATCH_BYTES: usize = 1 << 20;
pub const BATCH_COMMANDS: usize = 4096;
/// Keys that an error names.
const NAMED: usize = 5;

/// Commands that are applied together.
#[derive(Debug, Default)]
pub struct Batch {
    pub units: Vec<Unit>,
    /// Keys that end in it.
    pub keys: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The database, if the user chose one.
    database: Option<u64>,
    skip_unsupported: bool,
    /// Whether keys of the same names may exist.
    clear_first: bool,
    now_ms: u64,
    /// Whether commands follow that may change an expiry.
    is_live: bool,
}

impl Choice {
    pub fn new(args: &ImportArgs, now_ms: u64) -> Self {
        Self {
            database: args.database,
            skip_unsupported: args.skip_unsupported,
            clear_first: args.into_existing,
            now_ms,
            is_live: args.from.is_some(),
        }
    }

    pub fn database(&self) -> u64 {
        self.database.unwrap_or(0)
    }

    fn has(&self, key: &Key) -> bool {
        key.database == self.database()
    }

    fn is_expired(&self, key: &Key) -> bool {
        !self.is_live && key.expires_at_ms.is_some_and(|at| at <= self.now_ms)
    }

    fn expiry(&self, at: u64) -> u64 {
        if self.is_live { expiry::shifted(at, self.now_ms + expiry::COPYING_MS).unwrap_or(at) } else { at }
    }
}

/// Facts of a file before anything is written.
#[derive(Debug)]
pub struct Survey {
    choice: Choice,
    databases: BTreeMap<u64, u64>,
    pub expired: u64,
    /// Keys that expire at some time.
    pub expiring: u64,
    pub unsupported: BTreeMap<Unsupported, (u64, Vec<String>)>,
    too_large: (u64, Vec<String>),
    /// Bytes of the largest value that is not too large, and its key.
    pub largest: (usize, String),
    current: Option<String>,
}

pub fn shown(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match name.char_indices().nth(64) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

impl Survey {
    pub fn new(choice: Choice) -> Self {
        Self {
            choice,
            databases: BTreeMap::new(),
            expired: 0,
            expiring: 0,
            unsupported: BTreeMap::new(),
            too_large: (0, Vec::new()),
            largest: (0, String::new()),
            current: None,
        }
    }

    /// Number of the keys of the chosen database.
    pub fn keys(&self) -> u64 {
        self.databases.get(&self.choice.database()).copied().unwrap_or(0)
    }

    /// The reason why the file is not imported, with what to do.
    pub fn verdict(&self) -> Result<(), String> {
        let is_elsewhere = self.databases.keys().any(|database| *database != 0);
        if self.choice.database.is_none() && is_elsewhere {
            let list: Vec<_> =
                self.databases.iter().map(|(number, keys)| format!("{number} ({keys} keys)")).collect();
            return Err(format!(
                "the source has keys in the databases {}, and HeliosDB has one: choose with --database, and import each \
                 of the others into another cluster",
                list.join(", ")
            ));
        }
        let (count, examples) = &self.too_large;
        if *count > 0 {
            return Err(format!(
                "{count} keys have parts over the limits, {} KiB for a key, field or member and {MAX_VALUE_BYTES} bytes for a \
                 value: {}; remove or split them at the source; nothing was written",
                MAX_NAME_BYTES >> 10,
                examples.join(", ")
            ));
        }
        if self.unsupported.is_empty() || self.choice.skip_unsupported {
            return Ok(());
        }
        let mut list = String::new();
        for (what, (count, examples)) in &self.unsupported {
            let separator = if list.is_empty() { "" } else { "; " };
            let examples =
                if examples.is_empty() { String::new() } else { format!(", e.g. {}", examples.join(", ")) };
            let _ = write!(list, "{separator}{what}: {count}{examples}");
        }
        Err(format!(
            "the source has data that HeliosDB does not have ({list}); leave it out with --skip-unsupported; nothing was \
             written"
        ))
    }

    fn check(&mut self, bytes: usize, limit: usize) {
        if bytes > limit
            && let Some(key) = self.current.take()
        {
            self.too_large.0 += 1;
            if self.too_large.1.len() < NAMED {
                self.too_large.1.push(key);
            }
        }
    }
}

/// The reader's thread ends, since nobody receives what it reads.
#[derive(Debug, thiserror::Error)]
#[error("the import ended")]
pub struct Stopped;

impl Visitor for Survey {
    type Error = Stopped;

    fn begin(&mut self, key: &Key, _: Kind) -> Result<(), Stopped> {
        *self.databases.entry(key.database).or_default() += 1;
        self.current = self.choice.has(key).then(|| shown(&key.name));
        self.expiring += u64::from(self.current.is_some() && key.expires_at_ms.is_some());
        if self.current.is_some() && self.choice.is_expired(key) {
            self.expired += 1;
            self.current = None;
        }
        self.check(key.name.len(), MAX_NAME_BYTES);
        Ok(())
    }

    fn value(&mut self, value: Vec<u8>) -> Result<(), Stopped> {
        self.check(value.len(), MAX_VALUE_BYTES);
        if value.len() > self.largest.0
            && let Some(key) = &self.current
        {
            self.largest = (value.len(), key.clone());
        }
        Ok(())
    }

    fn field(&mut self, field: Vec<u8>, value: Vec<u8>) -> Result<(), Stopped> {
        self.check(field.len(), MAX_NAME_BYTES);
        self.value(value)
    }

    fn member(&mut self, member: Vec<u8>, _: f64) -> Result<(), Stopped> {
        self.check(member.len(), MAX_NAME_BYTES);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stopped> {
        self.current = None;
        Ok(())
    }

    fn skipped(&mut self, key: Option<&Key>, what: Unsupported) -> Result<(), Stopped> {
        if key.is_some_and(|key| !self.choice.has(key)) {
            return Ok(());
        }
        let (count, examples) = self.unsupported.entry(what).or_default();
        *count += 1;
        if let Some(key) = key
            && examples.len() < NAMED
        {
            examples.push(shown(&key.name));
        }
        Ok(())
    }
}

/// The key that is being read.
struct Open {
    key: Key,
    kind: Kind,
    /// The command for a part of it, without a part yet if it has two words.
    part: Words,
    bytes: usize,
}

/// Sends the commands that create the keys of a file.
pub struct Converter {
    choice: Choice,
    sender: mpsc::Sender<Batch>,
    batch: Batch,
    bytes: usize,
    open: Option<Open>,
}

impl Converter {
    pub fn new(choice: Choice, sender: mpsc::Sender<Batch>) -> Self {
        Self { choice, sender, batch: Batch::default(), bytes: 0, open: None }
    }

    fn push(&mut self, command: Words) -> Result<(), Stopped> {
        let bytes = size(&command);
        if self.bytes + bytes > BATCH_BYTES {
            self.flush()?;
        }
        self.bytes += bytes;
        self.batch.units.push(vec![command]);
        if self.bytes >= BATCH_BYTES || self.batch.units.len() >= BATCH_COMMANDS {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.units.is_empty() && batch.keys == 0 {
            return Ok(());
        }
        self.sender.blocking_send(batch).map_err(|_| Stopped)
    }

    fn add(&mut self, words: [Vec<u8>; 2], count: usize) -> Result<(), Stopped> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.bytes += words[..count].iter().map(Vec::len).sum::<usize>();
        open.part.extend(words.into_iter().take(count));
        let is_full = open.bytes >= PART_BYTES || open.part.len() >= 2 + PART_ELEMENTS * count;
        if is_full { self.end_part() } else { Ok(()) }
    }

    fn end_part(&mut self) -> Result<(), Stopped> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.part.len() <= 2 {
            return Ok(());
        }
        let part = std::mem::replace(&mut open.part, open.kind.command(&open.key));
        open.bytes = 0;
        self.push(part)
    }
}

/// Bytes of a command as a request, roughly.
pub fn size(command: &Words) -> usize {
    command.iter().map(|word| word.len() + 32).sum()
}

trait Command {
    fn command(self, key: &Key) -> Words;
}

impl Command for Kind {
    fn command(self, key: &Key) -> Words {
        let name = match self {
            Self::String => "SET",
            Self::List => "RPUSH",
            Self::Set => "SADD",
            Self::Hash => "HSET",
            Self::SortedSet => "ZADD",
        };
        vec![name.into(), key.name.clone()]
    }
}

impl Visitor for Converter {
    type Error = Stopped;

    fn begin(&mut self, key: &Key, kind: Kind) -> Result<(), Stopped> {
        if !self.choice.has(key) || self.choice.is_expired(key) {
            return Ok(());
        }
        if self.choice.clear_first && kind != Kind::String {
            self.push(vec!["DEL".into(), key.name.clone()])?;
        }
        self.open = Some(Open { key: key.clone(), kind, part: kind.command(key), bytes: 0 });
        Ok(())
    }

    fn value(&mut self, value: Vec<u8>) -> Result<(), Stopped> {
        match &mut self.open {
            Some(Open { key, kind: Kind::String, part, .. }) => {
                part.push(value);
                if let Some(at) = key.expires_at_ms {
                    part.extend(["PXAT".into(), self.choice.expiry(at).to_string().into_bytes()]);
                }
                Ok(())
            }
            _ => self.add([value, Vec::new()], 1),
        }
    }

    fn field(&mut self, field: Vec<u8>, value: Vec<u8>) -> Result<(), Stopped> {
        self.add([field, value], 2)
    }

    fn member(&mut self, member: Vec<u8>, score: f64) -> Result<(), Stopped> {
        self.add([format!("{score:?}").into_bytes(), member], 2)
    }

    fn end(&mut self) -> Result<(), Stopped> {
        self.end_part()?;
        let Some(open) = self.open.take() else { return Ok(()) };
        self.batch.keys += 1;
        match open.key.expires_at_ms {
            Some(at) if open.kind != Kind::String => {
                let at = self.choice.expiry(at).to_string().into_bytes();
                self.push(vec!["PEXPIREAT".into(), open.key.name, at])
            }
            _ => Ok(()),
        }
    }

    fn skipped(&mut self, _: Option<&Key>, _: Unsupported) -> Result<(), Stopped> {
        Ok(())
    }
}

/// The last batch is sent when the file ends. If nobody receives it, the receiver has its own error.
impl Drop for Converter {
    fn drop(&mut self) {
        drop(self.flush());
    }
}
