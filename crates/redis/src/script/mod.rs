//! Lua scripts: `EVAL`, `EVALSHA` and their read-only variants.
//!
//! A script runs on the member that its client is connected to, in a separate interpreter, on a
//! [`Trial`](helios_state::Trial) of the state. Its writes go to the log as one guarded transaction, so they
//! take effect as a whole and once, or not at all; if a key that it looked at was changed meanwhile, it runs
//! again (ADR 0014). While it runs it holds no lock of the state and no worker thread of the async runtime.

mod calls;
mod convert;
mod json;
mod meter;
mod natives;
mod pattern;
mod sandbox;
mod shebang;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::error::Refusal;
pub use calls::{Host, World};
pub use convert::cost;
pub use meter::{Halt, MAX_MEMORY_BYTES, MAX_TIME, Stopped, over_budget};
pub use sandbox::{Job, run};
/// Limits of scripts, for the table of limits.
pub mod limits {
    pub use super::calls::MAX_MESSAGES;
    pub use super::convert::MAX_DEPTH as MAX_ANSWER_DEPTH;
    pub use super::natives::MAX_LOG_BYTES;
    pub use super::pattern::MAX_DEPTH as MAX_PATTERN_DEPTH;
    pub use super::sandbox::{MAX_SCRIPT_BYTES, MAX_TEXT_BYTES};
    pub use super::{MAX_MEMORY_BYTES, MAX_TIME};
    pub const MAX_RUNNING: usize = super::MAX_RUNNING;
    pub const MAX_KEPT: usize = super::MAX_KEPT;
    pub const MAX_KEPT_BYTES: usize = super::MAX_KEPT_BYTES;
}

/// Number of scripts that run at once on a node; others wait for a slot.
const MAX_RUNNING: usize = 16;
/// Number of cached scripts for `EVALSHA`; the oldest are dropped.
const MAX_KEPT: usize = 4_096;
const MAX_KEPT_BYTES: usize = 32 << 20;
/// Number of locks that keys are hashed to. Scripts of this node with a common key run one after the other:
/// side by side each would invalidate the tries of the others.
const LANES: u64 = 256;

/// Request to run or load a script.
#[derive(Debug, Clone)]
pub struct ScriptCall {
    pub body: Body,
    pub keys: Vec<Bytes>,
    pub args: Vec<Bytes>,
    /// Whether commands that write are rejected.
    pub read_only: bool,
    pub purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Run,
    /// `SCRIPT LOAD`: compiles and caches the script, on the thread that runs scripts, since compilation may
    /// take long.
    Load,
}

#[derive(Debug, Clone)]
pub enum Body {
    Text(Bytes),
    /// SHA-1 digest of the text in hexadecimal digits.
    Digest(Bytes),
}

#[derive(Debug)]
pub struct Program {
    pub text: Bytes,
    /// SHA-1 digest of the text in hexadecimal digits of lower case.
    pub digest: String,
}

/// Cached and running scripts of one node.
pub struct Scripts {
    kept: Mutex<Kept>,
    running: Mutex<BTreeMap<u64, Arc<Halt>>>,
    last_run: AtomicU64,
    slots: Arc<Semaphore>,
    lanes: Vec<AsyncMutex<()>>,
}

#[derive(Default)]
struct Kept {
    programs: HashMap<String, Arc<Program>>,
    oldest: VecDeque<String>,
    bytes: usize,
}

/// Permission to run a script now.
pub struct Turn<'a> {
    /// Stops the script: set by `SCRIPT KILL` and when this is dropped, so that no script outlives its request.
    pub halt: Arc<Halt>,
    /// Slot among [`MAX_RUNNING`]; the thread that runs the script holds it even if its request has ended.
    pub slot: Arc<Option<OwnedSemaphorePermit>>,
    number: u64,
    scripts: &'a Scripts,
    _lanes: Vec<AsyncMutexGuard<'a, ()>>,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            running: Mutex::default(),
            last_run: AtomicU64::new(0),
            slots: Arc::new(Semaphore::new(MAX_RUNNING)),
            lanes: (0..LANES).map(|_| AsyncMutex::default()).collect(),
        }
    }
}

impl Scripts {
    /// Returns the script; a text is compiled and cached. Compilation may take long: call it from a blocking
    /// thread.
    pub fn find(&self, body: &Body) -> Result<Arc<Program>, Refusal> {
        match body {
            Body::Digest(digest) => {
                let digest = String::from_utf8_lossy(digest).to_ascii_lowercase();
                let found = lock(&self.kept).programs.get(&digest).cloned();
                found.ok_or(Refusal::other("NOSCRIPT No matching script. Please use EVAL."))
            }
            Body::Text(text) => self.keep(text),
        }
    }

