//! The OpenAPI document of the gateway, generated from the table of routes: a route without a description does not
//! compile. Pure.

mod status;

use serde_json::{Map, Value as Json, json};

use super::keys::TOKEN_HEADER;
use super::route::{ROUTES, Route};

/// Description of one route: parameters, body and responses.
struct Operation {
    tag: &'static str,
    summary: &'static str,
    parameters: Vec<Json>,
    body: Option<Json>,
    is_body_required: bool,
    /// Responses that are no errors: status code, media type, schema.
    answers: Vec<(&'static str, &'static str, Json)>,
}

impl Operation {
    fn new(tag: &'static str, summary: &'static str) -> Self {
        let answers = Vec::new();
        Self { tag, summary, parameters: Vec::new(), body: None, is_body_required: true, answers }
    }

    fn parameter(mut self, parameter: Json) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// Sets the schema of the body; unknown fields are rejected.
    fn body(self, mut schema: Json) -> Self {
        if schema["type"] == "object" {
            schema["additionalProperties"] = json!(false);
        }
        Self { body: Some(schema), ..self }
    }

    fn optional_body(self, schema: Json) -> Self {
        Self { is_body_required: false, ..self.body(schema) }
    }

    /// Adds the 200 response, an object with these fields.
    fn answers(self, fields: &[(&str, Json)]) -> Self {
        let schema = object(fields, &[]);
        self.answers_as("200", "application/json", schema)
    }

    fn answers_as(mut self, code: &'static str, kind: &'static str, schema: Json) -> Self {
        self.answers.push((code, kind, schema));
        self
    }

    fn render(self, route: Route) -> Json {
        let mut responses = Map::new();
        for (code, kind, schema) in self.answers {
            let mut response =
                json!({ "description": "See the schema.", "content": { kind: { "schema": schema } } });
            if matches!(route, Route::Put | Route::Apply) {
                response["headers"] = json!({ TOKEN_HEADER: { "schema": text() } });
            }
            responses.insert(code.to_owned(), response);
        }
        responses.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Error" }));
        let mut operation = json!({
            "operationId": format!("{route:?}"),
            "tags": [self.tag],
            "summary": self.summary,
            "parameters": self.parameters,
            "responses": responses,
        });
        if let Some(schema) = self.body {
            let content = json!({ "application/json": { "schema": schema } });
            operation["requestBody"] = json!({ "required": self.is_body_required, "content": content });
        }
        if route.is_open() {
            operation["security"] = json!([]);
        }
        operation
    }
}

/// Returns the document of a gateway under `prefix`; `requires_auth`: requests have to authenticate.
pub fn document(prefix: &str, requires_auth: bool) -> Json {
    let mut paths = Map::new();
    for row in ROUTES {
        let mut operation = describe(row.route).render(row.route);
        // Two paths may have the same route, but operation ids have to be unique.
        let id = row.path.trim_start_matches('/').replace(['/', '.'], "_");
        operation["operationId"] = json!(if id.is_empty() { "page".to_owned() } else { id });
        paths.insert(row.path.to_owned(), json!({ row.method.as_str().to_ascii_lowercase(): operation }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "HeliosDB gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keys, and management of the cluster, as JSON. Any member answers any call.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": if prefix.is_empty() { "/" } else { prefix } }],
        "security": if requires_auth { json!([{ "token": [] }, { "user": [] }]) } else { json!([]) },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "user": { "type": "http", "scheme": "basic" },
            },
            "responses": { "Error": {
                "description": "Error; `retryable`: the same request may succeed if sent again.",
                "content": { "application/json": { "schema": error_schema() } },
            } },
            "schemas": {
                "Node": status::node(),
                "Snapshot": status::snapshot(),
                "State": status::state(),
                "Parts": status::parts(),
                "Difference": difference_schema(),
            },
        },
    })
}

