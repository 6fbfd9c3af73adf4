//! A network between members that a test can cut: a TCP proxy before each member's peer port, which finds in
//! `/proc` which member has connected.
//!
//! A line is one direction: everything that one member sends to another, on connections opened by either. As
//! with TCP, a cut line loses nothing: data arrives after the line is healed, unless a side has closed the
//! connection.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

const CHUNK_BYTES: usize = 16 << 10;
/// Largest number of chunks in flight on a line of one connection; a sender of more has to wait.
const CHUNKS: usize = 64;

/// The proxies, which end with the test.
pub struct Network {
    lines: Arc<Lines>,
    _proxies: JoinSet<()>,
}

/// A member of the network.
#[derive(Clone)]
pub struct Station {
    /// Peer port on which the member listens.
    pub peer: u16,
    /// Port of the proxy, to which its peers connect.
    pub proxy: u16,
    /// Pid of the member, 0 while it does not run.
    pub pid: Arc<AtomicU32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    is_cut: bool,
    delay: Duration,
    resets: u64,
    /// Bandwidth; 0: unlimited.
    bytes_per_second: u64,
}

struct Lines {
    stations: Vec<Station>,
    /// Lines by sender, then by receiver.
    lines: Vec<Vec<watch::Sender<Line>>>,
    /// Time at which each line is free for the next chunk of any connection.
    free_at: Vec<Vec<Mutex<Instant>>>,
}

impl Network {
    pub async fn of(stations: Vec<Station>) -> Self {
        let count = stations.len();
        let line = || watch::Sender::new(Line::default());
        let lines = (0..count).map(|_| (0..count).map(|_| line()).collect()).collect();
        let free = || Mutex::new(Instant::now());
        let free_at = (0..count).map(|_| (0..count).map(|_| free()).collect()).collect();
        let lines = Arc::new(Lines { stations, lines, free_at });
        let mut proxies = JoinSet::new();
        for to in 0..count {
            let listener = TcpListener::bind(("127.0.0.1", lines.stations[to].proxy)).await.unwrap();
            proxies.spawn(Arc::clone(&lines).proxy(listener, to));
        }
        Self { lines, _proxies: proxies }
    }

    /// Cuts the line: nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) {
        self.lines.change(from, to, |line| line.is_cut = true);
    }

    /// Cuts all lines from and to `member`.
    pub fn isolate(&self, member: usize) {
        for other in self.others(member) {
            self.cut(member, other);
            self.cut(other, member);
        }
    }

    /// Delays everything that `from` sends to `to` by `delay`.
    pub fn delay(&self, from: usize, to: usize, delay: Duration) {
        self.lines.change(from, to, |line| line.delay = delay);
    }

    /// Limits all connections from `from` to `to` together to this bandwidth.
    pub fn limit(&self, from: usize, to: usize, bytes_per_second: u64) {
        self.lines.change(from, to, |line| line.bytes_per_second = bytes_per_second);
    }

    /// Resets all connections between both, as a firewall does that has lost its state.
    pub fn reset(&self, one: usize, other: usize) {
        self.lines.change(one, other, |line| line.resets += 1);
    }

    /// Heals all lines: none is cut, delayed or limited any more.
    pub fn heal(&self) {
        for line in self.lines.lines.iter().flatten() {
            line.send_modify(|line| *line = Line { resets: line.resets, ..Line::default() });
        }
    }

    pub fn others(&self, member: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.lines.stations.len()).filter(move |other| *other != member)
    }
}

impl Lines {
    fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Line)) {
        self.lines[from][to].send_modify(change);
    }

    async fn proxy(self: Arc<Self>, listener: TcpListener, to: usize) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that is gone already needs no connection.
            if let Some(from) = self.owner_of(&stream) {
                connections.spawn(Arc::clone(&self).carry(stream, from, to));
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn carry(self: Arc<Self>, mut near: TcpStream, from: usize, to: usize) {
        let (mut there, back) = (self.lines[from][to].subscribe(), self.lines[to][from].subscribe());
        let (resets_there, resets_back) = (there.borrow().resets, back.borrow().resets);
        await_arrival(&mut there, Instant::now()).await;
        let Ok(mut far) = TcpStream::connect(("127.0.0.1", self.stations[to].peer)).await else {
            return drop(near.set_zero_linger());
        };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let is_reset = {
            let (near_read, near_write) = near.split();
            let (far_read, far_write) = far.split();
            let (mut reset_there, mut reset_back) = (there.clone(), back.clone());
            tokio::select! {
                _ = async { tokio::join!(
                    pump(near_read, far_write, there, &self.free_at[from][to]),
                    pump(far_read, near_write, back, &self.free_at[to][from]),
                ) } => false,
                _ = reset_there.wait_for(|line| line.resets != resets_there) => true,
                _ = reset_back.wait_for(|line| line.resets != resets_back) => true,
            }
        };
        if is_reset {
            near.set_zero_linger().unwrap();
            far.set_zero_linger().unwrap();
        }
    }

    /// Returns the index of the member that has connected.
    fn owner_of(&self, stream: &TcpStream) -> Option<usize> {
        let (client_port, proxy) = (stream.peer_addr().ok()?.port(), stream.local_addr().ok()?.port());
        let inode = inode_of(client_port, proxy)?;
        let link = format!("socket:[{inode}]");
        self.stations.iter().position(|station| {
            let pid = station.pid.load(Ordering::Relaxed);
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            files
                .flatten()
                .any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*link))
        })
    }
}

/// Returns the inode of the socket on loopback from `local` to `remote`.
fn inode_of(local: u16, remote: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let ends = [format!(":{local:04X}"), format!(":{remote:04X}")];
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&ends[0]) && fields.get(2)?.ends_with(&ends[1]);
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// Waits until data that was sent at `sent` may arrive.
async fn await_arrival(line: &mut watch::Receiver<Line>, sent: Instant) {
    let delay = line.borrow().delay;
    tokio::time::sleep_until(sent + delay).await;
    // The sender of the line outlives all connections.
    drop(line.wait_for(|line| !line.is_cut).await);
}

/// Waits for the line's turn for `bytes` bytes. Connections take turns chunk by chunk.
async fn await_bandwidth(line: &watch::Receiver<Line>, free_at: &Mutex<Instant>, bytes: usize) {
    let bytes_per_second = line.borrow().bytes_per_second;
    if bytes_per_second == 0 {
        return;
    }
    let at = {
        let mut free_at = free_at.lock().unwrap();
        let at = Instant::now().max(*free_at);
        *free_at = at + Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        at
    };
    tokio::time::sleep_until(at).await;
}

/// Forwards one direction of a connection, including its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut line: watch::Receiver<Line>,
    free_at: &Mutex<Instant>,
) {
    let (queue, mut in_flight) = mpsc::channel(CHUNKS);
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            // A broken connection ends for the other side, too, but not before a cut line is healed.
            let length = from.read(&mut chunk).await.unwrap_or(0);
            chunk.truncate(length);
            if queue.send((Instant::now(), chunk)).await.is_err() || length == 0 {
                return;
            }
        }
    };
    let write = async move {
        while let Some((sent, chunk)) = in_flight.recv().await {
            await_arrival(&mut line, sent).await;
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            await_bandwidth(&line, free_at, chunk.len()).await;
            to.write_all(&chunk).await?;
        }
        io::Result::Ok(())
    };
    // A peer that is gone is noticed by the data that it sends or fails to send.
    drop(tokio::join!(read, write).1);
}
