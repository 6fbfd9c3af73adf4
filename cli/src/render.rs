//! Text output for users. Pure: its input and the time are arguments.

use jiff::{SignedDuration, Timestamp};

use crate::table::table;
use crate::usage;
use crate::view::{ClusterView, ConditionView, Health, MemberView, OperationView, Verdict};

/// Whether text may be coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(pub bool);

impl Colour {
    fn of(self, health: Health, text: &str) -> String {
        let code = match health {
            Health::Healthy => 32,
            Health::Hibernated | Health::Changing => 36,
            Health::Degraded => 33,
            Health::Down | Health::Unknown => 31,
        };
        if self.0 { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Returns a head line, the members, their usage, the operation, backups and conditions, and as the last line the verdict.
pub fn status(cluster: &ClusterView, now: Timestamp, colour: Colour) -> String {
    let mut text = head(cluster) + "\n";
    if !cluster.members.is_empty() {
        let rows: Vec<_> = cluster.members.iter().map(status_row).collect();
        text += "\n";
        text += &table(
            ["MEMBER", "ROLE", "READY", "LAG", "VERSION", "NODE", "VOLUME", "ADDRESS", "TROUBLE"],
            &rows,
        );
    }
    let used: Vec<_> = cluster
        .members
        .iter()
        .filter_map(|member| Some(usage::row(&member.name, member.usage.as_ref()?, now)))
        .collect();
    if !used.is_empty() {
        text += "\n";
        text += &table(usage::HEADERS, &used);
    }
    let facts: Vec<String> = cluster
        .operation
        .iter()
        .map(|operation| format!("Under way: {}", operation_line(operation, now)))
        .chain(cluster.backup.iter().map(|backup| backup.line(now)))
        .chain(cluster.conditions.iter().map(condition_line))
        .collect();
    if !facts.is_empty() {
        text += &format!("\n{}\n", facts.join("\n"));
    }
    text + "\n" + &verdict(&cluster.verdict, colour)
}

fn head(cluster: &ClusterView) -> String {
    let place = cluster.namespace.as_ref().map_or_else(String::new, |namespace| format!(" in {namespace}"));
    let leader =
        cluster.leader.as_ref().map_or_else(|| "no leader".to_owned(), |name| format!("leader {name}"));
    let term = cluster.term.map_or_else(String::new, |term| format!(", term {term}"));
    let version = cluster.version.as_ref().map_or_else(String::new, |version| format!(", version {version}"));
    format!("{}{place}: {leader}{term}{version}", cluster.name)
}

fn status_row(member: &MemberView) -> [String; 9] {
    let MemberView {
        name,
        role,
        ready,
        lag,
        version,
        node,
        volume,
        address,
        trouble,
        id: _,
        incarnation: _,
        usage: _,
    } = member.clone();
    [
        name,
        role,
        if ready { "yes" } else { "no" }.to_owned(),
        number(lag),
        version.unwrap_or_default(),
        node.unwrap_or_default(),
        volume.unwrap_or_default(),
        address.unwrap_or_default(),
        trouble.unwrap_or_default(),
    ]
}

/// Returns a table of the members with their identities.
pub fn members(cluster: &ClusterView) -> String {
    let row = |member: &MemberView| {
        let MemberView {
            name,
            id,
            role,
            ready,
            lag,
            version,
            node,
            volume,
            address,
            incarnation,
            trouble: _,
            usage: _,
        } = member.clone();
        [
            name,
            number(id),
            role,
            if ready { "yes" } else { "no" }.to_owned(),
            number(lag),
            number(incarnation),
            version.unwrap_or_default(),
            address.unwrap_or_default(),
            node.unwrap_or_default(),
            volume.unwrap_or_default(),
        ]
    };
    let headers = ["MEMBER", "ID", "ROLE", "READY", "LAG", "STARTS", "VERSION", "ADDRESS", "NODE", "VOLUME"];
    table(headers, &cluster.members.iter().map(row).collect::<Vec<_>>())
}

/// Returns the operation's step, its duration, its deadline and the conditions that block it.
pub fn plan(cluster: &ClusterView, now: Timestamp, colour: Colour) -> String {
    let mut text = String::new();
    match &cluster.operation {
        Some(operation) => {
            let OperationView { kind, target, step, started_at, deadline } = operation;
            text += &format!("{}: {}\n", cluster.name, subject(kind, target.as_deref()));
            text += &format!("  step      {step}\n");
            text += &format!("  since     {started_at} ({})\n", length(now.duration_since(*started_at)));
            text += &match overdue(operation, now) {
                Some(late) => format!("  expected  by {deadline}, overdue by {}\n", length(late)),
                None => format!("  expected  by {deadline} (in {})\n", length(deadline.duration_since(now))),
            };
        }
        None => text += &format!("{}: nothing is under way\n", cluster.name),
    }
    for condition in &cluster.conditions {
        text += &format!("  {}\n", condition_line(condition));
    }
    text + &verdict(&cluster.verdict, colour)
}

pub fn verdict(verdict: &Verdict, colour: Colour) -> String {
    format!("{}: {}\n", colour.of(verdict.health, verdict.health.word()), verdict.text)
}

fn operation_line(operation: &OperationView, now: Timestamp) -> String {
    let OperationView { kind, target, step, started_at, deadline } = operation;
    let until = match overdue(operation, now) {
        Some(late) => format!("overdue by {}", length(late)),
        None => format!("expected within {}", length(deadline.duration_since(now))),
    };
    let since = length(now.duration_since(*started_at));
    format!("{}: {step} (for {since}, {until})", subject(kind, target.as_deref()))
}

fn subject(kind: &str, target: Option<&str>) -> String {
    target.map_or_else(|| kind.to_owned(), |target| format!("{kind} of {target}"))
}

fn overdue(operation: &OperationView, now: Timestamp) -> Option<SignedDuration> {
    (now > operation.deadline).then(|| now.duration_since(operation.deadline))
}

fn condition_line(condition: &ConditionView) -> String {
    let ConditionView { type_, status, reason, message } = condition;
    let status = if status == "True" { String::new() } else { format!("={status}") };
    format!("{type_}{status} ({reason}): {message}")
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Formats a duration in its two largest units, e.g. `2m5s`; a negative one, which clock skew causes, is 0s.
pub fn length(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, m) => format!("{m}m{}s", seconds % 60),
        (0, h, m) => format!("{h}h{m}m"),
        (d, h, _) => format!("{d}d{h}h"),
    }
}
