//! The connected clients, as `CLIENT LIST` shows them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::frame::Protocol;
use crate::auth::DEFAULT_USER;

/// All connections of one listener.
#[derive(Debug, Default)]
pub struct Clients {
    last_id: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<Client>>>,
}

/// One connection; its own task writes, `CLIENT LIST` of any connection reads.
#[derive(Debug)]
pub struct Client {
    pub id: u64,
    address: SocketAddr,
    local_address: SocketAddr,
    connected: Instant,
    /// Ends the connection at once.
    pub cut: CancellationToken,
    profile: Mutex<Profile>,
}

#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    /// Empty before it said who it is.
    pub user: String,
    pub library_name: String,
    pub library_version: String,
    pub protocol: Protocol,
    pub last_command: &'static str,
    pub last_active: Instant,
}

/// Takes its client off the list when the connection ends, however it ends.
#[derive(Debug)]
pub struct Registration {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Clients {
    pub fn len(&self) -> usize {
        lock(&self.live).len()
    }

    /// Lists a new connection, unless there are `limit` already.
    pub fn register(
        self: &Arc<Self>,
        address: SocketAddr,
        local_address: SocketAddr,
        limit: usize,
    ) -> Option<Registration> {
        let mut live = lock(&self.live);
        if live.len() >= limit {
            return None;
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, address, local_address));
        live.insert(id, client.clone());
        Some(Registration { clients: self.clone(), client })
    }

    pub fn list(&self) -> Vec<Arc<Client>> {
        lock(&self.live).values().cloned().collect()
    }
}

impl Registration {
    pub fn client(&self) -> Arc<Client> {
        self.client.clone()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.clients.live).remove(&self.client.id);
    }
}

impl Client {
    fn new(id: u64, address: SocketAddr, local_address: SocketAddr) -> Self {
        let connected = Instant::now();
        let profile = Profile {
            name: String::new(),
            user: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            protocol: Protocol::default(),
            last_command: "NULL",
            last_active: connected,
        };
        Self {
            id,
            address,
            local_address,
            connected,
            cut: CancellationToken::new(),
            profile: Mutex::new(profile),
        }
    }

    pub fn profile(&self) -> MutexGuard<'_, Profile> {
        lock(&self.profile)
    }

    /// One line of `CLIENT LIST`, with the fields that tools parse.
    pub fn describe(&self) -> String {
        let profile = self.profile().clone();
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 \
             events=r cmd={} user={} redir=-1 resp={} lib-name={} lib-ver={}\n",
            self.id,
            self.address,
            self.local_address,
            profile.name,
            self.connected.elapsed().as_secs(),
            profile.last_active.elapsed().as_secs(),
            profile.last_command,
            if profile.user.is_empty() { DEFAULT_USER } else { &profile.user },
            profile.protocol.version(),
            profile.library_name,
            profile.library_version,
        )
    }
}

/// Every critical section here leaves its data whole, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
