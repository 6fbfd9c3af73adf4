//! Checks of this machine, for members at loopback addresses: the binary, the processes that hold their
//! ports, and stale heliosd processes that hold a port or data directory and answer nothing. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::check::Check;
use crate::direct::Answer;

/// Longest start: a node replays its log before it listens. A start that takes longer is reported as stale.
const LONGEST_START: Duration = Duration::from_mins(5);

/// A process that listens on a TCP port, or runs heliosd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub name: String,
    /// Whether a signal stopped the process; SIGCONT resumes it.
    pub is_stopped: bool,
    pub age: Duration,
    /// TCP ports on which it listens.
    pub ports: BTreeSet<u16>,
    /// Data directories that it holds the lock of.
    pub directories: Vec<PathBuf>,
}

impl Process {
    fn is_heliosd(&self) -> bool {
        self.name == "heliosd"
    }

    fn called(&self) -> String {
        format!("{} (pid {}{})", self.name, self.pid, if self.is_stopped { ", stopped" } else { "" })
    }
}

/// Processes and binaries found on this machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Path of heliosd, beside this program or in the PATH.
    pub heliosd: Option<PathBuf>,
    pub processes: Vec<Process>,
}

/// Returns the checks, none when no address is of this machine.
pub fn judge(answers: &[Answer], machine: &Machine) -> Vec<Check> {
    let here: Vec<(u16, bool)> = answers
        .iter()
        .filter_map(|answer| Some((local_port(&answer.address)?, answer.status.is_ok())))
        .collect();
    if here.is_empty() {
        return Vec::new();
    }
    vec![binary(machine), ports(&here, machine), stale(&here, machine)]
}

fn local_port(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    let is_local = host == "localhost" || host == "[::1]" || host.starts_with("127.");
    is_local.then(|| port.parse().ok())?
}

fn binary(machine: &Machine) -> Check {
    match &machine.heliosd {
        Some(path) => Check::ok("heliosd is here", path.display().to_string()),
        None => Check::failed(
            "heliosd is here",
            "neither beside heliosctl nor in the PATH",
            "build it (cargo build --bin heliosd), or put it into the PATH",
        ),
    }
}

/// Checks that the ports of members that do not answer are free or held by a heliosd.
fn ports(here: &[(u16, bool)], machine: &Machine) -> Check {
    let what = "ports are the members' or free";
    let holder = |port: u16| machine.processes.iter().find(|process| process.ports.contains(&port));
    let strangers: Vec<_> = here
        .iter()
        .filter(|(_, answers)| !answers)
        .filter_map(|(port, _)| Some((port, holder(*port).filter(|process| !process.is_heliosd())?)))
        .map(|(port, process)| format!("{port} is held by {}", process.called()))
        .collect();
    if !strangers.is_empty() {
        return Check::failed(
            what,
            strangers.join("; "),
            "end that process, or give the member another port",
        );
    }
    let said = here.iter().map(|(port, answers)| match (answers, holder(*port)) {
        (true, _) => format!("{port} answers"),
        (false, Some(process)) => format!("{port} is held by {}", process.called()),
        (false, None) => format!("{port} is free"),
    });
    Check::ok(what, said.collect::<Vec<_>>().join(", "))
}

