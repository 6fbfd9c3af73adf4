//! Sidecars of pods in a namespace or in all, each asked for its metrics through the API server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::io::AsyncReadExt as _;
use futures::stream::{self, StreamExt as _};
use helios_crds::{HeliosClient, SIDECAR_PROBE_PORT};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio::time::timeout;

use super::find::Finder;
use crate::error::{Error, innermost};
use crate::sidecars::{self, SidecarView};

/// Pods are listed in pages of this number.
const PAGE: u32 = 500;
/// Sidecars that are asked at the same time, and the time of each.
const CONCURRENCY: usize = 16;
const LIMIT: Duration = Duration::from_secs(3);
/// Largest answer that is read, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Returns the sidecars of `client`, or of all HeliosClients, and what could not be read.
///
/// # Errors
/// When the pods cannot be listed.
pub async fn sidecars(
    finder: &Finder,
    all_namespaces: bool,
    client: Option<&str>,
) -> Result<(Vec<SidecarView>, Vec<String>), Error> {
    let scope = if all_namespaces { "all namespaces" } else { &finder.namespace };
    let mut missing = Vec::new();
    let clients: Api<HeliosClient> = api(finder, all_namespaces);
    let modes = match clients.list(&ListParams::default()).await {
        Ok(found) => Some(sidecars::modes(&found.items)),
        Err(error) => {
            let error = Error::kube("list", format!("HeliosClients in {scope}"))(error);
            missing.push(format!("modes of HeliosClients are not compared: {error}"));
            None
        }
    };
    let pods: Api<Pod> = api(finder, all_namespaces);
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = pods.list(&page).await.map_err(Error::kube("list", format!("pods in {scope}")))?;
        found.extend(list.items.iter().filter_map(|pod| sidecars::view(pod, modes.as_ref())));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    found.retain(|sidecar| client.is_none_or(|client| sidecar.client == client));
    missing.extend(ask(finder, &mut found).await);
    sidecars::sort(&mut found);
    Ok((found, missing))
}

fn api<K>(finder: &Finder, all_namespaces: bool) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match all_namespaces {
        true => Api::all(finder.client.clone()),
        false => Api::namespaced(finder.client.clone(), &finder.namespace),
    }
}

/// Asks each sidecar for its figures; returns the reason if that is not allowed.
async fn ask(finder: &Finder, found: &mut [SidecarView]) -> Option<String> {
    let is_forbidden = AtomicBool::new(false);
    let asked = stream::iter(found.iter_mut()).map(|sidecar| {
        let is_forbidden = &is_forbidden;
        async move {
            if is_forbidden.load(Ordering::Relaxed) {
                return;
            }
            let metrics = timeout(LIMIT.min(finder.limit), metrics(finder, sidecar)).await;
            let problem = match metrics {
                Ok(Ok(text)) => {
                    sidecar.figures = sidecars::figures(&text);
                    sidecar.figures.is_none().then(|| "no metrics of a sidecar".to_owned())
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                    is_forbidden.store(true, Ordering::Relaxed);
                    None
                }
                Ok(Err(error)) => Some(innermost(&error)),
                Err(_) => Some(format!("no answer within {} s", LIMIT.min(finder.limit).as_secs_f64())),
            };
            sidecar.note = sidecar.note.take().or(problem);
        }
    });
    asked.buffer_unordered(CONCURRENCY).collect::<()>().await;
    let advice = "states and ages are not shown: ask for the right to get pods/proxy; heliosctl doctor lists all that are needed";
    is_forbidden.into_inner().then(|| advice.to_owned())
}

async fn metrics(finder: &Finder, sidecar: &SidecarView) -> Result<String, kube::Error> {
    let SidecarView { namespace, pod, .. } = sidecar;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{SIDECAR_PROBE_PORT}/proxy/metrics");
    let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    let answer = finder.client.request_stream(request).await?;
    let mut text = String::new();
    answer.take(MAX_BYTES).read_to_string(&mut text).await.map_err(kube::Error::ReadEvents)?;
    Ok(text)
}
