//! Kubernetes' nodes, watched once for all clusters. Only what plans ask about is kept, so their
//! frequent status reports are no news.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Until it is tried again where nodes may not be read; somebody may have granted the right.
const FORBIDDEN: Duration = Duration::from_mins(5);

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
    let mut book = Book::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if let Some(hosts) = book.note(event) {
                    sender.send_if_modified(|seen| renew(seen, hosts));
                }
            }
            Err(watcher::Error::InitialListFailed(kube::Error::Api(refused))) if refused.code == 403 => {
                tracing::info!("Kubernetes' nodes may not be read, so drained and lost ones are not noticed");
                tokio::time::sleep(FORBIDDEN).await;
            }
            Err(error) => tracing::debug!(%error, "Kubernetes' nodes cannot be watched"),
        }
        if sender.is_closed() {
            return;
        }
    }
}

fn renew(seen: &mut Option<HostsByName>, hosts: &BTreeMap<String, Host>) -> bool {
    let news = seen.as_deref() != Some(hosts);
    if news {
        *seen = Some(Arc::new(hosts.clone()));
    }
    news
}

/// What the events of the watch tell.
#[derive(Default)]
struct Book {
    listing: BTreeMap<String, Host>,
    hosts: BTreeMap<String, Host>,
}

impl Book {
    /// All hosts; `None` while they are being listed: one that was not listed yet is not gone.
    fn note(&mut self, event: watcher::Event<Node>) -> Option<&BTreeMap<String, Host>> {
        match event {
            watcher::Event::Init => {
                self.listing.clear();
                return None;
            }
            watcher::Event::InitApply(node) => {
                self.listing.insert(node.name_any(), host_of(&node));
                return None;
            }
            watcher::Event::InitDone => self.hosts = std::mem::take(&mut self.listing),
            watcher::Event::Apply(node) => drop(self.hosts.insert(node.name_any(), host_of(&node))),
            watcher::Event::Delete(node) => drop(self.hosts.remove(&node.name_any())),
        }
        Some(&self.hosts)
    }
}

pub fn host_of(node: &Node) -> Host {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    Host {
        cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
        out_of_service: taints.iter().any(|taint| taint.key == OUT_OF_SERVICE),
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;

    use super::*;

    fn node(name: &str) -> Node {
        Node {
            metadata: kube::core::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..Default::default()
        }
    }

    #[test]
    fn nothing_is_known_before_the_list_is_complete() {
        let mut book = Book::default();
        assert!(book.note(Event::Init).is_none(), "where nodes may not be read, nothing more comes");
        assert!(book.note(Event::InitApply(node("a"))).is_none());
        assert!(book.note(Event::InitApply(node("b"))).is_none());
        let names =
            |hosts: Option<&BTreeMap<String, Host>>| hosts.unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(book.note(Event::InitDone)), ["a", "b"]);
        assert_eq!(names(book.note(Event::Delete(node("a")))), ["b"]);
        assert!(book.note(Event::Init).is_none(), "and what was known before a new list stays");
        book.note(Event::InitApply(node("c")));
        assert_eq!(names(book.note(Event::InitDone)), ["c"]);
    }
}
