//! Credentials that a stream was opened with; the stream ends when they become invalid.

use std::sync::Arc;

use helios_proto::Error;
use helios_proto::v1::ErrorCode;

use super::{Access, Identity, Prefixes, Role, admitted};

/// Credentials of one request.
#[derive(Clone)]
pub struct Pass {
    access: Arc<Access>,
    /// The header `authorization`; `None`: authentication was off.
    header: Option<String>,
    role: Role,
    prefixes: Prefixes,
}

impl Pass {
    pub fn new(access: Arc<Access>, header: Option<&str>, identity: &Identity) -> Self {
        let (role, prefixes) = (identity.role(), identity.prefixes().clone());
        Self { access, header: header.map(str::to_owned), role, prefixes }
    }

    /// Whether the user still exists with the same password, role and prefixes.
    fn is_valid(&self) -> bool {
        match &self.header {
            Some(header) => {
                let is_same =
                    |found: Identity| found.role() == self.role && *found.prefixes() == self.prefixes;
                admitted(&self.access, None, Some(header)).is_ok_and(is_same)
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
