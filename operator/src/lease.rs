//! The lease that decides which replica of the operator acts. A replica that loses it exits: its unfinished step must not
//! run beside another replica's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::error::Error;

/// Time without a renewal after which the lease has expired.
const VALID: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Margin by which the holder stops early, so that it has exited before another may act.
const GIVE_UP: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// The fencing token that every request to a member carries: how often the holder of the Lease changed. Members reject a
/// lower one than they have recorded, so an operator that was paused for longer than its lease changes nothing when
/// it resumes.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<Tokens>);

#[derive(Debug, Default)]
struct Tokens {
    held: AtomicU64,
    /// Highest token that any cluster has recorded.
    recorded: AtomicU64,
}

impl Fence {
    /// The present holder's token; 0 before the Lease is held.
    pub fn token(&self) -> u64 {
        self.0.held.load(Ordering::Acquire)
    }

    /// Records the token that a cluster has recorded. It can be above that of the rightful holder: the
    /// Lease was deleted, or the cluster was run by an operator with another one. The next renewal
    /// then raises the Lease's count above it, which only the holder can do.
    pub fn recorded(&self, token: u64) {
        self.0.recorded.fetch_max(token, Ordering::AcqRel);
    }

    fn hold(&self, token: u64) {
        self.0.held.store(token, Ordering::Release);
    }

    /// Least count that the Lease may have when it is written.
    fn least(&self) -> u64 {
        let recorded = self.0.recorded.load(Ordering::Acquire);
        if recorded > self.token() { recorded.saturating_add(1) } else { self.token() }
    }
}

pub struct Holder {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<Sighting>,
    /// When this process last held the lease for certain.
    renewed: Instant,
    fence: Fence,
}

/// The Lease as last read. Its age is measured from when we saw it change, by our own clock:
/// other machines' clocks are not compared.
#[derive(Debug, Clone)]
struct Sighting {
    lease: Lease,
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Move {
    Create,
    /// Take over or renew.
    Take,
    Wait,
}

impl Holder {
    pub fn new(client: Client, namespace: &str, name: String, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name,
            identity,
            seen: None,
            renewed: Instant::now(),
            fence: Fence::default(),
        }
    }