/// Checks for a heliosd that listens on a port where no member answers, or that has locked a data directory
/// and listens nowhere.
fn stale(here: &[(u16, bool)], machine: &Machine) -> Check {
    let what = "no stale heliosd";
    let answers =
        |process: &Process| here.iter().any(|(port, answers)| *answers && process.ports.contains(port));
    let listens_unanswered =
        |process: &Process| here.iter().any(|(port, answers)| !answers && process.ports.contains(port));
    let never_listened = |process: &Process| {
        process.ports.is_empty() && !process.directories.is_empty() && process.age > LONGEST_START
    };
    let all: Vec<_> = machine.processes.iter().filter(|process| process.is_heliosd()).collect();
    let stale: Vec<_> =
        all.iter().filter(|it| !answers(it) && (listens_unanswered(it) || never_listened(it))).collect();
    if stale.is_empty() {
        return Check::ok(what, format!("{} heliosd on this machine", all.len()));
    }
    let held = |process: &Process| {
        let directories = process.directories.iter().map(|path| path.display().to_string());
        let ports = process.ports.iter().map(|port| format!("port {port}"));
        directories.chain(ports).collect::<Vec<_>>().join(", ")
    };
    let found = stale.iter().map(|it| format!("{} answers nothing and holds {}", it.called(), held(it)));
    let fixes = stale.iter().map(|it| match it.is_stopped {
        true => format!("resume it (kill -CONT {0}) or end it (kill -KILL {0})", it.pid),
        false => format!("end it: kill {0}, and kill -KILL {0} if it stays", it.pid),
    });
    Check::failed(what, found.collect::<Vec<_>>().join("; "), fixes.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::StatusResponse;

    use super::*;

    fn answer(address: &str, answers: bool) -> Answer {
        let status = if answers { Ok(StatusResponse::default()) } else { Err("refused".to_owned()) };
        Answer { address: address.to_owned(), status }
    }

    fn process(pid: u32, name: &str, ports: &[u16]) -> Process {
        Process {
            pid,
            name: name.to_owned(),
            is_stopped: false,
            age: Duration::from_hours(1),
            ports: ports.iter().copied().collect(),
            directories: Vec::new(),
        }
    }

    fn found(answers: &[Answer], processes: Vec<Process>) -> Vec<(bool, String, Option<String>)> {
        let machine = Machine { heliosd: Some("/bin/heliosd".into()), processes };
        judge(answers, &machine).into_iter().map(|check| (check.ok, check.found, check.fix)).collect()
    }

    #[test]
    fn members_of_other_machines_are_not_checked() {
        assert_eq!(judge(&[answer("10.0.0.1:7000", false)], &Machine::default()), []);
        let checks = judge(&[answer("localhost:7000", true)], &Machine::default());
        assert!(!checks[0].ok && checks[0].fix.as_ref().unwrap().contains("cargo build"), "{checks:?}");
    }

    #[test]
    fn port_is_free_or_reported_with_its_holder() {
        let both = [answer("127.0.0.1:7000", true), answer("127.0.0.1:7001", false)];
        let free = found(&both, vec![process(7, "heliosd", &[7000])]);
        assert_eq!(free[1], (true, "7000 answers, 7001 is free".to_owned(), None));
        let held = found(&both, vec![process(8, "redis-server", &[7001])]);
        assert_eq!((held[1].0, held[1].1.as_str()), (false, "7001 is held by redis-server (pid 8)"));
    }

    #[test]
    fn unanswering_heliosd_with_a_port_or_directory_is_stale() {
        let one = [answer("127.0.0.1:7000", false)];
        let stopped =
            Process { is_stopped: true, directories: vec!["/data".into()], ..process(9, "heliosd", &[7000]) };
        let checks = found(&one, vec![stopped]);
        assert!(!checks[2].0, "{checks:?}");
        assert_eq!(checks[2].1, "heliosd (pid 9, stopped) answers nothing and holds /data, port 7000");
        assert!(checks[2].2.as_ref().unwrap().contains("kill -CONT 9"), "{checks:?}");
        let deaf = Process { directories: vec!["/data".into()], ..process(9, "heliosd", &[]) };
        assert!(!found(&one, vec![deaf.clone()])[2].0);
        assert!(found(&one, vec![Process { age: Duration::from_secs(9), ..deaf }])[2].0, "it is starting");
        // A heliosd of another cluster is not stale, nor one that answers at one of its ports.
        assert!(found(&one, vec![process(9, "heliosd", &[7100])])[2].0);
        let answering = [answer("127.0.0.1:7000", true), answer("127.0.0.1:7001", false)];
        assert!(found(&answering, vec![process(9, "heliosd", &[7000, 7001])])[2].0);
    }
}
