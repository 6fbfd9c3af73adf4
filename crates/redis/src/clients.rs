//! Connected clients, as `CLIENT LIST` shows them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use helios_service::auth::DEFAULT_USER;
use helios_service::client_memory::{Account, ClientMemory};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::frame::Protocol;

/// All connections of one listener.
#[derive(Debug, Default)]
pub struct Clients {
    last_id: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<Client>>>,
}

/// One connection. Its own task writes here, `CLIENT LIST` of any connection reads.
#[derive(Debug)]
pub struct Client {
    pub id: u64,
    pub address: SocketAddr,
    pub local_address: SocketAddr,
    connected: Instant,
    /// Token that closes the connection at once.
    pub cut: CancellationToken,
    /// Memory account of the connection.
    pub account: Arc<Account>,
    /// Sender that ends the connection's blocking command, if one waits.
    unblock: Mutex<Option<oneshot::Sender<Unblock>>>,
    profile: Mutex<Profile>,
}

/// How `CLIENT UNBLOCK` ends a blocking command: with the reply of a timeout, or with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unblock {
    Timeout,
    Error,
}

#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    /// User name; empty before the client has authenticated.
    pub user: String,
    pub library_name: String,
    pub library_version: String,
    pub protocol: Protocol,
    pub last_command: &'static str,
    pub last_active: Instant,
    pub channels: usize,
    pub patterns: usize,
}

/// Entry in the list of clients; removed on drop, however the connection ends.
#[derive(Debug)]
pub struct Registration {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Clients {
    pub fn len(&self) -> usize {
        lock(&self.live).len()
    }

    /// Registers a new connection; `None` if `limit` are registered already.
    pub fn register(
        self: &Arc<Self>,
        memory: &Arc<ClientMemory>,
        address: SocketAddr,
        local_address: SocketAddr,
        limit: usize,
    ) -> Option<Registration> {
        let mut live = lock(&self.live);
        if live.len() >= limit {
            return None;
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, address, local_address, memory));
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
    fn new(id: u64, address: SocketAddr, local_address: SocketAddr, memory: &Arc<ClientMemory>) -> Self {
        let (connected, cut) = (Instant::now(), CancellationToken::new());
        let profile = Profile {
            name: String::new(),
            user: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            protocol: Protocol::default(),
            last_command: "NULL",
            last_active: connected,
            channels: 0,
            patterns: 0,
        };
        Self {
            id,
            address,
            local_address,
            connected,
            account: Arc::new(memory.open(address, cut.clone())),
            cut,
            unblock: Mutex::default(),
            profile: Mutex::new(profile),
        }
    }

    pub fn profile(&self) -> MutexGuard<'_, Profile> {
        lock(&self.profile)
    }

    /// Returns the receiver by which `CLIENT UNBLOCK` ends the blocking command that starts now.
    pub fn wait(&self) -> oneshot::Receiver<Unblock> {
        let (sender, receiver) = oneshot::channel();
        *lock(&self.unblock) = Some(sender);
        receiver
    }

    /// Ends the client's blocking command; returns false if none waits.
    pub fn unblock(&self, unblock: Unblock) -> bool {
        lock(&self.unblock).take().is_some_and(|sender| sender.send(unblock).is_ok())
    }

    fn is_blocked(&self) -> bool {
        lock(&self.unblock).as_ref().is_some_and(|sender| !sender.is_closed())
    }

    fn flags(&self, profile: &Profile) -> String {
        let flags = [(profile.listens(), 'P'), (self.is_blocked(), 'b')];
        let set: String = flags.into_iter().filter_map(|(is_set, flag)| is_set.then_some(flag)).collect();
        if set.is_empty() { "N".to_owned() } else { set }
    }

    /// Formats the client as one line of `CLIENT LIST`, with the fields that tools parse.
    pub fn describe(&self) -> String {
        let profile = self.profile().clone();
        let (unsent, held) = self.account.held();
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db=0 sub={} psub={} ssub=0 multi=-1 \
             omem={unsent} tot-mem={held} events=r cmd={} user={} redir=-1 resp={} lib-name={} lib-ver={}\n",
            self.id,
            self.address,
            self.local_address,
            profile.name,
            self.connected.elapsed().as_secs(),
            profile.last_active.elapsed().as_secs(),
            self.flags(&profile),
            profile.channels,
            profile.patterns,
            profile.last_command,
            profile.user(),
            profile.protocol.version(),
            profile.library_name,
            profile.library_version,
        )
    }
}

impl Profile {
    pub fn user(&self) -> &str {
        if self.user.is_empty() { DEFAULT_USER } else { &self.user }
    }

    /// Whether the client has a subscription, so that `CLIENT LIST` shows it with the type `pubsub`.
    pub fn listens(&self) -> bool {
        self.channels + self.patterns > 0
    }
}

/// Locks `mutex`. Poisoning is ignored: every critical section here leaves its data consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
