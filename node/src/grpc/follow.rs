//! `Follow` over gRPC, for all users, each within the user's prefixes.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use helios_proto::v1::follow_server::Follow as Calls;
use helios_proto::v1::{FollowRequest, FollowResponse};
use helios_service::auth::{MAX_PREFIX_BYTES, MAX_PREFIXES, Pass};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::guard::{User, until_revoked};
use crate::error::Error;
use crate::follow::Followers;
use crate::state::Selection;

pub struct FollowService {
    followers: Arc<Followers>,
    /// Ends the streams when the node stops.
    stop: CancellationToken,
}

impl FollowService {
    pub fn new(followers: Followers, stop: CancellationToken) -> Self {
        Self { followers: Arc::new(followers), stop }
    }
}

#[tonic::async_trait]
impl Calls for FollowService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let selection = selection(&User::of(&extensions), &request)?;
        let stream = ReceiverStream::new(self.followers.follow(request, selection).await?);
        let stream = stream.take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(match extensions.get::<Pass>().cloned() {
            Some(pass) => Box::pin(until_revoked(stream, pass)),
            None => Box::pin(stream),
        }))
    }
}

/// Returns the keys of a request: those of its prefixes, or all that the user may access.
///
/// # Errors
/// The user may not access all keys of a prefix, or there are too many.
fn selection(user: &User, request: &FollowRequest) -> Result<Selection, Error> {
    let prefixes = &request.prefixes;
    if prefixes.len() > MAX_PREFIXES || prefixes.iter().any(|prefix| prefix.len() > MAX_PREFIX_BYTES) {
        return Err(Error::invalid(format!(
            "prefixes: at most {MAX_PREFIXES}, each of at most {MAX_PREFIX_BYTES} bytes"
        )));
    }
    // A user may access a prefix as a key exactly if all keys that begin with it are allowed.
    user.check_keys(prefixes)?;
    Ok(match prefixes.is_empty() {
        true => Selection::new(user.prefixes()),
        false => Selection::new(prefixes.iter().cloned()),
    })
}
