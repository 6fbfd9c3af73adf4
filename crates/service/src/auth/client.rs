//! Authentication state of a client connection in protocols that authenticate each request.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use helios_config::Secret;

/// Authentication state of one HTTP or gRPC connection, on which each request carries its credentials. Clones share the
/// state.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    /// Header with which the last request authenticated; the same header again is not a guess.
    proven: Arc<Mutex<Option<Secret>>>,
}

impl Default for Client {
    /// A client at an unknown address, which counts as another host.
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

    /// Remembers the header that authenticated; `None`: the attempt failed.
    pub(super) fn remember(&self, header: Option<&str>) {
        *self.proven() = header.map(Secret::new);
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
