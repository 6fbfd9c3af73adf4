//! Kubernetes' nodes, watched once for all clusters. Only what plans ask about is kept, so their
//! frequent status reports are no news.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub type HostsByName = Arc<BTreeMap<String, Host>>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its pods are to go elsewhere.
    pub cordoned: bool,
    /// A person has said that it is down for good.
    pub out_of_service: bool,
}

/// The nodes as last seen; `None` before the first list, and where they may not be read.
#[derive(Clone)]
pub struct Hosts(watch::Receiver<Option<HostsByName>>);

impl Hosts {
    /// Begins to watch, until the last of these is dropped.
    pub fn watch(client: Client) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(follow(client, sender));
        Self(receiver)
    }

    pub fn seen(&self) -> Option<HostsByName> {
        self.0.borrow().clone()
    }

    /// One item for each change that a plan may depend on.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + 'static {
        futures::stream::unfold(self.0.clone(), |mut receiver| async move {
            receiver.changed().await.ok().map(|()| ((), receiver))
        })
    }
}

async fn follow(client: Client, sender: watch::Sender<Option<HostsByName>>) {
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let (mut listing, mut hosts) = (BTreeMap::new(), BTreeMap::new());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listing = BTreeMap::new(),
            Ok(watcher::Event::InitApply(node)) => drop(listing.insert(node.name_any(), host(&node))),
            Ok(watcher::Event::InitDone) => hosts = std::mem::take(&mut listing),
            Ok(watcher::Event::Apply(node)) => drop(hosts.insert(node.name_any(), host(&node))),
            Ok(watcher::Event::Delete(node)) => drop(hosts.remove(&node.name_any())),
            Err(error) => {
                tracing::debug!(%error, "Kubernetes' nodes cannot be watched");
                continue;
            }
        }
        if sender.is_closed() {
            return;
        }
        if listing.is_empty() {
            sender.send_if_modified(|seen| {
                let news = seen.as_deref() != Some(&hosts);
                if news {
                    *seen = Some(Arc::new(hosts.clone()));
                }
                news
            });
        }
    }
}

fn host(node: &Node) -> Host {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    Host {
        cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
        out_of_service: taints.iter().any(|taint| taint.key == OUT_OF_SERVICE),
    }
}
