//! JSON responses, and the error body that all routes share (docs/design/product.md, C11).

use helios_proto::v1::ErrorCode;
use serde_json::{Value as Json, json};
use warp::http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply, Response};

use crate::error::Error;

/// Value of `Retry-After` on retryable errors, seconds.
const RETRY_AFTER_SECONDS: &str = "1";

pub fn ok(body: &Json) -> Response {
    with_status(body, StatusCode::OK)
}

pub fn with_status(body: &Json, code: StatusCode) -> Response {
    warp::reply::with_status(warp::reply::json(body), code).into_response()
}

pub fn plain(code: StatusCode, text: &str) -> Response {
    warp::reply::with_status(format!("{text}\n"), code).into_response()
}

/// Returns the HTTP status of an error code.
pub fn status_of(code: ErrorCode) -> StatusCode {
    use ErrorCode::*;
    match code {
        InvalidArgument | WrongType | NotAnInteger => StatusCode::BAD_REQUEST,
        Unauthenticated => StatusCode::UNAUTHORIZED,
        Forbidden | ProtectedMode => StatusCode::FORBIDDEN,
        NodeNotFound | KeyNotFound => StatusCode::NOT_FOUND,
        TooLarge | BudgetExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        // The request is valid, but this member is not the leader.
        NotLeader => StatusCode::MISDIRECTED_REQUEST,
        WrongCluster
        | WrongMember
        | MemberRemoved
        | AlreadyStarted
        | StaleTerm
        | PeerExists
        | InsufficientPeers
        | MembershipChanged
        | MembershipChangeInProgress
        | LearnerLagging
        | TransferFailed
        | Fenced
        | UpgradeInProgress
        | LogPurged
        | AlreadyApplied => StatusCode::CONFLICT,
        Overloaded => StatusCode::TOO_MANY_REQUESTS,
        OutcomeUnknown | DeadlineExceeded | ReplicationShortfall => StatusCode::GATEWAY_TIMEOUT,
        DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        PeerUnreachable | NoLeader | NotStarted | NoQuorum | ElectionTimeout | InsufficientReplicas
        | TooStale | NotCaughtUp | StorageUnavailable | EntryUnappliable => StatusCode::SERVICE_UNAVAILABLE,
        SnapshotFailed | LogInconsistent | Corruption | Internal | Unspecified => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

pub fn failed(error: &Error) -> Response {
    let mut response = refused(status_of(error.code), error);
    if error.code == ErrorCode::Unauthenticated {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic realm=\"HeliosDB\""));
    }
    response
}

/// Returns the error response to a malformed request, with the given status.
pub fn unreadable(status: StatusCode, message: impl Into<String>) -> Response {
    refused(status, &Error::invalid(message))
}

pub fn other_method(allowed: &Method) -> Response {
    let mut response = unreadable(StatusCode::METHOD_NOT_ALLOWED, format!("this route takes {allowed}"));
    if let Ok(allowed) = HeaderValue::from_str(allowed.as_str()) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

fn refused(status: StatusCode, error: &Error) -> Response {
    let body = json!({ "error": {
        "code": error.code as i32,
        "name": error.code.as_str_name(),
        "message": error.message,
        "retryable": error.is_retryable(),
        "fatal": error.code.is_fatal(),
        "leader_hint": error.leader_hint.as_deref().unwrap_or_default(),
        "leader_addr": error.leader_addr.as_deref().unwrap_or_default(),
    }});
    let mut response = with_status(&body, status);
    if error.is_retryable() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    response
}
