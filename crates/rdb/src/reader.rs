//! The file as a sequence of keys, each with its elements in their order.

use std::fmt;
use std::io::Read;

use crate::error::{Error, Problem};
use crate::input::{Input, Result};
use crate::pack::{Entries, intset, listpack, ziplist, zipmap};

/// Newest version of the format: Redis 7.4 to 8.2. Valkey 8 writes 11.
pub const MAX_VERSION: u32 = 12;
/// Version of Valkey 9, which gives other meanings to some bytes than newer versions of Redis.
pub const VALKEY_VERSION: u32 = 80;

/// Type of a value that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    String,
    List,
    Set,
    Hash,
    SortedSet,
}

/// Data that is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unsupported {
    Stream,
    Module,
    /// A hash with an expiry for each field.
    ExpiringFields,
    /// A library of functions; it is no key.
    Function,
    /// Data of a module beside the keys.
    ModuleData,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Module => "value of a module",
            Self::ExpiringFields => "hash whose fields expire",
            Self::Function => "library of functions",
            Self::ModuleData => "data of a module beside the keys",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub database: u64,
    pub name: Vec<u8>,
    /// Unix time in milliseconds at which the key is removed.
    pub expires_at_ms: Option<u64>,
}

/// Receiver of the content. An error ends the reading.
pub trait Visitor {
    type Error;

    /// A key begins; its elements follow, then `end`.
    fn begin(&mut self, key: &Key, kind: Kind) -> std::result::Result<(), Self::Error>;
    /// The value of a string, an element of a list, or a member of a set.
    fn value(&mut self, value: Vec<u8>) -> std::result::Result<(), Self::Error>;
    fn field(&mut self, field: Vec<u8>, value: Vec<u8>) -> std::result::Result<(), Self::Error>;
    fn member(&mut self, member: Vec<u8>, score: f64) -> std::result::Result<(), Self::Error>;
    fn end(&mut self) -> std::result::Result<(), Self::Error>;
    /// Something was skipped; `key` has it, if it is the value of a key.
    fn skipped(&mut self, key: Option<&Key>, what: Unsupported) -> std::result::Result<(), Self::Error>;
}

/// Facts of a file that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub version: u32,
    /// Bytes of the file up to its end, which may be followed by others.
    pub bytes: u64,
    /// Whether the file has a checksum. Redis writes none with `rdbchecksum no`, or before version 5 of the format.
    pub checksum: bool,
    /// Field `redis-ver` or `valkey-ver`.
    pub program: Option<String>,
}

/// Reads a file to its end.
///
/// # Errors
/// If the file is damaged or cannot be read, or the visitor fails.
pub fn read<R: Read, V: Visitor>(
    source: R,
    visitor: &mut V,
) -> std::result::Result<Summary, Error<V::Error>> {
    let mut file = Reader { input: Input::new(source), version: 0, visitor };
    file.version = file.version()?;
    file.items()
}

struct Reader<'v, R, V> {
    input: Input<R>,
    version: u32,
    visitor: &'v mut V,
}

type Outcome<T, V> = std::result::Result<T, Error<<V as Visitor>::Error>>;

