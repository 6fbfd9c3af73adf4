//! Routes of keys and values: S2's put and get, S3's apply and read.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{self as proto, ErrorCode, Reply, Token};
use helios_service::auth::Identity;
use helios_service::database::{Ack, Database, Freshness};
use helios_service::token;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use warp::reply::{Reply as _, Response};

use super::answer::{failed, ok};
use super::request::{Request, Whole};
use crate::error::Error;
use crate::node::Node;
use crate::state::commands;

/// Header with the token of a write: in the response to a write, and in the request of a read that has to see it.
pub const TOKEN_HEADER: &str = "helios-token";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody {
    key: String,
    value: String,
    /// Ack level: `majority` or `all`.
    ack: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetQuery {
    key: String,
    consistency: Option<String>,
    /// Maximum age of the state, with `consistency=stale` only; none: of any age.
    max_staleness_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyBody {
    #[serde(rename = "type")]
    kind: String,
    /// `{"key","value"}` for `set`, `{"key"}` for `delete`; with a state machine of the embedding application, any
    /// JSON.
    data: Json,
    ack: Option<String>,
}

#[derive(Deserialize)]
struct SetData {
    key: String,
    value: String,
}

#[derive(Deserialize)]
struct DeleteData {
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadBody {
    /// Key to read.
    query: String,
    consistency: Option<String>,
    max_staleness_ms: Option<Whole<u64>>,
}

pub async fn put(request: &Request, node: &Node) -> Result<Response, Box<Response>> {
    let PutBody { key, value, ack } = request.json()?;
    request.check_key(&key)?;
    let set = proto::Set { key: key.into(), value: value.into(), ..proto::Set::default() };
    Ok(written(write(node, commands::set(set), ack.as_deref()).await, node))
}

pub async fn apply(request: &Request, node: &Node) -> Result<Response, Box<Response>> {
    let ApplyBody { kind, data, ack } = request.json()?;
    let user = request.user.as_ref();
    let outcome = match operation(kind, data, node.has_machine(), user) {
        Ok(op) => write(node, op, ack.as_deref()).await,
        Err(error) => Err(error),
    };
    Ok(written(outcome, node))
}

/// Returns the log operation of a command: for the embedding application's state machine if there is one, else for the
/// keys.
fn operation(kind: String, data: Json, has_machine: bool, user: Option<&Identity>) -> Result<Op, Error> {
    let check = |key: &str| user.map_or(Ok(()), |user| user.check_key(key.as_bytes()));
    if has_machine {
        user.map_or(Ok(()), |user| user.check_all_keys("a command of the application's state machine"))?;
        return Ok(Op::Apply(proto::Apply { kind, data: data.to_string().into() }));
    }
    let wrong = |error: serde_json::Error| Error::invalid(format!("data of {kind:?}: {error}"));
    match kind.as_str() {
        "set" => {
            let SetData { key, value } = serde_json::from_value(data).map_err(wrong)?;
            check(&key)?;
            Ok(commands::set(proto::Set { key: key.into(), value: value.into(), ..proto::Set::default() }))
        }
        "delete" => {
            let DeleteData { key } = serde_json::from_value(data).map_err(wrong)?;
            check(&key)?;
            Ok(commands::delete(vec![key.into()]))
        }
        _ => Err(Error::invalid(format!("type {kind:?}: write set or delete"))),
    }
}

async fn write(node: &Node, op: Op, ack: Option<&str>) -> Result<Reply, Error> {
    let ack = match ack.map(Ack::parse) {
        None => Ack::default(),
        Some(Some(ack)) => ack,
        Some(None) => return Err(Error::invalid("ack: write majority or all")),
    };
    let outcome = node.submit(vec![op.into()], ack).await.pop();
    let reply = outcome.unwrap_or_else(|| Err(Error::outcome_unknown()))?;
    match reply.kind {
        Some(Kind::Error(refusal)) => Err(refusal.into()),
        _ => Ok(reply),
    }
}

fn written(outcome: Result<Reply, Error>, node: &Node) -> Response {
    let reply = match outcome {
        Ok(reply) => reply,
        Err(error) => return failed(&error),
    };
    let token = token::print(&node.token_of(&reply));
    let mut body = json!({ "revision": reply.index, "term": reply.term });
    match reply.kind {
        Some(Kind::Integer(count)) => body["deleted"] = json!(count),
        Some(Kind::Bytes(answer)) => describe(&mut body, "answer", &answer),
        _ => {}
    }
    warp::reply::with_header(ok(&body), TOKEN_HEADER, token).into_response()
}

pub async fn get(request: &Request, node: &Node) -> Result<Response, Box<Response>> {
    let GetQuery { key, consistency, max_staleness_ms } = request.query()?;
    request.check_key(&key)?;
    let freshness = wanted(consistency.as_deref(), max_staleness_ms);
    Ok(found(&key, freshness, request.header(TOKEN_HEADER), node).await)
}

pub async fn read(request: &Request, node: &Node) -> Result<Response, Box<Response>> {
    let ReadBody { query, consistency, max_staleness_ms } = request.json()?;
    request.check_key(&query)?;
    let freshness = wanted(consistency.as_deref(), max_staleness_ms.map(|Whole(ms)| ms));
    Ok(found(&query, freshness, request.header(TOKEN_HEADER), node).await)
}

async fn found(key: &str, freshness: Result<Freshness, Error>, token: Option<&str>, node: &Node) -> Response {
    let look = async {
        node.await_fresh(freshness?, after(token)?.as_ref()).await?;
        let value = node.store().get(key.as_bytes(), node.bounded_ms())?;
        let missing = || Error::new(ErrorCode::KeyNotFound, format!("there is no key {key:?}"));
        value.ok_or_else(missing)?.into_string()
    };
    match look.await {
        Ok(value) => {
            let mut body = json!({ "key": key, "revision": value.revision });
            describe(&mut body, "value", &value.data);
            if let Some(at_ms) = value.expire_at_ms {
                body["expire_at_ms"] = json!(at_ms);
            }
            ok(&body)
        }
        Err(error) => failed(&error),
    }
}

/// Sets `field` to `data` if that is UTF-8, else `<field>_base64`.
fn describe(body: &mut Json, field: &str, data: &[u8]) {
    match std::str::from_utf8(data) {
        Ok(text) => body[field] = json!(text),
        Err(_) => body[format!("{field}_base64")] = json!(STANDARD.encode(data)),
    }
}

/// Parses the consistency level of a read.
fn wanted(consistency: Option<&str>, max_staleness_ms: Option<u64>) -> Result<Freshness, Error> {
    match (consistency, max_staleness_ms) {
        (None | Some("linearizable"), None) => Ok(Freshness::Linearizable),
        (Some("lease"), None) => Ok(Freshness::Lease),
        (Some("stale"), max_ms) => Ok(Freshness::Stale(max_ms.map(Duration::from_millis))),
        (_, Some(_)) => Err(Error::invalid("max_staleness_ms requires consistency=stale")),
        (Some(other), None) => {
            Err(Error::invalid(format!("consistency {other:?}: write linearizable, lease or stale")))
        }
    }
}

fn after(token: Option<&str>) -> Result<Option<Token>, Error> {
    let wrong =
        || Error::invalid(format!("header {TOKEN_HEADER}: send the value from the response to a write"));
    token.map(|text| token::parse(text).ok_or_else(wrong)).transpose()
}
