//! Controllers of the resources HeliosBackup, HeliosScheduledBackup and HeliosBackupStore. Their decisions are pure
//! (`once::next`, `schedule`, `drill::decide`, `store::status`). Each reconciles one resource, and writes no other status; only a drill
//! that passed is noted in the HeliosBackups of the restored base.

mod drill;
mod once;
mod schedule;
mod scheduled;
mod store;

use std::fmt::Debug;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, future};
use helios_crds::{ConditionStatus, ConditionType, Reason};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::{Action, Error as LoopError};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use self::drill::of_result;

use crate::controller::Context;
use crate::error::Error;
use crate::names::FIELD_MANAGER;

/// Pause after a reconcile that failed.
const RETRY: Duration = Duration::from_secs(10);
/// A reconcile that takes longer is cancelled.
const DEADLINE: Duration = Duration::from_secs(30);
const PAGE: u32 = 50;

/// Reconciles them in `namespace`, in all namespaces when `None`, until `stop`.
pub async fn run(context: Arc<Context>, namespace: Option<String>, stop: CancellationToken) {
    let namespace = namespace.as_deref();
    future::join3(
        once::run(context.clone(), namespace, stop.clone()),
        scheduled::run(context.clone(), namespace, stop.clone()),
        store::run(context, namespace, stop),
    )
    .await;
}

pub(crate) fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn watch_config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// The result of a reconcile of `object` within the deadline, with its failure logged.
async fn within_deadline<K: Resource<DynamicType = ()>>(
    object: &K,
    reconcile: impl Future<Output = Result<Action, Error>>,
) -> Result<Action, Error> {
    let result = tokio::time::timeout(DEADLINE, reconcile).await.unwrap_or(Err(Error::Overdue(DEADLINE)));
    if let Err(error) = &result {
        let (kind, name, namespace) = (K::kind(&()), object.name_any(), object.namespace());
        tracing::warn!(%kind, name, namespace, %error, "reconcile failed; trying again");
    }
    result
}

/// Drives a controller's stream of results. Failed reconciles are logged where they happen.
async fn drive<T>(results: impl futures::Stream<Item = Result<T, LoopError<Error, watcher::Error>>>) {
    results
        .for_each(|result| {
            if let Err(error @ (LoopError::QueueError(_) | LoopError::RunnerError(_))) = result {
                tracing::warn!(%error, "a watch of backups failed and is started again");
            }
            ready(())
        })
        .await;
}

/// Writes `status` over that of `object` as it was read, if it differs; true if it was written.
async fn write_status<K, S>(client: &Client, object: &K, old: Option<&S>, status: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    S: Serialize + PartialEq,
{
    if old == Some(status) {
        return Ok(false);
    }
    let name = object.name_any();
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "resourceVersion": object.resource_version()},
        "status": status,
    });
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(patch)).await {
        // It was changed or deleted since it was read, which its watch reports.
        Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(false),
        Err(error) => Err(Error::kube("write status of", &name)(error)),
        Ok(_) => Ok(true),
    }
}

/// Parses digits and `s`, `m`, `h` or `d`; `None` for any other text, `0` included.
pub(crate) fn span(text: &str) -> Option<SignedDuration> {
    let unit = |unit: &str, seconds: i64| {
        let count: i64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(SignedDuration::from_secs(count.checked_mul(seconds)?))
    };
    unit("s", 1).or_else(|| unit("m", 60)).or_else(|| unit("h", 3600)).or_else(|| unit("d", 24 * 3600))
}

/// Sets a condition; the time of its last transition stays while its status does.
pub(crate) fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    (status, reason, message): (ConditionStatus, Reason, String),
    generation: Option<i64>,
    now: Timestamp,
) {
    let earlier = conditions.iter().position(|condition| condition.type_ == type_);
    let unchanged = earlier.map(|at| &conditions[at]).filter(|condition| condition.status == status);
    let condition = Condition {
        type_: type_.to_string(),
        status: status.to_string(),
        reason: reason.to_string(),
        message,
        observed_generation: generation,
        last_transition_time: unchanged.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    };
    match earlier {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// A size for users, in binary units.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!([0, 1023, 1024, 3 << 30].map(size), ["0 B", "1023 B", "1.0 KiB", "3.0 GiB"]);
    }

    #[test]
    fn span_has_digits_and_a_unit() {
        let seconds = |text| span(text).map(|span| span.as_secs());
        assert_eq!(["90s", "30m", "2h", "1d"].map(seconds), [90, 1800, 7200, 86_400].map(Some));
        assert_eq!(["", "5", "h", "99999999999999999h"].map(seconds), [None; 4]);
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        let mut set = |status, second| {
            let finding = (status, Reason::Healthy, String::new());
            set_condition(&mut conditions, ConditionType::Ready, finding, Some(1), at(second));
            (conditions.len(), conditions[0].last_transition_time.0)
        };
        assert_eq!(set(ConditionStatus::True, 1), (1, at(1)));
        assert_eq!(set(ConditionStatus::True, 2), (1, at(1)));
        assert_eq!(set(ConditionStatus::False, 3), (1, at(3)));
    }
}
