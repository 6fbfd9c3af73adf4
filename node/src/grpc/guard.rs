//! Authorization of calls to the services for clients: `authorization: Basic <user:password>`, or the gateway's token.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _, stream};
use helios_service::auth::{Access, Identity, Pass, Role, admit_in_turn, admitted};
use helios_service::rejections::Rejections;
use helios_service::tls::Caller;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Extensions, Status};
use tower::{Layer, Service};

use crate::error::Error;

#[derive(Clone)]
pub struct GuardLayer {
    access: Arc<Access>,
    rejections: Rejections,
}

/// The authenticated user, for the service behind the guard; `None`: authentication is off, or the call needs none.
#[derive(Debug, Clone, Default)]
pub struct User(pub Option<Identity>);

impl User {
    /// Returns the user of a call.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Checks that the user may access all of the keys.
    ///
    /// # Errors
    /// `Forbidden`, with the key and the user's prefixes.
    pub fn check_keys<'a>(&self, keys: impl IntoIterator<Item = &'a Bytes>) -> Result<(), Error> {
        let Some(identity) = &self.0 else { return Ok(()) };
        keys.into_iter().try_for_each(|key| identity.check_key(key))
    }

    /// Checks that the user may access all keys from `start` on and before `end`, `None`: to the last key.
    ///
    /// # Errors
    /// `Forbidden`, with the user's prefixes.
    pub fn check_range(&self, start: &[u8], end: Option<&[u8]>) -> Result<(), Error> {
        match &self.0 {
            Some(identity) if !identity.prefixes().allow_range(start, end) => {
                identity.check_all_keys("this range")
            }
            _ => Ok(()),
        }
    }

    /// Returns the prefixes that the user is limited to; none: all keys.
    pub fn prefixes(&self) -> Vec<Bytes> {
        let prefixes = self.0.iter().flat_map(|identity| identity.prefixes().iter());
        prefixes.map(Bytes::copy_from_slice).collect()
    }

    /// Whether the user may access some keys only.
    pub fn is_limited(&self) -> bool {
        self.0.as_ref().is_some_and(|identity| identity.prefixes().is_limited())
    }
}

#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl GuardLayer {
    pub fn new(access: Arc<Access>, rejections: Rejections) -> Self {
        Self { access, rejections }
    }

    /// Authorizes a call. Returns the credentials whose validity bounds a stream that the request opens, and the user;
    /// `None` for a call that needs no authentication.
    async fn check(
        &self,
        path: &str,
        caller: &Caller,
        header: Option<&str>,
    ) -> Result<Option<(Pass, Option<Identity>)>, Error> {
        let Some(needed) = role_for(path) else { return Ok(None) };
        let judge = || {
            self.access.check_host(caller.client.address.ip())?;
            match (header, self.access.anyone()) {
                (None, Some(anyone)) => Ok(anyone),
                (header, _) => admitted(&self.access, None, header),
            }
        };
        let identity =
            admit_in_turn(&self.access, "grpc", &caller.client, &self.rejections, header, judge).await?;
        let allowed = match identity.role().includes(needed) {
            true if needed == Role::Backup => identity.check_all_keys("a backup"),
            true => Ok(()),
            false => Err(identity.lacks(needed)),
        };
        allowed.inspect_err(|_| self.rejections.count("no_permission"))?;
        let pass = Pass::new(Arc::clone(&self.access), header, &identity);
        Ok(Some((pass, (!self.access.is_open()).then_some(identity))))
    }
}

/// Returns the role that a call requires; `None`: no authentication, for probes.
fn role_for(path: &str) -> Option<Role> {
    match path.strip_prefix("/helios.v1.Kv/") {
        Some("Get" | "Range" | "Watch") => Some(Role::ReadOnly),
        Some(_) => Some(Role::ReadWrite),
        None if path.starts_with("/grpc.health.") => None,
        None if path.starts_with("/helios.v1.Archive/") => Some(Role::Backup),
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
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let next = self.inner.clone();
        // `poll_ready` was called on `self.inner`, so that instance, not the clone, has to serve the call (tower).
        let (mut inner, layer) = (std::mem::replace(&mut self.inner, next), self.layer.clone());
        Box::pin(async move {
            let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
            let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let header = header.map(str::to_owned);
            match layer.check(request.uri().path(), &caller, header.as_deref()).await {
                Ok(found) => {
                    let (pass, user) = found.unzip();
                    pass.map(|pass| request.extensions_mut().insert(pass));
                    request.extensions_mut().insert(User(user.flatten()));
                }
                Err(error) => return Ok(Status::from(error).into_http()),
            };
            let response = inner.call(request).await?;
            // tonic answers a message over its limit with OUT_OF_RANGE.
            if Status::from_header_map(response.headers())
                .is_some_and(|status| status.code() == Code::OutOfRange)
            {
                layer.rejections.count("too_large");
            }
            Ok(response)
        })
    }
}

