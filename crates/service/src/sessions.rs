//! Number of open client connections, by port: each is counted from its acceptance until it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counter of the open connections of one port; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<AtomicU64>);

/// An open connection; counted until it is dropped.
#[derive(Debug)]
pub struct Session(Arc<AtomicU64>);

impl Open {
    pub fn begin(&self) -> Session {
        self.0.fetch_add(1, Ordering::Relaxed);
        Session(Arc::clone(&self.0))
    }

    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counters of a node's ports for clients.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Connections of the Redis port.
    pub client: Open,
    pub grpc: Open,
    pub gateway: Open,
}

impl Sessions {
    /// Returns the counter of the port that the configuration calls `name`. Connections of ports without clients are
    /// not reported.
    pub fn of(&self, name: &str) -> Open {
        match name {
            "client" => self.client.clone(),
            "grpc" => self.grpc.clone(),
            "gateway" => self.gateway.clone(),
            _ => Open::default(),
        }
    }
}