    fn keep(&self, text: &Bytes) -> Result<Arc<Program>, Refusal> {
        let digest = digest_of(text);
        if let Some(known) = lock(&self.kept).programs.get(&digest) {
            return Ok(known.clone());
        }
        sandbox::check(text)?;
        // Copied: a slice would keep all that was read together with it.
        let program = Arc::new(Program { text: Bytes::copy_from_slice(text), digest });
        lock(&self.kept).add(program.clone());
        Ok(program)
    }

    pub fn is_kept(&self, digest: &[u8]) -> bool {
        let digest = String::from_utf8_lossy(digest).to_ascii_lowercase();
        lock(&self.kept).programs.contains_key(&digest)
    }

    pub fn forget_all(&self) {
        *lock(&self.kept) = Kept::default();
    }

    /// Stops all running scripts; returns false if there are none.
    pub fn kill_all(&self) -> bool {
        let running = lock(&self.running);
        running.values().for_each(|halt| halt.ask(Stopped::Killed));
        !running.is_empty()
    }

    /// Waits until no other script on this node runs with one of these keys, and for a free slot.
    pub async fn turn<'a>(&'a self, keys: impl Iterator<Item = &Bytes>) -> Turn<'a> {
        let mut numbers: Vec<u64> = keys.map(lane_of).collect();
        // All scripts lock in the same order, so there is no deadlock.
        numbers.sort_unstable();
        numbers.dedup();
        let mut lanes = Vec::with_capacity(numbers.len());
        for number in numbers {
            lanes.push(self.lanes[number as usize].lock().await);
        }
        // The semaphore is never closed.
        let slot = Arc::new(Arc::clone(&self.slots).acquire_owned().await.ok());
        let (number, halt) = (self.last_run.fetch_add(1, Ordering::Relaxed), Arc::default());
        lock(&self.running).insert(number, Arc::clone(&halt));
        Turn { halt, slot, number, scripts: self, _lanes: lanes }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.halt.ask(Stopped::ClientGone);
        lock(&self.scripts.running).remove(&self.number);
    }
}

impl Kept {
    fn add(&mut self, program: Arc<Program>) {
        self.bytes += program.text.len();
        if self.programs.insert(program.digest.clone(), program.clone()).is_some() {
            self.bytes -= program.text.len();
            return;
        }
        self.oldest.push_back(program.digest.clone());
        while self.programs.len() > MAX_KEPT || (self.bytes > MAX_KEPT_BYTES && self.programs.len() > 1) {
            let Some(oldest) = self.oldest.pop_front() else { return };
            self.bytes -= self.programs.remove(&oldest).map_or(0, |program| program.text.len());
        }
    }
}

fn lane_of(key: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() % LANES
}

/// Returns the SHA-1 digest of `text` in hexadecimal digits of lower case.
pub fn digest_of(text: &[u8]) -> String {
    Sha1::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Locks `mutex`. Poisoning is ignored: every critical section here leaves its data consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Scripts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = lock(&self.kept);
        formatter.debug_struct("Scripts").field("kept", &kept.programs.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cached_by_digest_up_to_a_bound() {
        let scripts = Scripts::default();
        let text = |number: usize| Bytes::from(format!("return {number}"));
        let first = scripts.find(&Body::Text(text(0))).unwrap();
        assert_eq!(digest_of(b"return 1"), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
        let by_digest = Body::Digest(first.digest.to_uppercase().into());
        assert!(Arc::ptr_eq(&scripts.find(&by_digest).unwrap(), &first));
        for number in 1..=MAX_KEPT {
            lock(&scripts.kept)
                .add(Arc::new(Program { text: text(number), digest: digest_of(&text(number)) }));
        }
        assert!(scripts.find(&by_digest).is_err(), "the oldest was dropped");
        assert!(scripts.is_kept(digest_of(&text(1)).as_bytes()));
        let large = |byte: u8| Bytes::from(vec![byte; MAX_KEPT_BYTES - 1]);
        for byte in [b'a', b'b'] {
            let program = Program { text: large(byte), digest: digest_of(&large(byte)) };
            lock(&scripts.kept).add(Arc::new(program));
        }
        assert_eq!(lock(&scripts.kept).programs.len(), 1);
        scripts.forget_all();
        let kept = lock(&scripts.kept);
        assert_eq!((kept.bytes, kept.programs.len()), (0, 0));
    }

    #[tokio::test]
    async fn scripts_with_a_common_key_run_in_turn_and_others_do_not_wait() {
        let scripts = Scripts::default();
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        assert_ne!(lane_of(&a), lane_of(&b));
        let first = scripts.turn([&a, &a].into_iter()).await;
        scripts.turn([&b].into_iter()).await;
        let mut second = std::pin::pin!(scripts.turn([&b, &a].into_iter()));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(scripts.kill_all());
        assert_eq!(first.halt.asked(), Some(Stopped::Killed));
        drop(first);
        assert_eq!(second.await.halt.asked(), None);
        assert!(!scripts.kill_all());
    }
}
