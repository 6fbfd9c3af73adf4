//! Memory of the client connections of one node: unsent replies, unread messages, and requests that are not executed
//! yet. Each connection has an [`Account`], charged before the memory is held; if all accounts together exceed the
//! limit, the connection with the largest account is closed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use helios_config::MemoryLimits;
use tokio_util::sync::CancellationToken;

use crate::rejections::Rejections;

/// Reason for closing a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    OutputLimit,
    SoftOutputLimit,
    PubsubLimit,
    WriteTimeout,
    /// The connection held most when all together exceeded their limit.
    ClientsLimit,
}

impl Cause {
    /// Returns the `reason` label of the metric.
    fn reason(self) -> &'static str {
        match self {
            Self::OutputLimit | Self::SoftOutputLimit | Self::PubsubLimit => "output_buffer_limit",
            Self::WriteTimeout => "write_timeout",
            Self::ClientsLimit => "maxmemory_clients",
        }
    }

    fn text(self, limits: &MemoryLimits) -> String {
        match self {
            Self::OutputLimit => {
                format!(
                    "its unsent replies exceed client.output_buffer_limit ({} bytes)",
                    limits.output_bytes
                )
            }
            Self::SoftOutputLimit => format!(
                "its unsent replies exceeded client.output_buffer_soft_limit ({} bytes) for \
                 client.output_buffer_soft_seconds ({} s)",
                limits.soft_output_bytes,
                limits.soft_time.as_secs()
            ),
            Self::PubsubLimit => format!(
                "its unread messages exceed client.pubsub_output_buffer_limit ({} bytes)",
                limits.pubsub_bytes
            ),
            Self::WriteTimeout => format!(
                "it read no reply for client.write_timeout ({} ms)",
                limits.write_timeout.unwrap_or_default().as_millis()
            ),
            Self::ClientsLimit => format!(
                "all clients together exceed client.maxmemory_clients ({} bytes) and this one holds most",
                limits.all_bytes
            ),
        }
    }
}

/// Accounts of all connections of one listener.
#[derive(Debug)]
pub struct ClientMemory {
    pub limits: MemoryLimits,
    rejections: Rejections,
    /// Bytes of all accounts that are not closed.
    total: AtomicUsize,
    last_id: AtomicU64,
    accounts: Mutex<BTreeMap<u64, Arc<Shared>>>,
    over_limit: AtomicU64,
    evicted: AtomicU64,
}

/// Account of one connection; dropping it releases its charges.
#[derive(Debug)]
pub struct Account {
    id: u64,
    memory: Arc<ClientMemory>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    from: SocketAddr,
    cut: CancellationToken,
    held: Mutex<Held>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    output: usize,
    inbox: usize,
    input: usize,
    /// Whether the connection was cut. Its charges no longer count, as its task drops the memory.
    is_closed: bool,
}

impl Held {
    fn sum(self) -> usize {
        if self.is_closed { 0 } else { self.output + self.inbox + self.input }
    }
}

impl ClientMemory {
    pub fn new(limits: MemoryLimits, rejections: Rejections) -> Arc<Self> {
        Arc::new(Self {
            limits,
            rejections,
            total: AtomicUsize::new(0),
            last_id: AtomicU64::new(0),
            accounts: Mutex::default(),
            over_limit: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        })
    }

    /// Opens the account of a new connection; cancelling `cut` closes the connection.
    pub fn open(self: &Arc<Self>, from: SocketAddr, cut: CancellationToken) -> Account {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let shared = Arc::new(Shared { from, cut, held: Mutex::default() });
        lock(&self.accounts).insert(id, Arc::clone(&shared));
        Account { id, memory: Arc::clone(self), shared }
    }

    /// Returns the bytes that all connections hold now.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns the number of connections closed so far because they exceeded their own limit or did not read.
    pub fn over_limit(&self) -> u64 {
        self.over_limit.load(Ordering::Relaxed)
    }

    /// Returns the number of connections closed so far because all together exceeded their limit.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn close_largest(&self) {
        let accounts = lock(&self.accounts);
        while self.total() > self.limits.all_bytes {
            let held = |shared: &&Arc<Shared>| lock(&shared.held).sum();
            let Some(largest) = accounts.values().max_by_key(held) else { return };
            if held(&largest) == 0 {
                return;
            }
            self.close(largest, Cause::ClientsLimit);
        }
    }

    fn close(&self, shared: &Shared, cause: Cause) {
        let before = {
            let mut held = lock(&shared.held);
            let before = held.sum();
            if std::mem::replace(&mut held.is_closed, true) {
                return;
            }
            before
        };
        self.total.fetch_sub(before, Ordering::Relaxed);
        let counter = if cause == Cause::ClientsLimit { &self.evicted } else { &self.over_limit };
        counter.fetch_add(1, Ordering::Relaxed);
        self.rejections.report("client", cause.reason(), shared.from, cause.text(&self.limits));
        shared.cut.cancel();
    }
}

