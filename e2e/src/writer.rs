//! The load of a story: `helios-writer` in a pod beside the cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::cluster::auth_secret;
use crate::kubectl::{CommandError, Kubectl};
use crate::pods;
use crate::report::{Report, Window};

/// Label by which a drain spares the pod, because nothing would create it again.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/name", "helios-writer");

const CONTROL_PORT: u16 = 8080;
/// Longest time until the pod ends; reading back everything takes part of it.
const END_TIMEOUT: Duration = Duration::from_secs(120);

pub struct Writer {
    kubectl: Kubectl,
    /// Name of its pod.
    name: String,
}

impl Writer {
    /// Starts writing to the Service `service`, with its name as the key prefix; returns when the first
    /// writes are acknowledged.
    ///
    /// # Errors
    /// When the pod cannot be created, or no write is acknowledged within a minute.
    pub fn start(kubectl: &Kubectl, image: &str, service: &str) -> anyhow::Result<Self> {
        Self::start_at(kubectl, image, service, (service, service), None)
    }

    /// Starts another load on the same node, with the key prefix `prefix`, to `host` of `cluster` as resolved
    /// in pods.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_beside(&self, image: &str, prefix: &str, cluster: &str, host: &str) -> anyhow::Result<Self> {
        Self::start_at(&self.kubectl, image, prefix, (cluster, host), Some(self.node()?))
    }

    fn start_at(
        kubectl: &Kubectl,
        image: &str,
        prefix: &str,
        (cluster, host): (&str, &str),
        node: Option<String>,
    ) -> anyhow::Result<Self> {
        let name = format!("writer-{prefix}");
        let address = format!("{host}:6379");
        let control = format!("0.0.0.0:{CONTROL_PORT}");
        let mut pod = pod(
            &name,
            image,
            cluster,
            &["run", "--addr", &address, "--prefix", prefix, "--retry-for", "1s", "--control", &control],
        );
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"httpGet": {"path": "/report", "port": CONTROL_PORT}, "periodSeconds": 1});
        kubectl.apply(&pod)?;
        kubectl
            .wait(&format!("pod/{name}"), "condition=Ready", Duration::from_secs(60))
            .context("no write was acknowledged")?;
        let writer = Self { kubectl: kubectl.clone(), name };
        // The first writes are left out, because they include establishing the connections.
        writer.await_writes(200)?;
        writer.mark()?;
        Ok(writer)
    }

    /// Waits until `writes` more writes are acknowledged.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub fn await_writes(&self, writes: u32) -> anyhow::Result<()> {
        self.post::<IgnoredAny>(&format!("await/{writes}")).context("writes have stopped")?;
        Ok(())
    }

    /// Returns the window of writes since the previous mark.
    ///
    /// # Errors
    /// When the pod does not answer.
    pub fn mark(&self) -> anyhow::Result<Window> {
        self.post("mark")
    }

    /// Stops writing, waits until everything is read back, and returns the report.
    ///
    /// # Errors
    /// When the pod does not end after the request, or prints no report.
    pub fn stop(self) -> anyhow::Result<Report> {
        self.post::<IgnoredAny>("stop")?;
        await_end(&self.kubectl, &self.name, END_TIMEOUT)?;
        let log = self.kubectl.run(&["logs", &self.name])?;
        let line = log.lines().last().context("the writer said nothing")?;
        let report = serde_json::from_str(line).with_context(|| format!("the writer ended with {line:?}"))?;
        self.kubectl.run(&["delete", "pod", &self.name])?;
        Ok(report)
    }

    /// Returns the node on which the pod runs.
    ///
    /// # Errors
    /// When the pod is gone.
    pub fn node(&self) -> anyhow::Result<String> {
        let pod: Pod = self.kubectl.get(&format!("pod/{}", self.name))?;
        pods::node(&pod).map(str::to_owned).context("the writer runs nowhere")
    }

    fn post<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(self.kubectl.http_post(&self.name, CONTROL_PORT, path)?)
    }
}

/// Runs a pod that SETs one key and GETs it back through `address` of `cluster`, a HOST:PORT as resolved in
/// pods.
///
/// # Errors
/// When the value was not read back; the error has the pod's log.
pub fn set_get(kubectl: &Kubectl, image: &str, cluster: &str, address: &str) -> anyhow::Result<()> {
    const NAME: &str = "set-get";
    kubectl.apply(&pod(NAME, image, cluster, &["set-get", "--addr", address]))?;
    await_end(kubectl, NAME, Duration::from_secs(60))?;
    let pod: Pod = kubectl.get("pod/set-get")?;
    let containers = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let ended = containers.first().and_then(|container| container.state.as_ref()?.terminated.as_ref());
    ensure!(ended.is_some_and(|ended| ended.exit_code == 0), "{}", kubectl.run(&["logs", NAME])?.trim());
    kubectl.run(&["delete", "pod", NAME])?;
    Ok(())
}

/// Waits for the container's own state, because the pod's phase follows a moment later.
fn await_end(kubectl: &Kubectl, pod: &str, limit: Duration) -> Result<(), CommandError> {
    let ended = "jsonpath={.status.containerStatuses[0].state.terminated}";
    kubectl.wait(&format!("pod/{pod}"), ended, limit)
}

/// Returns the manifest of a pod with one container that the restricted Pod Security level admits, with the
/// password of `cluster` if there is one.
fn pod(name: &str, image: &str, cluster: &str, arguments: &[&str]) -> Value {
    let password = json!({"name": auth_secret(cluster), "key": "password", "optional": true});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {LABEL.0: LABEL.1}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            // A load that a story leaves behind need not read back from a cluster that is deleted, too.
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": name,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": arguments,
                "env": [{"name": "REDISCLI_AUTH", "valueFrom": {"secretKeyRef": password}}],
                "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}
