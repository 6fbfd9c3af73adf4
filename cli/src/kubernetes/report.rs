//! The support bundle: everything readable about one cluster, without secrets. Unreadable parts are listed
//! with the reason, so that a bundle from a user with few rights is still useful.

use std::fmt::Debug;

use futures::future::join_all;
use helios_crds::{CLUSTER_LABEL, HeliosCluster};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, LogParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::doctor::{OPERATOR_SELECTOR, doctor};
use super::find::{CONTAINER, Finder, METRICS_PORT, PEER_PORT};
use super::observe;
use crate::archive::Entry;
use crate::direct::{Answer, view};
use crate::error::Error;
use crate::redact;
use crate::render::{Colour, status};

/// Bounds of each log; both hold.
const LOG_LINES: i64 = 5_000;
const LOG_BYTES: i64 = 4 << 20;
/// Bound of each list of objects, more than any cluster has.
const MAX_OBJECTS: u32 = 500;

/// Files that were collected, and parts that could not be read.
#[derive(Default)]
struct Bundle {
    entries: Vec<Entry>,
    missing: Vec<String>,
}

/// Collects everything about `cluster`, with secrets masked. The last entry lists the missing parts.
pub async fn report(finder: &Finder, cluster: &HeliosCluster, now: Timestamp) -> Vec<Entry> {
    let name = cluster.name_any();
    let mut bundle = Bundle::default();
    bundle.objects("cluster.yaml", std::slice::from_ref(cluster));
    let pods = match finder.pods_of(&name).await {
        Ok(pods) => pods,
        Err(error) => bundle.lacks("pods", &error),
    };
    let volumes = match finder.volumes_of(&name).await {
        Ok(volumes) => volumes,
        Err(error) => bundle.lacks("volumes", &error),
    };
    bundle.text("status.txt", &status(&observe::view(cluster, &pods, &volumes), now, Colour(false)));
    bundle.text("doctor.txt", &doctor(finder).await.text());
    bundle.objects("objects/pods.yaml", &pods);
    bundle.objects("objects/volumes.yaml", &volumes);
    bundle.owned::<StatefulSet>(finder, &name, "statefulset").await;
    bundle.owned::<Service>(finder, &name, "services").await;
    bundle.owned::<ConfigMap>(finder, &name, "configmaps").await;
    bundle.owned::<ServiceAccount>(finder, &name, "serviceaccounts").await;
    bundle.owned::<PodDisruptionBudget>(finder, &name, "budget").await;
    bundle.events(finder, &name).await;
    bundle.members(finder, cluster, &pods, now).await;
    for pod in &pods {
        bundle.log(&finder.pods(), "logs", &pod.name_any(), Some(CONTAINER), false).await;
        if restarted(pod) {
            bundle.log(&finder.pods(), "logs", &pod.name_any(), Some(CONTAINER), true).await;
        }
    }
    bundle.operator(finder).await;
    bundle.text("about.txt", &about(&name, finder, now));
    let missing =
        if bundle.missing.is_empty() { "nothing\n".to_owned() } else { bundle.missing.join("\n") + "\n" };
    bundle.text("missing.txt", &missing);
    bundle.entries
}

impl Bundle {
    fn text(&mut self, path: &str, text: &str) {
        self.entries.push(Entry::new(path, redact::text(text)));
    }

    fn lacks<T: Default>(&mut self, what: &str, error: &dyn std::fmt::Display) -> T {
        self.missing.push(format!("{what}: {}", redact::text(&error.to_string())));
        T::default()
    }

    /// Adds the objects as the documents of one YAML file.
    fn objects<K: Serialize + Resource<DynamicType = ()>>(&mut self, path: &str, objects: &[K]) {
        let document = |object: &K| {
            let mut value = serde_json::to_value(object).map_err(|error| error.to_string())?;
            // Items of a list lack these two fields.
            value["apiVersion"] = K::api_version(&()).into();
            value["kind"] = K::kind(&()).into();
            redact::object(&mut value);
            serde_saphyr::to_string(&value).map_err(|error| error.to_string())
        };
        match objects.iter().map(document).collect::<Result<Vec<_>, _>>() {
            Ok(documents) => self.entries.push(Entry::new(path, documents.join("---\n"))),
            Err(error) => self.lacks(path, &error),
        }
    }

