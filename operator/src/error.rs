//! The error of a reconcile: a request to the API server or to a member that failed.

use std::time::Duration;

use helios_proto::v1::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of the reconcile failed.
    #[error("cannot {step}: {source}")]
    Step { step: &'static str, source: Box<Self> },

    #[error("cannot {action} {what}: {source}")]
    Kubernetes {
        action: &'static str,
        what: String,
        #[source]
        source: Box<kube::Error>,
    },

    /// The member answered and refused.
    #[error("{member} refused to {action}: {message}")]
    Refused { member: String, action: &'static str, code: ErrorCode, message: String },

    #[error("cannot reach {member} to {action}: {message}")]
    Unreachable { member: String, action: &'static str, message: String },

    #[error("the reconcile did not end within {} s; the API server or a member is slow", .0.as_secs())]
    Overdue(Duration),

    #[error("cannot write {what} as JSON: {source}")]
    Encode { what: String, source: serde_json::Error },

    #[error("{0}")]
    Build(#[from] crate::build::BuildError),

    #[error("the HeliosCluster has no {0}, so it did not come from an API server")]
    Incomplete(&'static str),
}

impl Error {
    /// For `map_err`: names the call that failed.
    pub fn kube(action: &'static str, what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kubernetes { action, what: what.into(), source: Box::new(source) }
    }

    /// For `map_err`: names the step of the reconcile that failed.
    pub fn during(step: &'static str) -> impl FnOnce(Self) -> Self {
        move |source| Self::Step { step, source: Box::new(source) }
    }

    /// The API server answered, and a retry alone does not help.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Step { source, .. } => source.is_refused(),
            Self::Kubernetes { source, .. } => {
                matches!(&**source, kube::Error::Api(answer) if answer.code < 500 && ![409, 429].contains(&answer.code))
            }
            _ => false,
        }
    }

    /// Label value for the error counter; a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Step { source, .. } => source.reason(),
            Self::Kubernetes { .. } => "kubernetes",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Overdue(_) => "overdue",
            Self::Encode { .. } | Self::Build(_) | Self::Incomplete(_) => "internal",
        }
    }
}
