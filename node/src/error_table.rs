//! The table of error codes and their form at each port, from which `docs/reference/errors.md` is generated; tests
//! compare the conversion functions with it.

use std::fmt::Write as _;

use helios_proto::v1::ErrorCode::{self, *};
use helios_proto::v1::ErrorDetail;
use helios_redis::frame::Frame;
use tonic::Code;

use crate::error::Error;

/// A row: error code, gRPC code, HTTP status, first word of the Redis reply, retryable, fatal, meaning.
type Row = (ErrorCode, Code, u16, &'static str, bool, bool, &'static str);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (PeerUnreachable, Code::Unavailable, 503, "TRYAGAIN", true, false, "Another member does not answer."),
    (DeadlineExceeded, Code::DeadlineExceeded, 504, "ERR", false, false, "No answer in time."),
    (WrongCluster, Code::FailedPrecondition, 409, "ERR", false, true, "The peer belongs to another cluster, or to another history of this one."),
    (WrongMember, Code::FailedPrecondition, 409, "ERR", false, false, "The request was meant for another member or another disk."),
    (MemberRemoved, Code::FailedPrecondition, 409, "ERR", false, true, "This node was removed from its cluster."),
    (NotLeader, Code::Unavailable, 421, "READONLY", true, false, "Only the leader does this; `leader_hint` names it, `leader_addr` is where Redis clients reach it."),
    (NoLeader, Code::Unavailable, 503, "CLUSTERDOWN", true, false, "No leader is known."),
    (NotStarted, Code::Unavailable, 503, "LOADING", true, false, "This node belongs to no cluster yet, or is stopping."),
    (AlreadyStarted, Code::FailedPrecondition, 409, "ERR", false, false, "This node belongs to a cluster already."),
    (NoQuorum, Code::Unavailable, 503, "CLUSTERDOWN", true, false, "A majority does not answer, or would be lost by this change."),
    (ElectionTimeout, Code::Unavailable, 503, "TRYAGAIN", true, false, "The election is still in progress."),
    (SnapshotFailed, Code::Internal, 500, "ERR", false, false, "A snapshot was not taken, sent or installed."),
    (LogInconsistent, Code::DataLoss, 500, "ERR", false, true, "The log contradicts itself or the state."),
    (StaleTerm, Code::Aborted, 409, "ERR", false, false, "The request carries an older term."),
    (NodeNotFound, Code::NotFound, 404, "ERR", false, false, "The cluster has no such member."),
    (PeerExists, Code::AlreadyExists, 409, "ERR", false, false, "A member has that name or that address."),
    (InsufficientPeers, Code::FailedPrecondition, 409, "ERR", false, false, "The cluster would have no voter left."),
    (OutcomeUnknown, Code::DeadlineExceeded, 504, "ERR", false, false, "The write was proposed and may take effect: read before sending it again."),
    (MembershipChanged, Code::Aborted, 409, "TRYAGAIN", true, false, "The membership has changed since the client read it."),
    (MembershipChangeInProgress, Code::Aborted, 409, "TRYAGAIN", true, false, "Another membership change is in progress."),
    (LearnerLagging, Code::FailedPrecondition, 409, "TRYAGAIN", true, false, "The learner is too far behind to vote; the message has its lag."),
    (TransferFailed, Code::Aborted, 409, "TRYAGAIN", true, false, "Leadership was not transferred."),
    (Fenced, Code::FailedPrecondition, 409, "ERR", false, true, "The request carries a stale fencing token: a newer client has taken over."),
    (UpgradeInProgress, Code::FailedPrecondition, 409, "TRYAGAIN", true, false, "A member runs a build that could not read this write. Nothing was written."),
    (AlreadyApplied, Code::AlreadyExists, 409, "ERR", false, false, "A repeated write was applied the first time; its answer was too large to be kept."),
    (InsufficientReplicas, Code::Unavailable, 503, "NOREPLICAS", true, false, "Fewer voters are available than requested. Nothing was written."),
    (ReplicationShortfall, Code::DeadlineExceeded, 504, "ERR", false, false, "Committed, but not known to be on as many disks as requested."),
    (TooStale, Code::Unavailable, 503, "TRYAGAIN", true, false, "This member cannot guarantee the freshness requested."),
    (NotCaughtUp, Code::Unavailable, 503, "TRYAGAIN", true, false, "The write that the read has to see did not reach this member in time."),
    (StorageUnavailable, Code::Internal, 503, "ERR", false, true, "Disk or state of this member cannot be used."),
    (Corruption, Code::DataLoss, 500, "ERR", false, true, "Data on the disk fails its checksum."),
    (DiskFull, Code::ResourceExhausted, 507, "MISCONF", true, false, "No room for writes that make the state grow."),
    (EntryUnappliable, Code::Unavailable, 503, "ERR", false, false, "A committed entry could not be applied twice in a row; this member waits for `heliosctl log skip`."),
    (LogPurged, Code::FailedPrecondition, 409, "ERR", false, false, "The member no longer has the requested entries of its log; a backup needs a new base."),
    (InvalidArgument, Code::InvalidArgument, 400, "ERR", false, false, "The request is invalid; the message says what to send."),
    (WrongType, Code::InvalidArgument, 400, "WRONGTYPE", false, false, "The key holds another type."),
    (NotAnInteger, Code::InvalidArgument, 400, "ERR", false, false, "The value is no integer, or the result is out of range."),
    (TooLarge, Code::InvalidArgument, 413, "ERR", false, false, "Over a limit on size."),
    (Unauthenticated, Code::Unauthenticated, 401, "NOAUTH", false, false, "No password or token, or the wrong one."),
    (KeyNotFound, Code::NotFound, 404, "ERR", false, false, "There is no such key. HTTP only: elsewhere that is an answer, not an error."),
    (Forbidden, Code::PermissionDenied, 403, "NOPERM", false, false, "This user's role does not allow it."),
    (BudgetExceeded, Code::InvalidArgument, 413, "ERR", false, false, "The command, script or answer would cost more than its budget. Nothing was changed."),
    (ProtectedMode, Code::PermissionDenied, 403, "DENIED", false, false, "No users are configured and the client is on another host; the message says what to set."),
    (Overloaded, Code::ResourceExhausted, 429, "BUSY", true, false, "A queue or a limit is full. Nothing was done."),
    (Internal, Code::Internal, 500, "ERR", false, false, "Internal error, a bug; please report it."),
];

