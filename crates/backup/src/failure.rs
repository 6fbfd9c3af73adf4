//! The end of a command that failed: a reason for programs, and one line for users.

use helios_archive::ArchiveError;
use serde_json::{Value, json};

use crate::members::MemberError;

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Variant of [`ArchiveError`], or another reason in CamelCase.
    pub reason: &'static str,
    /// One line that says what to do.
    pub message: String,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        // Errors of other programs may have several lines.
        let message = message.into().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { reason, message }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new("Invalid", message)
    }

    /// The document of the failure, for `--output json` and `--report-file`.
    pub fn document(&self) -> Value {
        json!({"error": {"reason": self.reason, "message": self.message}})
    }
}

/// Name of the variant of an error.
pub fn reason_of(error: &ArchiveError) -> &'static str {
    match error {
        ArchiveError::Refused { .. } => "Refused",
        ArchiveError::Missing { .. } => "Missing",
        ArchiveError::Throttled { .. } => "Throttled",
        ArchiveError::Full { .. } => "Full",
        ArchiveError::Unavailable { .. } => "Unavailable",
        ArchiveError::Forked { .. } => "Forked",
        ArchiveError::Damaged { .. } => "Damaged",
        ArchiveError::WrongKey { .. } => "WrongKey",
        ArchiveError::NewerFormat { .. } => "NewerFormat",
        ArchiveError::Invalid(_) => "Invalid",
        ArchiveError::Source(_) => "Source",
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::new(reason_of(&error), error.to_string())
    }
}

impl From<MemberError> for Failure {
    fn from(error: MemberError) -> Self {
        Self::new("MemberFailed", error.to_string())
    }
}
