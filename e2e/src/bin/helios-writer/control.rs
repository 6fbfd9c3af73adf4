//! What a story asks of a running writer, over HTTP, so that it works through an API server's proxy.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use warp::http::StatusCode;
use warp::reply::{json, with_status};
use warp::{Filter, Reply, path};

use crate::tally::Tally;

/// Longest wait for writes that do not come.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves until dropped:
/// - `GET /report`: the window since the start; 503 before the first acknowledged write, so it is also a readiness probe.
/// - `POST /mark`: the window since the mark before.
/// - `POST /await/N`: answers when N more writes are acknowledged; 504 when that takes a minute.
/// - `POST /stop`: stops writing; the report goes to standard output, as after a signal.
pub async fn serve(listener: TcpListener, tally: Arc<Tally>, stop: CancellationToken) {
    let report = {
        let tally = Arc::clone(&tally);
        path!("report").and(warp::get()).map(move || {
            let window = tally.total();
            let code = if window.acknowledged > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            with_status(json(&window), code).into_response()
        })
    };
    let mark = {
        let tally = Arc::clone(&tally);
        path!("mark").and(warp::post()).map(move || json(&tally.mark()).into_response())
    };
    let wait = path!("await" / u64).and(warp::post()).then(move |writes| {
        let tally = Arc::clone(&tally);
        async move {
            match tokio::time::timeout(AWAIT_TIMEOUT, tally.await_more(writes)).await {
                Ok(()) => json(&tally.total()).into_response(),
                Err(_) => with_status(json(&tally.total()), StatusCode::GATEWAY_TIMEOUT).into_response(),
            }
        }
    });
    let halt = path!("stop").and(warp::post()).map(move || {
        stop.cancel();
        StatusCode::ACCEPTED.into_response()
    });
    let routes = report.or(mark).unify().or(wait).unify().or(halt).unify();
    warp::serve(routes).incoming(listener).run().await;
}
