//! The processes of this machine as far as they concern members: read from /proc, and empty on systems
//! without it.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use judge::{Machine, judge};

use judge::Process;

/// State of a listening socket in /proc/net/tcp.
const LISTENS: &str = "0A";
/// Position of the process's start time in /proc/PID/stat, counted from the state, in ticks since boot
/// (proc(5)).
const BEGAN: usize = 19;
const TICKS_PER_SECOND: f64 = 100.0;
/// Name of the file that heliosd locks in its data directory.
const LOCK: &str = "LOCK";

/// Returns the processes found. Processes that may not be inspected are left out, as are those that end
/// meanwhile.
pub fn observe() -> Machine {
    let (listening, uptime) = (listening(), uptime_seconds());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| process(&entry.path(), &listening, uptime));
    Machine {
        heliosd: heliosd(),
        processes: processes.filter(|it| it.name == "heliosd" || !it.ports.is_empty()).collect(),
    }
}

fn heliosd() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("heliosd")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<_> = std::env::split_paths(&path).map(|dir| dir.join("heliosd")).collect();
    beside.into_iter().chain(in_path).find(|file| file.is_file())
}

/// Returns the ports that are listened on, by the inode of their socket.
fn listening() -> BTreeMap<String, u16> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).filter_map(socket).collect()
}

/// Parses `sl local_address rem_address st ... inode`, the address as hexadecimal digits with its port at the
/// end.
fn socket(line: &str) -> Option<(String, u16)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (*state == LISTENS).then(|| ((*inode).to_owned(), port))
}

fn uptime_seconds() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn process(path: &Path, listening: &BTreeMap<String, u16>, uptime: f64) -> Option<Process> {
    let pid = path.file_name()?.to_str()?.parse().ok()?;
    let name = fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    // The name before the state is in parentheses and may hold any character but a newline.
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, began) = (words.first()?, words.get(BEGAN)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    let open: Vec<_> = fs::read_dir(path.join("fd"))
        .ok()?
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .collect();
    let ports: BTreeSet<u16> = open
        .iter()
        .filter_map(|target| listening.get(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?))
        .copied()
        .collect();
    let locks = open.iter().filter(|target| target.file_name().is_some_and(|name| name == LOCK));
    let directories = locks.filter_map(|lock| Some(lock.parent()?.to_owned())).collect();
    let age = Duration::from_secs_f64((uptime - began).max(0.0));
    Some(Process { pid, name, is_stopped: matches!(*state, "T" | "t"), age, ports, directories })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_socket_is_parsed_to_its_port_and_inode() {
        let line = "   0: 0100007F:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        assert_eq!(socket(line), Some(("4711".to_owned(), 7000)));
        assert_eq!(socket(&line.replace(" 0A ", " 01 ")), None, "a connection");
        assert_eq!(socket("  sl  local_address rem_address   st tx_queue rx_queue"), None);
    }

    #[test]
    fn own_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = observe();
        let own = found.processes.iter().find(|process| process.ports.contains(&port)).unwrap();
        assert_eq!((own.pid, own.is_stopped), (std::process::id(), false));
        assert!(own.age < Duration::from_hours(1), "{own:?}");
    }
}
