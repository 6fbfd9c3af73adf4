//! Speed of a plain copy over loopback TCP, with which the transfer of a state is compared.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

const BLOCK: usize = 1 << 20;

/// Bytes per second of a copy.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// From memory to memory.
    pub memory: f64,
    /// From a file to a file that is synced at the end, as `dd conv=fsync`.
    pub file: f64,
}

/// Copies about `bytes` bytes, with files in `dir`.
pub fn measure(dir: &Path, bytes: u64) -> Result<Speed> {
    let blocks = bytes.div_ceil(BLOCK as u64);
    let (source, target) = (dir.join("source"), dir.join("target"));
    let mut file = File::create(&source).context("a file to copy")?;
    for number in 0..blocks {
        file.write_all(&vec![number as u8; BLOCK])?;
    }
    file.sync_all()?;
    let memory = copy(blocks, std::io::repeat(7).take(blocks * BLOCK as u64), std::io::sink(), |_| Ok(()))?;
    let (from, to) = (File::open(&source)?, File::create(&target)?);
    let file = copy(blocks, from, to, |file| file.sync_all())?;
    fs::remove_file(source)?;
    fs::remove_file(target)?;
    Ok(Speed { memory, file })
}

/// Copies from one thread to another; returns the bytes per second, those of `finish` included.
fn copy<W: Write>(
    blocks: u64,
    mut from: impl Read + Send + 'static,
    mut to: W,
    finish: impl FnOnce(&W) -> std::io::Result<()>,
) -> Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let started = Instant::now();
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let mut block = vec![0; BLOCK];
        for _ in 0..blocks {
            from.read_exact(&mut block)?;
            stream.write_all(&block)?;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut block = vec![0; BLOCK];
    let mut copied = 0_u64;
    loop {
        let read = stream.read(&mut block)?;
        if read == 0 {
            break;
        }
        to.write_all(&block[..read])?;
        copied += read as u64;
    }
    finish(&to)?;
    let elapsed = started.elapsed();
    sender.join().map_err(|_| anyhow::anyhow!("the sender failed"))??;
    anyhow::ensure!(copied == blocks * BLOCK as u64, "the copy ended after {copied} bytes");
    Ok(copied as f64 / elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_has_a_speed_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let speed = measure(dir.path(), 3 << 20).unwrap();
        assert!(speed.memory > 0.0 && speed.file > 0.0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
