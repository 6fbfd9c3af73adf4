//! Witness: the latencies that another client and the kubelet observe during the calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::http;

const PAUSE: Duration = Duration::from_millis(10);
const OVER: usize = usize::MAX;

/// Client that sends PING on its own connection, and requests `/livez` at every tenth PING, until `end`.
pub struct Witness {
    /// Index of the present call.
    call: Arc<AtomicUsize>,
    watching: JoinHandle<Seen>,
}

/// Latency of each reply, with the index of the call during which it was measured.
#[derive(Default)]
pub struct Seen {
    pub pings: Waits,
    pub probes: Waits,
}

#[derive(Default)]
pub struct Waits(Vec<(Duration, usize)>);

impl Witness {
    pub fn of(client: u16, metrics: u16) -> Self {
        let call = Arc::new(AtomicUsize::new(0));
        let running = Arc::clone(&call);
        let watching = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(watch(client, metrics, &running))
        });
        Self { call, watching }
    }

    pub fn set_call(&self, call: usize) {
        self.call.store(call, Ordering::Relaxed);
    }

    pub fn end(self) -> Seen {
        self.call.store(OVER, Ordering::Relaxed);
        self.watching.join().expect("PING and /livez were answered throughout")
    }
}

async fn watch(client: u16, metrics: u16, running: &AtomicUsize) -> Seen {
    let mut stream = TcpStream::connect(("127.0.0.1", client)).await.unwrap();
    let mut seen = Seen::default();
    loop {
        let call = running.load(Ordering::Relaxed);
        if call == OVER {
            return seen;
        }
        let begun = Instant::now();
        stream.write_all(b"PING\r\n").await.expect("the member is there");
        stream.read_exact(&mut [0; 7]).await.expect("PING is answered");
        seen.pings.0.push((begun.elapsed(), call));
        if seen.pings.0.len().is_multiple_of(10) {
            let begun = Instant::now();
            let (code, _) = http(metrics, "GET", "/livez", "").await.expect("/livez is answered");
            assert_eq!(code, 200);
            seen.probes.0.push((begun.elapsed(), call));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Waits {
    /// Returns the latency below which `part` of a thousand lie; zero when there are none.
    pub fn at(&mut self, part: usize) -> Duration {
        self.0.sort_unstable();
        let at = self.0.len().saturating_sub(1) * part / 1_000;
        self.0.get(at).map_or(Duration::ZERO, |(wait, _)| *wait)
    }

    /// Formats median, 99th percentile and maximum, and the calls during which the longest latencies were
    /// measured.
    pub fn report(&mut self, calls: &[&str]) -> String {
        let (half, p99, most) = (self.at(500), self.at(990), self.at(1_000));
        let longest = self.0.iter().rev().take(8).map(|(wait, call)| format!("{wait:?} in {}", calls[*call]));
        let longest: Vec<_> = longest.collect();
        format!("p50 {half:?}, p99 {p99:?}, longest {most:?} of {} ({})", self.0.len(), longest.join("; "))
    }
}
