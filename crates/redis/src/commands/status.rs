//! `INFO` and `ROLE`: the node's status in the fields that Redis tools read.

use std::fmt::Write;

use helios_proto::v1::{Member, Role, StatusResponse};

use super::super::frame::Frame;
use super::local::Context;

/// Redis version whose commands and replies this server follows; clients enable features by it.
pub const REDIS_VERSION: &str = "7.2.0";

type Section = fn(&Context<'_>, &StatusResponse) -> String;

const SECTIONS: [(&str, Section); 10] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Cluster", |_, _| "cluster_enabled:0\r\n".to_owned()),
    ("Keyspace", keyspace),
    ("Raft", raft),
];

/// Returns the sections `wanted`, named in lower case, or all sections.
pub fn info(wanted: &[String], context: &Context<'_>) -> String {
    let all =
        wanted.is_empty() || wanted.iter().any(|name| ["all", "default", "everything"].contains(&&**name));
    let status = (context.status)();
    let mut text = String::new();
    for (name, section) in SECTIONS {
        if all || wanted.contains(&name.to_ascii_lowercase()) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{gap}# {name}\r\n{}", section(context, &status));
        }
    }
    text
}

fn leads(status: &StatusResponse) -> bool {
    status.role() == Role::Leader
}

/// Whether Redis clients are shown this member as a master; many write to a master only. A member without a
/// cluster, or removed from it, is never one.
pub fn is_master(status: &StatusResponse, context: &Context<'_>) -> bool {
    leads(status)
        || context.followers_are_masters
            && matches!(status.role(), Role::Follower | Role::Candidate | Role::Learner)
}

/// Returns the reply to `ROLE`: `master offset replicas`, or `slave host port state offset`; offsets are log
/// indexes.
pub fn role(context: &Context<'_>) -> Frame {
    let status = &(context.status)();
    let number = |index: u64| Frame::Integer(index.cast_signed());
    if is_master(status, context) {
        let replicas = replicas(status).map(|(member, match_index)| {
            let (host, port) = host_port(&member.client_addr);
            Frame::Array([host, port, match_index.to_string()].map(Frame::bulk).into())
        });
        return Frame::Array(vec![
            Frame::bulk("master"),
            number(status.commit_index),
            Frame::Array(replicas.collect()),
        ]);
    }
    let (host, port) = leader_address(status).unwrap_or_default();
    let state = if status.leader_id == 0 { "connect" } else { "connected" };
    Frame::Array(vec![
        Frame::bulk("slave"),
        Frame::bulk(host),
        Frame::Integer(port.parse().unwrap_or(0)),
        Frame::bulk(state),
        number(status.applied_index),
    ])
}

fn server(context: &Context<'_>, status: &StatusResponse) -> String {
    let uptime = context.shared.started.elapsed().as_secs();
    format!(
        "redis_version:{REDIS_VERSION}\r\nhelios_version:{}\r\nserver_name:heliosdb\r\nredis_mode:standalone\r\n\
         os:{}\r\narch_bits:{}\r\nprocess_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime}\r\n\
         uptime_in_days:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        usize::BITS,
        std::process::id(),
        status.disk_id,
        context.shared.address.port(),
        uptime / 86_400,
    )
}

fn clients(context: &Context<'_>, _: &StatusResponse) -> String {
    let shared = context.shared;
    format!(
        "connected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:{}\r\n",
        shared.clients.len(),
        shared.limits.max_clients,
        shared.waiting.count()
    )
}

fn memory(context: &Context<'_>, _: &StatusResponse) -> String {
    let resident_bytes = resident_bytes().unwrap_or(0);
    format!(
        "used_memory:{resident_bytes}\r\nused_memory_rss:{resident_bytes}\r\nmaxmemory:0\r\n\
         maxmemory_policy:noeviction\r\nmem_clients_normal:{}\r\nmaxmemory_clients:{}\r\ndataset_bytes:{}\r\noverlay_bytes:{}\r\n",
        context.shared.memory.total(),
        context.shared.memory.limits.all_bytes,
        context.store.bytes(),
        context.store.overlay_bytes()
    )
}

/// Returns the fields of `MEMORY STATS` that are known here.
pub fn memory_stats(context: &Context<'_>) -> Frame {
    let (keys, bytes) = (context.store.key_count(), context.store.bytes());
    let fields = [
        ("total.allocated", resident_bytes().unwrap_or(0)),
        ("keys.count", keys),
        ("keys.bytes-per-key", bytes.checked_div(keys).unwrap_or(0)),
        ("dataset.bytes", bytes),
        ("overlay.bytes", context.store.overlay_bytes() as u64),
    ];
    Frame::Map(fields.map(|(name, number)| (Frame::text(name), Frame::Integer(number.cast_signed()))).into())
}

