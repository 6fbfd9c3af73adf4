//! `doctor`: checks the prerequisites of a cluster and of this tool, each with its remedy.

use futures::future::join_all;
use helios_crds::HeliosCluster;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, CustomResourceExt, Resource, ResourceExt};

use super::find::Finder;
use super::rights::{RIGHTS, Right};
use crate::check::{Check, Checks};
use crate::error::{Error, innermost};

pub const OPERATOR_SELECTOR: &str =
    "app.kubernetes.io/name=helios-operator,app.kubernetes.io/component=operator";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const INSTALL: &str = "helm install helios-operator <chart> --namespace helios-system --create-namespace";

pub async fn doctor(finder: &Finder) -> Checks {
    let version = finder.client.apiserver_version().await;
    let server = match version {
        Ok(version) => Check::ok("the API server answers", version.git_version),
        Err(error) => {
            let fix = "set KUBECONFIG or --context to a running cluster that accepts your credentials";
            let check = Check::failed("the API server answers", innermost(&error), fix);
            return Checks { checks: vec![check], nobody_answered: true };
        }
    };
    let (crd, operator, storage) = tokio::join!(crd(finder), operator(finder), storage(finder));
    let mut checks = vec![server, crd, operator, storage];
    checks.extend(join_all(RIGHTS.iter().map(|right| may(finder, right))).await);
    Checks { checks, nobody_answered: false }
}

/// Checks the CRD. A user without the right to read definitions is checked by listing clusters, which proves
/// that there is one.
async fn crd(finder: &Finder) -> Check {
    let what = "HeliosCluster is known";
    let api = Api::<CustomResourceDefinition>::all(finder.client.clone());
    match api.get_opt(HeliosCluster::crd_name()).await {
        Ok(Some(installed)) => judge_crd(&installed, &HeliosCluster::crd()),
        Ok(None) => Check::failed(what, "no such resource", format!("install the operator: {INSTALL}")),
        Err(_) => match finder.all().await {
            Ok(clusters) => Check::ok(what, format!("{} of them in {}", clusters.len(), finder.namespace)),
            Err(error) => Check::failed(what, error.to_string(), format!("install the operator: {INSTALL}")),
        },
    }
}

/// Checks that the definition serves our version and knows every field that this tool knows.
fn judge_crd(installed: &CustomResourceDefinition, ours: &CustomResourceDefinition) -> Check {
    let what = "HeliosCluster is known";
    let version = HeliosCluster::version(&());
    let fields = |definition: &CustomResourceDefinition| -> Option<Vec<String>> {
        let version = definition.spec.versions.iter().find(|found| found.name == version && found.served)?;
        let schema = serde_json::to_value(&version.schema).ok()?;
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"];
        Some(spec.as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect())
    };
    let Some(found) = fields(installed) else {
        let fix =
            "upgrade the operator's chart, which brings the definition, or use the heliosctl of its release";
        return Check::failed(what, format!("version {version} is not served"), fix);
    };
    let missing: Vec<_> =
        fields(ours).unwrap_or_default().into_iter().filter(|field| !found.contains(field)).collect();
    match missing.is_empty() {
        true => Check::ok(what, format!("version {version}")),
        false => Check::failed(
            what,
            format!("version {version} without spec.{}", missing.join(", spec.")),
            "the definition is older than this tool; upgrade the operator's chart, which brings it",
        ),
    }
}

async fn operator(finder: &Finder) -> Check {
    let what = "the operator runs";
    let ours = ListParams::default().labels(OPERATOR_SELECTOR);
    let everywhere = Api::<Deployment>::all(finder.client.clone()).list(&ours).await;
    let found = match everywhere {
        Ok(found) => Ok(found),
        // A user with rights in one namespace only may have a namespaced operator there.
        Err(_) => Api::<Deployment>::namespaced(finder.client.clone(), &finder.namespace).list(&ours).await,
    };
    match found {
        Ok(found) => judge_operator(&found.items),
        Err(error) => Check::failed(
            what,
            innermost(&error),
            "ask for the right to list deployments, or ask who runs it",
        ),
    }
}

