//! Errors of a file, each with the position of the byte that it was noticed at.

use std::fmt;
use std::io;

/// Error of [`crate::read`]; `E` is that of the visitor.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    #[error("byte {at} of the RDB file: {problem}")]
    File { at: u64, problem: Problem },
    /// The visitor ended the reading.
    #[error("{0}")]
    Visitor(E),
}

/// Reason why a file cannot be read.
#[derive(Debug)]
pub enum Problem {
    /// The file ends too early.
    Truncated,
    Read(io::Error),
    /// The first bytes are not those of an RDB file.
    NotRdb,
    /// A version that this reader does not know.
    Version(u32),
    /// Bytes that no Redis writes.
    Corrupt(&'static str),
    /// The checksum over the whole file is another one.
    Checksum {
        computed: u64,
        stored: u64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "the file ends here, in the middle of a value; copy it again"),
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::NotRdb => write!(f, "this is no RDB file: it does not begin with REDIS and a version"),
            Self::Version(version) => write!(
                f,
                "RDB version {version} is not known here; versions 1 to {} are, which Redis up to 8.2 and Valkey 8 write, and {} of \
                 Valkey 9",
                crate::reader::MAX_VERSION,
                crate::reader::VALKEY_VERSION
            ),
            Self::Corrupt(what) => write!(f, "the file is damaged: {what}"),
            Self::Checksum { computed, stored } => write!(
                f,
                "the file is damaged: its checksum is {stored:016x}, that of its bytes {computed:016x}; copy it again"
            ),
        }
    }
}

/// A problem with its position, before the type of the visitor's error is known.
#[derive(Debug)]
pub(crate) struct Located {
    pub at: u64,
    pub problem: Problem,
}

impl<E> From<Located> for Error<E> {
    fn from(Located { at, problem }: Located) -> Self {
        Self::File { at, problem }
    }
}
