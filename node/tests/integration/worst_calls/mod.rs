//! The worst legal call of every command, plain, in a transaction and in a script, on a member with little
//! memory: the member stays up, and other clients are served meanwhile.
//!
//! A command of the table without a call here fails the test.
//!
//! The limit is set on a memory control group, as a pod's is: it counts pages in use, and page cache is
//! reclaimed before it is exceeded. A limit of the address space (`RLIMIT_DATA`) would count reserved memory,
//! such as thread stacks and the allocator's arenas, and so test these. Where no control group can be
//! created, only the peak of the resident set is asserted, as it is in any case.

mod calls;
mod keys;
mod memory;
mod witness;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Node, Ports, eventually, temporary_directory};
use calls::{CALLS, LEFT_OUT, words};
use keys::Keys;
use memory::{Group, Resident, disk_bytes};
use witness::Witness;

const MEMORY_LIMIT: u64 = 512 << 20;
/// Resident memory that the member may keep after the last call, beyond that before the first: a log and an
/// overlay that are not due for a snapshot or checkpoint yet, and pages of the engine.
const KEPT_BYTES: u64 = 128 << 20;
/// Limits of the member where no control group can be created. In one they are not written, and follow its limit.
const LIMITS: &str = "reads: {max_bytes: 67108864}\n\
     client: {request_timeout: 60s, output_buffer_limit: 67108864, maxmemory_clients: 134217728}\n\
     raft: {max_log_bytes: 67108864}\n\
     state: {max_overlay_bytes: 67108864}";
const NO_LIMITS: &str = "client: {request_timeout: 60s}";
/// Elements of each large collection, and repetitions of a word in a call. `HELIOS_TEST_SCALE=10` raises them
/// to the largest number of a request, which takes many minutes in a debug build.
const ELEMENTS: usize = 5_000;
const REPEATS: usize = 20_000;
/// Repetitions of a call in a transaction, if so many fit into one, and in a script.
const TRANSACTION_CALLS: usize = 1_000;
const TRANSACTION_BYTES: usize = 4 << 20;
const SCRIPT_CALLS: usize = 100;
/// Largest number of arguments that `unpack` can pass in a script.
const SCRIPT_WORDS: usize = 5_000;
/// Longest duration of a call; a longer one counts as a stall, whatever its reply.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bounds of the latencies of PING and `/livez`. Only the order of magnitude is asserted, because other tests
/// share the cores; the figures are printed.
const WAIT_P99: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

fn scale() -> usize {
    std::env::var("HELIOS_TEST_SCALE").map_or(1, |text| text.parse().expect("a number"))
}

fn encode(words: &[impl AsRef<str>]) -> Vec<u8> {
    let mut wire = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        wire.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    wire
}

/// Sends `wire`, then ECHO, and reads until the reply to ECHO or the end; returns the first and the last
/// bytes read.
async fn send(port: u16, wire: Vec<u8>, what: &str) -> (String, String) {
    const MARK: &str = "the-end-of-this-call";
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sending = tokio::spawn(async move {
        // The node may close the connection first.
        drop(writer.write_all(&wire).await);
        // DISCARD ends a transaction, which would queue ECHO; outside of one it is an error.
        drop(writer.write_all(&[encode(&["DISCARD"]), encode(&["ECHO", MARK])].concat()).await);
        writer
    });
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let reading = async {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            let read = &chunk[..count];
            head.extend_from_slice(&read[..count.min(200_usize.saturating_sub(head.len()))]);
            tail.extend_from_slice(&read[count.saturating_sub(500)..]);
            tail.drain(..tail.len().saturating_sub(500));
            // In subscribed state ECHO is an error that names it.
            let text = String::from_utf8_lossy(&tail);
            if text.contains(MARK) || text.contains("allowed in this context") {
                break;
            }
        }
    };
    let answered = tokio::time::timeout(CALL_TIMEOUT, reading).await;
    assert!(answered.is_ok(), "{what} was not answered within {CALL_TIMEOUT:?}");
    sending.abort();
    (String::from_utf8_lossy(&head).into_owned(), String::from_utf8_lossy(&tail).into_owned())
}

/// Whether the reply means that the words are no valid call of the command; such a call would test nothing.
fn is_misspelt(answer: &str) -> bool {
    ["syntax error", "wrong number of arguments", "unknown command", "unknown subcommand"]
        .iter()
        .any(|wrong| answer.contains(wrong))
}

/// Whether a leader rejected a write because its log or overlay waits for a snapshot or a checkpoint.
fn is_overloaded(answer: &str) -> bool {
    answer.contains("raft.max_log_bytes") || answer.contains("state.max_overlay_bytes")
}

/// Returns the forms in which a call is sent: plain, in a transaction, and in a script if it can pass that
/// many arguments.
fn forms(call: &str) -> Vec<(&'static str, Vec<u8>)> {
    let words = words(call);
    let wire = encode(&words);
    let queued_bytes = wire.len() + words.len() * 32;
    // A script that runs until it is stopped would be stopped once per repetition.
    let most = if call.starts_with("eval ") { 1 } else { TRANSACTION_CALLS * scale() };
    let times = (TRANSACTION_BYTES / queued_bytes).clamp(1, most);
    let queued = [encode(&["MULTI"]), wire.repeat(times), encode(&["EXEC"])].concat();
    let mut forms = vec![("plain", wire), ("in MULTI", queued)];
    if words.len() < SCRIPT_WORDS && !call.starts_with("eval") {
        let script = format!("for i = 1, {} do redis.pcall(unpack(ARGV)) end", SCRIPT_CALLS * scale());
        let scripted = ["EVAL", &script, "0"].into_iter().chain(words.iter().map(String::as_str));
        forms.push(("in a script", encode(&scripted.collect::<Vec<_>>())));
    }
    forms
}

