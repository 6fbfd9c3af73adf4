//! Open client connections by port, counted from their acceptance until they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Open connections of one port. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<AtomicU64>);

/// One open connection; counted until dropped.
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

/// The client ports of a node.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Redis protocol.
    pub client: Open,
    pub grpc: Open,
    pub gateway: Open,
}

impl Sessions {
    /// The count of the port that the configuration calls `name`. Connections of other ports are not reported.
    pub fn of(&self, name: &str) -> Open {
        match name {
            "client" => self.client.clone(),
            "grpc" => self.grpc.clone(),
            "gateway" => self.gateway.clone(),
            _ => Open::default(),
        }
    }
}
