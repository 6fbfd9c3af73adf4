//! Schemas of the status.

use serde_json::{Value as Json, json};

use super::{nodes, number, object, or_null, text};

pub fn fields() -> Vec<(&'static str, Json)> {
    let texts = ["name", "cluster_id", "leader", "version", "not_ready_reason"];
    let numbers = [
        "member_id",
        "term",
        "last_index",
        "commit_index",
        "applied_index",
        "snapshot_index",
        "keys",
        "uptime_seconds",
        "cluster_size",
        "last_skipped_index",
    ];
    let roles = ["uninitialized", "follower", "candidate", "leader", "learner", "removed"];
    let mut fields: Vec<_> = texts.map(|name| (name, text())).into();
    fields.extend(numbers.map(|name| (name, number())));
    fields.push(("role", json!({ "type": "string", "enum": roles })));
    fields.push(("ready", json!({ "type": "boolean" })));
    fields.push(("has_quorum", json!({ "type": "boolean" })));
    fields.push(("healthy_nodes", json!({ "type": ["integer", "null"] })));
    let (yes_or_no, none) = (|| json!({ "type": "boolean" }), &[]);
    fields.push(("tls", object(&[("peer", yes_or_no()), ("client", yes_or_no())], none)));
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    fields.push(("sessions", object(&["client", "grpc", "gateway"].map(|name| (name, number())), none)));
    fields.push(("snapshot", or_null(reference("Snapshot"))));
    fields.push(("state", reference("State")));
    let held = [("index", number()), ("command", text()), ("size_bytes", number()), ("crc", text())];
    fields.push(("entry_unappliable", or_null(object(&held, none))));
    fields.push(("archivers", archivers()));
    fields.push(("parts", reference("Parts")));
    fields.push(("nodes", nodes()));
    fields
}

/// Schema of the archivers that hold the log of the answering member.
fn archivers() -> Json {
    let stored = || or_null(object(&["index", "age_seconds"].map(|name| (name, number())), &[]));
    let archiver = object(
        &[
            ("name", text()),
            ("reported_seconds_ago", number()),
            ("state", text()),
            ("archived_index", number()),
            ("lag_seconds", json!({ "type": "number" })),
            ("last_base", stored()),
            ("last_verified_restore", stored()),
        ],
        &[],
    );
    json!({ "type": "array", "items": archiver })
}

pub fn node() -> Json {
    object(
        &[
            ("id", number()),
            ("name", text()),
            ("address", text()),
            ("client_address", text()),
            ("voter", json!({ "type": "boolean" })),
            ("leader", json!({ "type": "boolean" })),
            ("match_index", json!({ "type": ["integer", "null"] })),
            ("active", json!({ "type": ["boolean", "null"] })),
        ],
        &[],
    )
}

/// Schema of the newest snapshot on the disk of the answering member.
pub fn snapshot() -> Json {
    object(&["index", "size_bytes", "age_seconds"].map(|name| (name, number())), &[])
}

/// Schema of state and log on the disk of the answering member, its memory and its volume.
pub fn state() -> Json {
    let some_number = || json!({ "type": ["integer", "null"] });
    let files = json!({ "type": "array", "items": text() });
    let mut scrub = object(
        &[
            ("last_complete_seconds_ago", some_number()),
            ("running", json!({ "type": "boolean" })),
            ("done_bytes", number()),
            ("total_bytes", number()),
            ("damaged_files", files),
        ],
        &[],
    );
    scrub["description"] = json!("The check of all files of the state in the background; null if it is off.");
    let memory = object(&[("limit_bytes", some_number()), ("used_bytes", number())], &[]);
    let volume = object(&[("size_bytes", number()), ("free_bytes", number())], &[]);
    let sizes = ["size_bytes", "log_bytes", "log_memory_bytes", "durable_index"];
    let mut fields = vec![("engine", text())];
    fields.extend(sizes.map(|name| (name, number())));
    fields.push(("checkpoint_age_seconds", some_number()));
    fields.extend([("scrub", or_null(scrub)), ("memory", or_null(memory)), ("volume", or_null(volume))]);
    object(&fields, &[])
}

/// Schema of the three parts of a node.
pub fn parts() -> Json {
    let (name, some_number) = (json!({ "type": ["string", "null"] }), json!({ "type": ["integer", "null"] }));
    let one_of = |names: &[&str]| json!({ "type": "string", "enum": names });
    let mut health = one_of(&["unknown", "healthy", "degraded", "unreachable"]);
    health["description"] = json!(
        "healthy: heard within raft.election_timeout_min, at most 1000 entries behind. unreachable: silent for two of these \
         timeouts. degraded: between both, or a snapshot is being sent to it. unknown: only the leader hears all members, \
         the others hear the leader."
    );
    let consensus = object(
        &[
            ("role", text()),
            ("term", number()),
            ("leader", text()),
            ("last_index", number()),
            ("commit_index", number()),
            ("applied_index", number()),
        ],
        &[],
    );
    let peer = object(
        &[
            ("name", name.clone()),
            ("health", health),
            ("last_contact_ms", some_number.clone()),
            ("consecutive_errors", number()),
            ("lag_entries", some_number.clone()),
        ],
        &[],
    );
    let election = object(
        &[
            ("cause", one_of(&["timeout", "leader_lost", "handover"])),
            ("ago_ms", number()),
            ("took_ms", some_number),
        ],
        &[],
    );
    let failover = object(
        &[
            ("may_lead", json!({ "type": "array", "items": text() })),
            ("transfer_to", name),
            ("last_election", or_null(election)),
        ],
        &[],
    );
    let peers = json!({ "type": "array", "items": peer });
    object(
        &[
            ("consensus_manager", consensus),
            ("health_checker", object(&[("peers", peers)], &[])),
            ("failover_coordinator", failover),
        ],
        &[],
    )
}