fn judge_operator(found: &[Deployment]) -> Check {
    let what = "the operator runs";
    let lines: Vec<_> = found
        .iter()
        .map(|deployment| {
            let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            let place = format!("{}/{}", deployment.namespace().unwrap_or_default(), deployment.name_any());
            (ready, format!("{place}: {ready} of {} ready", deployment.spec.replicas.unwrap_or(1)))
        })
        .collect();
    let text = lines.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ");
    match (lines.is_empty(), lines.iter().any(|(ready, _)| *ready > 0)) {
        (true, _) => Check::failed(what, "no deployment of it was found", format!("install it: {INSTALL}")),
        (false, true) => Check::ok(what, text),
        (false, false) => {
            let fix =
                format!("see why: kubectl describe pods --all-namespaces --selector {OPERATOR_SELECTOR}");
            Check::failed(what, text, fix)
        }
    }
}

async fn storage(finder: &Finder) -> Check {
    match Api::<StorageClass>::all(finder.client.clone()).list(&ListParams::default()).await {
        Ok(classes) => judge_storage(&classes.items),
        Err(error) => Check::failed(
            "volumes have a default class",
            innermost(&error),
            "ask whether there is one; else name one in spec.storage.storageClassName",
        ),
    }
}

fn judge_storage(classes: &[StorageClass]) -> Check {
    let what = "volumes have a default class";
    let default = classes
        .iter()
        .find(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true"));
    if let Some(class) = default {
        let grows = if class.allow_volume_expansion == Some(true) { "can grow" } else { "cannot grow" };
        return Check::ok(what, format!("{}, its volumes {grows}", class.name_any()));
    }
    let names: Vec<_> = classes.iter().map(ResourceExt::name_any).collect();
    let found = if names.is_empty() {
        "no StorageClass at all".to_owned()
    } else {
        format!("none of {} is", names.join(", "))
    };
    let fix = format!("name one in spec.storage.storageClassName, or annotate one with {DEFAULT_CLASS}=true");
    Check::failed(what, found, fix)
}

async fn may(finder: &Finder, right: &Right) -> Check {
    let what = format!("you may {}", right.words());
    let fix = format!("ask for that right in namespace {}; needed by: {}", finder.namespace, right.commands);
    match ask(finder, right).await {
        Ok(true) => Check::ok(what, "yes"),
        Ok(false) => Check::failed(what, "no", fix),
        Err(error) => Check::failed(what, error.to_string(), fix),
    }
}

async fn ask(finder: &Finder, right: &Right) -> Result<bool, Error> {
    let (resource, subresource) = right.parts();
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(finder.namespace.clone()),
                verb: Some(right.verb.to_owned()),
                group: Some(right.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api = Api::<SelfSubjectAccessReview>::all(finder.client.clone());
    let answer =
        api.create(&PostParams::default(), &review).await.map_err(Error::kube("ask about", right.words()))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn older_crd_is_reported_with_its_missing_fields() {
        let ours = HeliosCluster::crd();
        assert!(judge_crd(&ours, &ours).ok);
        let mut older: Value = serde_json::to_value(&ours).unwrap();
        let spec = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        spec.as_object_mut().unwrap().remove("restartAt");
        let older: CustomResourceDefinition = serde_json::from_value(older).unwrap();
        let check = judge_crd(&older, &ours);
        assert!(!check.ok && check.found.contains("spec.restartAt"), "{check:?}");
    }

    #[test]
    fn operator_without_a_ready_replica_is_reported_as_not_running() {
        let deployment = |ready: i32| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"name": "helios-operator", "namespace": "helios-system"},
                "spec": {"replicas": 1, "selector": {}, "template": {}}, "status": {"readyReplicas": ready},
            }))
            .unwrap()
        };
        assert_eq!(judge_operator(&[deployment(1)]).found, "helios-system/helios-operator: 1 of 1 ready");
        assert!(!judge_operator(&[deployment(0)]).ok);
        assert!(judge_operator(&[]).fix.unwrap().contains("helm install"));
    }

    #[test]
    fn missing_default_storage_class_is_reported() {
        let class = |name: &str, default: &str| -> StorageClass {
            serde_json::from_value(json!({
                "metadata": {"name": name, "annotations": {DEFAULT_CLASS: default}}, "provisioner": "x",
            }))
            .unwrap()
        };
        assert!(judge_storage(&[class("slow", "false"), class("fast", "true")]).ok);
        assert_eq!(judge_storage(&[class("slow", "false")]).found, "none of slow is");
        assert_eq!(judge_storage(&[]).found, "no StorageClass at all");
    }
}
