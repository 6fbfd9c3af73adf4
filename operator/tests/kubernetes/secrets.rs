//! The Secrets of a cluster at a real API server: created once, repaired when a user deletes or changes one, and a
//! refusal reported in a condition.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::operator::{Operator, sum};
use super::{begin, create_as, degraded, until};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn secrets_are_created_once_and_repaired() {
    let (server, _nodes) = begin().await;
    let _operator = Operator::start(&server, "first");
    let client = &server.client;
    create_as(client, "c0", json!({})).await;
    until("all Secrets are there", PATIENCE, async || {
        read(client, "c0-ca").await.is_some()
            && read(client, "c0-auth").await.is_some()
            && read(client, "c0-peer-tls").await.is_some()
    })
    .await;
    let (authority, before) =
        (read(client, "c0-ca").await.unwrap(), read(client, "c0-peer-tls").await.unwrap());
    assert!(!before.contains_key("ca.key") && before["ca.crt"] == authority["ca.crt"]);

    let secrets = Api::<Secret>::default_namespaced(client.clone());
    secrets.delete("c0-peer-tls", &DeleteParams::default()).await.unwrap();
    until("the certificate is made again", PATIENCE, async || read(client, "c0-peer-tls").await.is_some())
        .await;
    let after = read(client, "c0-peer-tls").await.unwrap();
    assert!(after["tls.crt"] != before["tls.crt"] && after["ca.crt"] == before["ca.crt"]);
    assert_eq!(read(client, "c0-ca").await.unwrap(), authority);

    let users = read(client, "c0-auth").await.unwrap()["users.yaml"].clone();
    let patch = Patch::Merge(json!({"stringData": {"password": "of a user"}}));
    secrets.patch("c0-auth", &PatchParams::default(), &patch).await.unwrap();
    until("the list of users follows", PATIENCE, async || {
        read(client, "c0-auth").await.is_some_and(|auth| auth["users.yaml"] != users)
    })
    .await;
    assert_eq!(read(client, "c0-auth").await.unwrap()["password"], "of a user");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of the local cluster"]
async fn cluster_is_not_started_and_the_problem_is_reported_when_secrets_are_refused() {
    let (server, _nodes) = begin().await;
    let client = &server.client;
    forbid_new_secrets(client).await;
    let operator = Operator::start(&server, "first");
    create_as(client, "c0", json!({})).await;
    create_as(client, "c1", json!({"tls": {"mode": "secret", "secretName": "mine"}})).await;
    for (name, reason, words) in [
        ("c0", "SecretsRefused", "no Secret for you"),
        ("c1", "CertificateInvalid", "Secret mine of spec.tls.secretName is missing"),
    ] {
        until(reason, PATIENCE, async || {
            degraded(client, name).await.is_some_and(|(found, said)| found == reason && said.contains(words))
        })
        .await;
    }
    let sets = Api::<k8s_openapi::api::apps::v1::StatefulSet>::default_namespaced(client.clone());
    assert!(sets.list(&Default::default()).await.unwrap().items.is_empty(), "pods that could not start");
    assert_eq!(sum(&operator.metrics(), "clusters", |_| true), 2.0);
}

async fn read(client: &Client, name: &str) -> Option<BTreeMap<String, String>> {
    let secret = Api::<Secret>::default_namespaced(client.clone()).get_opt(name).await.unwrap()?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value.0))).collect())
}

async fn forbid_new_secrets(client: &Client) {
    forbid_new(client, "", "secrets", "no Secret for you").await;
    let probe = Secret {
        metadata: kube::api::ObjectMeta { name: Some("probe".to_owned()), ..Default::default() },
        ..Default::default()
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let secrets = Api::<Secret>::default_namespaced(client.clone());
    until("no Secret can be created", PATIENCE, async || secrets.create(&dry, &probe).await.is_err()).await;
}

/// Has the API server refuse new objects of a resource, soon.
pub async fn forbid_new(client: &Client, group: &str, resource: &str, message: &str) {
    let name = "none-of-these";
    let policy = json!({
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource],
            }]},
            "validations": [{"expression": "false", "message": message}],
        },
    });
    let binding = json!({
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(policy).unwrap();
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(binding).unwrap();
    let params = PostParams::default();
    Api::all(client.clone()).create(&params, &policy).await.unwrap();
    Api::all(client.clone()).create(&params, &binding).await.unwrap();
}
