//! Error codes over gRPC: an [`ErrorDetail`] in the status details, with the nearest gRPC code.

use prost::Message;
use tonic::{Code, Status};

use crate::v1::{ErrorCode, ErrorDetail};

impl ErrorCode {
    /// Whether a retry of the same request may succeed without any other change.
    ///
    /// `OUTCOME_UNKNOWN` is not retryable: the write may have taken effect (docs/design/product.md, C12).
    pub fn is_retryable(self) -> bool {
        use ErrorCode::*;
        matches!(
            self,
            PeerUnreachable
                | NotLeader
                | NoLeader
                | NotStarted
                | NoQuorum
                | ElectionTimeout
                | MembershipChanged
                | MembershipChangeInProgress
                | LearnerLagging
                | TransferFailed
                | UpgradeInProgress
                | InsufficientReplicas
                | TooStale
                | NotCaughtUp
                | DiskFull
                | Overloaded
        )
    }

    /// Whether the error is permanent for the node that answers it, or for the caller that another has replaced:
    /// neither can resolve it automatically.
    pub fn is_fatal(self) -> bool {
        use ErrorCode::*;
        matches!(
            self,
            LogInconsistent | StorageUnavailable | Corruption | WrongCluster | MemberRemoved | Fenced
        )
    }

    fn grpc_code(self) -> Code {
        use ErrorCode::*;
        match self {
            PeerUnreachable | NotLeader | NoLeader | NotStarted | NoQuorum | ElectionTimeout
            | InsufficientReplicas | TooStale | NotCaughtUp | EntryUnappliable => Code::Unavailable,
            DeadlineExceeded | OutcomeUnknown | ReplicationShortfall => Code::DeadlineExceeded,
            WrongCluster | WrongMember | MemberRemoved | LearnerLagging | AlreadyStarted
            | InsufficientPeers | Fenced | UpgradeInProgress | LogPurged => Code::FailedPrecondition,
            MembershipChanged | MembershipChangeInProgress | TransferFailed | StaleTerm => Code::Aborted,
            NodeNotFound | KeyNotFound => Code::NotFound,
            PeerExists | AlreadyApplied => Code::AlreadyExists,
            Overloaded | DiskFull => Code::ResourceExhausted,
            InvalidArgument | WrongType | NotAnInteger | TooLarge | BudgetExceeded => Code::InvalidArgument,
            Unauthenticated => Code::Unauthenticated,
            Forbidden | ProtectedMode => Code::PermissionDenied,
            LogInconsistent | Corruption => Code::DataLoss,
            SnapshotFailed | StorageUnavailable | Internal | Unspecified => Code::Internal,
        }
    }
}

/// Returns the gRPC status that carries `detail`.
pub fn status_of(detail: &ErrorDetail) -> Status {
    Status::with_details(detail.code().grpc_code(), detail.message.clone(), detail.encode_to_vec().into())
}

/// Returns the [`ErrorDetail`] of a status, or one made from its code if the sender is not part of HeliosDB.
pub fn detail_of(status: &Status) -> ErrorDetail {
    if let Ok(detail) = ErrorDetail::decode(status.details())
        && detail.code() != ErrorCode::Unspecified
    {
        return detail;
    }
    let code = match status.code() {
        Code::Unavailable => ErrorCode::PeerUnreachable,
        Code::DeadlineExceeded | Code::Cancelled => ErrorCode::DeadlineExceeded,
        Code::ResourceExhausted => ErrorCode::Overloaded,
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidArgument,
        Code::Unauthenticated => ErrorCode::Unauthenticated,
        Code::PermissionDenied => ErrorCode::Forbidden,
        _ => ErrorCode::Internal,
    };
    ErrorDetail {
        code: code.into(),
        message: status.message().to_owned(),
        retryable: code.is_retryable(),
        leader_hint: String::new(),
        leader_addr: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_survives_the_status() {
        let detail = ErrorDetail {
            code: ErrorCode::LearnerLagging.into(),
            message: "learner demo-3 is 4200 entries behind".into(),
            retryable: true,
            leader_hint: "demo-0".into(),
            leader_addr: "10.0.0.1:6379".into(),
        };
        assert_eq!(detail_of(&status_of(&detail)), detail);
    }

    #[test]
    fn a_foreign_status_gets_the_nearest_code() {
        let detail = detail_of(&Status::unavailable("connection refused"));
        assert_eq!(detail.code(), ErrorCode::PeerUnreachable);
        assert!(detail.retryable);
        assert_eq!(detail_of(&Status::unknown("x")).code(), ErrorCode::Internal);
    }

    #[test]
    fn an_unknown_outcome_is_never_retryable() {
        assert!(!ErrorCode::OutcomeUnknown.is_retryable());
        assert!(!ErrorCode::DeadlineExceeded.is_retryable());
    }

    #[test]
    fn fenced_is_fatal_and_not_retryable() {
        assert!(!ErrorCode::Fenced.is_retryable());
        assert!(ErrorCode::Fenced.is_fatal());
        assert_eq!(ErrorCode::Fenced.grpc_code(), Code::FailedPrecondition);
    }
}
