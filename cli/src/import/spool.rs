//! The command stream between the source and the target, in files: a source closes a replica that does not read.
//!
//! The stream is cut into files of equal size; a file is removed when all of it was read.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::Error;

const FILE_BYTES: u64 = 64 << 20;
const READ_BYTES: u64 = 256 << 10;
/// Distance of two arrivals that are remembered.
const RESOLUTION: Duration = Duration::from_millis(100);
/// Arrivals that are remembered, those of almost three hours.
const MAX_ARRIVALS: usize = 100_000;

/// Position and time at which bytes arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    position: u64,
    pub at: Instant,
    pub unix_ms: u64,
}

#[derive(Debug, Clone, Default)]
struct Received {
    bytes: u64,
    /// Why no more bytes come.
    end: Option<String>,
}

pub struct Writer {
    dir: PathBuf,
    file: Option<File>,
    bytes: u64,
    received: watch::Sender<Received>,
    arrivals: Arc<Mutex<VecDeque<Arrival>>>,
}

pub struct Reader {
    dir: PathBuf,
    file: Option<File>,
    position: u64,
    received: watch::Receiver<Received>,
    arrivals: Arc<Mutex<VecDeque<Arrival>>>,
}

/// Returns both ends of a stream in an empty directory.
pub fn spool(dir: &Path) -> (Writer, Reader) {
    let (sender, received) = watch::channel(Received::default());
    let arrivals = Arc::new(Mutex::new(VecDeque::new()));
    let writer =
        Writer { dir: dir.to_owned(), file: None, bytes: 0, received: sender, arrivals: arrivals.clone() };
    (writer, Reader { dir: dir.to_owned(), file: None, position: 0, received, arrivals })
}

fn path(dir: &Path, position: u64) -> PathBuf {
    dir.join(format!("stream-{:08}", position / FILE_BYTES))
}

impl Writer {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// When a file cannot be written.
    pub fn append(&mut self, mut bytes: &[u8], unix_ms: u64) -> Result<(), Error> {
        self.arrived(unix_ms);
        while !bytes.is_empty() {
            let path = path(&self.dir, self.bytes);
            let room = FILE_BYTES - self.bytes % FILE_BYTES;
            let (part, rest) = bytes.split_at(bytes.len().min(room as usize));
            let failed = |source| Error::File { path: path.clone(), source };
            if self.file.is_none() {
                self.file = Some(OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?);
            }
            if let Some(file) = &mut self.file {
                file.write_all(part).map_err(failed)?;
            }
            self.bytes += part.len() as u64;
            if self.bytes.is_multiple_of(FILE_BYTES) {
                self.file = None;
            }
            bytes = rest;
        }
        self.received.send_modify(|received| received.bytes = self.bytes);
        Ok(())
    }

    fn arrived(&self, unix_ms: u64) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = arrivals.back().is_none_or(|last| last.at.elapsed() >= RESOLUTION);
        if is_due && arrivals.len() < MAX_ARRIVALS {
            arrivals.push_back(Arrival { position: self.bytes, at: Instant::now(), unix_ms });
        }
    }

    /// Ends the stream: the reader fails with the reason after the last byte.
    pub fn end(&self, reason: String) {
        self.received.send_modify(|received| received.end = Some(reason));
    }

    /// Returns when the reader is gone.
    pub async fn closed(&self) {
        self.received.closed().await;
    }
}

impl Reader {
    /// Bytes that were received.
    pub fn received(&self) -> u64 {
        self.received.borrow().bytes
    }

    pub fn has_more(&self) -> bool {
        self.received() > self.position
    }

    /// Waits until bytes can be read.
    ///
    /// # Errors
    /// When all bytes were read and no more come.
    pub async fn wait(&mut self) -> Result<(), Error> {
        let position = self.position;
        let ready =
            self.received.wait_for(|received| received.bytes > position || received.end.is_some()).await;
        match ready.map(|received| (received.bytes > position, received.end.clone())) {
            Ok((false, Some(reason))) => Err(Error::Impossible(reason)),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Impossible("the connection to the source ended (bug)".to_owned())),
        }
    }

    /// Appends bytes that were received to the buffer, at least one if there are any.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let path = path(&self.dir, self.position);
        let failed = |source| Error::Unreadable { path: path.clone(), source };
        let left =
            (self.received() - self.position).min(FILE_BYTES - self.position % FILE_BYTES).min(READ_BYTES);
        if self.file.is_none() {
            let mut file = File::open(&path).map_err(failed)?;
            file.seek(SeekFrom::Start(self.position % FILE_BYTES)).map_err(failed)?;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            let count = file.take(left).read_to_end(buffer).map_err(failed)?;
            self.position += count as u64;
        }
        if self.position.is_multiple_of(FILE_BYTES) {
            self.file = None;
            // A file that stays is removed with the directory.
            drop(fs::remove_file(&path));
        }
        Ok(())
    }

    /// Arrival of the byte at `position`; earlier ones are forgotten.
    pub fn arrival(&self, position: u64) -> Option<Arrival> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        while arrivals.get(1).is_some_and(|next| next.position <= position) {
            arrivals.pop_front();
        }
        arrivals.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn spool_returns_all_bytes_across_files_and_removes_those_that_were_read() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut reader) = spool(dir.path());
        let piece: Vec<u8> = (0..5_000_011_u32).map(|n| (n % 251) as u8).collect();
        let mut buffer = Vec::new();
        for _ in 0..30 {
            writer.append(&piece, 7).unwrap();
            reader.wait().await.unwrap();
            while reader.has_more() {
                reader.read(&mut buffer).unwrap();
            }
            assert!(buffer == piece);
            buffer.clear();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(reader.arrival(0).unwrap().unix_ms, 7);
        writer.end("gone".to_owned());
        assert_eq!(reader.wait().await.unwrap_err().to_string(), "gone");
    }
}
