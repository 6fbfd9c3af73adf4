//! Edits of the spec, which the operator carries out.

use std::time::Duration;

use futures::StreamExt;
use helios_crds::HeliosCluster;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::find::Finder;
use crate::error::Error;

/// Requests a restart of all members, by setting a time that no other restart had.
///
/// # Errors
/// When the API server refuses it.
pub async fn ask_for_restart(finder: &Finder, name: &str, now: Timestamp) -> Result<HeliosCluster, Error> {
    patch(finder, name, json!({"restartAt": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()})).await
}

/// Pauses the operator for this cluster, or resumes it.
///
/// # Errors
/// When the API server refuses it.
pub async fn set_paused(finder: &Finder, name: &str, paused: bool) -> Result<(), Error> {
    patch(finder, name, json!({"paused": paused})).await.map(drop)
}

/// Stops all members and keeps their volumes, or starts them again.
///
/// # Errors
/// When the API server refuses it, e.g. because its CRD is of a release without hibernation.
pub async fn set_hibernate(finder: &Finder, name: &str, hibernate: bool) -> Result<(), Error> {
    patch(finder, name, json!({"hibernate": hibernate})).await.map(drop)
}

async fn patch(finder: &Finder, name: &str, spec: Value) -> Result<HeliosCluster, Error> {
    // Strict: a field that the installed CRD does not know is an error, not silently dropped.
    let params = PatchParams {
        field_manager: Some("heliosctl".to_owned()),
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let change = Patch::Merge(json!({"spec": spec}));
    finder.clusters().patch(name, &params, &change).await.map_err(Error::kube("change HeliosCluster", name))
}

/// Waits until the operator has acted on `changed` and all members run again; `report` is called with each
///
/// # Errors
/// When that does not happen within `limit`, or the cluster is deleted.
pub async fn await_restart(
    finder: &Finder,
    changed: &HeliosCluster,
    limit: Duration,
    mut report: impl FnMut(&str),
) -> Result<(), Error> {
    let mut said = String::new();
    let (name, generation) = (changed.name_any(), changed.metadata.generation);
    await_status(finder, &name, limit, |cluster| {
        let status = cluster.status.clone().unwrap_or_default();
        let step = status.operation.map(|operation| operation.step).unwrap_or_default();
        if !step.is_empty() && step != said {
            report(&step);
            said = step;
        }
        let ready = status.conditions.iter().any(|condition| {
            condition.type_ == "Ready"
                && condition.status == "True"
                && condition.observed_generation >= generation
        });
        ready.then_some(()).ok_or_else(|| match said.as_str() {
            "" => "the operator has not begun; heliosctl doctor checks whether it runs".to_owned(),
            step => step.to_owned(),
        })
    })
    .await
}

/// Watches the cluster until `done` returns `Ok`; `Err` holds what is awaited, for the message of a timeout.
pub async fn await_status<T>(
    finder: &Finder,
    name: &str,
    limit: Duration,
    mut done: impl FnMut(&HeliosCluster) -> Result<T, String>,
) -> Result<T, Error> {
    let mut awaited = "the API server has not answered".to_owned();
    let watch = async {
        let mut versions = Box::pin(watcher::watch_object(finder.clusters(), name));
        while let Some(seen) = versions.next().await {
            match seen {
                Ok(Some(cluster)) => match done(&cluster) {
                    Ok(found) => return Ok(found),
                    Err(what) => awaited = what,
                },
                Ok(None) => return Err(Error::Impossible(format!("HeliosCluster {name} was deleted"))),
                // The watcher restarts a failed watch automatically; the limit bounds that.
                Err(error) => awaited = error.to_string(),
            }
        }
        Err(Error::Impossible(format!("the watch of {name} ended; try again")))
    };
    match timeout(limit, watch).await {
        Ok(done) => done,
        Err(_) => Err(Error::Timeout { what: format!("of waiting for {name}"), last: awaited, limit }),
    }
}
