//! Starts and stops the threads of a member.

use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use super::core::Settings;
use super::driver::{Driver, Outbound, Workers};
use super::handle::RaftHandle;
use super::log_reader::LogReader;
use super::log_writer::LogWriter;
use super::merger::Merger;
use super::recovery::Recovery;
use super::scrubber::Scrubber;
use super::snapshots::Snapshots;
use super::suspects::Suspects;
use super::workers::{Applier, Checkpointer};
use crate::metrics::Metrics;
use helios_state::Store;
use helios_storage::wal::Wal;

/// Limit of requests that wait for the Raft thread; one more is rejected with OVERLOADED.
const INBOX: usize = 16_384;

/// Signal that a thread of the node cannot continue. The process then ends: a member that lost its
/// disk or its state machine must neither vote nor lead.
#[derive(Clone)]
pub struct Fatal(watch::Sender<Option<String>>);

impl Default for Fatal {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Fatal {
    pub fn raise(&self, reason: String) {
        tracing::error!(%reason, "this node cannot continue");
        self.0.send_if_modified(|first| {
            let raised = first.is_none();
            first.get_or_insert(reason);
            raised
        });
    }

    /// Resolves with the first reason raised.
    pub async fn raised(&self) -> String {
        let mut receiver = self.0.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// The running threads of a member.
pub struct Runtime {
    handle: RaftHandle,
    threads: Vec<JoinHandle<()>>,
}

pub struct Parts {
    pub settings: Settings,
    pub wal: Wal,
    pub store: Store,
    pub snapshots: Arc<Snapshots>,
    pub recovery: Recovery,
    pub suspects: Suspects,
    /// Bandwidth of the scrub; `None`: no scrub.
    pub scrub_bytes_per_second: Option<NonZeroU64>,
    pub metrics: Arc<Metrics>,
    pub fatal: Fatal,
}

/// Starts the threads. `outbound` is made from the handle, because the peer links need the handle and Raft needs the
/// links.
pub fn start(
    parts: Parts,
    outbound: impl FnOnce(&RaftHandle) -> Arc<dyn Outbound>,
) -> Result<Runtime, String> {
    let Parts { settings, wal, store, snapshots, recovery, suspects, scrub_bytes_per_second, metrics, fatal } =
        parts;
    let id = settings.id;
    let now = Instant::now();
    let boot_nonce = rand::random();
    let core = recovery
        .into_core(settings, &store, boot_nonce, now)
        .map_err(|error| format!("starting raft: {error}"))?;

    let (inbox_sender, inbox) = crossbeam_channel::bounded(INBOX);
    let (done_sender, done) = crossbeam_channel::unbounded();
    let (log_sender, log_jobs) = crossbeam_channel::unbounded();
    let (apply_sender, apply_jobs) = crossbeam_channel::unbounded();
    let (fetch_sender, fetch_jobs) = crossbeam_channel::unbounded();
    let (checkpoint_sender, checkpoint_jobs) = crossbeam_channel::unbounded();
    let (background_sender, background_end) = crossbeam_channel::bounded(0);
    let status = watch::Sender::new(Arc::new(core.status(now)));
    let applied = watch::Sender::new(store.applied().index);
    let handle = RaftHandle {
        inbox: inbox_sender,
        status: status.subscribe(),
        applied: applied.subscribe(),
        waiting: Arc::default(),
    };
    let outbound = outbound(&handle);
    outbound.set_membership(store.membership());

    let workers = Workers {
        log: log_sender,
        apply: apply_sender,
        fetch: fetch_sender,
        checkpoint: checkpoint_sender,
        background: background_sender,
    };
    let driver = Driver { core, inbox, done, workers, outbound, status, metrics: Arc::clone(&metrics) };
    let applier = Applier {
        store: store.clone(),
        snapshots: Arc::clone(&snapshots),
        done: done_sender.clone(),
        applied,
        metrics: Arc::clone(&metrics),
        suspects,
        held: Vec::new(),
    };
    let log_reader = LogReader { reader: wal.reader(), jobs: fetch_jobs, done: done_sender.clone() };
    let log_writer = LogWriter::new(wal, store.clone(), log_jobs, done_sender.clone(), Arc::clone(&metrics));
    let merger = Merger { store: store.clone(), metrics: Arc::clone(&metrics), end: background_end.clone() };
    let scrubber = Scrubber {
        store: store.clone(),
        id,
        bytes_per_second: scrub_bytes_per_second,
        metrics: Arc::clone(&metrics),
        end: background_end,
    };
    let checkpointer = Checkpointer { store, snapshots, wanted: checkpoint_jobs, done: done_sender, metrics };
    let threads = vec![
        spawn("raft", &fatal, move || driver.run()),
        spawn("wal", &fatal, move || log_writer.run()),
        spawn("wal-reader", &fatal, move || log_reader.run()),
        spawn("apply", &fatal, move || applier.run(&apply_jobs)),
        spawn("checkpoint", &fatal, move || checkpointer.run()),
        spawn("merge", &fatal, move || merger.run()),
        spawn("scrub", &fatal, move || scrubber.run()),
    ];
    Ok(Runtime { handle, threads })
}

fn spawn(
    name: &'static str,
    fatal: &Fatal,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> JoinHandle<()> {
    let fatal = fatal.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => fatal.raise(reason),
            Err(_) => fatal.raise(format!("the {name} thread panicked; see the log above")),
        })
        .expect("the operating system gives a process its first threads")
}

impl Runtime {
    pub fn handle(&self) -> &RaftHandle {
        &self.handle
    }

    /// Stops the Raft thread first, then its workers, which finish their queued jobs. The last step is a
    /// checkpoint.
    pub fn stop(self) {
        self.handle.stop();
        for thread in self.threads {
            // A panic was already raised as fatal.
            drop(thread.join());
        }
    }
}
