//! Routes of the configuration: the running one, the pending changes, and the reload.

use serde_json::json;
use warp::reply::Response;

use super::answer::{failed, ok};
use crate::config::{Change, ConfigError, Difference, redacted};
use crate::error::Error;
use crate::reload::Reloader;

pub fn running(reloader: &Reloader) -> Response {
    let settings = reloader.node().settings();
    ok(&json!({ "config": redacted(&settings.written), "hash": settings.config_hash }))
}

pub fn pending(reloader: &Reloader) -> Response {
    answered(reloader.pending(), |changes| ok(&json!({ "changes": changes })))
}

pub fn reload(reloader: &Reloader) -> Response {
    answered(reloader.reload(), |changes| {
        let of = |wanted| changes.iter().filter(|found| found.change == wanted).collect::<Vec<_>>();
        ok(&json!({ "applied": of(Change::Reload), "needs_restart": of(Change::Restart) }))
    })
}

fn answered(
    outcome: Result<Vec<Difference>, ConfigError>,
    answer: impl FnOnce(Vec<Difference>) -> Response,
) -> Response {
    outcome.map_or_else(|ConfigError(reason)| failed(&Error::invalid(reason)), answer)
}
