//! Observation of a cluster's pods by `kubectl get --watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use crate::kubectl::{Kubectl, Running};

/// Watch of every pod with the labels of a selector, from its creation until dropped.
pub struct PodWatch {
    _kubectl: Running,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    known: BTreeSet<String>,
    created: Vec<String>,
    /// True when the watch has ended, so that nothing will change any more.
    ended: bool,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Pod,
}

impl PodWatch {
    /// # Errors
    /// When the existing pods cannot be listed.
    pub fn start(kubectl: &Kubectl, selector: &str) -> anyhow::Result<Self> {
        Self::start_with(kubectl, selector, |_| {})
    }

    /// As [`Self::start`], and calls `meet` for each event of a pod.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        kubectl: &Kubectl,
        selector: &str,
        meet: impl Fn(&Pod) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let pods: Vec<Pod> = kubectl.list("pods", selector)?;
        let mut state = State { known: pods.iter().map(uid).collect(), ..State::default() };
        state.pods = pods.into_iter().map(|pod| (name(&pod), pod)).collect();
        let seen = Arc::new(Seen { state: Mutex::new(state), ..Seen::default() });
        let (watch, output) = kubectl.spawn(&[
            "get",
            "pods",
            "--selector",
            selector,
            "--watch",
            "--output-watch-events",
            "--output=json",
        ])?;
        let follower = Arc::clone(&seen);
        std::thread::spawn(move || follower.follow(output, meet));
        Ok(Self { _kubectl: watch, seen })
    }

    /// Returns the names of pods created since the start, in order; a replaced pod's name is repeated.
    pub fn created(&self) -> Vec<String> {
        self.seen.lock().created.clone()
    }

    /// Returns the UID of the pod `name`, if the watch has seen the pod.
    pub fn uid(&self, name: &str) -> Option<String> {
        self.seen.lock().pods.get(name).map(uid)
    }

    /// Waits until `holds` returns true for the pods by name.
    ///
    /// # Errors
    /// When it does not within `limit`; the error has `what` and the pods.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&BTreeMap<String, Pod>) -> bool,
    ) -> anyhow::Result<()> {
        self.wait_for(what, limit, |state| holds(&state.pods))
    }

    /// Waits until `count` pods were created since the start.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn await_created(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        self.wait_for(&format!("{count} pods created"), limit, |state| state.created.len() >= count)
    }

    fn wait_for(&self, what: &str, limit: Duration, holds: impl Fn(&State) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        let mut state = self.seen.lock();
        while !holds(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                let pods: Vec<String> = state.pods.values().map(describe).collect();
                bail!("not within {} s: {what}; pods: {}", limit.as_secs(), pods.join(", "));
            }
            state = self.seen.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Waits until a pod other than `old` is ready under `name`.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn await_replacement(&self, name: &str, old: Option<&str>, limit: Duration) -> anyhow::Result<()> {
        self.wait(&format!("a new pod {name} is ready"), limit, |pods| {
            pods.get(name).is_some_and(|pod| Some(uid(pod).as_str()) != old && is_ready(pod))
        })
    }
}

impl Seen {
    fn follow(&self, output: impl std::io::Read, meet: impl Fn(&Pod)) {
        for event in serde_json::Deserializer::from_reader(output).into_iter::<Event>() {
            let Ok(event) = event else { break };
            meet(&event.object);
            self.lock().take(event);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, Event { kind, object }: Event) {
        let name = name(&object);
        if self.known.insert(uid(&object)) {
            self.created.push(name.clone());
        }
        if kind == "DELETED" {
            self.pods.remove(&name);
        } else {
            self.pods.insert(name, object);
        }
    }
}

pub fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

pub fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Whether the pod is ready and not terminating.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a container of the pod has ever run, so that there is a log.
pub fn has_started(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let mut states = containers.into_iter().flatten().filter_map(|container| container.state.as_ref());
    states.any(|state| state.running.is_some() || state.terminated.is_some())
}

/// Returns the number of restarts of the pod's containers.
pub fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.into_iter().flatten().map(|container| container.restart_count).sum()
}

/// Returns the node that the pod runs on; `None` before it is scheduled.
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Returns the reason why a container of the pod does not run, e.g. `ImagePullBackOff`.
pub fn trouble(pod: &Pod) -> Option<&str> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
}

/// Returns the image of the pod's first container.
pub fn image(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.containers.first()?.image.as_deref()
}

fn describe(pod: &Pod) -> String {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("unknown");
    let leaving = if pod.metadata.deletion_timestamp.is_some() { ", leaving" } else { "" };
    format!("{} ({phase}, {}ready{leaving})", name(pod), if is_ready(pod) { "" } else { "not " })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: &str, name: &str, uid: &str) -> Event {
        serde_json::from_value(json!({"type": kind, "object": {"metadata": {"name": name, "uid": uid}}}))
            .unwrap()
    }

    #[test]
    fn replaced_pod_counts_as_created_and_an_existing_pod_does_not() {
        let mut state = State { known: ["a".to_owned()].into(), ..State::default() };
        for event in
            [event("ADDED", "demo-0", "a"), event("DELETED", "demo-0", "a"), event("ADDED", "demo-0", "b")]
        {
            state.take(event);
        }
        state.take(event("MODIFIED", "demo-0", "b"));
        assert_eq!(state.created, ["demo-0"]);
        assert_eq!(uid(&state.pods["demo-0"]), "b");
    }
}
