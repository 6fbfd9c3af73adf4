//! The load of a story: `helios-writer` as a pod beside the cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::cluster::auth_secret;
use crate::kubectl::{CommandError, Kubectl};
use crate::pods;
use crate::report::{Report, Window};

/// By which a writer is spared when a node is drained: nothing would bring it back.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/name", "helios-writer");

const CONTROL_PORT: u16 = 8080;
/// Reading back everything takes part of it.
const END_TIMEOUT: Duration = Duration::from_secs(120);

pub struct Writer {
    kubectl: Kubectl,
    /// Its pod's.
    name: String,
}

impl Writer {
    /// Starts writing to the Service `service`, with keys that begin with its name, and returns when the
    /// first writes are acknowledged.
    ///
    /// # Errors
    /// When the pod cannot be made, or no write is acknowledged within a minute.
    pub fn start(kubectl: &Kubectl, image: &str, service: &str) -> anyhow::Result<Self> {
        Self::start_at(kubectl, image, service, (service, service), None)
    }

    /// Starts another on the same node, with keys that begin with `prefix`, to `host` of `cluster` as pods know it.
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
        // The first writes have the connections still to be made.
        writer.await_writes(200)?;
        writer.mark()?;
        Ok(writer)
    }

    /// Waits until so many more writes are acknowledged.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub fn await_writes(&self, writes: u32) -> anyhow::Result<()> {
        self.post::<IgnoredAny>(&format!("await/{writes}")).context("writes have stopped")?;
        Ok(())
    }

    /// What became of the writes since the mark before.
    ///
    /// # Errors
    /// When the pod does not answer.
    pub fn mark(&self) -> anyhow::Result<Window> {
        self.post("mark")
    }

    /// Stops writing, has everything read back, and returns what the writer found.
    ///
    /// # Errors
    /// When the writer does not end by itself, or says nothing.
    pub fn stop(self) -> anyhow::Result<Report> {
        self.post::<IgnoredAny>("stop")?;
        await_end(&self.kubectl, &self.name, END_TIMEOUT)?;
        let log = self.kubectl.run(&["logs", &self.name])?;
        let line = log.lines().last().context("the writer said nothing")?;
        let report = serde_json::from_str(line).with_context(|| format!("the writer ended with {line:?}"))?;
        self.kubectl.run(&["delete", "pod", &self.name])?;
        Ok(report)
    }

    /// Node that it runs on.
    ///
    /// # Errors
    /// When its pod is gone.
    pub fn node(&self) -> anyhow::Result<String> {
        let pod: Pod = self.kubectl.get(&format!("pod/{}", self.name))?;
        pods::node(&pod).map(str::to_owned).context("the writer runs nowhere")
    }

    fn post<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(self.kubectl.http_post(&self.name, CONTROL_PORT, path)?)
    }
}

/// Has a pod SET one key and GET it back through `address` of `cluster`, a HOST:PORT as pods know it.
///
/// # Errors
/// When the value did not come back; the message is the pod's log.
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

/// The container's own state is waited for, because the pod's phase comes a moment later.
fn await_end(kubectl: &Kubectl, pod: &str, limit: Duration) -> Result<(), CommandError> {
    let ended = "jsonpath={.status.containerStatuses[0].state.terminated}";
    kubectl.wait(&format!("pod/{pod}"), ended, limit)
}

/// A pod of one container that namespaces of the restricted level admit, with the password of `cluster` if that has one.
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
            // A writer that a story leaves behind need not read back from a cluster that goes too.
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
