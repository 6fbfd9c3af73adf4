//! The status page, and the stream of statuses that feeds it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use helios_proto::v1::ErrorCode;
use helios_service::database::Database as _;
use serde_json::Value as Json;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::{IntervalStream, WatchStream};
use tokio_util::sync::CancellationToken;
use warp::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use warp::reply::{Reply as _, Response};
use warp::sse::Event;

use super::answer::failed;
use super::cluster::{changed_membership, describe};
use crate::error::Error;
use crate::node::Node;
use crate::raft::RaftStatus;

const PAGE: &str = include_str!("page.html");
/// Content security policy: the page loads nothing and connects to its own gateway only.
const POLICY: &str = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; \
                      script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
const PERIOD: Duration = Duration::from_secs(1);
const MAX_STREAMS: usize = 64;

/// Returns the page. It contains no data, so it needs no token: the page asks the user for one.
pub fn page() -> Response {
    let mut response = warp::reply::html(PAGE).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Server-sent events: the status, at once and every second; and the members, at once and when they change.
#[derive(Clone)]
pub struct Live {
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Live {
    pub fn new(stop: CancellationToken) -> Self {
        Self { streams: Arc::new(Semaphore::new(MAX_STREAMS)), stop }
    }

    /// Opens a stream, which ends within a second once `is_valid` is false.
    pub fn stream(&self, node: &Node, is_valid: impl Fn() -> bool + Send + Sync + 'static) -> Response {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            let message = format!("{MAX_STREAMS} streams are open already: close one, or request /status");
            return failed(&Error::new(ErrorCode::Overloaded, message));
        };
        let (node, observed) = (node.clone(), node.clone());
        let seconds = IntervalStream::new(tokio::time::interval(PERIOD));
        let revoked = self.stop.child_token();
        let over = revoked.clone();
        let statuses = seconds.filter_map(move |_| {
            let _held = &permit;
            if !is_valid() {
                revoked.cancel();
            }
            let is_open = !revoked.is_cancelled();
            std::future::ready(is_open.then(|| event("status", &describe(&node.status()))))
        });
        let events = futures::stream::select(statuses, memberships(&observed));
        warp::sse::reply(events.take_until(over.cancelled_owned())).into_response()
    }
}

type SentEvent = Result<Event, Infallible>;

fn event(name: &str, data: &Json) -> SentEvent {
    Ok(Event::default().event(name).data(data.to_string()))
}

/// Streams the members of the cluster as this node knows them: at once, and when one joins, leaves or is promoted.
/// Empty before the node belongs to a cluster.
fn memberships(node: &Node) -> impl Stream<Item = SentEvent> + use<> {
    let changes = node.member().map(|member| WatchStream::new(member.raft.watch_status()));
    let mut last = None;
    let members = move |status: Arc<RaftStatus>| {
        let index = status.membership.index;
        let is_new = last.replace(index) != Some(index);
        let changed = is_new.then(|| event("members", &changed_membership(&status.membership)));
        std::future::ready(changed)
    };
    futures::stream::iter(changes).flatten().filter_map(members)
}
