//! The controller of HeliosClients: users of applications, and their passwords. A reconcile is about all HeliosClients of one
//! cluster, so that many of them cost one write of the members' list of users. `grant`, `password`, `plan` and `secret` are
//! pure.
//!
//! The list follows from the HeliosClients that exist. So one that is deleted needs no finalizer, and none is decided
//! before all of them were listed.

mod grant;
mod password;
pub mod plan;
mod reconcile;
mod secret;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream, FuturesUnordered};
use helios_crds::{CLUSTER_LABEL, HAS_CLIENTS_LABEL, HeliosClient, HeliosCluster};
use helios_proto::tls::ClientTls;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use reconcile::reconcile;

use crate::backups::scoped;
use crate::controller::Context;
use crate::error::Error;
use crate::names::{self, Key};
use crate::observe::{members, pods};
use plan::Member;

/// Clusters that are reconciled at the same time.
const CONCURRENCY: usize = 4;
/// Changes within this time make one reconcile.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// Pause after a reconcile that failed.
const RETRY: Duration = Duration::from_secs(5);
/// A reconcile that takes longer is cancelled.
const DEADLINE: Duration = Duration::from_secs(120);
const PAGE: u32 = 50;

enum Change {
    /// A HeliosClient of this cluster.
    Client(Key),
    Cluster(Key),
    /// All HeliosClients of a scope were listed. Deletions before are not reported otherwise.
    Listed(usize),
}

