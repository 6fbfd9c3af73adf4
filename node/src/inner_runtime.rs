//! The runtime for other members and probes: one thread that runs no client's work. Heartbeats are sent and `/livez`
//! answers however busy the clients' workers are.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Limit of concurrent blocking work of peers: snapshots, management.
const MAX_BLOCKING: usize = 32;
/// Time for blocking work that is in progress at the end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The inner runtime; dropping it ends it.
#[derive(Debug)]
pub struct InnerRuntime {
    handle: Handle,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl InnerRuntime {
    /// Starts the runtime. `name`: the node's, for the name of the thread.
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

    /// Ends the tasks that still run, and waits for the thread.
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