fn persistence(_: &Context<'_>, status: &StatusResponse) -> String {
    format!("loading:0\r\nasync_loading:0\r\naof_enabled:1\r\nsnapshot_index:{}\r\n", status.snapshot_index)
}

fn stats(context: &Context<'_>, _: &StatusResponse) -> String {
    let stats = context.shared.stats.read();
    format!(
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\nrejected_connections:{}\r\n\
         keyspace_hits:{}\r\nkeyspace_misses:{}\r\ntotal_error_replies:{}\r\nevicted_clients:{}\r\n\
         client_output_buffer_limit_disconnections:{}\r\n",
        stats.connections,
        stats.commands,
        stats.rejected,
        stats.hits,
        stats.misses,
        stats.errors,
        context.shared.memory.evicted(),
        context.shared.memory.over_limit()
    )
}

fn replication(context: &Context<'_>, status: &StatusResponse) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    if is_master(status, context) {
        let _ = write!(text, "role:master\r\nconnected_slaves:{}\r\n", replicas(status).count());
        for (position, (member, match_index)) in replicas(status).enumerate() {
            let (host, port) = host_port(&member.client_addr);
            let state = if match_index > 0 { "online" } else { "wait_bgsave" };
            let _ = write!(
                text,
                "slave{position}:ip={host},port={port},state={state},offset={match_index},lag={}\r\n",
                status.last_index.saturating_sub(match_index)
            );
        }
    } else {
        let (host, port) = leader_address(status).unwrap_or_default();
        let link = if status.leader_id == 0 { "down" } else { "up" };
        let _ = write!(
            text,
            "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{link}\r\n\
             slave_repl_offset:{}\r\nslave_read_only:0\r\nconnected_slaves:0\r\n",
            status.applied_index
        );
    }
    let _ = write!(text, "master_repl_offset:{}\r\n", status.commit_index);
    text
}

fn cpu(_: &Context<'_>, _: &StatusResponse) -> String {
    let (user, system) = cpu_seconds().unwrap_or_default();
    format!("used_cpu_sys:{system:.2}\r\nused_cpu_user:{user:.2}\r\n")
}

/// Returns the section `Keyspace`. Keys with an expiry are not counted, so `expires` is always 0; tools need
/// the field.
fn keyspace(context: &Context<'_>, _: &StatusResponse) -> String {
    match context.store.key_count() {
        0 => String::new(),
        keys => format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"),
    }
}

fn raft(_: &Context<'_>, status: &StatusResponse) -> String {
    let state = match status.role() {
        Role::Leader => "Leader",
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
        Role::Learner => "Learner",
        Role::Uninitialized => "Uninitialized",
        Role::Removed => "Removed",
    };
    let members = status.membership.as_ref().map_or(0, |membership| membership.members.len());
    let held = status.entry_unappliable.clone().unwrap_or_default();
    format!(
        "raft_enabled:1\r\nraft_name:{}\r\nraft_state:{state}\r\nraft_leader:{}\r\nraft_term:{}\r\n\
         raft_commit_index:{}\r\nraft_applied_index:{}\r\nraft_last_index:{}\r\nraft_members:{members}\r\n\
         raft_entry_unappliable:{}\r\nraft_entry_unappliable_crc:{:08x}\r\nraft_last_skipped_index:{}\r\n",
        status.name,
        status.leader_name,
        status.term,
        status.commit_index,
        status.applied_index,
        status.last_index,
        held.index,
        held.crc,
        status.last_skipped_index
    )
}

/// Returns the other members, each with its match index; only the leader knows these, so elsewhere there are
/// none.
fn replicas(status: &StatusResponse) -> impl Iterator<Item = (&Member, u64)> {
    let membership = status.membership.iter().filter(|_| leads(status));
    let members = membership.flat_map(|membership| &membership.members);
    members.filter(|member| member.id != status.member_id).map(|member| {
        let progress = status.progress.iter().find(|progress| progress.id == member.id);
        (member, progress.map_or(0, |progress| progress.match_index))
    })
}

fn leader_address(status: &StatusResponse) -> Option<(String, String)> {
    let members = &status.membership.as_ref()?.members;
    let leader = members.iter().find(|member| member.id == status.leader_id)?;
    Some(host_port(&leader.client_addr))
}

fn host_port(address: &str) -> (String, String) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.trim_matches(['[', ']']).to_owned(), port.to_owned())
}

/// Returns the resident memory in bytes; field 2 of `/proc/self/statm` counts pages of 4 KiB.
#[allow(clippy::disallowed_methods, reason = "INFO reports on the process")]
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}

/// Returns the user and system CPU time of this process in seconds; `/proc` counts in 1/100 s.
#[allow(clippy::disallowed_methods, reason = "INFO reports on the process")]
fn cpu_seconds() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11).map(|field| field.parse::<f64>());
    Some((fields.next()?.ok()? / 100.0, fields.next()?.ok()? / 100.0))
}
