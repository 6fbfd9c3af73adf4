//! Which replica of the operator acts. Whoever loses the Lease ends its process: a step that is
//! half way must not meet another process's.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::error::Error;

/// A holder that has not renewed for so long is taken for dead.
const VALID: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// The holder gives up this early, so that it has ended before another may begin.
const GIVE_UP: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

pub struct Holder {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<Sighting>,
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
        Self { api: Api::namespaced(client, namespace), name, identity, seen: None }
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
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match self.attempt().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return "another process holds the lease".to_owned(),
                Err(error) if renewed.elapsed() + RENEW_EVERY > GIVE_UP => {
                    return format!("the lease was not renewed in time: {error}");
                }
                Err(error) => tracing::warn!(%error, "cannot renew the lease; trying again"),
            }
        }
    }

    /// Gives the Lease up, so that another need not wait for it to run out.
    pub async fn release(&mut self) {
        let Some(Sighting { mut lease, .. }) = self.seen.take() else { return };
        lease.spec.get_or_insert_default().holder_identity = None;
        let params = PostParams::default();
        let replaced = self.api.replace(&self.name, &params, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(REQUEST_TIMEOUT, replaced).await {
            tracing::warn!(%error, "cannot give the lease up; it runs out by itself");
        }
    }

    async fn attempt(&mut self) -> Result<bool, Error> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.attempt_now()).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unreachable {
                member: "the API server".to_owned(),
                doing: "work on the lease",
                message: format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()),
            }),
        }
    }

    async fn attempt_now(&mut self) -> Result<bool, Error> {
        let found = self.api.get_opt(&self.name).await.map_err(Error::kube("read Lease", &self.name))?;
        self.note(found);
        let written = match decide(self.seen.as_ref(), &self.identity, Instant::now()) {
            Move::Wait => return Ok(false),
            Move::Create => self.api.create(&PostParams::default(), &self.taken(None)).await,
            // A replace carries the version that was read, so of two that try only one succeeds.
            Move::Take => {
                let taken = self.taken(self.seen.as_ref().map(|seen| &seen.lease));
                self.api.replace(&self.name, &PostParams::default(), &taken).await
            }
        };
        match written {
            Ok(lease) => {
                self.note(Some(lease));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(Error::kube("write Lease", &self.name)(error)),
        }
    }

    fn note(&mut self, found: Option<Lease>) {
        self.seen = found.map(|lease| match self.seen.take() {
            Some(seen) if seen.lease.resource_version() == lease.resource_version() => seen,
            _ => Sighting { lease, since: Instant::now() },
        });
    }

    fn taken(&self, earlier: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = earlier.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
            spec.acquire_time = Some(now.clone());
        }
        spec.lease_duration_seconds = i32::try_from(VALID.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }
}

fn decide(seen: Option<&Sighting>, me: &str, now: Instant) -> Move {
    let Some(Sighting { lease, since }) = seen else { return Move::Create };
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
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
    fn a_lease_is_taken_only_from_nobody_from_oneself_or_from_the_dead() {
        let start = Instant::now();
        assert_eq!(decide(None, "me", start), Move::Create);
        assert_eq!(decide(Some(&held_by("", start)), "me", start), Move::Take);
        assert_eq!(decide(Some(&held_by("me", start)), "me", start), Move::Take);
        assert_eq!(decide(Some(&held_by("other", start)), "me", start + VALID), Move::Wait);
        assert_eq!(decide(Some(&held_by("other", start)), "me", start + VALID * 2), Move::Take);
    }

    #[test]
    fn the_holder_ends_before_another_may_begin() {
        assert!(GIVE_UP + REQUEST_TIMEOUT < VALID);
    }
}
