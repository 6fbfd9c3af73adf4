//! The credentials that opened a stream: the stream ends when they are no longer valid.

use std::sync::Arc;

use helios_proto::Error;
use helios_proto::v1::ErrorCode;

use super::{Access, Role, admitted};

/// Credentials of one request.
#[derive(Clone)]
pub struct Pass {
    access: Arc<Access>,
    /// `None`: there were no users.
    header: Option<String>,
    role: Role,
}

impl Pass {
    pub fn new(access: Arc<Access>, header: Option<&str>, role: Role) -> Self {
        Self { access, header: header.map(str::to_owned), role }
    }

    /// The user exists with the same password and role.
    fn is_valid(&self) -> bool {
        match &self.header {
            Some(header) => {
                admitted(&self.access, None, Some(header)).is_ok_and(|found| found.role() == self.role)
            }
            None => self.access.is_open(),
        }
    }

    /// Resolves with the error that ends the stream, once the credentials are invalid. Cancel safe.
    pub async fn revoked(self) -> Error {
        // Before the look: a change in between is seen.
        let mut changes = self.access.changed.subscribe();
        while self.is_valid() {
            // The sender lives in what this holds.
            drop(changes.changed().await);
        }
        Error::new(
            ErrorCode::Unauthenticated,
            "the user that opened this stream is gone or was changed: authenticate again",
        )
    }
}
