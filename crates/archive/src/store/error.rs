//! Errors of the object store as errors of the archive.

use std::error::Error as _;
use std::io;

use object_store::Error;

use crate::ArchiveError;

/// Words of answers of a store without room: S3-compatible servers, Google Cloud Storage, Azure.
const FULL: &[&str] = &[
    "status code: 507",
    "QuotaExceeded",
    "XMinioStorageFull",
    "InsufficientStorage",
    "No space left on device",
];
const THROTTLED: &[&str] = &[
    "status code: 429",
    "status code: 503",
    "SlowDown",
    "ServerBusy",
    "TooManyRequests",
    "RequestLimitExceeded",
];

pub(super) fn of_store(call: &'static str, object: &str, error: Error) -> ArchiveError {
    let object = object.to_owned();
    let detail = one_line(&error);
    let has = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    match error {
        Error::NotFound { .. } => ArchiveError::Missing { object },
        _ if is_full(&error) || has(FULL) => ArchiveError::Full { call, object, detail },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            ArchiveError::Refused { call, object, detail }
        }
        _ if has(THROTTLED) => ArchiveError::Throttled { call, object, detail },
        _ => ArchiveError::Unavailable { call, object, detail },
    }
}

fn is_full(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        source = cause.source();
    }
    false
}

fn one_line(error: &Error) -> String {
    const MAX_CHARS: usize = 500;
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_CHARS).collect()
}
