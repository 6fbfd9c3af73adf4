//! Wires between members that a test can cut: a TCP proxy before each member's peer port, which
//! tells by `/proc` which member has dialled.
//!
//! A line goes one way: whatever one member sends to another, on connections of either's making. As
//! TCP would, a cut line loses nothing: what was sent arrives after it is healed, unless a side has
//! given the connection up.

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
/// Chunks under way on a line of one connection; a sender of more has to wait.
const CHUNKS: usize = 64;

/// Ends with the test.
pub struct Network {
    lines: Arc<Lines>,
    _proxies: JoinSet<()>,
}

/// A member as the network sees it.
#[derive(Clone)]
pub struct Station {
    /// Where it listens for its peers.
    pub peer: u16,
    /// Where its peers believe that it listens.
    pub proxy: u16,
    /// Its process, 0 for none.
    pub pid: Arc<AtomicU32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    is_cut: bool,
    delay: Duration,
    resets: u64,
    /// 0: as many as there are.
    bytes_per_second: u64,
}

struct Lines {
    stations: Vec<Station>,
    /// By sender, then by receiver.
    lines: Vec<Vec<watch::Sender<Line>>>,
    /// When each is free for the next chunk, of whatever connection.
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

    /// Nothing that `from` sends reaches `to` any more.
    pub fn cut(&self, from: usize, to: usize) {
        self.lines.change(from, to, |line| line.is_cut = true);
    }

    /// Neither hears of any other.
    pub fn isolate(&self, member: usize) {
        for other in self.others(member) {
            self.cut(member, other);
            self.cut(other, member);
        }
    }

    /// All that `from` sends reaches `to` later by `delay`.
    pub fn delay(&self, from: usize, to: usize, delay: Duration) {
        self.lines.change(from, to, |line| line.delay = delay);
    }

    /// All connections from `from` to `to` share so many bytes a second.
    pub fn limit(&self, from: usize, to: usize, bytes_per_second: u64) {
        self.lines.change(from, to, |line| line.bytes_per_second = bytes_per_second);
    }

    /// Ends all connections between both, as by a firewall that has lost its memory.
    pub fn reset(&self, one: usize, other: usize) {
        self.lines.change(one, other, |line| line.resets += 1);
    }

    /// No line is cut or slow any more.
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
            // Who is gone again already needs no connection.
            if let Some(from) = self.owner_of(&stream) {
                connections.spawn(Arc::clone(&self).carry(stream, from, to));
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn carry(self: Arc<Self>, mut near: TcpStream, from: usize, to: usize) {
        let (mut there, back) = (self.lines[from][to].subscribe(), self.lines[to][from].subscribe());
        let (resets_there, resets_back) = (there.borrow().resets, back.borrow().resets);
        arrives(&mut there, Instant::now()).await;
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

    /// Which member has dialled.
    fn owner_of(&self, stream: &TcpStream) -> Option<usize> {
        let (dialler, proxy) = (stream.peer_addr().ok()?.port(), stream.local_addr().ok()?.port());
        let inode = inode_of(dialler, proxy)?;
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

/// The socket on loopback from `local` to `remote`, as the kernel numbers it.
fn inode_of(local: u16, remote: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let ends = [format!(":{local:04X}"), format!(":{remote:04X}")];
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&ends[0]) && fields.get(2)?.ends_with(&ends[1]);
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// Waits until what was sent at `sent` may arrive.
async fn arrives(line: &mut watch::Receiver<Line>, sent: Instant) {
    let delay = line.borrow().delay;
    tokio::time::sleep_until(sent + delay).await;
    // The sender of the line outlives all connections.
    drop(line.wait_for(|line| !line.is_cut).await);
}

/// Waits for the line's turn for so many bytes. Connections take turns by the chunk.
async fn gets_through(line: &watch::Receiver<Line>, free_at: &Mutex<Instant>, bytes: usize) {
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

/// Carries one way of a connection, its end included.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut line: watch::Receiver<Line>,
    free_at: &Mutex<Instant>,
) {
    let (queue, mut under_way) = mpsc::channel(CHUNKS);
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
        while let Some((sent, chunk)) = under_way.recv().await {
            arrives(&mut line, sent).await;
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            gets_through(&line, free_at, chunk.len()).await;
            to.write_all(&chunk).await?;
        }
        io::Result::Ok(())
    };
    // A side that is gone is noticed by what comes, or does not come, from it.
    drop(tokio::join!(read, write).1);
}
