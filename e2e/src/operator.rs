//! The operator, installed as a user does: by Helm, with the chart of this repository.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use crate::images::Images;
use crate::kubectl::{self, Kubectl};
use crate::pods;

const RELEASE: &str = "helios-operator";
const ONE_NAMESPACE: &str = "one-namespace";
const NAMESPACE: &str = "helios-system";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/helios-operator");
const SELECTOR: &str = "app.kubernetes.io/name=helios-operator,app.kubernetes.io/component=operator";
const TIMEOUT: &str = "--timeout=120s";
const METRICS_PORT: u16 = 8080;

pub struct Operator {
    kubectl: Kubectl,
    release: String,
}

#[derive(Deserialize)]
struct Release {
    name: String,
    namespace: String,
    chart: String,
}

impl Operator {
    /// Returns the installed operator, in any namespace.
    ///
    /// # Errors
    /// When none is installed.
    pub fn installed() -> anyhow::Result<Self> {
        Self::find()?.context("helm knows of no helios-operator")
    }

    fn find() -> anyhow::Result<Option<Self>> {
        let list = kubectl::run("helm", &["list", "--all-namespaces", "--output", "json"])?;
        let releases: Vec<Release> = serde_json::from_str(&list).context("helm list")?;
        let ours = releases
            .into_iter()
            .find(|found| found.chart.starts_with("helios-operator-") && found.name != ONE_NAMESPACE);
        Ok(ours.map(|release| Self { kubectl: Kubectl::new(release.namespace), release: release.name }))
    }

    /// Runs `helm upgrade --install`, which does not change a release that is up to date. Afterwards `helm
    /// test` uses the cluster `name` in `namespace`.
    ///
    /// # Errors
    /// When Helm fails, or the operator is not available within three minutes.
    pub fn install(images: &Images, name: &str, namespace: &str) -> anyhow::Result<()> {
        let operator = Self::find()?
            .unwrap_or_else(|| Self { kubectl: Kubectl::new(NAMESPACE), release: RELEASE.to_owned() });
        let mut values = image_values(images)?;
        values.extend([
            "injection.mode=webhook".to_owned(),
            format!("test.cluster={name}"),
            format!("test.namespace={namespace}"),
            format!("test.image={}", images.writer),
            format!("test.command={{/helios-writer,set-get,--addr,{name}.{namespace}.svc:6379}}"),
        ]);
        operator.upgrade(&values, &[])
    }

    /// Installs a second operator in `namespace`, which watches only that namespace. It uses the CRD of the
    /// first.
    ///
    /// # Errors
    /// When Helm fails, or the operator is not available within three minutes.
    pub fn install_for_namespace(images: &Images, namespace: &str) -> anyhow::Result<Self> {
        let operator = Self { kubectl: Kubectl::new(namespace), release: ONE_NAMESPACE.to_owned() };
        let mut values = image_values(images)?;
        values.push(format!("watchNamespaces[0]={namespace}"));
        operator.upgrade(&values, &["--set", "crds.install=false"])?;
        Ok(operator)
    }

    fn upgrade(&self, values: &[String], more: &[&str]) -> anyhow::Result<()> {
        let mut arguments = vec!["upgrade", "--install", &self.release, CHART];
        arguments.extend(["--namespace", &self.kubectl.namespace, "--create-namespace"]);
        arguments.extend(["--reset-then-reuse-values", "--wait", "--timeout", "3m"]);
        arguments.extend(more);
        for value in values {
            arguments.extend(["--set-string", value]);
        }
        kubectl::run("helm", &arguments)?;
        Ok(())
    }

    /// Runs `helm uninstall`.
    ///
    /// # Errors
    /// When Helm fails, or an object of the release is not deleted within two minutes.
    pub fn uninstall(self) -> anyhow::Result<()> {
        let namespace = &self.kubectl.namespace;
        kubectl::run(
            "helm",
            &["uninstall", &self.release, "--namespace", namespace, "--wait", "--timeout", "2m"],
        )?;
        Ok(())
    }

