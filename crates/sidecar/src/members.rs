//! The members of the cluster: their addresses, which one is used now, and the time of the last contact.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use tokio::net::lookup_host;
use tokio_util::sync::CancellationToken;

use crate::args::HostPort;

/// Interval in which names are resolved again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(2);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause of all connections after a member refused the user or password.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// One address of a member, and the host that its certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub host: Arc<str>,
    pub address: SocketAddr,
}

#[derive(Debug)]
pub struct Members {
    hosts: Vec<(Arc<str>, u16)>,
    /// Time without contact after which the cluster counts as cut off.
    pub cut_off_after: Duration,
    known: Mutex<Known>,
    started: Instant,
    /// Milliseconds from `started` to the last contact; the start itself counts as one.
    contact_ms: AtomicU64,
    has_contact: AtomicBool,
    /// Number of changes after which a known address was no longer listed.
    removals: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    members: Vec<Member>,
    /// Index of the member that connections are opened to. All use the same one, so that what a member keeps for its own
    /// clients (scripts, channels, CLIENT LIST) is the same for all connections of the application.
    current: usize,
    /// Why the last connection was not opened, or a name was not resolved.
    problem: String,
    /// Number of the identity that a member refused last, and when.
    refused: Option<(u64, Instant)>,
}

impl Members {
    pub fn new(hosts: Vec<HostPort>, cut_off_after: Duration) -> Self {
        Self {
            hosts: hosts.into_iter().map(|member| (member.host.into(), member.port)).collect(),
            cut_off_after,
            known: Mutex::default(),
            started: Instant::now(),
            contact_ms: AtomicU64::new(0),
            has_contact: AtomicBool::new(false),
            removals: AtomicU64::new(0),
        }
    }

