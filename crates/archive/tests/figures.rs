//! Measurements: memory and speed of a base of 1 GiB in a directory.
//! `cargo test --release -p helios-archive --test figures -- --ignored --nocapture`

// Helpers are no `#[test]` functions, for which `clippy.toml` allows unwrap; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::pin::Pin;
use std::task::{Context, Poll};

use helios_archive::base::{BaseReader, BaseWriter, Begun, Options};
use helios_archive::{Archive, History, Store};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

const BYTES: u64 = 1 << 30;
const MAX_MEMORY_MIB: u64 = 128;

/// Bytes of which zstd saves about half.
struct Source {
    left: u64,
    state: u64,
}

impl AsyncRead for Source {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let length = (buffer.remaining() as u64).min(self.left).min(64 << 10);
        let mut words = Vec::with_capacity(length as usize + 8);
        while (words.len() as u64) < length {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            words.extend_from_slice(&(self.state >> 32).to_be_bytes());
        }
        buffer.put_slice(&words[..length as usize]);
        self.left -= length;
        Poll::Ready(Ok(()))
    }
}

/// The most memory that the process had, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[tokio::test]
#[ignore = "a measurement"]
async fn figures_of_a_base_of_one_gibibyte() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", directory.path().display())).unwrap();
    let archive = Archive::new(store, History::new("cluster-a", 1).unwrap(), common::keyring());
    let begun = BaseWriter::begin(&archive, common::request(10), Options::default()).await.unwrap();
    let Begun::Writer(mut writer) = begun else { panic!("it is complete") };

    let start = Instant::now();
    writer.write(&mut Source { left: BYTES, state: 1 }).await.unwrap();
    let manifest = writer.finish(1).await.unwrap();
    let written = start.elapsed();
    assert_eq!((manifest.bytes, manifest.parts.len()), (BYTES, 64));
    let peak_of_writer = peak_memory();

    let start = Instant::now();
    let mut reader = BaseReader::open(&archive, manifest.id()).await.unwrap();
    while reader.next().await.unwrap().is_some() {}
    let read = start.elapsed();
    let rate = |took: std::time::Duration| (BYTES >> 20) as f64 / took.as_secs_f64();
    println!(
        "base of 1 GiB, {} MiB stored: write {:.0} MiB/s, peak {peak_of_writer} MiB; read {:.0} MiB/s, peak {} MiB",
        manifest.stored_bytes >> 20,
        rate(written),
        rate(read),
        peak_memory()
    );
    assert!(peak_memory() <= MAX_MEMORY_MIB, "{} MiB", peak_memory());
}