    /// The token of this holder, for as long as the process lives.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Waits until this process holds the Lease.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot work on the lease; trying again"),
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }

    /// Renews until that fails for too long or another holds the Lease; then returns why.
    pub async fn keep(&mut self) -> String {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            // The process was paused: another may act by now, and nothing may happen until it is known.
            if self.renewed.elapsed() > VALID {
                return "the process slept for longer than its lease is valid".to_owned();
            }
            match self.attempt().await {
                Ok(true) => {}
                Ok(false) => return "another process holds the lease".to_owned(),
                Err(error) if self.renewed.elapsed() + RENEW_EVERY > GIVE_UP => {
                    return format!("the lease was not renewed in time: {error}");
                }
                Err(error) => tracing::warn!(%error, "cannot renew the lease; trying again"),
            }
        }
    }

    /// Releases the lease, so that another replica need not wait for it to expire.
    pub async fn release(&mut self) {
        if !self.holds() {
            return;
        }
        let Some(Sighting { mut lease, .. }) = self.seen.take() else { return };
        lease.spec.get_or_insert_default().holder_identity = None;
        let params = PostParams::default();
        let replaced = self.api.replace(&self.name, &params, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(REQUEST_TIMEOUT, replaced).await {
            tracing::warn!(%error, "cannot release the lease; it expires");
        }
    }

    async fn attempt(&mut self) -> Result<bool, Error> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.attempt_now()).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unreachable {
                member: "the API server".to_owned(),
                action: "work on the lease",
                message: format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()),
            }),
        }
    }

    async fn attempt_now(&mut self) -> Result<bool, Error> {
        // The holder writes over its own last write, which fails if the lease was changed since.
        if !self.holds() {
            self.read().await?;
        }
        let written = match self.write().await? {
            Written::Conflict if self.holds() => {
                self.read().await?;
                self.write().await?
            }
            written => written,
        };
        Ok(written == Written::Done)
    }

    async fn read(&mut self) -> Result<(), Error> {
        let found = self.api.get_opt(&self.name).await.map_err(Error::kube("read Lease", &self.name))?;
        self.keep_found(found);
        Ok(())
    }

    async fn write(&mut self) -> Result<Written, Error> {
        let began = Instant::now();
        let lease = |earlier| taken(earlier, &self.name, &self.identity, self.fence.least());
        let written = match decide(self.seen.as_ref(), &self.identity, Instant::now()) {
            Move::Wait => return Ok(Written::HeldByAnother),
            Move::Create => self.api.create(&PostParams::default(), &lease(None)).await,
            // A replace carries the version that was read, so of two that try only one succeeds.
            Move::Take => {
                let lease = lease(self.seen.as_ref().map(|seen| &seen.lease));
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.fence.hold(transitions(&lease));
                self.renewed = began;
                self.keep_found(Some(lease));
                Ok(Written::Done)
            }
            // 404: it was deleted since it was seen.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Written::Conflict),
            Err(error) => Err(Error::kube("write Lease", &self.name)(error)),
        }
    }

    fn holds(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| holder(&seen.lease) == self.identity)
    }

    fn keep_found(&mut self, found: Option<Lease>) {
        self.seen = found.map(|lease| match self.seen.take() {
            Some(seen) if seen.lease.resource_version() == lease.resource_version() => seen,
            _ => Sighting { lease, since: Instant::now() },
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Done,
    HeldByAnother,
    /// The lease has changed since it was read.
    Conflict,
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn transitions(lease: &Lease) -> u64 {
    let count = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
}

/// The Lease as `identity` writes it, to take or to renew it.
fn taken(earlier: Option<&Lease>, name: &str, identity: &str, least: u64) -> Lease {
    let now = MicroTime(Timestamp::now());
    let mut lease = earlier.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Lease::default()
    });
    let changes_hands = holder(&lease) != identity;
    let count = (transitions(&lease) + u64::from(changes_hands)).max(least);
    let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
    if changes_hands {
        spec.holder_identity = Some(identity.to_owned());
        spec.acquire_time = Some(now.clone());
    }
    spec.lease_transitions = Some(i32::try_from(count).unwrap_or(i32::MAX));
    spec.lease_duration_seconds = i32::try_from(VALID.as_secs()).ok();
    spec.renew_time = Some(now);
    lease
}

fn decide(seen: Option<&Sighting>, me: &str, now: Instant) -> Move {
    let Some(Sighting { lease, since }) = seen else { return Move::Create };
    let holder = holder(lease);
    if holder.is_empty() || holder == me || now.duration_since(*since) > VALID {
        Move::Take
    } else {
        Move::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, since: Instant) -> Sighting {
        let spec = LeaseSpec { holder_identity: Some(holder.to_owned()), ..LeaseSpec::default() };
        Sighting { lease: Lease { spec: Some(spec), ..Lease::default() }, since }
    }

    #[test]
    fn lease_is_taken_only_when_it_is_free_our_own_or_expired() {
        let start = Instant::now();
        assert_eq!(decide(None, "me", start), Move::Create);
        assert_eq!(decide(Some(&held_by("", start)), "me", start), Move::Take);
        assert_eq!(decide(Some(&held_by("me", start)), "me", start), Move::Take);
        assert_eq!(decide(Some(&held_by("other", start)), "me", start + VALID), Move::Wait);
        assert_eq!(decide(Some(&held_by("other", start)), "me", start + VALID * 2), Move::Take);
    }

    #[test]
    fn token_is_raised_when_the_holder_changes_and_not_when_it_renews() {
        let first = taken(None, "lease", "a", 0);
        assert_eq!(transitions(&first), 1);
        let renewed = taken(Some(&first), "lease", "a", 1);
        assert_eq!(transitions(&renewed), 1);
        let second = taken(Some(&renewed), "lease", "b", 0);
        assert_eq!((holder(&second), transitions(&second)), ("b", 2));
    }

    #[test]
    fn lease_is_raised_when_a_higher_token_is_recorded() {
        let fence = Fence::default();
        fence.hold(1);
        fence.recorded(1);
        assert_eq!(fence.least(), 1);
        // The Lease was deleted while a cluster remembers its seventh holder.
        fence.recorded(7);
        fence.recorded(3);
        let raised = taken(Some(&taken(None, "lease", "a", 0)), "lease", "a", fence.least());
        assert_eq!(transitions(&raised), 8);
        fence.hold(8);
        assert_eq!(fence.least(), 8);
    }

    #[test]
    fn lease_keeps_its_token_when_it_is_deleted_under_its_holder() {
        let fence = Fence::default();
        fence.hold(5);
        assert_eq!(transitions(&taken(None, "lease", "a", fence.least())), 5);
    }

    #[test]
    fn holder_stops_before_another_replica_may_take_the_lease() {
        assert!(GIVE_UP + REQUEST_TIMEOUT < VALID);
    }
}
