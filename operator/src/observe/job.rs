//! Result of a Job, as the termination message of its last pod has it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Label of Kubernetes on the pods of a Job.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Longest message that is passed on.
const MAX_MESSAGE: usize = 1000;
/// Failures that no retry heals.
const FINAL: [&str; 8] = [
    "RecoveryImpossible",
    "WrongKey",
    "NewerFormat",
    "Damaged",
    "Forked",
    "Invalid",
    "DigestDiffers",
    "MembersDiffer",
];

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<T> {
    /// With the message of the last attempt that failed, or why its pod does not run.
    Running(Option<String>),
    Failed {
        reason: String,
        message: String,
    },
    Completed(T),
}

/// Report of `heliosd backup restore`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreReport {
    pub source_cluster_id: String,
    pub cluster_id: String,
    pub base_index: u64,
    pub base_term: u64,
    pub base_keys: Option<u64>,
    pub index: u64,
    pub now_ms: u64,
    pub keys: u64,
    pub digest_matches: Option<bool>,
    /// Result of the comparison of two bases, for users.
    pub comparison: Option<String>,
    pub took_ms: u64,
}

#[derive(Deserialize)]
struct Failure {
    error: Reported,
}

#[derive(Deserialize)]
struct Reported {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// The outcome of `job` so far.
///
/// # Errors
/// When the API server does not answer.
pub async fn outcome<T: DeserializeOwned>(client: &Client, job: &Job) -> Result<Outcome<T>, Error> {
    Ok(outcome_of(job, &pods_of(client, job).await?))
}

/// The outcome of `job` so far, which succeeds by its exit code alone.
///
/// # Errors
/// When the API server does not answer.
pub async fn outcome_by_exit_code(client: &Client, job: &Job) -> Result<Outcome<()>, Error> {
    Ok(outcome_by(job, &pods_of(client, job).await?, |_| Some(())))
}

async fn pods_of(client: &Client, job: &Job) -> Result<Vec<Pod>, Error> {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let api = Api::<Pod>::namespaced(client.clone(), &namespace);
    let pods = api.list(&ListParams::default().labels(&format!("{JOB_NAME}={name}"))).await;
    Ok(pods.map_err(Error::kube("list pods of Job", &name))?.items)
}

/// The outcome of `job`, whose pods are `pods`.
fn outcome_of<T: DeserializeOwned>(job: &Job, pods: &[Pod]) -> Outcome<T> {
    outcome_by(job, pods, |report| serde_json::from_str(report?).ok())
}

/// The same; `read` makes the result from the report of the pod that succeeded, if there is one.
fn outcome_by<T>(job: &Job, pods: &[Pod], read: impl FnOnce(Option<&str>) -> Option<T>) -> Outcome<T> {
    let uid = job.uid();
    let is_ours = |pod: &&Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref());
    let mut pods: Vec<_> = pods.iter().filter(is_ours).collect();
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let reports: Vec<_> = pods.iter().filter_map(|pod| ended(pod)).collect();
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |type_: &str| conditions.iter().find(|it| it.type_ == type_ && it.status == "True");
    if is("Complete").is_some() || is("SuccessCriteriaMet").is_some() {
        let report = reports.iter().rev().find(|(code, _)| *code == 0);
        let report = read(report.map(|(_, text)| *text));
        let unread = || Outcome::Failed {
            reason: "ResultUnread".to_owned(),
            message: "the Job has completed, but its pod with the result is gone or reports nothing"
                .to_owned(),
        };
        return report.map_or_else(unread, Outcome::Completed);
    }
    let last = reports.iter().rev().find(|(code, _)| *code != 0).map(|(code, text)| failure(*code, text));
    let failed = is("Failed").or(is("FailureTarget"));
    match (last, failed) {
        (Some((reason, message)), failed) if failed.is_some() || FINAL.contains(&reason.as_str()) => {
            Outcome::Failed { reason, message }
        }
        (None, Some(condition)) => Outcome::Failed {
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        },
        (last, _) => {
            let waiting = pods.last().and_then(|pod| waiting(pod));
            Outcome::Running(waiting.or(last.map(|(_, message)| message)))
        }
    }
}

/// Exit code and termination message of the pod's container, if it has ended.
fn ended(pod: &Pod) -> Option<(i32, &str)> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let terminated = container.state.as_ref()?.terminated.as_ref()?;
    Some((terminated.exit_code, terminated.message.as_deref().unwrap_or_default()))
}

/// Reason why the pod's container does not start.
fn waiting(pod: &Pod) -> Option<String> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| reason != "ContainerCreating")?;
    Some(format!("pod {}: {reason}", pod.name_any()))
}

