//! Client connections open now, by port: counted from the moment their Door let them in until they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one port. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<AtomicU64>);

/// One connection, for as long as it lives.
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

/// Of a node's ports for clients.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Redis protocol.
    pub client: Open,
    pub grpc: Open,
    pub gateway: Open,
}

impl Sessions {
    /// Of the port that the configuration calls `name`. The others have no clients, and are not told of.
    pub fn of(&self, name: &str) -> Open {
        match name {
            "client" => self.client.clone(),
            "grpc" => self.grpc.clone(),
            "gateway" => self.gateway.clone(),
            _ => Open::default(),
        }
    }
}
