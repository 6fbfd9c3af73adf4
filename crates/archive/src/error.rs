//! Errors of the archive. Each names the object, and its text says what to do.

use thiserror::Error;

#[derive(Debug, Error)]
pub enum ArchiveError {
    #[error(
        "the store refused {call} of {object}: {detail}; check the credentials and their permissions for this bucket and prefix"
    )]
    Refused { call: &'static str, object: String, detail: String },
    #[error("{object} is not in the store; it was removed, or the prefix or bucket is another one")]
    Missing { object: String },
    #[error("the store throttles {call} of {object}: {detail}; try again later, or lower the rate")]
    Throttled { call: &'static str, object: String, detail: String },
    #[error(
        "the store is full at {call} of {object}: {detail}; free space, raise its quota, or shorten the retention"
    )]
    Full { call: &'static str, object: String, detail: String },
    #[error("the store failed {call} of {object}: {detail}; try again when it can be reached")]
    Unavailable { call: &'static str, object: String, detail: String },
    #[error(
        "{object} exists with other content: a second writer archives this history; stop one of the two, nothing was overwritten"
    )]
    Forked { object: String },
    #[error("{object} is damaged: {reason}; restore a target that does not need it")]
    Damaged { object: String, reason: String },
    #[error("{object} cannot be opened: {reason}; add the key with which it was written to the keyring")]
    WrongKey { object: String, reason: String },
    #[error("{object} has format {found}, this build reads up to {newest}; use the version that wrote it")]
    NewerFormat { object: String, found: u32, newest: u32 },
    #[error("{0}")]
    Invalid(String),
    #[error("the source of the base cannot be read: {0}")]
    Source(#[from] std::io::Error),
}

impl ArchiveError {
    pub(crate) fn damaged(object: &str, reason: impl Into<String>) -> Self {
        Self::Damaged { object: object.to_owned(), reason: reason.into() }
    }

    pub(crate) fn wrong_key(object: &str, reason: impl Into<String>) -> Self {
        Self::WrongKey { object: object.to_owned(), reason: reason.into() }
    }

    /// Name of the object that the error is about.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::Refused { object, .. }
            | Self::Missing { object }
            | Self::Throttled { object, .. }
            | Self::Full { object, .. }
            | Self::Unavailable { object, .. }
            | Self::Forked { object }
            | Self::Damaged { object, .. }
            | Self::WrongKey { object, .. }
            | Self::NewerFormat { object, .. } => Some(object),
            Self::Invalid(_) | Self::Source(_) => None,
        }
    }

    /// Whether the same call may succeed later without a change by an admin.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable { .. } | Self::Source(_))
    }

    /// Whether the bytes in the store are not those that were written, or not readable with this keyring.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::Damaged { .. } | Self::WrongKey { .. } | Self::NewerFormat { .. }
        )
    }
}
