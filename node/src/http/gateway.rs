//! The JSON gateway, as far as it goes today: status and key-value (checklist S2-13, S2-14, S3-27
//! to S3-32). It listens on loopback only (M-14).

use std::time::Duration;

use helios_proto::v1::{self as proto, ErrorCode, Role, StatusResponse, Token, command::Op};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};
use warp::{Filter, Rejection, path};

use super::Answer;
use crate::database::{Ack, Database, Freshness};
use crate::error::Error;
use crate::node::Node;
use crate::state::Value;
use crate::token;

const MAX_BODY_BYTES: u64 = 8 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody {
    key: String,
    value: String,
    /// `majority` or `all`.
    ack: Option<String>,
}

#[derive(Deserialize)]
struct GetQuery {
    key: String,
    consistency: Option<String>,
    /// With `consistency=stale`; none: however old.
    max_staleness_ms: Option<u64>,
}

/// Answered with a write, and sent with a read that shall see it.
const TOKEN_HEADER: &str = "helios-token";

pub fn routes(node: Node) -> BoxedFilter<(Response,)> {
    let with_node = warp::any().map(move || node.clone());
    let status = with_node.clone().map(|node: Node| node.status());
    let read_only = warp::get();
    let health = path!("health").and(read_only).and(status.clone()).map(|s| healthy(&s, false));
    let detailed = path!("health" / "detailed").and(read_only).and(status.clone()).map(|s| healthy(&s, true));
    let state = path!("status").and(read_only).and(status.clone()).map(|s| ok(&describe(&s)));
    let leader = path!("leader").and(read_only).and(status.clone()).map(|s| who_leads(&s));
    let nodes = path!("nodes").and(read_only).and(status).map(|s| ok(&json!({ "nodes": members(&s) })));
    let put_key = path!("put")
        .and(warp::post())
        .and(warp::body::content_length_limit(MAX_BODY_BYTES))
        .and(warp::body::json())
        .and(with_node.clone())
        .and_then(put);
    let get_key = path!("get")
        .and(read_only)
        .and(warp::query())
        .and(warp::header::optional(TOKEN_HEADER))
        .and(with_node)
        .and_then(get);
    health
        .or(detailed)
        .unify()
        .or(state)
        .unify()
        .or(leader)
        .unify()
        .or(nodes)
        .unify()
        .or(put_key)
        .unify()
        .or(get_key)
        .unify()
        .recover(rejected)
        .unify()
        .boxed()
}

async fn put(body: PutBody, node: Node) -> Answer {
    let ack = match body.ack.as_deref().map(Ack::parse) {
        None => Ack::default(),
        Some(Some(ack)) => ack,
        Some(None) => return Ok(failed(&Error::invalid("ack: write majority or all"))),
    };
    let set = proto::Set { key: body.key.into(), value: body.value.into(), ..proto::Set::default() };
    let outcome = node.submit(vec![Op::Set(set).into()], ack).await.pop();
    Ok(match outcome.unwrap_or_else(|| Err(Error::outcome_unknown())) {
        Ok(reply) => {
            let token = token::print(&node.token_of(&reply));
            let body = ok(&json!({ "revision": reply.index }));
            warp::reply::with_header(body, TOKEN_HEADER, token).into_response()
        }
        Err(error) => failed(&error),
    })
}

async fn get(query: GetQuery, token: Option<String>, node: Node) -> Answer {
    let fresh = match wanted(&query, token.as_deref()) {
        Ok((freshness, after)) => node.await_fresh(freshness, after.as_ref()).await,
        Err(error) => Err(error),
    };
    let found = fresh.and_then(|()| {
        node.store()
            .get(query.key.as_bytes(), crate::wall_ms())
            .map_err(|error| Error::new(ErrorCode::StorageUnavailable, error.to_string()))
            .and_then(|value| value.map(Value::into_string).transpose())
    });
    Ok(match found {
        Ok(Some(value)) => ok(&json!({
            "key": query.key,
            "value": String::from_utf8_lossy(&value.data),
            "revision": value.revision,
        })),
        Ok(None) => error_body(StatusCode::NOT_FOUND, ErrorCode::Unspecified, "no such key", false, ""),
        Err(error) => failed(&error),
    })
}

