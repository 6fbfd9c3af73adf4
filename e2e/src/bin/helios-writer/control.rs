//! HTTP control of a running writer by a story; HTTP also works through an API server's proxy.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use warp::http::StatusCode;
use warp::reply::{Json, WithStatus, json, with_status};
use warp::{Filter, path};

use crate::tally::Tally;

/// Longest wait for writes to be acknowledged.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves until dropped:
/// - `GET /report`: the window since the start; 503 before the first acknowledged write, so it is also a
///   readiness probe.
/// - `POST /mark`: the window since the previous mark.
/// - `POST /await/N`: answers when N more writes are acknowledged; 504 after a minute.
/// - `POST /stop`: stops writing; the report goes to standard output, as after a signal.
pub async fn serve(listener: TcpListener, tally: Arc<Tally>, stop: CancellationToken) {
    let tally = warp::any().map(move || Arc::clone(&tally));
    let report = path!("report").and(warp::get()).and(tally.clone()).map(|tally: Arc<Tally>| {
        let window = tally.total();
        let code = if window.acknowledged > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        with_status(json(&window), code)
    });
    let mark = path!("mark")
        .and(warp::post())
        .and(tally.clone())
        .map(|tally: Arc<Tally>| with_status(json(&tally.mark()), StatusCode::OK));
    let wait = path!("await" / u64).and(warp::post()).and(tally.clone()).then(await_more);
    let halt = path!("stop").and(warp::post()).and(tally).map(move |tally: Arc<Tally>| {
        stop.cancel();
        with_status(json(&tally.total()), StatusCode::ACCEPTED)
    });
    let routes = report.or(mark).unify().or(wait).unify().or(halt).unify();
    warp::serve(routes).incoming(listener).run().await;
}

async fn await_more(writes: u64, tally: Arc<Tally>) -> WithStatus<Json> {
    let came = tokio::time::timeout(AWAIT_TIMEOUT, tally.await_more(writes)).await;
    let code = if came.is_ok() { StatusCode::OK } else { StatusCode::GATEWAY_TIMEOUT };
    with_status(json(&tally.total()), code)
}