impl<R: Read, V: Visitor> Reader<'_, R, V> {
    fn version(&mut self) -> Result<u32> {
        let header: [u8; 9] = match self.input.array() {
            Err(error) if matches!(error.problem, Problem::Truncated) => {
                return self.input.fail(Problem::NotRdb);
            }
            header => header?,
        };
        let of_valkey = header.strip_prefix(b"VALKEY");
        let digits = header.strip_prefix(b"REDIS").or(of_valkey);
        let version = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        match version {
            Some(version @ 1..=MAX_VERSION) => Ok(version),
            Some(VALKEY_VERSION) if of_valkey.is_some() => Ok(VALKEY_VERSION),
            Some(version) => self.input.fail(Problem::Version(version)),
            None => self.input.fail(Problem::NotRdb),
        }
    }

    fn items(&mut self) -> Outcome<Summary, V> {
        let mut key = Key { database: 0, name: Vec::new(), expires_at_ms: None };
        let mut program = None;
        loop {
            match self.input.byte()? {
                243 if self.version == VALKEY_VERSION => {
                    // Slots that a node of a cluster is taking over: a name, and ranges.
                    self.input.skip_string()?;
                    for _ in 0..self.input.length()? {
                        self.input.length()?;
                        self.input.length()?;
                    }
                }
                244 => {
                    // A slot of a cluster, with the sizes of its tables.
                    for _ in 0..3 {
                        self.input.length()?;
                    }
                }
                245 => {
                    self.input.skip_string()?;
                    self.visitor.skipped(None, Unsupported::Function).map_err(Error::Visitor)?;
                }
                246 => self.input.corrupt("functions of a release candidate of Redis 7.0")?,
                247 => {
                    for _ in 0..3 {
                        self.input.length()?;
                    }
                    self.input.skip_module()?;
                    self.visitor.skipped(None, Unsupported::ModuleData).map_err(Error::Visitor)?;
                }
                248 => drop(self.input.length()?),
                249 => drop(self.input.byte()?),
                250 => {
                    let (name, value) = (self.input.string()?, self.input.string()?);
                    if name == b"redis-ver" || name == b"valkey-ver" {
                        program = Some(String::from_utf8_lossy(&value).chars().take(32).collect());
                    }
                }
                251 => {
                    self.input.length()?;
                    self.input.length()?;
                }
                252 => key.expires_at_ms = Some(u64::from_le_bytes(self.input.array()?)),
                253 => {
                    let seconds = u32::from_le_bytes(self.input.array()?);
                    key.expires_at_ms = Some(u64::from(seconds) * 1000);
                }
                254 => key.database = self.input.length()?,
                255 => return Ok(self.end(program)?),
                kind => {
                    key.name = self.input.string()?;
                    self.key(&key, kind)?;
                    key.expires_at_ms = None;
                }
            }
        }
    }

    fn end(&mut self, program: Option<String>) -> Result<Summary> {
        let version = self.version;
        let computed = self.input.checksum();
        let stored = if version >= 5 { u64::from_le_bytes(self.input.array()?) } else { 0 };
        if stored != 0 && stored != computed {
            return self.input.fail(Problem::Checksum { computed, stored });
        }
        Ok(Summary { version, bytes: self.input.position(), checksum: stored != 0, program })
    }

    fn key(&mut self, key: &Key, kind: u8) -> Outcome<(), V> {
        let unsupported = match kind {
            7 => {
                self.input.length()?;
                self.input.skip_module()?;
                Unsupported::Module
            }
            6 => return Ok(self.input.corrupt("a value of a module of a release candidate of Redis 4.0")?),
            15 | 19 | 21 => {
                let version = match kind {
                    15 => 1,
                    19 => 2,
                    _ => 3,
                };
                self.input.skip_stream(version)?;
                Unsupported::Stream
            }
            22 if self.version == VALKEY_VERSION => {
                self.input.skip_fields_with_expiry()?;
                Unsupported::ExpiringFields
            }
            22 | 24 => {
                self.input.skip_expiring_fields(kind == 24)?;
                Unsupported::ExpiringFields
            }
            23 | 25 => {
                if kind == 25 {
                    self.input.skip(8)?;
                }
                self.input.skip_string()?;
                Unsupported::ExpiringFields
            }
            _ => return self.decoded(key, kind),
        };
        self.visitor.skipped(Some(key), unsupported).map_err(Error::Visitor)
    }

    fn decoded(&mut self, key: &Key, kind: u8) -> Outcome<(), V> {
        let type_of_value = match kind {
            0 => Kind::String,
            1 | 10 | 14 | 18 => Kind::List,
            2 | 11 | 20 => Kind::Set,
            4 | 9 | 13 | 16 => Kind::Hash,
            3 | 5 | 12 | 17 => Kind::SortedSet,
            _ => return Ok(self.input.corrupt("a value of an unknown type")?),
        };
        self.visitor.begin(key, type_of_value).map_err(Error::Visitor)?;
        match kind {
            0 => self.strings(1)?,
            1 | 2 => {
                let count = self.input.length()?;
                self.strings(count)?;
            }
            4 => {
                for _ in 0..self.input.length()? {
                    let (field, value) = (self.input.string()?, self.input.string()?);
                    self.visitor.field(field, value).map_err(Error::Visitor)?;
                }
            }
            3 | 5 => self.scored(kind == 5)?,
            10 => self.values(ziplist)?,
            11 => self.values(intset)?,
            20 => self.values(listpack)?,
            9 => self.fields(zipmap)?,
            13 => self.fields(ziplist)?,
            16 => self.fields(listpack)?,
            12 => self.members(ziplist)?,
            17 => self.members(listpack)?,
            14 => {
                for _ in 0..self.input.length()? {
                    self.values(ziplist)?;
                }
            }
            _ => self.quicklist()?,
        }
        self.visitor.end().map_err(Error::Visitor)
    }

    fn strings(&mut self, count: u64) -> Outcome<(), V> {
        for _ in 0..count {
            let value = self.input.string()?;
            self.visitor.value(value).map_err(Error::Visitor)?;
        }
        Ok(())
    }

    /// Nodes of a list: a listpack, or one element alone.
    fn quicklist(&mut self) -> Outcome<(), V> {
        for _ in 0..self.input.length()? {
            match self.input.length()? {
                1 => self.strings(1)?,
                2 => self.values(listpack)?,
                _ => self.input.corrupt("a node of a list is of an unknown type")?,
            }
        }
        Ok(())
    }

    fn scored(&mut self, is_binary: bool) -> Outcome<(), V> {
        for _ in 0..self.input.length()? {
            let member = self.input.string()?;
            let score = match is_binary {
                true => f64::from_le_bytes(self.input.array()?),
                false => match self.input.byte()? {
                    253 => f64::NAN,
                    254 => f64::INFINITY,
                    255 => f64::NEG_INFINITY,
                    length => {
                        let text = self.input.bytes(u64::from(length))?;
                        self.score(&text)?
                    }
                },
            };
            self.give_member(member, score)?;
        }
        Ok(())
    }

    fn give_member(&mut self, member: Vec<u8>, score: f64) -> Outcome<(), V> {
        if score.is_nan() {
            return Ok(self.input.corrupt("a score is not a number")?);
        }
        self.visitor.member(member, score).map_err(Error::Visitor)
    }

    fn score(&self, text: &[u8]) -> Result<f64> {
        match std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()) {
            Some(score) => Ok(score),
            None => self.input.corrupt("a score is no number"),
        }
    }

    fn entry(&self, entry: std::result::Result<Vec<u8>, &'static str>) -> Result<Vec<u8>> {
        match entry {
            Ok(value) => Ok(value),
            Err(what) => self.input.corrupt(what),
        }
    }

    fn values(&mut self, unpack: impl Fn(&[u8]) -> Entries<'_>) -> Outcome<(), V> {
        let packed = self.input.string()?;
        for value in unpack(&packed) {
            let value = self.entry(value)?;
            self.visitor.value(value).map_err(Error::Visitor)?;
        }
        Ok(())
    }

    /// Gives the entries of a packed string to `give` in pairs.
    fn pairs(
        &mut self,
        unpack: impl Fn(&[u8]) -> Entries<'_>,
        mut give: impl FnMut(&mut Self, Vec<u8>, Vec<u8>) -> Outcome<(), V>,
    ) -> Outcome<(), V> {
        let packed = self.input.string()?;
        let mut entries = unpack(&packed);
        while let Some(first) = entries.next() {
            let first = self.entry(first)?;
            let second = self.entry(entries.next().unwrap_or(Err("an entry of a pair is missing")))?;
            give(self, first, second)?;
        }
        Ok(())
    }

    fn fields(&mut self, unpack: impl Fn(&[u8]) -> Entries<'_>) -> Outcome<(), V> {
        self.pairs(unpack, |file, field, value| file.visitor.field(field, value).map_err(Error::Visitor))
    }

    fn members(&mut self, unpack: impl Fn(&[u8]) -> Entries<'_>) -> Outcome<(), V> {
        self.pairs(unpack, |file, member, score| {
            let score = file.score(&score)?;
            file.give_member(member, score)
        })
    }
}