/// Reason and message of a process that exited with `code`: those that it reported, else its last words.
fn failure(code: i32, text: &str) -> (String, String) {
    let (reason, message) = match serde_json::from_str::<Failure>(text) {
        Ok(Failure { error }) => (error.reason, error.message),
        Err(_) => {
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
            ("ProcessFailed".to_owned(), format!("the process ended with exit code {code}: {last}"))
        }
    };
    (reason, message.chars().take(MAX_MESSAGE).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(condition: Option<&str>) -> Job {
        let conditions =
            condition.map(|type_| json!([{"type": type_, "status": "True", "reason": "R", "message": "M"}]));
        serde_json::from_value(json!({
            "metadata": {"name": "demo-restore", "uid": "1"}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn pod(second: u32, owner: &str, state: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("p{second}"), "creationTimestamp": format!("2026-11-21T08:00:{second:02}Z"),
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "demo-restore", "uid": owner}],
            },
            "status": {"containerStatuses": [{
                "name": "heliosd", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            }]},
        }))
        .unwrap()
    }

    fn terminated(code: i32, message: &str) -> Value {
        json!({"terminated": {"exitCode": code, "message": message}})
    }

    const DOWN: &str = r#"{"error":{"reason":"Unavailable","message":"the store does not answer"}}"#;

    #[test]
    fn report_is_read_when_the_job_is_complete() {
        let pods = [
            pod(2, "1", terminated(0, r#"{"index":7,"keys":3,"digestMatches":true}"#)),
            pod(1, "1", terminated(1, DOWN)),
        ];
        let Outcome::Completed(report) = outcome_of::<RestoreReport>(&job(Some("Complete")), &pods) else {
            panic!("not complete")
        };
        assert_eq!((report.index, report.keys, report.digest_matches), (7, 3, Some(true)));
        let gone = outcome_of::<RestoreReport>(&job(Some("Complete")), &[]);
        assert!(matches!(gone, Outcome::Failed { reason, .. } if reason == "ResultUnread"));
    }

    #[test]
    fn failure_is_final_when_the_job_has_failed_or_no_retry_heals_it() {
        let down = [pod(1, "1", terminated(1, DOWN))];
        let running = Outcome::Running(Some("the store does not answer".to_owned()));
        assert_eq!(outcome_of::<RestoreReport>(&job(None), &down), running, "the Job tries again");
        let failed = outcome_of::<RestoreReport>(&job(Some("Failed")), &down);
        assert!(matches!(failed, Outcome::Failed { reason, .. } if reason == "Unavailable"));
        let impossible = r#"{"error":{"reason":"RecoveryImpossible","message":"the nearest is 5"}}"#;
        let impossible = outcome_of::<RestoreReport>(&job(None), &[pod(1, "1", terminated(1, impossible))]);
        assert!(matches!(impossible, Outcome::Failed { message, .. } if message == "the nearest is 5"));
    }

    #[test]
    fn last_words_are_the_message_when_the_process_could_not_report() {
        let pods = [pod(1, "1", terminated(137, "line\nout of memory\n\n"))];
        let failed = outcome_of::<RestoreReport>(&job(Some("Failed")), &pods);
        let Outcome::Failed { reason, message } = failed else { panic!("not failed") };
        assert_eq!(reason, "ProcessFailed");
        assert!(message.contains("137: out of memory"), "{message}");
        let none = outcome_of::<RestoreReport>(&job(Some("Failed")), &[]);
        assert!(matches!(none, Outcome::Failed { message, .. } if message == "M"));
    }

    #[test]
    fn job_that_reports_nothing_succeeds_by_its_exit_code() {
        let by_exit_code = |job: &Job, pods: &[Pod]| outcome_by(job, pods, |_| Some(()));
        let succeeded = [pod(1, "1", terminated(0, ""))];
        assert_eq!(by_exit_code(&job(Some("Complete")), &succeeded), Outcome::Completed(()));
        assert_eq!(by_exit_code(&job(Some("Complete")), &[]), Outcome::Completed(()), "its pod is gone");
        let failed = by_exit_code(&job(Some("Failed")), &[pod(1, "1", terminated(3, "no key orders:last"))]);
        assert!(
            matches!(&failed, Outcome::Failed { message, .. } if message.contains("3: no key orders:last")),
            "{failed:?}"
        );
    }

    #[test]
    fn pods_of_another_job_do_not_count_and_a_pod_that_does_not_start_is_named() {
        let foreign = [pod(1, "2", terminated(0, "{}"))];
        assert_eq!(outcome_of::<RestoreReport>(&job(None), &foreign), Outcome::Running(None));
        let pull = [pod(1, "1", json!({"waiting": {"reason": "ImagePullBackOff"}}))];
        let waiting = outcome_of::<RestoreReport>(&job(None), &pull);
        assert_eq!(waiting, Outcome::Running(Some("pod p1: ImagePullBackOff".to_owned())));
    }
}