    /// Resolves all names. A name that cannot be resolved keeps its addresses.
    pub async fn resolve(&self) {
        let mut found: HashMap<Arc<str>, Vec<SocketAddr>> = HashMap::new();
        for (host, port) in &self.hosts {
            let looked_up = tokio::time::timeout(RESOLVE_TIMEOUT, lookup_host((&**host, *port))).await;
            match looked_up.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
                Ok(addresses) => found.entry(Arc::clone(host)).or_default().extend(addresses),
                Err(error) => self.known().problem = format!("{host} is not resolved: {error}"),
            }
        }
        if self.known().update(&found) {
            self.removals.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns a number that changes when addresses are removed, as that of a pod that is not ready.
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Relaxed)
    }

    /// Resolves names until `stop`, as the pods behind a name change.
    pub async fn watch(&self, stop: CancellationToken) {
        if self.hosts.iter().all(|(host, _)| host.parse::<IpAddr>().is_ok()) {
            return stop.cancelled().await;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESOLVE_INTERVAL) => self.resolve().await,
            }
        }
    }

    /// Returns all members, the one that is used now first.
    pub fn in_order(&self) -> Vec<Member> {
        let known = self.known();
        let (before, after) = known.members.split_at(known.current);
        after.iter().chain(before).cloned().collect()
    }

    pub fn is_listed(&self, member: &Member) -> bool {
        self.known().members.contains(member)
    }

    /// Makes another member the one that is used, if it is still this one.
    pub fn avoid(&self, member: &Member) {
        let mut known = self.known();
        if known.members.get(known.current) == Some(member) {
            known.current = (known.current + 1) % known.members.len();
        }
    }

    /// Records that a connection to this member was opened.
    pub fn prefer(&self, member: &Member) {
        let mut known = self.known();
        if let Some(at) = known.members.iter().position(|known| known == member) {
            known.current = at;
        }
    }

    pub fn report(&self, problem: String) {
        self.known().problem = problem;
    }

    pub fn problem(&self) -> String {
        let problem = self.known().problem.clone();
        if problem.is_empty() { "no member answered in time".to_owned() } else { problem }
    }

    /// Records that a member refused the user or password.
    pub fn refused(&self, identity: u64) {
        self.known().refused = Some((identity, Instant::now()));
    }

    /// Whether a connection may authenticate: not for a moment after a refusal, since members delay all clients of an
    /// address that guesses passwords.
    pub fn may_authenticate(&self, identity: u64) -> bool {
        self.known().refused.is_none_or(|(refused, at)| refused != identity || at.elapsed() >= REFUSED_PAUSE)
    }

    /// Records a reply of a member.
    pub fn contact(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.contact_ms.store(now, Ordering::Relaxed);
        self.has_contact.store(true, Ordering::Relaxed);
    }

    /// Returns the time since the last reply of a member, or since the start.
    pub fn since_contact(&self) -> Duration {
        let contact = Duration::from_millis(self.contact_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(contact)
    }

    pub fn is_ready(&self) -> bool {
        self.has_contact.load(Ordering::Relaxed) && self.since_contact() < self.cut_off_after
    }

    /// Returns the time until which a request may wait for a connection: none once the cluster is cut off.
    pub fn patience(&self) -> Duration {
        self.cut_off_after.saturating_sub(self.since_contact())
    }

    // Poisoning is ignored: every critical section leaves a consistent list.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Takes resolved addresses over; returns whether a known one is gone.
    fn update(&mut self, found: &HashMap<Arc<str>, Vec<SocketAddr>>) -> bool {
        let current = self.members.get(self.current).cloned();
        let before = self.members.len();
        self.members.retain(|member| found.get(&member.host).is_none_or(|now| now.contains(&member.address)));
        let is_any_gone = self.members.len() < before;
        let mut new: Vec<Member> = Vec::new();
        for (host, addresses) in found {
            for address in addresses {
                let member = Member { host: Arc::clone(host), address: *address };
                let is_known = self.members.iter().chain(&new).any(|known| known.address == member.address);
                if !is_known {
                    new.push(member);
                }
            }
        }
        // The sidecars of one application do not all use the same member.
        new.shuffle(&mut rand::rng());
        self.members.extend(new);
        let at = current.and_then(|current| self.members.iter().position(|member| *member == current));
        self.current = at.unwrap_or(0);
        is_any_gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> HashMap<Arc<str>, Vec<SocketAddr>> {
        HashMap::from([("demo".into(), addresses.iter().map(|address| address.parse().unwrap()).collect())])
    }

    fn members(addresses: &[&str]) -> Members {
        let members = Members::new(vec![HostPort { host: "demo".into(), port: 1 }], Duration::from_secs(3));
        members.known().update(&found(addresses));
        members
    }

    #[test]
    fn a_failed_member_is_the_last_to_be_tried_and_only_the_first_report_counts() {
        let members = members(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let order = members.in_order();
        members.avoid(&order[0]);
        members.avoid(&order[0]);
        let now = members.in_order();
        assert_eq!((&now[0], &now[2]), (&order[1], &order[0]));
        members.prefer(&order[2]);
        assert_eq!(members.in_order()[0], order[2]);
    }

    #[test]
    fn a_changed_name_keeps_the_member_that_is_used() {
        let members = members(&["10.0.0.1:1", "10.0.0.2:1"]);
        let used = members.in_order()[1].clone();
        members.prefer(&used);
        members.known().update(&found(&[&used.address.to_string(), "10.0.0.3:1", "10.0.0.4:1"]));
        assert_eq!((members.in_order()[0].clone(), members.in_order().len()), (used.clone(), 3));
        members.known().update(&HashMap::new());
        assert_eq!(members.in_order().len(), 3, "a name that is not resolved keeps its addresses");
        members.known().update(&found(&["10.0.0.5:1"]));
        assert!(!members.is_listed(&used));
    }

    #[test]
    fn nothing_waits_once_the_cluster_is_cut_off() {
        let members = Members::new(Vec::new(), Duration::from_millis(1));
        assert!(!members.is_ready(), "ready before the first contact");
        while !members.patience().is_zero() {
            std::thread::yield_now();
        }
        members.contact();
        members.contact_ms.fetch_add(1_000, Ordering::Relaxed);
        assert!(members.is_ready() && !members.patience().is_zero());
    }
}
