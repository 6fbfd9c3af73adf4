//! The authentication state of a client's connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use helios_config::Secret;

/// A connection of a protocol whose requests are authenticated one by one. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    /// The header that authenticated the last request: the same header again is no guess.
    proven: Arc<Mutex<Option<Secret>>>,
}

impl Default for Client {
    /// A connection from an unknown host, so not from this one.
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

    /// Records the header of a request; `None`: it was wrong.
    pub(super) fn note(&self, header: Option<&str>) {
        *self.proven() = header.map(Secret::new);
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