fn describe(route: Route) -> Operation {
    let probe = |summary| {
        let plain = || json!({ "type": "string" });
        Operation::new("health", summary).answers_as("200", "text/plain", plain()).answers_as(
            "503",
            "text/plain",
            plain(),
        )
    };
    match route {
        Route::Live => probe("The process runs"),
        Route::Ready => probe("This member can serve or forward requests"),
        Route::Primary => probe("This member is the leader"),
        Route::Replica => probe("This member is a ready follower"),
        Route::Metrics => Operation::new("health", "Metrics for Prometheus").answers_as(
            "200",
            "application/openmetrics-text",
            json!({ "type": "string" }),
        ),
        Route::Health | Route::HealthDetailed => health(route),
        Route::Status => {
            Operation::new("cluster", "The status of this member and of the cluster as it knows it")
                .answers(&status::fields())
        }
        Route::Leader => Operation::new("cluster", "The leader").answers(&leader_fields()),
        Route::Nodes => Operation::new("cluster", "The members").answers(&[("nodes", nodes())]),
        Route::Put | Route::Get | Route::Apply | Route::Read => key(route),
        Route::Transfer => {
            Operation::new("management", "Transfer leadership to a member; served by the leader only")
                .body(object(
                    &[("target_node_id", member()), ("timeout_ms", up_to(u32::MAX.into()))],
                    &["target_node_id"],
                ))
                .answers(&leader_fields())
        }
        Route::StepDown => Operation::new("management", "Transfer leadership to the most caught-up voter")
            .optional_body(object(&[("timeout_ms", up_to(u32::MAX.into()))], &[]))
            .answers(&leader_fields()),
        Route::Snapshot => Operation::new("management", "Take a snapshot of this member's state now")
            .answers(&[("index", number()), ("term", number())]),
        Route::AddNode => {
            Operation::new("management", "Add a blank node, and promote it once it has caught up")
                .body(object(
                    &[
                        ("node_id", text()),
                        ("address", text()),
                        ("port", or_null(up_to(u16::MAX.into()))),
                        ("vote", json!({ "type": "boolean", "default": true })),
                    ],
                    &["node_id", "address"],
                ))
                .answers(&membership_fields())
        }
        Route::RemoveNode => Operation::new("management", "Remove a member")
            .body(object(&[("node_id", member())], &["node_id"]))
            .answers(&membership_fields()),
        Route::Promote => Operation::new("management", "Promote a learner to voter")
            .body(object(&[("node_id", member())], &["node_id"]))
            .answers(&membership_fields()),
        Route::Config => Operation::new("configuration", "The configuration that this member runs with")
            .answers(&[("config", json!({ "type": "object" })), ("hash", text())]),
        Route::ConfigDiff => Operation::new("configuration", "The changes that a reload would find")
            .answers(&[("changes", differences())]),
        Route::ConfigReload => Operation::new("configuration", "Reload the configuration")
            .answers(&[("applied", differences()), ("needs_restart", differences())]),
        Route::StatusStream => Operation::new(
            "cluster",
            "Server-sent events: `status`, every second, and `members`, at once and when they change",
        )
        .answers_as("200", "text/event-stream", text()),
        Route::Page => Operation::new("about", "The status page").answers_as("200", "text/html", text()),
        Route::OpenApi => Operation::new("about", "This document").answers_as(
            "200",
            "application/json",
            json!({ "type": "object" }),
        ),
    }
}

fn health(route: Route) -> Operation {
    let mut fields = vec![("healthy", json!({ "type": "boolean" })), ("reason", text())];
    let mut summary = "Whether this member can serve";
    if route == Route::HealthDetailed {
        fields.push(("cluster", object(&status::fields(), &[])));
        summary = "The same, with the cluster as this member knows it";
    }
    let schema = object(&fields, &[]);
    Operation::new("health", summary).answers_as("200", "application/json", schema.clone()).answers_as(
        "503",
        "application/json",
        schema,
    )
}

fn key(route: Route) -> Operation {
    let ack = or_null(json!({ "type": "string", "enum": ["majority", "all"] }));
    let level = json!({ "type": "string", "enum": ["linearizable", "lease", "stale"] });
    let mut staleness = up_to(u32::MAX.into());
    staleness["description"] = json!("With stale only.");
    let written = [("revision", number()), ("term", number()), ("deleted", number()), ("answer", text())];
    let found = [
        ("key", text()),
        ("value", text()),
        ("value_base64", text()),
        ("revision", number()),
        ("expire_at_ms", number()),
    ];
    let token = json!({
        "name": TOKEN_HEADER, "in": "header", "schema": text(),
        "description": "Token from the response to a write that this read has to see.",
    });
    match route {
        Route::Put => Operation::new("keys", "Write a key")
            .body(object(&[("key", text()), ("value", text()), ("ack", ack)], &["key", "value"]))
            .answers(&written),
        Route::Apply => {
            Operation::new("keys", "Apply a command: set, delete, or one of the embedding application")
                .body(json!({ "oneOf": [
                command("set", object(&[("key", text()), ("value", text())], &[]), &["key", "value"], &ack),
                command("delete", object(&[("key", text())], &[]), &["key"], &ack),
            ] }))
                .answers(&written)
        }
        Route::Get => Operation::new("keys", "Read a key")
            .parameter(json!({ "name": "key", "in": "query", "required": true, "schema": text() }))
            .parameter(json!({ "name": "consistency", "in": "query", "schema": level }))
            .parameter(json!({ "name": "max_staleness_ms", "in": "query", "schema": staleness }))
            .parameter(token)
            .answers(&found),
        _ => Operation::new("keys", "Read the state machine: the value of a key")
            .body(object(
                &[
                    ("query", text()),
                    ("consistency", or_null(level)),
                    ("max_staleness_ms", or_null(staleness)),
                ],
                &["query"],
            ))
            .parameter(token)
            .answers(&found),
    }
}

