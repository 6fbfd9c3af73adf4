//! A client's connection, as far as authentication is concerned.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use helios_config::Secret;

/// Of one connection of a protocol in which each request says again who it is of. Clones are of the same connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    /// The header by which the last request was let in: it is no guess when it comes again.
    proven: Arc<Mutex<Option<Secret>>>,
}

impl Default for Client {
    /// Of a host that is not known, and so not this one.
    fn default() -> Self {
        Self::new((Ipv4Addr::UNSPECIFIED, 0).into())
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, proven: Arc::default() }
    }

    pub(super) fn has_proven(&self, header: &str) -> bool {
        self.proven().as_ref().is_some_and(|proven| proven.matches(header.as_bytes()))
    }

    /// `None`: it was wrong.
    pub(super) fn note(&self, header: Option<&str>) {
        *self.proven() = header.map(Secret::new);
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
