//! The errors of a command: what failed, on what object, and what to do next.

use std::path::PathBuf;
use std::time::Duration;

use helios_proto::detail_of;
pub use helios_proto::tls::innermost;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {what}: {message}; {advice}")]
    Kubernetes { doing: &'static str, what: String, message: String, advice: &'static str },

    #[error("no Kubernetes to talk to: {0}; set KUBECONFIG or --kubeconfig, or name members with --endpoint")]
    NoKubernetes(String),

    #[error("cannot reach {place}: {message}; {advice}")]
    Unreachable { place: String, message: String, advice: String },

    /// The member answered and refused.
    #[error("{member} refused to {doing}: {message}{hint}")]
    Refused { member: String, doing: String, message: String, hint: String, retryable: bool },

    /// The request cannot be fulfilled in the present state.
    #[error("{0}")]
    Impossible(String),

    #[error("after {} s {what}: {last}", .limit.as_secs())]
    Timeout { what: String, last: String, limit: Duration },

    #[error("cannot write {}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },

    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },

    #[error("cannot write the answer: {0}")]
    Output(String),

    /// A backup failed; the text says what to do.
    #[error("{0}")]
    Backup(String),
}

impl Error {
    /// Returns an adapter for `map_err` that names the failed call to the API server.
    pub fn kube(doing: &'static str, what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| {
            let (message, advice) = explain(&source);
            Self::Kubernetes { doing, what: what.into(), message, advice }
        }
    }

    /// Returns an adapter for `map_err` that names the call that a member refused.
    pub fn refused(member: &str, doing: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        move |status| {
            let detail = detail_of(&status);
            let hint = match detail.leader_hint.as_str() {
                "" if detail.retryable => "; try again".to_owned(),
                "" => String::new(),
                leader if detail.message.contains(leader) => String::new(),
                leader => format!("; {leader} leads"),
            };
            Self::Refused {
                member: member.to_owned(),
                doing: doing.into(),
                message: detail.message,
                hint,
                retryable: detail.retryable,
            }
        }
    }
}

fn explain(error: &kube::Error) -> (String, &'static str) {
    let kube::Error::Api(status) = error else {
        return (innermost(error), "is the API server reachable? heliosctl doctor checks it");
    };
    // The API server repeats the whole object before its reason, with any secrets in its annotations.
    if let Some((_, reason)) = status.message.split_once("strict decoding error: ") {
        return (
            reason.to_owned(),
            "the installed CRD is of another release; upgrade the operator's chart, which brings it",
        );
    }
    let advice = match status.code {
        401 => "log in to Kubernetes again",
        403 => "ask for that right; heliosctl doctor lists all that are needed",
        404 => "list what exists: kubectl get heliosclusters --all-namespaces",
        409 => "it was changed at the same time; try again",
        _ => "heliosctl doctor checks the prerequisites",
    };
    (status.message.clone(), advice)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn unknown_field_error_names_the_field_and_omits_the_object() {
        let message = r#"patch: Invalid value: "{\"note\":\"hunter2\"}": strict decoding error: unknown field "spec.hibernate""#;
        let status = Status::failure(message, "Invalid").with_code(422);
        let error = Error::kube("change HeliosCluster", "demo")(kube::Error::Api(status.boxed()));
        assert_eq!(
            error.to_string(),
            "cannot change HeliosCluster demo: unknown field \"spec.hibernate\"; the installed CRD is of another release; \
             upgrade the operator's chart, which brings it"
        );
    }
}
