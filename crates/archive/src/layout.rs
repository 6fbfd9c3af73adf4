//! Names of the objects of an archive. Numbers are hexadecimal of a fixed width, so that the order of a listing is the order
//! of the log.
//!
//! ```text
//! <clusterId>/<incarnation>/origin.json
//!   base/<index>-<term>/source.json (first), 0000.part ..., manifest.json (last), deleted.json
//!   log/<first>-<last>.seg
//!   drills/<time>.json
//!   gc.json
//! ```
//! A new cluster has a new id and a ForceNew a new incarnation, so two histories never share a folder.

use std::fmt;

use crate::ArchiveError;

const MAX_CLUSTER_ID_BYTES: usize = 64;

/// The log of one cluster since its bootstrap or its last ForceNew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct History {
    cluster_id: String,
    incarnation: u64,
}

impl History {
    pub fn new(cluster_id: &str, incarnation: u64) -> Result<Self, ArchiveError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if cluster_id.is_empty()
            || cluster_id.len() > MAX_CLUSTER_ID_BYTES
            || !cluster_id.bytes().all(is_legal)
        {
            return Err(ArchiveError::Invalid(format!(
                "cluster id {cluster_id:?} has to have 1 to {MAX_CLUSTER_ID_BYTES} letters, digits, '-' or '_'"
            )));
        }
        Ok(Self { cluster_id: cluster_id.to_owned(), incarnation })
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Name of the object in the store, without the store's prefix.
    pub fn name(&self, object: Object) -> String {
        format!("{self}/{object}")
    }

    /// The history and the object of a name; `None` if this build gives no object that name.
    pub fn parse(name: &str) -> Option<(Self, Object)> {
        let (cluster_id, rest) = name.split_once('/')?;
        let (incarnation, rest) = rest.split_once('/')?;
        let history = Self::new(cluster_id, number(incarnation)?).ok()?;
        Some((history, Object::parse(rest)?))
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.cluster_id, self.incarnation)
    }
}

/// A base: the state after the entry `index`, which has this term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseId {
    pub index: u64,
    pub term: u64,
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.index, self.term)
    }
}

/// A segment: the entries from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    pub first: u64,
    pub last: u64,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.first, self.last)
    }
}

/// An object of a history. It is displayed as its name within the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    Origin,
    /// Identity of the bytes that a base is written from; a writer resumes only from the same.
    Source(BaseId),
    Part(BaseId, u16),
    Manifest(BaseId),
    /// The mark of a base that was deleted by an admin; the garbage collection removes it.
    Deleted(BaseId),
    Segment(SegmentId),
    /// Report of a drill or verification, by its time in milliseconds since the Unix epoch.
    Drill(u64),
    /// Record of the last pass of the garbage collection.
    Collection,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin => f.write_str("origin.json"),
            Self::Source(base) => write!(f, "base/{base}/source.json"),
            Self::Part(base, part) => write!(f, "base/{base}/{part:04x}.part"),
            Self::Manifest(base) => write!(f, "base/{base}/manifest.json"),
            Self::Deleted(base) => write!(f, "base/{base}/deleted.json"),
            Self::Segment(segment) => write!(f, "log/{segment}.seg"),
            Self::Drill(time) => write!(f, "drills/{time:016x}.json"),
            Self::Collection => f.write_str("gc.json"),
        }
    }
}

impl Object {
    /// The object with this name within a history; the inverse of its display.
    pub fn parse(name: &str) -> Option<Self> {
        let parsed = match name.split_once('/') {
            None if name == "origin.json" => Self::Origin,
            None if name == "gc.json" => Self::Collection,
            Some(("base", rest)) => Self::parse_base(rest)?,
            Some(("log", rest)) => {
                let (first, last) = pair(rest.strip_suffix(".seg")?)?;
                if first > last {
                    return None;
                }
                Self::Segment(SegmentId { first, last })
            }
            Some(("drills", rest)) => Self::Drill(number(rest.strip_suffix(".json")?)?),
            _ => return None,
        };
        Some(parsed)
    }

    /// The base that has the object.
    pub fn base(&self) -> Option<BaseId> {
        match self {
            Self::Source(base) | Self::Part(base, _) | Self::Manifest(base) | Self::Deleted(base) => {
                Some(*base)
            }
            Self::Origin | Self::Segment(_) | Self::Drill(_) | Self::Collection => None,
        }
    }

    fn parse_base(name: &str) -> Option<Self> {
        let (folder, file) = name.split_once('/')?;
        let (index, term) = pair(folder)?;
        let base = BaseId { index, term };
        match file {
            "source.json" => Some(Self::Source(base)),
            "manifest.json" => Some(Self::Manifest(base)),
            "deleted.json" => Some(Self::Deleted(base)),
            part => Some(Self::Part(base, fixed(part.strip_suffix(".part")?, 4)?.try_into().ok()?)),
        }
    }
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.split_once('-')?;
    Some((number(first)?, number(second)?))
}

fn number(text: &str) -> Option<u64> {
    fixed(text, 16)
}

/// The number in exactly `width` lower-case hexadecimal digits.
fn fixed(text: &str, width: usize) -> Option<u64> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != width || !text.bytes().all(is_digit) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object() -> impl Strategy<Value = Object> {
        let base = || (any::<u64>(), any::<u64>()).prop_map(|(index, term)| BaseId { index, term });
        prop_oneof![
            Just(Object::Origin),
            Just(Object::Collection),
            base().prop_map(Object::Source),
            (base(), any::<u16>()).prop_map(|(base, part)| Object::Part(base, part)),
            base().prop_map(Object::Manifest),
            base().prop_map(Object::Deleted),
            (any::<u64>(), any::<u64>())
                .prop_map(|(a, b)| Object::Segment(SegmentId { first: a.min(b), last: a.max(b) })),
            any::<u64>().prop_map(Object::Drill),
        ]
    }

    proptest! {
        #[test]
        fn name_is_parsed_to_the_object_that_it_was_made_of(object in object(), incarnation: u64) {
            let history = History::new("6f1c-A_z", incarnation).unwrap();
            prop_assert_eq!(History::parse(&history.name(object)), Some((history, object)));
        }

        #[test]
        fn parsed_name_is_the_only_name_of_its_object(name in "(base|log|drills)/[0-9a-fA-F]{15,17}(-[0-9a-f]{16})?(.seg|.json|/manifest.json|/00[0-9a-f]{1,3}.part)") {
            if let Some(object) = Object::parse(&name) {
                prop_assert_eq!(object.to_string(), name);
            }
        }

        #[test]
        fn names_of_segments_sort_as_their_indexes(a: (u64, u64), b: (u64, u64)) {
            let [a, b] = [a, b].map(|(x, y)| SegmentId { first: x.min(y), last: x.max(y) });
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }

    #[test]
    fn name_of_another_program_is_no_object() {
        let segment = format!("log/{:016x}-{:016x}.seg", 2, 1);
        for name in ["", "origin.json.bak", "log/1-2.seg", "base/x/manifest.json", "readme.md", &segment] {
            assert_eq!(Object::parse(name), None, "{name}");
        }
    }

    #[test]
    fn cluster_id_that_is_no_folder_name_is_rejected() {
        for id in ["", "a/b", "..", "a b", &"x".repeat(65)] {
            assert!(History::new(id, 1).is_err(), "{id}");
        }
    }
}
