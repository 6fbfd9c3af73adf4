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
/// Limit of the store's error in a message, and of the part of it that the server wrote.
const MAX_CHARS: usize = 500;
const MAX_ANSWER_CHARS: usize = 200;
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

/// Returns the error in one line. Of an answer in XML it has the code and the message, bounded by [`MAX_ANSWER_CHARS`].
fn one_line(error: &Error) -> String {
    let text = error.to_string();
    let (before, answer) = match text.find("<?xml").or_else(|| text.find("<Error>")) {
        Some(begin) => (&text[..begin], summary(&text[begin..])),
        None => (text.as_str(), String::new()),
    };
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let before: String = words(before).chars().take(MAX_CHARS - MAX_ANSWER_CHARS - 1).collect();
    words(&format!("{before} {}", answer.chars().take(MAX_ANSWER_CHARS).collect::<String>()))
}

/// Code and message of an error in the XML of S3, Google Cloud Storage and Azure; as far as it has them.
fn summary(xml: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    };
    [element("Code"), element("Message")].into_iter().flatten().collect::<Vec<_>>().join(": ")
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
    fn xml_of_a_server_is_its_code_and_message() {
        let xml = "<?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>The signature\n differs.\
                   </Message><Resource>/backups</Resource><RequestId>4711</RequestId></Error>";
        let text =
            one_line(&Error::Generic { store: "S3", source: format!("status code: 403: {xml}").into() });
        assert_eq!(text, "Generic S3 error: status code: 403: SignatureDoesNotMatch: The signature differs.");
        let text = one_line(&Error::Generic { store: "S3", source: "status code: 500: <?xml cut".into() });
        assert_eq!(text, "Generic S3 error: status code: 500:");
    }

    #[test]
    fn long_answer_is_one_short_line() {
        let long = "a\n  b ".repeat(1000);
        let xml = format!("{long}<Error><Code>Slow</Code><Message>{long}</Message></Error>");
        for answer in [long, xml] {
            let text = one_line(&Error::Generic { store: "S3", source: answer.into() });
            assert!(!text.contains('\n') && text.chars().count() <= MAX_CHARS, "{text}");
        }
    }
}
