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
/// The client reports 403 as `PermissionDenied`, but not of a list.
const REFUSED: &[&str] = &["status code: 401", "status code: 403", "ExpiredToken", "InvalidAccessKeyId"];
/// Name in messages of what a call without an object is about.
const WHOLE: &str = "the store's prefix";
const MISSING: &[&str] = &["status code: 404", "NoSuchBucket"];
const THROTTLED: &[&str] = &[
    "status code: 429",
    "status code: 503",
    "SlowDown",
    "ServerBusy",
    "TooManyRequests",
    "RequestLimitExceeded",
];

pub(super) fn of_store(call: &'static str, object: &str, error: Error) -> ArchiveError {
    let object = if object.is_empty() { WHOLE } else { object }.to_owned();
    let detail = one_line(&error);
    let has = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    match error {
        Error::NotFound { .. } => ArchiveError::Missing { object },
        _ if is_full(&error) || has(FULL) => ArchiveError::Full { call, object, detail },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            ArchiveError::Refused { call, object, detail }
        }
        _ if has(REFUSED) => ArchiveError::Refused { call, object, detail },
        _ if has(MISSING) => ArchiveError::Missing { object },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_any_call_is_classified_by_its_status_and_words() {
        let classified = |text: &str| {
            let source = text.to_owned().into();
            let error = of_store("LIST", "a", Error::Generic { store: "S3", source });
            match error {
                ArchiveError::Refused { call: "LIST", .. } => "refused",
                ArchiveError::Missing { .. } => "missing",
                ArchiveError::Throttled { .. } => "throttled",
                ArchiveError::Full { .. } => "full",
                ArchiveError::Unavailable { .. } => "unavailable",
                _ => "other",
            }
        };
        for (text, class) in [
            ("Server returned non-2xx status code: 403 Forbidden: SignatureDoesNotMatch", "refused"),
            ("Server returned non-2xx status code: 400: ExpiredToken", "refused"),
            ("Server returned non-2xx status code: 404: NoSuchBucket", "missing"),
            ("Server returned non-2xx status code: 503: SlowDown", "throttled"),
            ("Server returned non-2xx status code: 429", "throttled"),
            ("Server returned non-2xx status code: 507", "full"),
            ("Server returned non-2xx status code: 403: QuotaExceeded", "full"),
            ("Server returned non-2xx status code: 500", "unavailable"),
            ("connection refused", "unavailable"),
        ] {
            assert_eq!(classified(text), class, "{text}");
        }
    }

    #[test]
    fn call_without_an_object_is_named() {
        let source = "status code: 403".into();
        let text = of_store("LIST", "", Error::Generic { store: "S3", source }).to_string();
        assert!(text.starts_with("the store refused LIST of the store's prefix: "), "{text}");
    }

    #[test]
    fn long_answer_is_one_short_line() {
        let text = one_line(&Error::Generic { store: "S3", source: "a\n  b ".repeat(1000).into() });
        assert!(!text.contains('\n') && text.chars().count() == 500, "{text}");
    }
}
