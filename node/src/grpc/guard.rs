//! Who may call the services for clients: `authorization: Basic <user:password>`, or the gateway's token.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::TryFutureExt as _;
use futures::future::{BoxFuture, ready};
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::auth::{Access, Role, admitted};
use crate::error::Error;
use crate::refusals::Refusals;

#[derive(Clone)]
pub struct GuardLayer {
    access: Arc<Access>,
    refusals: Refusals,
}

/// Who asks, for the service behind the guard: the name of a user.
#[derive(Debug, Clone, Default)]
pub struct Caller(pub Option<Arc<str>>);

#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl GuardLayer {
    pub fn new(access: Arc<Access>, refusals: Refusals) -> Self {
        Self { access, refusals }
    }

    /// The user that asks; `None` where nobody has to say who they are.
    fn check<B>(&self, request: &Request<B>) -> Result<Option<Arc<str>>, Error> {
        let Some(needed) = role_for(request.uri().path()) else { return Ok(None) };
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let identity = match (header, self.access.anyone()) {
            (None, Some(anyone)) => anyone,
            (header, _) => admitted(&self.access, None, header).inspect_err(|_| {
                self.refusals.count("unauthenticated");
            })?,
        };
        if identity.role() >= needed {
            return Ok((!self.access.is_open()).then(|| identity.name().into()));
        }
        self.refusals.count("no_permission");
        Err(identity.lacks(needed))
    }
}

/// `None`: everyone may ask, as probes do.
fn role_for(path: &str) -> Option<Role> {
    match path.strip_prefix("/helios.v1.Kv/") {
        Some("Get" | "Range" | "Watch") => Some(Role::ReadOnly),
        Some(_) => Some(Role::ReadWrite),
        None if path.starts_with("/grpc.health.") => None,
        None => Some(Role::ReadOnly),
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, layer: self.clone() }
    }
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.layer.check(&request) {
            Ok(user) => {
                request.extensions_mut().insert(Caller(user));
                let (answer, refusals) = (self.inner.call(request), self.layer.refusals.clone());
                Box::pin(answer.inspect_ok(move |response| {
                    // What tonic says of a message over its limit.
                    if Status::from_header_map(response.headers())
                        .is_some_and(|status| status.code() == Code::OutOfRange)
                    {
                        refusals.count("too_large");
                    }
                }))
            }
            Err(error) => Box::pin(ready(Ok(Status::from(error).into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::ErrorCode;

    use super::*;

    #[test]
    fn without_the_right_password_nothing_is_answered_but_health() {
        let guard = GuardLayer::new(Arc::new(Access::with_password("secret")), Refusals::default());
        let code = |path: &str, header: Option<&str>| {
            let mut request = Request::builder().uri(path);
            if let Some(header) = header {
                request = request.header(AUTHORIZATION, header);
            }
            guard.check(&request.body(()).unwrap()).err().map(|error| error.code)
        };
        let refused = Some(ErrorCode::Unauthenticated);
        assert_eq!(code("/grpc.health.v1.Health/Check", None), None);
        for path in ["/helios.v1.Kv/Get", "/helios.v1.Kv/Put", "/helios.v1.ClusterInfo/Status"] {
            assert_eq!(code(path, None), refused, "{path}");
            // default:wrong
            assert_eq!(code(path, Some("Basic ZGVmYXVsdDp3cm9uZw==")), refused, "{path}");
            // default:secret
            assert_eq!(code(path, Some("Basic ZGVmYXVsdDpzZWNyZXQ=")), None, "{path}");
        }
        let open = GuardLayer::new(Arc::default(), Refusals::default());
        let request = Request::builder().uri("/helios.v1.Kv/Put").body(()).unwrap();
        assert_eq!(open.check(&request), Ok(None));
    }
}