fn assert_no_command_is_missing(table: &[String]) {
    let called: BTreeSet<_> = CALLS.iter().map(|call| call.split(' ').next().unwrap()).collect();
    let left_out: BTreeSet<_> = LEFT_OUT.iter().map(|(name, _)| *name).collect();
    let is_known = |name: &str| called.contains(name) || left_out.contains(name);
    let missing: Vec<_> = table.iter().filter(|name| !is_known(name)).collect();
    assert!(
        missing.is_empty(),
        "no worst call of {missing:?}: write one, or say in LEFT_OUT why there is none"
    );
}

/// Peaks of memory and disk use, in bytes.
struct Peaks {
    resident: u64,
    disk: u64,
}

/// Makes all calls, one after another.
async fn make_calls(
    node: &Node,
    keys: &Keys,
    redis: &mut MultiplexedConnection,
    witness: &Witness,
    dir: &Path,
) -> Peaks {
    let pid = node.pid().load(Ordering::Relaxed);
    let mut peaks = Peaks { resident: 0, disk: 0 };
    let only = std::env::var("HELIOS_TEST_CALLS").unwrap_or_default();
    for (number, call) in CALLS.iter().enumerate().filter(|(_, call)| call.starts_with(&only)) {
        witness.set_call(number);
        let mut report = format!("{call}:");
        for (form, wire) in forms(call) {
            Resident::reset(pid);
            let begun = Instant::now();
            let what = format!("{call} {form}");
            let (head, _) = loop {
                let answer = send(node.ports.client, wire.clone(), &what).await;
                if !is_overloaded(&answer.0) && !is_overloaded(&answer.1) {
                    break answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            assert!(form != "plain" || !is_misspelt(&head), "{call}: {head}");
            let took = begun.elapsed();
            let resident = Resident::of(pid).unwrap_or_else(|| panic!("the member is gone after {what}"));
            assert!(resident.peak < MEMORY_LIMIT, "{what}: {resident:?}");
            keys.restore(redis).await;
            peaks.resident = peaks.resident.max(resident.peak);
            report += &format!(" {form} {:.2} s, {} MiB;", took.as_secs_f64(), resident.peak >> 20);
        }
        let disk = disk_bytes(dir);
        peaks.disk = peaks.disk.max(disk);
        println!("{report} {} MiB on disk", disk >> 20);
    }
    peaks
}

#[tokio::test(flavor = "multi_thread")]
async fn worst_call_of_every_command_stops_neither_the_member_nor_other_clients() {
    let dir = temporary_directory();
    let ports = Ports::take();
    // Dropped after the node, so that the group is empty by then.
    let group = Group::make(MEMORY_LIMIT);
    let mut node = Node::new(
        dir.path(),
        "worst",
        ports.node(0),
        "bootstrap: single",
        if group.is_some() { NO_LIMITS } else { LIMITS },
    );
    if let Some(group) = &group {
        node.join_group(group.processes());
    }
    node.start();
    node.wait_ready().await;
    let mut redis = node.redis().await;
    let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await.unwrap();
    let clients = if group.is_some() { MEMORY_LIMIT / 8 } else { 128 << 20 };
    assert!(info.contains(&format!("maxmemory_clients:{clients}\r\n")), "{info}");
    let table: Vec<String> = redis::cmd("COMMAND").arg("LIST").query_async(&mut redis).await.unwrap();
    assert_no_command_is_missing(&table);

    let keys = Keys::make(&mut redis).await;
    let pid = node.pid().load(Ordering::Relaxed);
    let base = Resident::of(pid).unwrap().now;
    let begun = Instant::now();
    let witness = Witness::of(node.ports.client, node.ports.metrics);
    let peaks = make_calls(&node, &keys, &mut redis, &witness, dir.path()).await;
    let mut seen = witness.end();
    println!(
        "{} calls in {:.0} s, control group: {}; resident {} MiB before, {} MiB at most; {} MiB on disk at most",
        CALLS.len(),
        begun.elapsed().as_secs_f64(),
        group.is_some(),
        base >> 20,
        peaks.resident >> 20,
        peaks.disk >> 20
    );
    println!("PING: {}", seen.pings.report(CALLS));
    println!("/livez: {}", seen.probes.report(CALLS));
    for waits in [&mut seen.pings, &mut seen.probes] {
        let (p99, longest) = (waits.at(990), waits.at(1_000));
        assert!(p99 < WAIT_P99 && longest < LONGEST_WAIT, "p99 {p99:?}, longest {longest:?}");
    }
    let begun = Instant::now();
    let kept = eventually("memory returns", async || {
        Resident::of(pid).map(|resident| resident.now).filter(|now| *now < base + KEPT_BYTES)
    });
    println!("resident {} MiB {:.1} s after the last call", kept.await >> 20, begun.elapsed().as_secs_f64());
}