fn error(code: ErrorCode) -> Error {
    Error::new(code, "m")
}

#[test]
fn every_protocol_maps_each_error_code_as_in_the_table() {
    for &(code, grpc, http, redis, retryable, fatal, _) in TABLE {
        let detail = ErrorDetail::from(error(code));
        assert_eq!(helios_proto::status_of(&detail).code(), grpc, "{code:?}");
        assert_eq!(crate::http::status_of(code).as_u16(), http, "{code:?}");
        let Frame::Error(text) = Frame::from(error(code)) else { panic!("{code:?} is no error frame") };
        assert_eq!(text.split(' ').next(), Some(redis), "{code:?}");
        assert_eq!(
            (code.is_retryable(), detail.retryable, code.is_fatal()),
            (retryable, retryable, fatal),
            "{code:?}"
        );
        assert!(!(retryable && fatal), "{code:?}");
        assert_eq!(Error::from(helios_proto::detail_of(&helios_proto::status_of(&detail))), error(code));
    }
}

#[test]
fn the_error_table_lists_each_code_once() {
    let of_table: Vec<_> = TABLE.iter().map(|row| row.0 as i32).collect();
    let of_proto: Vec<_> = (1..10_000).filter(|number| ErrorCode::try_from(*number).is_ok()).collect();
    assert_eq!(of_table, of_proto, "in the order of their numbers");
}

/// `HELIOS_UPDATE_DOCS=1` writes the page instead: `reference` is in the name for that.
#[test]
fn the_page_in_docs_reference_is_current() {
    let mut page = HEAD.to_owned();
    for &(code, grpc, http, redis, retryable, fatal, meaning) in TABLE {
        let yes = |yes| if yes { "yes" } else { "" };
        let (number, name) = (code as i32, code.as_str_name());
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| {number} | `{name}` | {grpc:?} | {http} | `{redis}` | {} | {} | {meaning} |",
            yes(retryable),
            yes(fatal)
        );
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/errors.md");
    if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let current = std::fs::read_to_string(path).unwrap_or_default();
    assert!(current == page, "errors.md is out of date; run HELIOS_UPDATE_DOCS=1 cargo test reference");
}

const HEAD: &str = "\
# Error codes

<!-- Generated from the table in node/src/error_table.rs by `HELIOS_UPDATE_DOCS=1 cargo test -p helios-node reference`. -->

A number never changes its meaning and is never used twice. gRPC carries the code, the message and the leader's name in the status
details (`ErrorDetail`), HTTP in the body's `error`; a Redis client sees the first word of the reply.
*Retryable*: the same request may succeed if it is sent again. *Fatal*: the node cannot continue without intervention.

| code | name | gRPC | HTTP | Redis | retryable | fatal | meaning |
|---|---|---|---|---|---|---|---|
";