/// A stream of answers of a call.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns `stream`, which ends when the node stops or the credentials of the call are revoked.
pub fn bounded<T: 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    stop: CancellationToken,
    extensions: &Extensions,
) -> tonic::Response<Answers<T>> {
    let stream = stream.take_until(stop.cancelled_owned());
    tonic::Response::new(match extensions.get::<Pass>().cloned() {
        Some(pass) => Box::pin(until_revoked(stream, pass)),
        None => Box::pin(stream),
    })
}

/// Returns `stream`, which ends with an error once the credentials of `pass` are revoked.
fn until_revoked<T>(
    stream: impl Stream<Item = Result<T, Status>> + Send,
    pass: Pass,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let begun = Some((Box::pin(stream), Box::pin(pass.revoked())));
    stream::unfold(begun, |begun| async {
        let (mut stream, mut revoked) = begun?;
        tokio::select! {
            // Revocation is checked first, so that nothing is sent that the user may no longer read.
            biased;
            error = &mut revoked => Some((Err(error.into()), None)),
            item = stream.next() => Some((item?, Some((stream, revoked)))),
        }
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use helios_proto::v1::ErrorCode;

    use super::*;
    use helios_service::auth::AccessOptions;

    #[tokio::test]
    async fn calls_except_health_require_the_right_password() {
        let guard = GuardLayer::new(
            Arc::new(Access::load(AccessOptions::with_password("secret")).unwrap()),
            Rejections::default(),
        );
        let code = async |path: &str, header: Option<&str>| {
            guard.check(path, &Caller::default(), header).await.err().map(|error| error.code)
        };
        let refused = Some(ErrorCode::Unauthenticated);
        assert_eq!(code("/grpc.health.v1.Health/Check", None).await, None);
        for path in ["/helios.v1.Kv/Get", "/helios.v1.Kv/Put", "/helios.v1.ClusterInfo/Status"] {
            assert_eq!(code(path, None).await, refused, "{path}");
            // default:wrong
            assert_eq!(code(path, Some("Basic ZGVmYXVsdDp3cm9uZw==")).await, refused, "{path}");
            // default:secret
            assert_eq!(code(path, Some("Basic ZGVmYXVsdDpzZWNyZXQ=")).await, None, "{path}");
        }
        let open = GuardLayer::new(Arc::default(), Rejections::default());
        assert!(open.check("/helios.v1.Kv/Put", &Caller::default(), None).await.is_ok());
    }

    #[tokio::test]
    async fn archive_requires_the_role_backup_or_admin() {
        let user = |name: &str, role: &str| {
            // SHA-256 of the text `secret`.
            let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
            format!("{{name: {name}, password_sha256: {hash}, role: {role}}}")
        };
        let users = ["read-only", "read-write", "backup", "admin"].map(|role| user(role, role)).join(", ");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("users: [{users}]")).unwrap();
        let options = AccessOptions { users_file: Some(file.path().to_owned()), ..AccessOptions::default() };
        let guard = GuardLayer::new(Arc::new(Access::load(options).unwrap()), Rejections::default());
        let calls = ["Archive/Base", "Archive/Log", "Archive/Hold", "Kv/Get", "Kv/Put", "ClusterInfo/Status"];
        for (role, allowed) in
            [("read-only", "000101"), ("read-write", "000111"), ("backup", "111101"), ("admin", "111111")]
        {
            let header = format!("Basic {}", STANDARD.encode(format!("{role}:secret")));
            for (call, expected) in calls.into_iter().zip(allowed.chars()) {
                let path = format!("/helios.v1.{call}");
                let error = guard.check(&path, &Caller::default(), Some(&header)).await.err();
                let expected = (expected == '0').then_some(ErrorCode::Forbidden);
                assert_eq!(error.map(|error| error.code), expected, "{role} {call}");
            }
        }
    }
}
