//! `heliosd verify <data-dir>`: checks the data of a stopped node offline. Prints one line for each part: whether it is
//! intact, and if not, what is wrong, where, and what to do. Changes nothing.

use std::fmt;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Disk, DiskLock};
use crate::lifecycle::{DataDir, Marker, MarkerError};
use crate::raft::{Fit, Snapshots, fit};
use crate::scratch::ScratchDir;
use crate::state::{self, StateError};
use crate::wal::{self, WalError};

/// Exit code for "damaged".
const DAMAGED: u8 = 1;
/// EX_IOERR: the data could not be read.
const UNREADABLE: u8 = 74;
/// EX_CONFIG: the directory is not a data directory, is in use, or is of a newer release.
const WRONG_DIRECTORY: u8 = 78;

const REJOIN: &str =
    "remove this member from the cluster, empty its data directory and let it rejoin from the leader";

/// Directories of a node.
#[derive(Debug, Clone)]
pub struct Places {
    pub data_dir: PathBuf,
    pub wal_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    Damaged,
    /// The part could not be checked; the exit code gives the reason.
    Unknown(u8),
}

/// Result of the check of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub thing: &'static str,
    pub verdict: Verdict,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Whole => "whole",
            Verdict::Damaged => "DAMAGED",
            Verdict::Unknown(_) => "unknown",
        };
        write!(f, "{:<9} {verdict:<8} {}", self.thing, self.text)
    }
}

/// Returns the exit code: 0 if everything is intact, 1 if anything is damaged, else the reason why it could not be
/// checked.
pub fn exit_code(findings: &[Finding]) -> u8 {
    let codes = findings.iter().map(|finding| match finding.verdict {
        Verdict::Whole => 0,
        Verdict::Damaged => DAMAGED,
        Verdict::Unknown(code) => code,
    });
    codes.filter(|code| *code > 0).min().unwrap_or(0)
}

/// Checks all parts in `places` on the disk of this machine. The state is checked on a copy in the directory for
/// temporary files.
pub fn verify(places: &Places) -> Vec<Finding> {
    let mut check = Check { disk: disk::real(), places, findings: Vec::new() };
    // The lock is held to the end, so that no node starts and changes the data meanwhile.
    let Some((_lock, marker)) = check.marker() else { return check.findings };
    let log = check.log(marker.is_some_and(|marker| marker.member.is_some()));
    let newest = check.snapshots();
    let applied = check.state();
    if let (Some(log), Some(applied)) = (log, applied) {
        check.together(&log, newest, applied);
    }
    check.findings
}

