//! The JSON gateway: looks up a request in the table of routes, authorizes it, reads its body, and answers it.

use std::sync::Arc;

use bytes::Buf;
use futures::Stream;
use helios_service::auth::{Access, Client, Identity, admit_in_turn};
use helios_service::database::Database;
use helios_service::rejections::Rejections;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::header::AUTHORIZATION;
use warp::http::{HeaderMap, Method, StatusCode};
use warp::path::FullPath;
use warp::reply::Response;

use super::answer::{failed, ok, other_method, unreadable};
use super::page::Live;
use super::request::{Request, collect};
use super::route::{Missing, Route, find};
use super::{Answer, cluster, config, guard, health, keys, openapi, page};
use crate::error::Error;
use crate::management::Management;
use crate::reload::Reloader;
use crate::trace::Span;

/// The gateway of one node.
#[derive(Clone)]
pub struct Gateway {
    management: Management,
    reloader: Arc<Reloader>,
    registry: Arc<Registry>,
    access: Arc<Access>,
    rejections: Rejections,
    live: Live,
    /// Path prefix of all routes: empty, or `/...` without a slash at its end.
    prefix: String,
}

impl Gateway {
    /// Creates the gateway of the node that `reloader` belongs to; its streams end with `stop`.
    pub fn new(
        reloader: Arc<Reloader>,
        registry: Arc<Registry>,
        access: Arc<Access>,
        rejections: Rejections,
        stop: CancellationToken,
    ) -> Self {
        let management = Management::new(reloader.node().clone());
        let prefix = reloader.node().settings().gateway_prefix.clone();
        Self { management, reloader, registry, access, rejections, live: Live::new(stop), prefix }
    }

    pub fn routes(self) -> BoxedFilter<(Response,)> {
        let gateway = Arc::new(self);
        let query = warp::query::raw().or(warp::any().map(String::new)).unify();
        warp::any()
            .map(move || Arc::clone(&gateway))
            .and(warp::method())
            .and(warp::path::full())
            .and(query)
            .and(warp::header::headers_cloned())
            .and(warp::ext::optional::<Client>())
            .and(warp::body::stream())
            .and_then(
                |gateway: Arc<Self>, method, path, query, headers, client: Option<Client>, body| async move {
                    let client = client.unwrap_or_default();
                    Answer::Ok(gateway.serve(method, path, query, (headers, client), body).await)
                },
            )
            .boxed()
    }

    async fn serve<B: Buf>(
        &self,
        method: Method,
        path: FullPath,
        query: String,
        (headers, client): (HeaderMap, Client),
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Response {
        let route = match path.as_str().strip_prefix(&self.prefix).ok_or(Missing::Path) {
            Ok(path) => find(&method, path),
            Err(missing) => Err(missing),
        };
        // Authorized before the route is reported missing and before the body is read: others learn no routes and send
        // no body.
        let is_open = route.as_ref().is_ok_and(|route| route.is_open());
        let identity = match is_open {
            true => None,
            false => match self.guard(&headers, &client, route.as_ref().ok()).await {
                Ok(identity) => Some(identity),
                Err(error) => return failed(&error),
            },
        };
        let route = match route {
            Ok(route) => route,
            Err(Missing::Path) => return unreadable(StatusCode::NOT_FOUND, "no such route"),
            Err(Missing::Method(allowed)) => return other_method(&allowed),
        };
        let span = Span::server(&route, &headers);
        let answered = async {
            let user = identity.clone();
            let request = Request { query, headers, body: collect(body).await?, user };
            if route == Route::StatusStream {
                return Ok(self.stream(request.headers, client, identity));
            }
            self.answer(route, &request).await
        };
        let refusal = match span.around(answered).await {
            Ok(response) => return response,
            Err(refusal) => *refusal,
        };
        match refusal.status() {
            StatusCode::PAYLOAD_TOO_LARGE => self.rejections.count("too_large"),
            StatusCode::REQUEST_TIMEOUT => self.rejections.count("slow_request"),
            _ => {}
        }
        refusal
    }

    /// Whether requests have to authenticate by token or user.
    fn requires_auth(&self) -> bool {
        let has_token = self.management.node().settings().gateway_token.is_some();
        has_token || self.access.has_token() || !self.access.is_open()
    }

    async fn guard(
        &self,
        headers: &HeaderMap,
        client: &Client,
        route: Option<&Route>,
    ) -> Result<Identity, Error> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let judge = || self.identify(headers, client);
        let identity =
            admit_in_turn(&self.access, "gateway", client, &self.rejections, header, judge).await?;
        let allowed = match route {
            Some(route) if !identity.role().includes(route.role()) => Err(identity.lacks(route.role())),
            Some(route) if !route.checks_keys() => identity.check_all_keys("this route"),
            _ => Ok(()),
        };
        allowed.inspect_err(|_| self.rejections.count("no_permission")).map(|()| identity)
    }

    /// Authenticates a request by the current token and users.
    fn identify(&self, headers: &HeaderMap, client: &Client) -> Result<Identity, Error> {
        let settings = self.management.node().settings();
        guard::check(headers, settings.gateway_token.as_ref(), &self.access, client.address.ip())
    }

    /// Streams statuses for as long as the client's credentials are valid with the same role.
    fn stream(&self, headers: HeaderMap, client: Client, identity: Option<Identity>) -> Response {
        let (gateway, role) = (self.clone(), identity.map(|identity| identity.role()));
        let is_valid =
            move || gateway.identify(&headers, &client).is_ok_and(|found| Some(found.role()) == role);
        self.live.stream(self.management.node(), is_valid)
    }

    async fn answer(&self, route: Route, request: &Request) -> Result<Response, Box<Response>> {
        let (node, management) = (self.management.node(), &self.management);
        Ok(match route {
            Route::Live => health::live(),
            Route::Ready => health::ready(&node.status()),
            Route::Primary => health::primary(&node.status()),
            Route::Replica => health::replica(&node.status()),
            Route::Metrics => health::metrics(node, &self.registry),
            Route::Health => cluster::healthy(&node.status(), false),
            Route::HealthDetailed => cluster::healthy(&node.status(), true),
            Route::Status => ok(&cluster::describe(&node.status())),
            Route::Leader => cluster::leader(&node.status()),
            Route::Nodes => ok(&serde_json::json!({ "nodes": cluster::members(&node.status()) })),
            Route::Put => keys::put(request, node).await?,
            Route::Get => keys::get(request, node).await?,
            Route::Apply => keys::apply(request, node).await?,
            Route::Read => keys::read(request, node).await?,
            Route::Transfer => cluster::transfer(request, management).await?,
            Route::StepDown => cluster::step_down(request, management).await?,
            Route::Snapshot => cluster::snapshot(management).await,
            Route::AddNode => cluster::add(request, management).await?,
            Route::RemoveNode => cluster::remove(request, management).await?,
            Route::Config => config::running(&self.reloader),
            Route::ConfigDiff => config::pending(&self.reloader),
            Route::ConfigReload => config::reload(&self.reloader),
            Route::OpenApi => ok(&openapi::document(&self.prefix, self.requires_auth())),
            Route::Page => page::page(),
            Route::StatusStream => self.stream(request.headers.clone(), Client::default(), None),
            Route::Promote => cluster::promote(request, management).await?,
        })
    }
}
