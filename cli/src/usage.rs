//! State, log, memory and volume of a member, as its status reports them or as the operator has read them. Pure.

use helios_crds::MemberUsage;
use helios_proto::v1::StateReport;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::render::length;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageView {
    /// Only known directly from a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    pub state_bytes: u64,
    pub log_bytes: u64,
    /// Index up to which a checkpoint or a snapshot makes the log unnecessary.
    pub durable_index: u64,
    pub scrub: ScrubView,
    pub memory_bytes: u64,
    /// 0: no limit.
    pub memory_limit_bytes: u64,
    pub volume_used_bytes: u64,
    /// 0: not known.
    pub volume_bytes: u64,
}

/// The check of all files of the state in the background.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubView {
    /// End of the last complete pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
    /// Share of the running pass that is done, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_percent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Last {
    At(Timestamp),
    SecondsAgo(u64),
}

impl From<&StateReport> for UsageView {
    fn from(state: &StateReport) -> Self {
        let (scrub, memory) = (state.scrub.clone().unwrap_or_default(), state.memory.unwrap_or_default());
        let volume = state.volume.unwrap_or_default();
        Self {
            engine: Some(state.engine.clone()),
            state_bytes: state.size_bytes,
            log_bytes: state.log_bytes,
            durable_index: state.durable_index,
            scrub: ScrubView {
                last: scrub.last_complete_seconds_ago.map(Last::SecondsAgo),
                running_percent: scrub.running.then(|| percent(scrub.done_bytes, scrub.total_bytes)),
                damaged_file: scrub.damaged_files.first().cloned(),
            },
            memory_bytes: memory.used_bytes,
            memory_limit_bytes: memory.limit_bytes,
            volume_used_bytes: volume.size_bytes.saturating_sub(volume.free_bytes),
            volume_bytes: volume.size_bytes,
        }
    }
}

impl From<&MemberUsage> for UsageView {
    fn from(usage: &MemberUsage) -> Self {
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        Self {
            engine: None,
            state_bytes: unsigned(usage.state_bytes),
            log_bytes: unsigned(usage.log_bytes),
            durable_index: unsigned(usage.durable_index),
            scrub: ScrubView {
                last: usage.scrubbed_at.as_ref().map(|at| Last::At(at.0)),
                running_percent: None,
                damaged_file: usage.damaged_file.clone(),
            },
            memory_bytes: unsigned(usage.memory_bytes),
            memory_limit_bytes: unsigned(usage.memory_limit_bytes),
            volume_used_bytes: unsigned(usage.volume_used_bytes),
            volume_bytes: unsigned(usage.volume_bytes),
        }
    }
}

pub const HEADERS: [&str; 7] = ["MEMBER", "STATE", "LOG", "DURABLE", "SCRUB", "MEMORY", "DISK"];

/// Returns the cells below [`HEADERS`].
pub fn row(name: &str, usage: &UsageView, now: Timestamp) -> [String; 7] {
    [
        name.to_owned(),
        size(usage.state_bytes),
        size(usage.log_bytes),
        usage.durable_index.to_string(),
        scrub(&usage.scrub, now),
        share(usage.memory_bytes, usage.memory_limit_bytes),
        if usage.volume_bytes == 0 {
            String::new()
        } else {
            share(usage.volume_used_bytes, usage.volume_bytes)
        },
    ]
}

fn scrub(scrub: &ScrubView, now: Timestamp) -> String {
    match scrub {
        ScrubView { damaged_file: Some(file), .. } => format!("damaged: {file}"),
        ScrubView { running_percent: Some(percent), .. } => format!("running, {percent}%"),
        ScrubView { last: Some(Last::At(at)), .. } => format!("{} ago", length(now.duration_since(*at))),
        ScrubView { last: Some(Last::SecondsAgo(seconds)), .. } => {
            let seconds = i64::try_from(*seconds).unwrap_or(i64::MAX);
            format!("{} ago", length(SignedDuration::from_secs(seconds)))
        }
        ScrubView { .. } => String::new(),
    }
}

/// Formats used bytes and their share of `limit`, 0 for none.
fn share(used: u64, limit: u64) -> String {
    match limit {
        0 => size(used),
        limit => format!("{} of {} ({}%)", size(used), size(limit), percent(used, limit)),
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        100
    } else {
        u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(u64::MAX)
    }
}

/// Formats bytes in the unit of a Kubernetes quantity, e.g. `1.5Gi`.
fn size(bytes: u64) -> String {
    let unit = [("Ti", 1_u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match unit.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1}{name}", bytes as f64 / unit as f64),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::state_report::{Memory, Scrub, Volume};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn report(scrub: Scrub) -> StateReport {
        StateReport {
            engine: "runs".into(),
            size_bytes: 3 * GIB / 2,
            log_bytes: 64 << 20,
            durable_index: 120,
            scrub: Some(scrub),
            memory: Some(Memory { limit_bytes: 2 * GIB, used_bytes: GIB / 2 }),
            volume: Some(Volume { size_bytes: 10 * GIB, free_bytes: 8 * GIB }),
            ..StateReport::default()
        }
    }

    fn cells(scrub: Scrub) -> [String; 7] {
        row("node-1", &UsageView::from(&report(scrub)), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn row_has_sizes_shares_and_the_last_scrub() {
        let expected = [
            "node-1",
            "1.5Gi",
            "64.0Mi",
            "120",
            "2m5s ago",
            "512.0Mi of 2.0Gi (25%)",
            "2.0Gi of 10.0Gi (20%)",
        ];
        assert_eq!(cells(Scrub { last_complete_seconds_ago: Some(125), ..Scrub::default() }), expected);
    }

    #[test]
    fn damage_is_shown_before_progress_and_progress_before_age() {
        let running = Scrub {
            last_complete_seconds_ago: Some(5),
            running: true,
            done_bytes: 3,
            total_bytes: 4,
            damaged_files: Vec::new(),
        };
        assert_eq!(cells(running.clone())[4], "running, 75%");
        let damaged = Scrub { damaged_files: vec!["1f.run".into()], ..running };
        assert_eq!(cells(damaged)[4], "damaged: 1f.run");
        assert_eq!(cells(Scrub::default())[4], "");
    }

    #[test]
    fn usage_read_by_the_operator_gives_the_same_row() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let usage = MemberUsage {
            state_bytes: 3 << 29,
            log_bytes: 64 << 20,
            durable_index: 120,
            scrubbed_at: Some(Time(at)),
            memory_bytes: 1 << 29,
            ..MemberUsage::default()
        };
        let later = at.checked_add(SignedDuration::from_secs(125)).unwrap();
        let expected = ["demo-0", "1.5Gi", "64.0Mi", "120", "2m5s ago", "512.0Mi", ""];
        assert_eq!(row("demo-0", &UsageView::from(&usage), later), expected);
    }
}
