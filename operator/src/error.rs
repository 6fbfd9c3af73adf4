//! What stops a pass: a call to the API server or to a member that failed.

use std::time::Duration;

use helios_proto::v1::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {what}: {source}")]
    Kubernetes {
        doing: &'static str,
        what: String,
        #[source]
        source: Box<kube::Error>,
    },

    /// The member answered and refused.
    #[error("{member} refused to {doing}: {message}")]
    Refused { member: String, doing: &'static str, code: ErrorCode, message: String },

    #[error("cannot reach {member} to {doing}: {message}")]
    Unreachable { member: String, doing: &'static str, message: String },

    #[error("the pass did not end within {} s; the API server or a member is slow", .0.as_secs())]
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
    pub fn kube(doing: &'static str, what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kubernetes { doing, what: what.into(), source: Box::new(source) }
    }

    /// Label value for the error counter; a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes { .. } => "kubernetes",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Overdue(_) => "overdue",
            Self::Encode { .. } | Self::Build(_) | Self::Incomplete(_) => "internal",
        }
    }
}
