//! The runtime of what other members and probes wait for: one thread, which no client's work runs on. However busy the
//! workers of clients are, heartbeats leave and `/livez` answers.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Blocking work of peers at once: snapshots, management.
const MAX_BLOCKING: usize = 32;
/// For blocking work that is under way at the end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Dropped, it ends.
#[derive(Debug)]
pub struct InnerRuntime {
    handle: Handle,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl InnerRuntime {
    /// `name`: of the node, for those that look at threads.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name("peers-blocking")
            .build()?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let ended = end.clone();
        let run = move || {
            runtime.block_on(ended.cancelled());
            runtime.shutdown_timeout(END_TIMEOUT);
        };
        let thread = std::thread::Builder::new().name(format!("peers-{name}")).spawn(run)?;
        Ok(Self { handle, end, thread: Some(thread) })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends what still runs on it, and waits for the thread.
    pub async fn stop(mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
        }
    }
}

impl Drop for InnerRuntime {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
