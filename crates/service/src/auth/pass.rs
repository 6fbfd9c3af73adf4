//! Credentials that a stream was opened with; the stream ends when they become invalid.

use std::sync::Arc;

use helios_proto::Error;
use helios_proto::v1::ErrorCode;

use super::{Access, Role, admitted};

/// Credentials of one request.
#[derive(Clone)]
pub struct Pass {
    access: Arc<Access>,
    /// The header `authorization`; `None`: authentication was off.
    header: Option<String>,
    role: Role,
}

impl Pass {
    pub fn new(access: Arc<Access>, header: Option<&str>, role: Role) -> Self {
        Self { access, header: header.map(str::to_owned), role }
    }

    /// Whether the user still exists with the same password and role.
    fn is_valid(&self) -> bool {
        match &self.header {
            Some(header) => {
                admitted(&self.access, None, Some(header)).is_ok_and(|found| found.role() == self.role)
            }
            None => self.access.is_open(),
        }
    }

    /// Waits until the credentials become invalid; returns the error that the stream ends with. Cancel safe.
    pub async fn revoked(self) -> Error {
        // Subscribed before the check, so that a concurrent reload is noticed.
        let mut changes = self.access.changed.subscribe();
        while self.is_valid() {
            // No error: `self.access` holds the sender.
            drop(changes.changed().await);
        }
        Error::new(
            ErrorCode::Unauthenticated,
            "the user that opened this stream was removed or changed: authenticate again",
        )
    }
}