impl Account {
    pub fn limits(&self) -> &MemoryLimits {
        &self.memory.limits
    }

    /// Sets the charge for unsent replies.
    pub fn set_output(&self, bytes: usize) {
        self.change(|held| held.output = bytes);
    }

    /// Sets the charge for requests that are not executed yet.
    pub fn set_input(&self, bytes: usize) {
        self.change(|held| held.input = bytes);
    }

    /// Charges one more unread message; returns false if the connection exceeds its limit and is closed.
    pub fn add_message(&self, bytes: usize) -> bool {
        let inbox = self.change(|held| held.inbox += bytes).inbox;
        if inbox > self.memory.limits.pubsub_bytes {
            self.close(Cause::PubsubLimit);
        }
        !self.shared.cut.is_cancelled()
    }

    /// Releases the charge of a message that was read or not accepted.
    pub fn remove_message(&self, bytes: usize) {
        self.change(|held| held.inbox = held.inbox.saturating_sub(bytes));
    }

    /// Closes the connection; counted and logged once.
    pub fn close(&self, cause: Cause) {
        self.memory.close(&self.shared, cause);
    }

    pub fn is_closed(&self) -> bool {
        self.shared.cut.is_cancelled()
    }

    /// Returns the bytes of unsent replies and unread messages, and the bytes of everything.
    pub fn held(&self) -> (usize, usize) {
        let held = *lock(&self.shared.held);
        (held.output + held.inbox, held.output + held.inbox + held.input)
    }

    fn change(&self, change: impl FnOnce(&mut Held)) -> Held {
        let (before, after) = {
            let mut held = lock(&self.shared.held);
            let before = held.sum();
            change(&mut held);
            (before, *held)
        };
        let sum = after.sum();
        if sum <= before {
            self.memory.total.fetch_sub(before - sum, Ordering::Relaxed);
        } else {
            let total = self.memory.total.fetch_add(sum - before, Ordering::Relaxed) + sum - before;
            if total > self.memory.limits.all_bytes {
                self.memory.close_largest();
            }
        }
        after
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.change(|held| *held = Held { is_closed: held.is_closed, ..Held::default() });
        lock(&self.memory.accounts).remove(&self.id);
    }
}

/// Locks a mutex and ignores its poisoning: every critical section here leaves consistent data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    pub fn account(limits: MemoryLimits) -> (Arc<Account>, CancellationToken) {
        let cut = CancellationToken::new();
        let memory = ClientMemory::new(limits, Rejections::default());
        (Arc::new(memory.open(FROM, cut.clone())), cut)
    }

    #[test]
    fn the_largest_account_is_closed_when_all_together_exceed_their_limit() {
        let limits = MemoryLimits { all_bytes: 100, ..MemoryLimits::default() };
        let memory = ClientMemory::new(limits, Rejections::default());
        let cuts = [(); 3].map(|()| CancellationToken::new());
        let accounts = [0, 1, 2].map(|number: usize| memory.open(FROM, cuts[number].clone()));
        accounts[0].set_output(30);
        accounts[1].set_input(50);
        accounts[2].add_message(20);
        assert_eq!((memory.total(), memory.evicted()), (100, 0));
        accounts[0].set_output(31);
        assert_eq!(cuts.clone().map(|cut| cut.is_cancelled()), [false, true, false]);
        assert_eq!((memory.total(), memory.evicted(), memory.over_limit()), (51, 1, 0));
        // A closed account no longer counts, so that the next largest is not closed for it.
        accounts[1].set_input(90);
        assert_eq!((memory.total(), memory.evicted()), (51, 1));
        drop(accounts);
        assert_eq!((memory.total(), lock(&memory.accounts).len()), (0, 0));
    }

    #[test]
    fn a_subscriber_with_too_many_unread_messages_is_closed_once() {
        let (account, cut) = account(MemoryLimits { pubsub_bytes: 10, ..MemoryLimits::default() });
        assert!(account.add_message(10));
        account.remove_message(5);
        assert!(account.add_message(5) && !cut.is_cancelled());
        assert!(!account.add_message(1) && !account.add_message(1) && cut.is_cancelled());
        assert_eq!(account.memory.over_limit(), 1);
    }
}
