//! The table of the gateway's routes, used to serve, document and test them. Pure.

use helios_service::auth::Role;
use warp::http::Method;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    Live,
    Ready,
    Primary,
    Replica,
    Metrics,
    Health,
    HealthDetailed,
    Status,
    Leader,
    Nodes,
    Put,
    Get,
    Apply,
    Read,
    Transfer,
    StepDown,
    Snapshot,
    AddNode,
    RemoveNode,
    Promote,
    Config,
    ConfigDiff,
    ConfigReload,
    OpenApi,
    Page,
    StatusStream,
}

/// A row of the table of routes.
#[derive(Debug)]
pub struct Row {
    pub method: Method,
    pub path: &'static str,
    pub route: Route,
}

const fn row(method: Method, path: &'static str, route: Route) -> Row {
    Row { method, path, route }
}

pub const ROUTES: &[Row] = &[
    row(Method::GET, "/livez", Route::Live),
    row(Method::GET, "/readyz", Route::Ready),
    row(Method::GET, "/healthz", Route::Ready),
    row(Method::GET, "/primary", Route::Primary),
    row(Method::GET, "/replica", Route::Replica),
    row(Method::GET, "/metrics", Route::Metrics),
    row(Method::GET, "/health", Route::Health),
    row(Method::GET, "/health/detailed", Route::HealthDetailed),
    row(Method::GET, "/status", Route::Status),
    row(Method::GET, "/leader", Route::Leader),
    row(Method::GET, "/nodes", Route::Nodes),
    row(Method::POST, "/put", Route::Put),
    row(Method::GET, "/get", Route::Get),
    row(Method::POST, "/apply", Route::Apply),
    row(Method::POST, "/read", Route::Read),
    row(Method::POST, "/leadership/transfer", Route::Transfer),
    row(Method::POST, "/leadership/stepdown", Route::StepDown),
    row(Method::POST, "/snapshot", Route::Snapshot),
    row(Method::POST, "/nodes/add", Route::AddNode),
    row(Method::POST, "/nodes/remove", Route::RemoveNode),
    row(Method::POST, "/promote", Route::Promote),
    row(Method::GET, "/config", Route::Config),
    row(Method::GET, "/config/diff", Route::ConfigDiff),
    row(Method::POST, "/config/reload", Route::ConfigReload),
    row(Method::GET, "/openapi.json", Route::OpenApi),
    row(Method::GET, "/", Route::Page),
    row(Method::GET, "/status/stream", Route::StatusStream),
];

impl Route {
    /// Returns the role that the route requires.
    pub fn role(self) -> Role {
        match self {
            Self::Put | Self::Apply => Role::ReadWrite,
            Self::Transfer
            | Self::StepDown
            | Self::Snapshot
            | Self::AddNode
            | Self::RemoveNode
            | Self::Promote
            | Self::ConfigReload => Role::Admin,
            _ => Role::ReadOnly,
        }
    }

    /// Whether a user who may access some keys only may use the route: it reveals nothing of other keys, or checks the key
    /// itself.
    pub fn checks_keys(self) -> bool {
        matches!(
            self,
            Self::Put
                | Self::Get
                | Self::Apply
                | Self::Read
                | Self::Live
                | Self::Ready
                | Self::Primary
                | Self::Replica
                | Self::Leader
                | Self::Nodes
                | Self::OpenApi
                | Self::Page
        )
    }

    /// Whether the route needs no authentication: probes of a kubelet or a balancer, which reveal only yes or no, and
    /// the page, which asks the user for the token.
    pub fn is_open(self) -> bool {
        matches!(self, Route::Live | Route::Ready | Route::Page)
    }
}

/// Reason why a request matches no route.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    Path,
    /// The path accepts this method only.
    Method(Method),
}

/// Finds the route of `method` and `path` (without the prefix). HEAD is routed as GET; the server omits the body.
pub fn find(method: &Method, path: &str) -> Result<Route, Missing> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let row = ROUTES.iter().find(|row| row.path == path).ok_or(Missing::Path)?;
    if row.method == *method { Ok(row.route) } else { Err(Missing::Method(row.method.clone())) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn paths_of_routes_are_unique() {
        let paths: HashSet<_> = ROUTES.iter().map(|row| row.path).collect();
        assert_eq!(paths.len(), ROUTES.len());
    }

    #[test]
    fn reading_routes_require_the_least_role() {
        for row in ROUTES {
            let reads = row.method == Method::GET || row.route == Route::Read;
            assert_eq!(row.route.role() == Role::ReadOnly, reads, "{}", row.path);
        }
    }

    #[test]
    fn unknown_paths_and_wrong_methods_are_distinguished() {
        assert_eq!(find(&Method::GET, "/health/detailed"), Ok(Route::HealthDetailed));
        assert_eq!(find(&Method::HEAD, "/status"), Ok(Route::Status));
        assert_eq!(find(&Method::GET, "/put"), Err(Missing::Method(Method::POST)));
        for path in ["", "//", "/Status", "/status/", "/nodes/other"] {
            assert_eq!(find(&Method::DELETE, path), Err(Missing::Path), "{path}");
        }
    }
}
