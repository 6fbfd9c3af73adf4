//! Keeps the Secret with the webhook's certificate, and the CAs that the API server trusts for it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::certificate;
use crate::execute::secrets::put;
use crate::names::FIELD_MANAGER;
use crate::observe::secrets::data;

/// Interval between two looks: two reads of single objects. A Secret that a user deletes is back after it.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Field manager of the CAs: Helm and Argo CD own the rest of the object, without this field.
const BUNDLE_MANAGER: &str = "helios-operator-webhook";

/// Names of the objects of one release, all in the operator's namespace where they have one.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub namespace: String,
    /// Name of the MutatingWebhookConfiguration and of the Secret.
    pub name: String,
}

/// Returns the names under which the API server dials the webhooks: those of Services and of URLs.
fn hosts(webhooks: &[MutatingWebhook]) -> Vec<String> {
    let host = |hook: &MutatingWebhook| {
        let service = hook.client_config.service.as_ref();
        let url = hook.client_config.url.as_ref();
        service
            .map(|service| format!("{}.{}.svc", service.name, service.namespace))
            .or_else(|| Some(url?.parse::<hyper::Uri>().ok()?.host()?.to_owned()))
    };
    let mut hosts: Vec<String> = webhooks.iter().filter_map(host).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// Keeps both until dropped. Only the holder of the lease runs it.
pub async fn run(client: Client, webhook: Webhook) {
    let mut last_failure = String::new();
    loop {
        let failure =
            look(&client, &webhook).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        // Once for each reason: a missing right stays.
        if failure != last_failure && !failure.is_empty() {
            tracing::warn!(webhook = webhook.name, error = failure, "certificate of the webhook");
        }
        last_failure = failure;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(client: &Client, webhook: &Webhook) -> anyhow::Result<()> {
    let configurations = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let Some(configuration) = configurations.get_opt(&webhook.name).await? else {
        anyhow::bail!("there is no MutatingWebhookConfiguration {}; install the chart again", webhook.name);
    };
    let webhooks = configuration.webhooks.unwrap_or_default();
    let secrets = Api::<Secret>::namespaced(client.clone(), &webhook.namespace);
    let found = secrets.get_opt(&webhook.name).await?;
    let mut held = found.as_ref().map(data).unwrap_or_default();
    if let Some(after) = certificate::next(&held, &hosts(&webhooks), Timestamp::now())? {
        let exists = found.is_some();
        let mut secret = found.unwrap_or_else(|| Secret {
            metadata: ObjectMeta { name: Some(webhook.name.clone()), ..ObjectMeta::default() },
            ..Secret::default()
        });
        secret
            .metadata
            .labels
            .get_or_insert_default()
            .insert("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned());
        secret.data = Some(
            after.iter().map(|(name, text)| (name.clone(), ByteString(text.clone().into_bytes()))).collect(),
        );
        put(&secrets, exists, &secret).await?;
        tracing::info!(webhook = webhook.name, "certificate of the webhook written");
        held = after;
    }
    trust(&configurations, &webhook.name, &webhooks, certificate::bundle(&held)).await
}

/// Writes the CAs into the webhook configuration, where they differ.
async fn trust(
    configurations: &Api<MutatingWebhookConfiguration>,
    name: &str,
    webhooks: &[MutatingWebhook],
    bundle: String,
) -> anyhow::Result<()> {
    let bundle = ByteString(bundle.into_bytes());
    if webhooks.iter().all(|hook| hook.client_config.ca_bundle.as_ref() == Some(&bundle)) {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": webhooks
            .iter()
            .map(|hook| json!({"name": hook.name, "clientConfig": {"caBundle": bundle}}))
            .collect::<Vec<_>>(),
    });
    configurations.patch(name, &PatchParams::apply(BUNDLE_MANAGER).force(), &Patch::Apply(patch)).await?;
    Ok(())
}