fn object(fields: &[(&str, Json)], required: &[&str]) -> Json {
    let properties: Map<_, _> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
        schema["additionalProperties"] = json!(false);
    }
    schema
}

fn command(name: &str, mut data: Json, required: &[&str], ack: &Json) -> Json {
    data["required"] = json!(required);
    object(&[("type", json!({ "const": name })), ("data", data), ("ack", ack.clone())], &["type", "data"])
}

/// Schema of an optional field of a body: null counts as absent.
fn or_null(schema: Json) -> Json {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn up_to(maximum: u64) -> Json {
    json!({ "type": "integer", "minimum": 0, "maximum": maximum })
}

fn text() -> Json {
    json!({ "type": "string" })
}

fn number() -> Json {
    json!({ "type": "integer", "minimum": 0 })
}

/// Schema of a member: by name or by id.
fn member() -> Json {
    json!({ "oneOf": [{ "type": "string", "minLength": 1 }, up_to(u32::MAX.into())] })
}

fn nodes() -> Json {
    json!({ "type": "array", "items": { "$ref": "#/components/schemas/Node" } })
}

fn differences() -> Json {
    json!({ "type": "array", "items": { "$ref": "#/components/schemas/Difference" } })
}

fn leader_fields() -> Vec<(&'static str, Json)> {
    vec![
        ("leader", json!({ "type": ["string", "null"] })),
        ("leader_id", number()),
        ("address", json!({ "type": ["string", "null"] })),
        ("client_address", json!({ "type": ["string", "null"] })),
        ("term", number()),
    ]
}

fn membership_fields() -> Vec<(&'static str, Json)> {
    vec![("nodes", nodes()), ("membership_index", number())]
}

fn difference_schema() -> Json {
    let change = json!({ "type": "string", "enum": ["reload", "restart", "never"] });
    object(&[("key", text()), ("from", json!({})), ("to", json!({})), ("change", change)], &[])
}

fn error_schema() -> Json {
    let error = object(
        &[
            ("code", number()),
            ("name", text()),
            ("message", text()),
            ("retryable", json!({ "type": "boolean" })),
            ("fatal", json!({ "type": "boolean" })),
            ("leader_hint", text()),
            ("leader_addr", text()),
        ],
        &["code", "name", "message", "retryable", "fatal", "leader_hint", "leader_addr"],
    );
    object(&[("error", error)], &["error"])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HELIOS_UPDATE_DOCS=1` writes the document instead: `reference` is in the name for that.
    #[test]
    fn the_document_in_docs_reference_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/openapi.json");
        let made = format!("{:#}\n", document("", true));
        if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            current == made,
            "openapi.json is out of date; run HELIOS_UPDATE_DOCS=1 cargo test reference"
        );
    }

    #[test]
    fn the_document_describes_exactly_the_routes() {
        let document = document("/db", false);
        let paths = document["paths"].as_object().unwrap();
        let described: Vec<_> = paths
            .iter()
            .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| (method, path)))
            .map(|(method, path)| format!("{} {path}", method.to_ascii_uppercase()))
            .collect();
        let mut served: Vec<_> = ROUTES.iter().map(|row| format!("{} {}", row.method, row.path)).collect();
        served.sort_by(|a, b| a.split_once(' ').unwrap().1.cmp(b.split_once(' ').unwrap().1));
        assert_eq!(described, served);
        assert_eq!(document["servers"][0]["url"], "/db");
    }
}