    /// Returns the nodes on which the operator runs.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let pods: Vec<Pod> = self.kubectl.list("pods", SELECTOR)?;
        Ok(pods.iter().filter_map(pods::node).map(str::to_owned).collect())
    }

    /// Upgrades to a chart whose CRD lacks the spec's `field`, and changes nothing else.
    ///
    /// # Errors
    /// When no operator is installed, or Helm fails.
    pub fn install_older_definition(field: &str) -> anyhow::Result<()> {
        let operator = Self::installed()?;
        let older = std::env::temp_dir().join(format!("helios-operator-older-{}", std::process::id()));
        let path = older.to_str().context("a path of text")?;
        kubectl::run("cp", &["--recursive", CHART, path])?;
        let definition = older.join("templates/crd-heliosclusters.yaml");
        let upgraded = std::fs::read_to_string(&definition)
            .and_then(|text| std::fs::write(&definition, text.replace(&format!(" {field}:"), " formerly:")))
            .map_err(anyhow::Error::from)
            .and_then(|()| {
                let namespace = &operator.kubectl.namespace;
                let arguments = ["upgrade", &operator.release, path, "--namespace", namespace];
                Ok(kubectl::run(
                    "helm",
                    &[&arguments[..], &["--reset-then-reuse-values", "--wait"]].concat(),
                )?)
            });
        std::fs::remove_dir_all(&older)?;
        upgraded.map(drop)
    }

    /// Runs `helm test`.
    ///
    /// # Errors
    /// When the chart's test fails.
    pub fn helm_test(&self) -> anyhow::Result<()> {
        let namespace = &self.kubectl.namespace;
        kubectl::run("helm", &["test", &self.release, "--namespace", namespace, "--timeout", "2m"])?;
        Ok(())
    }

    /// Kills the operator's process; its Deployment starts another.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.kubectl.run(&["delete", "pods", "--selector", SELECTOR, "--grace-period=0", "--force"])?;
        Ok(())
    }

    /// Waits until the operator runs again.
    ///
    /// # Errors
    /// When it does not within [`TIMEOUT`].
    pub fn await_available(&self) -> anyhow::Result<()> {
        self.kubectl.run(&["rollout", "status", "deployment", "--selector", SELECTOR, TIMEOUT])?;
        Ok(())
    }

    /// Runs `story` while the operator is scaled to zero.
    ///
    /// # Errors
    /// Errors of `story`, and when the operator cannot be stopped or started again.
    pub fn without<T>(&self, story: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let path = "jsonpath={.items[0].spec.replicas}";
        let replicas = self.kubectl.run(&["get", "deployment", "--selector", SELECTOR, "--output", path])?;
        self.scale("0")?;
        let gone = self.kubectl.run(&["wait", "pods", "--selector", SELECTOR, "--for=delete", TIMEOUT]);
        let result = gone.map_err(anyhow::Error::from).and_then(|_| story());
        self.scale(&replicas)?;
        self.await_available()?;
        result
    }

    fn scale(&self, replicas: &str) -> anyhow::Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.kubectl.run(&["scale", "deployment", "--selector", SELECTOR, &replicas])?;
        Ok(())
    }

    /// Returns the value of the metric `name` about `cluster`, as the operator that holds the lease has it.
    ///
    /// # Errors
    /// When the API server or the operator does not answer.
    pub fn metric(&self, name: &str, namespace: &str, cluster: &str) -> anyhow::Result<Option<f64>> {
        let prefix = format!("{name}{{namespace=\"{namespace}\",cluster=\"{cluster}\"}} ");
        let pods: Vec<Pod> = self.kubectl.list("pods", SELECTOR)?;
        for pod in &pods {
            let text = self.kubectl.http_get(&pods::name(pod), METRICS_PORT, "metrics")?;
            if let Some(value) = text.lines().find_map(|line| line.strip_prefix(&prefix)) {
                return Ok(Some(value.parse()?));
            }
        }
        Ok(None)
    }

    /// Returns the last lines of the operator's log, for the diagnosis of a failure.
    pub fn log(&self) -> String {
        let log = self.kubectl.run(&["logs", "--selector", SELECTOR, "--tail=150", "--prefix"]);
        log.unwrap_or_else(|error| error.to_string())
    }
}

fn image_values(images: &Images) -> anyhow::Result<Vec<String>> {
    let (image, tag) = split(&images.operator)?;
    let (node_image, node_tag) = split(&images.node)?;
    Ok(vec![
        format!("image.repository={image}"),
        format!("image.tag={tag}"),
        format!("nodeImage.repository={node_image}"),
        format!("nodeImage.tag={node_tag}"),
    ])
}

/// Splits `registry:port/name:tag` into repository and tag.
fn split(image: &str) -> anyhow::Result<(&str, &str)> {
    image
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .with_context(|| format!("the image {image:?} has no tag"))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn registry_port_is_not_taken_for_a_tag() {
        assert_eq!(split("registry:5000/helios-node:abc").unwrap(), ("registry:5000/helios-node", "abc"));
        assert!(split("registry:5000/helios-node").is_err());
    }
}