struct Check<'a> {
    disk: Arc<dyn Disk>,
    places: &'a Places,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn add(&mut self, thing: &'static str, verdict: Verdict, text: impl Into<String>) {
        self.findings.push(Finding { thing, verdict, text: text.into() });
    }

    /// Checks the marker; `None` if the other parts cannot be checked.
    fn marker(&mut self) -> Option<(DiskLock, Option<Marker>)> {
        let dir = &self.places.data_dir;
        match DataDir::inspect(self.disk.as_ref(), dir) {
            Ok((lock, marker)) => {
                match &marker {
                    Some(marker) => self.add("marker", Verdict::Whole, describe(marker)),
                    None if self.places.wal_dir.exists() => {
                        let text = format!(
                            "{} is missing: this disk has lost its identity; {REJOIN}",
                            dir.join("node.json").display()
                        );
                        self.add("marker", Verdict::Damaged, text);
                    }
                    None => self.add("marker", Verdict::Whole, "none yet: no node ever ran here"),
                }
                Some((lock, marker))
            }
            Err(error @ MarkerError::Unreadable { .. }) => {
                self.add("marker", Verdict::Damaged, format!("{error}; {REJOIN}"));
                None
            }
            Err(MarkerError::Io { source, .. }) if source.kind() == NotFound => {
                let text = format!("{} is not the data directory of a node", dir.display());
                self.add("marker", Verdict::Unknown(WRONG_DIRECTORY), text);
                None
            }
            Err(error @ MarkerError::Io { .. }) => {
                self.add("marker", Verdict::Unknown(UNREADABLE), error.to_string());
                None
            }
            Err(MarkerError::Locked(_)) => {
                let text = format!("{} is in use: stop the node first", dir.display());
                self.add("marker", Verdict::Unknown(WRONG_DIRECTORY), text);
                None
            }
            Err(error) => {
                self.add("marker", Verdict::Unknown(WRONG_DIRECTORY), error.to_string());
                None
            }
        }
    }

    fn log(&mut self, is_member: bool) -> Option<wal::Report> {
        let dir = &self.places.wal_dir;
        match wal::verify(Arc::clone(&self.disk), dir) {
            Ok(report) if report.segments == 0 && is_member => {
                self.add("log", Verdict::Damaged, format!("{} holds no segment; {REJOIN}", dir.display()));
                None
            }
            Ok(report) => {
                let wal::Report {
                    segments,
                    size_bytes,
                    base,
                    hard_state,
                    entries,
                    last_index,
                    proven_bytes: _,
                } = &report;
                let hard_state = hard_state.unwrap_or_default();
                let text = format!(
                    "{segments} segments, {size_bytes} bytes in use; {entries} entries, {} to {last_index}; \
                     term {}, commit index {}",
                    base.index + 1,
                    hard_state.term,
                    hard_state.commit
                );
                self.add("log", Verdict::Whole, text);
                Some(report)
            }
            Err(WalError::Corrupt { segment, offset, what }) => {
                let file = dir.join(wal::segment_file_name(segment));
                let text = format!("{}, byte {offset}: {what}; {REJOIN}", file.display());
                self.add("log", Verdict::Damaged, text);
                None
            }
            Err(WalError::Io { source, .. }) if source.kind() == NotFound => {
                let text = format!("{} is missing; {REJOIN}, or name it with --wal-dir", dir.display());
                self.add("log", if is_member { Verdict::Damaged } else { Verdict::Whole }, text);
                None
            }
            Err(error @ WalError::Io { .. }) => {
                self.add("log", Verdict::Unknown(UNREADABLE), error.to_string());
                None
            }
            Err(error) => {
                self.add("log", Verdict::Unknown(WRONG_DIRECTORY), error.to_string());
                None
            }
        }
    }

    /// Checks the snapshots; returns the index of the newest intact one.
    fn snapshots(&mut self) -> Option<u64> {
        let dir = self.places.data_dir.join("snapshots");
        let found = match Snapshots::verify_all(Arc::clone(&self.disk), &dir) {
            Ok(found) => found,
            Err(error) if error.kind() == NotFound => Vec::new(),
            Err(error) => {
                self.add("snapshots", Verdict::Unknown(UNREADABLE), format!("{}: {error}", dir.display()));
                return None;
            }
        };
        if found.is_empty() {
            self.add("snapshots", Verdict::Whole, "none yet");
        }
        let mut newest = None;
        for (path, checked) in found {
            let path = path.display();
            match checked {
                Ok(meta) => {
                    newest = Some(meta.index);
                    let text = format!(
                        "{path}: index {}, term {}, {} bytes",
                        meta.index, meta.term, meta.size_bytes
                    );
                    self.add("snapshot", Verdict::Whole, text);
                }
                Err(StateError::BadSnapshot { reason, .. }) => {
                    let text = format!(
                        "{path}: {reason}; remove the file; the line \"together\" says whether the node can start without it"
                    );
                    self.add("snapshot", Verdict::Damaged, text);
                }
                Err(error) => self.add("snapshot", Verdict::Unknown(UNREADABLE), error.to_string()),
            }
        }
        newest
    }

    /// Checks the state; returns the applied index that a start will find, or `None` if unknown.
    fn state(&mut self) -> Option<u64> {
        let dir = self.places.data_dir.join("state");
        let inspected = ScratchDir::new("verify")
            .map_err(|source| StateError::Io { doing: "make", path: std::env::temp_dir(), source })
            .and_then(|scratch| state::inspect(&self.disk, &dir, scratch.path()));
        match inspected {
            Ok(None) => {
                self.add("state", Verdict::Whole, "none yet: the next start builds it from snapshot and log");
                Some(0)
            }
            Ok(Some(found)) => {
                let (applied, keys) = (found.applied, found.key_count);
                let text = format!("applied index {}, term {}, {keys} keys", applied.index, applied.term);
                self.add("state", Verdict::Whole, text);
                Some(applied.index)
            }
            Err(error) if error.is_damage() => {
                let text = format!(
                    "{}: {error}; start the node: it sets this aside and rebuilds it from snapshot and log",
                    dir.display()
                );
                self.add("state", Verdict::Damaged, text);
                Some(0)
            }
            Err(error) => {
                let code = if matches!(error, StateError::InUse(_)) { WRONG_DIRECTORY } else { UNREADABLE };
                let hint = if error.is_disk_full() {
                    "; set TMPDIR to a directory with room for a copy"
                } else {
                    ""
                };
                self.add("state", Verdict::Unknown(code), format!("{error}{hint}"));
                None
            }
        }
    }

    fn together(&mut self, log: &wal::Report, newest: Option<u64>, applied: u64) {
        let base = log.base.index;
        match fit(applied, base, log.last_index, newest) {
            Fit::AsIs => {
                let text = format!("the log continues from applied index {applied}");
                self.add("together", Verdict::Whole, text);
            }
            Fit::FromSnapshot => {
                let index = newest.unwrap_or_default();
                let text = format!("the next start builds the state from snapshot {index} and the log");
                self.add("together", Verdict::Whole, text);
            }
            Fit::Gap => {
                let text = format!(
                    "the state is at index {applied}, the log begins after {base} and ends at {}, and no whole \
                     snapshot lies between; {REJOIN}",
                    log.last_index
                );
                self.add("together", Verdict::Damaged, text);
            }
        }
    }
}

fn describe(marker: &Marker) -> String {
    let Marker { format: _, disk_id, name, boot_epoch, member, force_new } = marker;
    let belongs = match member {
        Some(member) if member.removed => {
            format!("was member {} of {}, removed", member.member_id, member.cluster_id)
        }
        Some(member) => format!("member {} of cluster {}", member.member_id, member.cluster_id),
        None => "no cluster yet".to_owned(),
    };
    let next = if force_new.is_some() { ", to be made the only member at the next start" } else { "" };
    format!("node {name}, disk {disk_id}, started {boot_epoch} times; {belongs}{next}")
}

/// Returns the default directory of the log.
pub fn default_wal_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("wal")
}

#[cfg(test)]
mod tests;
