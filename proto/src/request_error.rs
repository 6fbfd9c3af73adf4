//! The error that a client, peer or operator gets: a stable code, a message that says what to do,
//! and the leader, if it is known.

use crate::v1::{ErrorCode, ErrorDetail, Member};

/// A refused or failed request (docs/design/product.md, "Errors").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: ErrorCode,
    pub message: String,
    /// Name of the leader as far as this member knows.
    pub leader_hint: Option<String>,
    /// host:port of the leader for Redis clients.
    pub leader_addr: Option<String>,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader_hint: None, leader_addr: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// The error of a proposed write with an unknown outcome (docs/design/product.md, C12).
    pub fn outcome_unknown() -> Self {
        Self::new(
            ErrorCode::OutcomeUnknown,
            "outcome unknown: the write was proposed and may still take effect; read the key before sending it again",
        )
    }

    pub fn not_leader(leader: Option<&Member>) -> Self {
        let message = match leader {
            Some(Member { name, client_addr, .. }) if client_addr.is_empty() => {
                format!("this member is not the leader; the leader is {name}")
            }
            Some(Member { name, client_addr, .. }) => {
                format!("this member is not the leader; the leader is {name} at {client_addr}")
            }
            None => "this member is not the leader and knows no leader; try again".to_owned(),
        };
        Self::new(ErrorCode::NotLeader, message).hinting(leader)
    }

    /// Adds the name of the leader.
    pub fn hinting(self, leader: Option<&Member>) -> Self {
        let field = |of: fn(&Member) -> &String| leader.map(of).filter(|text| !text.is_empty()).cloned();
        Self {
            leader_hint: field(|leader| &leader.name),
            leader_addr: field(|leader| &leader.client_addr),
            ..self
        }
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
            leader_addr: error.leader_addr.unwrap_or_default(),
        }
    }
}

impl From<ErrorDetail> for Error {
    fn from(detail: ErrorDetail) -> Self {
        Self {
            code: detail.code(),
            leader_hint: (!detail.leader_hint.is_empty()).then_some(detail.leader_hint),
            leader_addr: (!detail.leader_addr.is_empty()).then_some(detail.leader_addr),
            message: detail.message,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        crate::status_of(&error.into())
    }
}