/// What a read must see.
fn wanted(query: &GetQuery, token: Option<&str>) -> Result<(Freshness, Option<Token>), Error> {
    let freshness = match (query.consistency.as_deref(), query.max_staleness_ms) {
        (None | Some("linearizable"), None) => Freshness::Linearizable,
        (Some("lease"), None) => Freshness::Lease,
        (Some("stale"), max_ms) => Freshness::Stale(max_ms.map(Duration::from_millis)),
        (_, Some(_)) => return Err(Error::invalid("max_staleness_ms goes with consistency=stale only")),
        (Some(other), None) => {
            return Err(Error::invalid(format!("consistency {other:?}: write linearizable, lease or stale")));
        }
    };
    let wrong =
        || Error::invalid(format!("header {TOKEN_HEADER}: send what the answer to a write had there"));
    let after = token.map(|text| token::parse(text).ok_or_else(wrong)).transpose()?;
    Ok((freshness, after))
}

fn healthy(status: &StatusResponse, detailed: bool) -> Response {
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({ "healthy": status.ready, "reason": status.not_ready_reason });
    if detailed {
        body["cluster"] = describe(status);
    }
    json_reply(&body, code)
}

fn who_leads(status: &StatusResponse) -> Response {
    if status.leader_id == 0 {
        return failed(&Error::new(ErrorCode::NoLeader, "no leader is known; try again"));
    }
    ok(&json!({ "leader": status.leader_name, "leader_id": status.leader_id, "term": status.term }))
}

fn describe(status: &StatusResponse) -> Json {
    json!({
        "name": status.name,
        "cluster_id": status.cluster_id,
        "member_id": status.member_id,
        "role": role_name(status.role()),
        "term": status.term,
        "leader": status.leader_name,
        "last_index": status.last_index,
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "snapshot_index": status.snapshot_index,
        "keys": status.keys,
        "uptime_seconds": status.uptime_seconds,
        "version": status.version,
        "ready": status.ready,
        "nodes": members(status),
    })
}

fn members(status: &StatusResponse) -> Json {
    let membership = status.membership.clone().unwrap_or_default();
    let one = |member: &proto::Member| {
        let voter = membership.voters.contains(&member.id);
        let progress = status.progress.iter().find(|progress| progress.id == member.id);
        json!({
            "id": member.id,
            "name": member.name,
            "address": member.peer_addr,
            "voter": voter,
            "leader": member.id == status.leader_id,
            "match_index": progress.map(|progress| progress.match_index),
            "active": progress.map(|progress| progress.active),
        })
    };
    membership.members.iter().map(one).collect()
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Uninitialized => "uninitialized",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Learner => "learner",
        Role::Removed => "removed",
    }
}

fn ok(body: &Json) -> Response {
    json_reply(body, StatusCode::OK)
}

fn json_reply(body: &Json, code: StatusCode) -> Response {
    warp::reply::with_status(warp::reply::json(body), code).into_response()
}

fn failed(error: &Error) -> Response {
    let code = match error.code {
        ErrorCode::InvalidArgument | ErrorCode::TooLarge => StatusCode::BAD_REQUEST,
        ErrorCode::Fenced => StatusCode::CONFLICT,
        ErrorCode::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::OutcomeUnknown | ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let hint = error.leader_hint.as_deref().unwrap_or_default();
    error_body(code, error.code, &error.message, error.is_retryable(), hint)
}

/// The one error body (product.md, C11).
fn error_body(status: StatusCode, code: ErrorCode, message: &str, retryable: bool, leader: &str) -> Response {
    let body = json!({ "error": {
        "code": code as i32,
        "name": code.as_str_name(),
        "message": message,
        "retryable": retryable,
        "leader_hint": leader,
    }});
    json_reply(&body, status)
}

async fn rejected(rejection: Rejection) -> Answer {
    let invalid = |code, message: String| error_body(code, ErrorCode::InvalidArgument, &message, false, "");
    Ok(if rejection.is_not_found() {
        invalid(StatusCode::NOT_FOUND, "no such route".into())
    } else if let Some(error) = rejection.find::<warp::filters::body::BodyDeserializeError>() {
        invalid(StatusCode::BAD_REQUEST, error.to_string())
    } else if rejection.find::<warp::reject::InvalidQuery>().is_some() {
        invalid(StatusCode::BAD_REQUEST, "the query needs key=...".into())
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        invalid(StatusCode::METHOD_NOT_ALLOWED, "this route takes another method".into())
    } else if rejection.find::<warp::reject::UnsupportedMediaType>().is_some() {
        invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the body as Content-Type: application/json".into())
    } else if rejection.find::<warp::reject::PayloadTooLarge>().is_some() {
        invalid(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over {MAX_BODY_BYTES} bytes"))
    } else {
        invalid(StatusCode::BAD_REQUEST, format!("{rejection:?}"))
    })
}
