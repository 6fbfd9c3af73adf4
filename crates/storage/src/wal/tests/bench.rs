//! The cost of the log compared with a plain durable file. Run it with
//! `cargo test --release -p helios-storage wal::tests::bench -- --ignored --nocapture`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::*;

const ENTRIES: u64 = 128;
const ENTRY_BYTES: usize = 128;
const APPENDS: u64 = 1000;

/// Compares the three in alternating rounds, because the speed of a shared disk drifts.
#[test]
#[ignore = "a measurement"]
fn batches_of_128_entries_against_a_plain_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = Wal::open(disk::real(), &dir.path().join("wal"), WalOptions::default()).unwrap();
    while wal.prepare_spare().unwrap() {}
    let mut growing = File::create(dir.path().join("growing")).unwrap();
    let zeroed = File::create(dir.path().join("zeroed")).unwrap();
    let batch_bytes = ENTRIES * ENTRY_BYTES as u64;
    zeroed.write_all_at(&vec![0; (APPENDS * batch_bytes) as usize], 0).unwrap();
    zeroed.sync_all().unwrap();
    let plain = vec![7; batch_bytes as usize];
    let payload = bytes::Bytes::from(vec![7; ENTRY_BYTES]);

    let mut taken = [Duration::ZERO; 3];
    for nth in 0..APPENDS {
        let first = nth * ENTRIES + 1;
        let entry = |index| LogEntry { index, term: 1, payload: payload.clone() };
        let batch = append((first..first + ENTRIES).map(entry).collect());
        taken[0] += timed(|| wal.append(std::slice::from_ref(&batch)).unwrap());
        taken[1] += timed(|| {
            growing.write_all(&plain).unwrap();
            growing.sync_data().unwrap();
        });
        taken[2] += timed(|| {
            zeroed.write_all_at(&plain, nth * batch_bytes).unwrap();
            zeroed.sync_data().unwrap();
        });
    }
    let rate = taken.map(|taken| APPENDS as f64 / taken.as_secs_f64());
    println!("appends/s: log {:.0}, growing file {:.0}, zeroed file {:.0}", rate[0], rate[1], rate[2]);
    println!("log / growing file {:.2}, log / zeroed file {:.2}", rate[0] / rate[1], rate[0] / rate[2]);
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}