    async fn owned<K>(&mut self, finder: &Finder, cluster: &str, what: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Serialize,
    {
        let mine = ListParams::default().labels(&format!("{CLUSTER_LABEL}={cluster}")).limit(MAX_OBJECTS);
        match Api::<K>::namespaced(finder.client.clone(), &finder.namespace).list(&mine).await {
            Ok(list) => self.objects(&format!("objects/{what}.yaml"), &list.items),
            Err(error) => self.lacks(what, &error),
        }
    }

    async fn events(&mut self, finder: &Finder, cluster: &str) {
        let api = Api::<Event>::namespaced(finder.client.clone(), &finder.namespace);
        match api.list(&ListParams::default().limit(MAX_OBJECTS)).await {
            Ok(list) => {
                let mut lines: Vec<String> =
                    list.items.iter().filter(|event| is_about(event, cluster)).map(event_line).collect();
                lines.sort();
                self.text("events.txt", &(lines.join("\n") + "\n"));
            }
            Err(error) => self.lacks("events", &error),
        }
    }

    /// Adds the status of each member, as it reports it, and its metrics.
    async fn members(&mut self, finder: &Finder, cluster: &HeliosCluster, pods: &[Pod], now: Timestamp) {
        let lock = match finder.lock(cluster).await {
            Ok(lock) => lock,
            Err(error) => self.lacks("certificate of the members", &error),
        };
        let cluster = &cluster.name_any();
        let asked = pods.iter().map(|pod| async {
            let name = pod.name_any();
            let status = finder.place(cluster, &name, PEER_PORT, &lock).status(finder.limit).await;
            let metrics =
                finder.place(cluster, &name, METRICS_PORT, &lock).http_get("/metrics", finder.limit).await;
            (name, status, metrics)
        });
        let mut answers = Vec::new();
        for (name, status, metrics) in join_all(asked).await {
            match &status {
                Ok(status) => self.text(&format!("members/{name}.txt"), &format!("{status:#?}\n")),
                Err(error) => self.lacks(&format!("status of {name}"), error),
            }
            match metrics {
                Ok(metrics) => self.text(&format!("members/{name}.metrics"), &metrics),
                Err(error) => self.lacks(&format!("metrics of {name}"), &error),
            }
            answers.push(Answer { address: name, status: status.map_err(|error| error.to_string()) });
        }
        self.text("members/status.txt", &crate::render::status(&view(&answers), now, Colour(false)));
    }

    async fn operator(&mut self, finder: &Finder) {
        let ours = ListParams::default().labels(OPERATOR_SELECTOR).limit(MAX_OBJECTS);
        match Api::<Deployment>::all(finder.client.clone()).list(&ours).await {
            Ok(list) => self.objects("operator/deployment.yaml", &list.items),
            Err(error) => self.lacks("deployment of the operator", &error),
        }
        let pods = match Api::<Pod>::all(finder.client.clone()).list(&ours).await {
            Ok(list) => list.items,
            Err(error) => self.lacks("pods of the operator", &error),
        };
        for pod in pods {
            let api = Api::<Pod>::namespaced(finder.client.clone(), &pod.namespace().unwrap_or_default());
            self.log(&api, "operator", &pod.name_any(), None, false).await;
            if restarted(&pod) {
                self.log(&api, "operator", &pod.name_any(), None, true).await;
            }
        }
    }

    async fn log(
        &mut self,
        pods: &Api<Pod>,
        folder: &str,
        name: &str,
        container: Option<&str>,
        previous: bool,
    ) {
        let params = LogParams {
            container: container.map(str::to_owned),
            previous,
            tail_lines: Some(LOG_LINES),
            limit_bytes: Some(LOG_BYTES),
            ..LogParams::default()
        };
        let kind = if previous { "previous.log" } else { "log" };
        match pods.logs(name, &params).await {
            Ok(log) => self.text(&format!("{folder}/{name}.{kind}"), &log),
            Err(error) => {
                self.lacks(&format!("{kind} of {name}"), &Error::kube("read the log of", name)(error))
            }
        }
    }
}

fn about(name: &str, finder: &Finder, now: Timestamp) -> String {
    format!(
        "HeliosCluster {name} in namespace {}, {now}, by heliosctl {}.\n\
         Secrets were not read; passwords, tokens and keys in other places are replaced by <redacted>.\n\
         Logs: the last {LOG_LINES} lines of each, at most {LOG_BYTES} bytes.\n",
        finder.namespace,
        env!("CARGO_PKG_VERSION"),
    )
}

fn restarted(pod: &Pod) -> bool {
    let statuses =
        pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().any(|container| container.restart_count > 0)
}

/// Whether the event is about the cluster or an object of it. Names of its objects begin with the cluster's
/// name, those of volumes with `data-` before it.
fn is_about(event: &Event, cluster: &str) -> bool {
    let name = event.involved_object.name.as_deref().unwrap_or_default();
    let name = name.strip_prefix("data-").unwrap_or(name);
    name == cluster || name.strip_prefix(cluster).is_some_and(|rest| rest.starts_with('-'))
}

fn event_line(event: &Event) -> String {
    let when = event.last_timestamp.as_ref().map(|time| time.0);
    let when = when.or_else(|| event.event_time.as_ref().map(|time| time.0)).unwrap_or_default();
    let object = &event.involved_object;
    format!(
        "{when} {} {} {}/{}: {} (x{})",
        event.type_.as_deref().unwrap_or_default(),
        event.reason.as_deref().unwrap_or_default(),
        object.kind.as_deref().unwrap_or_default(),
        object.name.as_deref().unwrap_or_default(),
        event.message.as_deref().unwrap_or_default(),
        event.count.unwrap_or(1),
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use serde_json::json;

    use super::*;

    #[test]
    fn events_of_other_clusters_are_left_out() {
        let about = |name: &str| {
            let involved_object =
                ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
            is_about(&Event { involved_object, ..Event::default() }, "demo")
        };
        assert!(["demo", "demo-0", "data-demo-0", "demo-peers"].map(about).iter().all(|yes| *yes));
        assert!(!["other", "demonstration", "other-demo"].map(about).iter().any(|yes| *yes));
    }

    #[test]
    fn objects_are_written_without_secrets() {
        let mut bundle = Bundle::default();
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": "demo", "managedFields": [{"manager": "x"}]},
            "data": {"heliosd.yaml": "auth:\n  password: hunter2hunter2\nlisten: 0.0.0.0:6379\n"},
        }))
        .unwrap();
        bundle.objects("objects/configmaps.yaml", &[map]);
        let text = &bundle.entries[0].content;
        assert!(text.contains("kind: ConfigMap") && text.contains("0.0.0.0:6379"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("managedFields"), "{text}");
    }
}