/// Reconciles the HeliosClients in `namespaces`, in all namespaces when there are none, until `stop`.
pub async fn run(context: Arc<Context>, namespaces: Vec<String>, stop: CancellationToken) {
    let client = &context.client;
    let scopes: Vec<_> = match namespaces.is_empty() {
        true => vec![None],
        false => namespaces.into_iter().map(Some).collect(),
    };
    let mut stores = Vec::new();
    let mut watches = Vec::new();
    for (number, scope) in scopes.iter().enumerate() {
        let (store, changes) = clients(client, scope.as_deref(), number);
        stores.push(store);
        watches.extend([changes, clusters(client, scope.as_deref())]);
    }
    let mut changes = stream::select_all(watches);
    let mut queue = Queue::default();
    // Users of HeliosClients that were deleted while no operator ran.
    for scope in &scopes {
        queue.known.extend(with_clients(client, scope.as_deref()).await);
    }
    let mut running = FuturesUnordered::new();
    loop {
        let next = queue.next().filter(|_| queue.listed.len() == scopes.len() && running.len() < CONCURRENCY);
        let wait = async {
            match &next {
                Some((_, at)) => tokio::time::sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(change) = changes.next() => queue.note(change, &stores),
            Some((key, again)) = running.next(), if !running.is_empty() => queue.done(key, again),
            () = wait => if let Some((key, _)) = next {
                queue.begin(&key);
                running.push(within_deadline(client, key, &stores));
            },
        }
    }
    while running.next().await.is_some() {}
}

/// Clusters to reconcile, and when.
#[derive(Default)]
struct Queue {
    due: BTreeMap<Key, Instant>,
    running: BTreeSet<Key>,
    /// Clusters that have, or had, HeliosClients.
    known: BTreeSet<Key>,
    /// Scopes of which all HeliosClients are known.
    listed: BTreeSet<usize>,
}

impl Queue {
    fn note(&mut self, change: Change, stores: &[Store<HeliosClient>]) {
        let touched = match change {
            Change::Client(key) => vec![key],
            Change::Cluster(key) if self.known.contains(&key) || !of(stores, &key).is_empty() => vec![key],
            Change::Cluster(_) => Vec::new(),
            Change::Listed(scope) => {
                self.listed.insert(scope);
                self.known.iter().cloned().collect()
            }
        };
        for key in touched {
            self.known.insert(key.clone());
            self.add(key, Instant::now() + DEBOUNCE);
        }
    }

    fn add(&mut self, key: Key, at: Instant) {
        let due = self.due.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    fn next(&self) -> Option<(Key, Instant)> {
        let waiting = self.due.iter().filter(|(key, _)| !self.running.contains(*key));
        waiting.min_by_key(|(_, at)| **at).map(|(key, at)| (key.clone(), *at))
    }

    fn begin(&mut self, key: &Key) {
        self.due.remove(key);
        self.running.insert(key.clone());
    }

    fn done(&mut self, key: Key, again: Option<Duration>) {
        self.running.remove(&key);
        match again {
            Some(pause) => self.add(key, Instant::now() + pause),
            None => _ = self.known.remove(&key),
        }
    }
}

/// The HeliosClients of a cluster.
fn of(stores: &[Store<HeliosClient>], key: &Key) -> Vec<Arc<HeliosClient>> {
    stores.iter().flat_map(Store::state).filter(|client| cluster_of(client) == *key).collect()
}

fn cluster_of(client: &HeliosClient) -> Key {
    let cluster = &client.spec.cluster;
    let namespace = cluster.namespace.clone().or_else(|| client.namespace()).unwrap_or_default();
    Key { namespace, name: cluster.name.clone() }
}

async fn within_deadline(
    client: &Client,
    key: Key,
    stores: &[Store<HeliosClient>],
) -> (Key, Option<Duration>) {
    let clients = of(stores, &key);
    let ask = async |key: &Key, tls: Option<&ClientTls>| members_of(client, key, tls).await;
    let reconcile = reconcile(client, &key, &clients, Timestamp::now(), ask);
    let result = tokio::time::timeout(DEADLINE, reconcile).await.unwrap_or(Err(Error::Overdue(DEADLINE)));
    let again = result.unwrap_or_else(|error| {
        tracing::warn!(cluster = key.name, namespace = key.namespace, %error, "reconcile of HeliosClients failed; trying again");
        Some(RETRY)
    });
    (key, again)
}

async fn members_of(client: &Client, key: &Key, tls: Option<&ClientTls>) -> Result<Vec<Member>, Error> {
    let pods = pods(client, &key.namespace, &key.name).await?;
    let statuses = members::statuses(&key.name, &key.namespace, &pods, tls).await;
    let member = |(ordinal, pod): (&u32, &crate::observe::Pod)| Member {
        name: names::pod(&key.name, *ordinal),
        is_ready: pod.ready && !pod.terminating,
        digest: statuses.get(ordinal).map(|status| status.users_file_digest.clone()),
    };
    Ok(pods.iter().map(member).collect())
}

/// Clusters whose list of users has HeliosClients; none when they cannot be listed: those that exist are watched.
async fn with_clients(client: &Client, namespace: Option<&str>) -> Vec<Key> {
    let labelled = ListParams::default().labels(HAS_CLIENTS_LABEL);
    match scoped::<Secret>(client, namespace).list_metadata(&labelled).await {
        Ok(found) => found
            .iter()
            .filter_map(|secret| {
                Some(Key {
                    namespace: secret.namespace()?,
                    name: secret.labels().get(CLUSTER_LABEL)?.clone(),
                })
            })
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot list the Secrets with users of HeliosClients");
            Vec::new()
        }
    }
}

fn clients(
    client: &Client,
    namespace: Option<&str>,
    scope: usize,
) -> (Store<HeliosClient>, BoxStream<'static, Change>) {
    let (reader, writer) = reflector::store();
    let mut seen = Generations::default();
    let changes =
        watcher(scoped::<HeliosClient>(client, namespace), watcher::Config::default().page_size(PAGE))
            .default_backoff()
            .modify(|client| client.meta_mut().managed_fields = None)
            .reflect(writer)
            .filter_map(move |event| {
                let change = match event {
                    Ok(Event::InitApply(client) | Event::Apply(client)) => {
                        seen.is_new(&client).then(|| Change::Client(cluster_of(&client)))
                    }
                    Ok(Event::Delete(client)) => {
                        seen.0.remove(&client.uid().unwrap_or_default());
                        Some(Change::Client(cluster_of(&client)))
                    }
                    Ok(Event::InitDone) => Some(Change::Listed(scope)),
                    Ok(Event::Init) => None,
                    Err(error) => {
                        tracing::warn!(%error, "the watch of HeliosClients failed and is begun again");
                        None
                    }
                };
                std::future::ready(change)
            });
    (reader, changes.boxed())
}

fn clusters(client: &Client, namespace: Option<&str>) -> BoxStream<'static, Change> {
    let config = watcher::Config::default().page_size(PAGE);
    let mut seen = Generations::default();
    watcher(scoped::<PartialObjectMeta<HeliosCluster>>(client, namespace), config)
        .default_backoff()
        .filter_map(move |event| {
            let change = match event {
                Ok(Event::InitApply(cluster) | Event::Apply(cluster)) => {
                    seen.is_new(&cluster).then(|| Change::Cluster(key(&cluster)))
                }
                Ok(Event::Delete(cluster)) => {
                    seen.0.remove(&cluster.uid().unwrap_or_default());
                    Some(Change::Cluster(key(&cluster)))
                }
                _ => None,
            };
            std::future::ready(change)
        })
        .boxed()
}

fn key<K: Resource>(object: &K) -> Key {
    Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

/// Generations by UID: a status that was written is no change.
#[derive(Default)]
struct Generations(HashMap<String, Option<i64>>);

impl Generations {
    fn is_new<K: Resource>(&mut self, object: &K) -> bool {
        let (uid, generation) = (object.meta().uid.clone().unwrap_or_default(), object.meta().generation);
        self.0.insert(uid, generation) != Some(generation)
    }
}
