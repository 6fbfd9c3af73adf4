//! Kubernetes' Nodes, watched once for all clusters. Only the fields that plans use are kept, so their
//! frequent status reports change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::affinity::{Homes, Labels};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Pause before the next attempt where Nodes may not be read; the right may be granted meanwhile.
const FORBIDDEN: Duration = Duration::from_mins(5);

pub type HostsByName = Arc<BTreeMap<String, Host>>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its pods are to move to other hosts.
    pub cordoned: bool,
    /// A user has marked it as down for good.
    pub out_of_service: bool,
}

/// The nodes at one moment.
#[derive(Debug, Clone)]
pub struct Seen {
    pub by_name: HostsByName,
    /// Volumes that can be used on them.
    pub homes: Arc<Homes>,
}

/// The nodes as last seen; `None` before the first list, and where they may not be read.
#[derive(Clone)]
pub struct Hosts(watch::Receiver<Option<Seen>>);

impl Hosts {
    /// Starts the watch, which ends when the last clone is dropped.
    pub fn watch(client: Client) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(follow(client, sender));
        Self(receiver)
    }

    pub fn seen(&self) -> Option<Seen> {
        self.0.borrow().clone()
    }

    /// One item for each change that a plan may depend on.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + 'static {
        futures::stream::unfold(self.0.clone(), |mut receiver| async move {
            receiver.changed().await.ok().map(|()| ((), receiver))
        })
    }
}

async fn follow(client: Client, sender: watch::Sender<Option<Seen>>) {
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut book = Book::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if book.apply_event(event, Instant::now()) {
                    sender.send_if_modified(|seen| book.show(seen));
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

/// Hosts as of the events of the watch.
#[derive(Default)]
struct Book {
    listing: BTreeMap<String, (Host, Labels)>,
    hosts: BTreeMap<String, Host>,
    /// `None` until the first list is complete: one that was not listed yet is not gone.
    homes: Option<Homes>,
}

impl Book {
    /// Applies an event; true if the kept state of a host changed.
    fn apply_event(&mut self, event: watcher::Event<Node>, now: Instant) -> bool {
        match event {
            watcher::Event::Init => {
                self.listing.clear();
                false
            }
            watcher::Event::InitApply(node) => {
                self.listing.insert(node.name_any(), (host_of(&node), node.labels().clone()));
                false
            }
            watcher::Event::InitDone => {
                let mut present = BTreeMap::new();
                self.hosts.clear();
                for (name, (host, labels)) in std::mem::take(&mut self.listing) {
                    self.hosts.insert(name.clone(), host);
                    present.insert(name, labels);
                }
                match &mut self.homes {
                    Some(homes) => homes.replace(present, now),
                    homes => *homes = Some(Homes::new(present, now)),
                }
                true
            }
            watcher::Event::Apply(node) => {
                let (name, host) = (node.name_any(), host_of(&node));
                let is_known = self.hosts.get(&name) == Some(&host);
                self.hosts.insert(name.clone(), host);
                let homes = self.homes.as_mut();
                homes.is_some_and(|homes| homes.set(&name, Some(node.labels().clone()), now)) || !is_known
            }
            watcher::Event::Delete(node) => {
                let name = node.name_any();
                self.hosts.remove(&name);
                self.homes.as_mut().is_some_and(|homes| homes.set(&name, None, now))
            }
        }
    }

    /// Updates `seen`; true if idle clusters have to be reconciled. Labels do not matter to them: which
    /// hosts a volume can be used on matters only while its member is not ready, and then reconciles follow each other.
    fn show(&self, seen: &mut Option<Seen>) -> bool {
        let Some(homes) = &self.homes else { return false };
        let before = seen.as_ref().map(|seen| &seen.by_name).filter(|hosts| ***hosts == self.hosts);
        let has_changed = before.is_none();
        let by_name = before.cloned().unwrap_or_else(|| Arc::new(self.hosts.clone()));
        *seen = Some(Seen { by_name, homes: Arc::new(homes.clone()) });
        has_changed
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
    fn hosts_are_unknown_until_the_list_is_complete() {
        let (mut book, mut seen) = (Book::default(), None);
        let mut apply = |event| book.apply_event(event, Instant::now()) && book.show(&mut seen);
        assert!(!apply(Event::Init), "where nodes may not be read, nothing more comes");
        assert!(!apply(Event::InitApply(node("a"))));
        assert!(!apply(Event::InitApply(node("b"))));
        assert!(apply(Event::InitDone));
        assert!(apply(Event::Delete(node("a"))));
        assert!(!apply(Event::Init), "and what was known before a new list stays");
        assert!(!apply(Event::InitApply(node("c"))));
        assert!(apply(Event::InitDone));
        assert_eq!(seen.unwrap().by_name.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn hosts_are_unchanged_when_only_a_status_or_label_changes() {
        let (mut book, mut seen) = (Book::default(), None);
        for event in [Event::Init, Event::InitApply(node("a")), Event::InitDone] {
            if book.apply_event(event, Instant::now()) {
                book.show(&mut seen);
            }
        }
        assert!(!book.apply_event(Event::Apply(node("a")), Instant::now()), "as it was");
        let mut labelled = node("a");
        labelled.metadata.labels = Some(BTreeMap::from([("zone".to_owned(), "z".to_owned())]));
        assert!(book.apply_event(Event::Apply(labelled), Instant::now()));
        let before = seen.clone().unwrap();
        assert!(!book.show(&mut seen));
        let after = seen.unwrap();
        assert!(Arc::ptr_eq(&before.by_name, &after.by_name) && !Arc::ptr_eq(&before.homes, &after.homes));
    }
}
