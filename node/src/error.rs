//! The error a client, peer or operator sees: a stable code, a sentence that says what to do,
//! and where one is known the leader.

use helios_proto::v1::{ErrorCode, ErrorDetail};

/// A refused or failed request (product.md, "Errors").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: ErrorCode,
    pub message: String,
    /// Name of the member believed to lead.
    pub leader_hint: Option<String>,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader_hint: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// A write that was proposed and whose fate is not known (product.md, C12).
    pub fn outcome_unknown() -> Self {
        Self::new(
            ErrorCode::OutcomeUnknown,
            "outcome unknown: the write was proposed and may still take effect; read the key before sending it again",
        )
    }

    pub fn not_leader(leader_hint: Option<String>) -> Self {
        let message = match &leader_hint {
            Some(name) => format!("this member does not lead; {name} does"),
            None => "this member does not lead and knows no leader; try again".to_owned(),
        };
        Self { code: ErrorCode::NotLeader, message, leader_hint }
    }

    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }
}

impl From<Error> for ErrorDetail {
    fn from(error: Error) -> Self {
        ErrorDetail {
            code: error.code.into(),
            retryable: error.is_retryable(),
            message: error.message,
            leader_hint: error.leader_hint.unwrap_or_default(),
        }
    }
}

impl From<ErrorDetail> for Error {
    fn from(detail: ErrorDetail) -> Self {
        Self {
            code: detail.code(),
            leader_hint: (!detail.leader_hint.is_empty()).then_some(detail.leader_hint),
            message: detail.message,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        helios_proto::status_of(&error.into())
    }
}
