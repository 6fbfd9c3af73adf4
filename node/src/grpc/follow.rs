//! `Follow` over gRPC, for all users, each within the user's prefixes.

use std::sync::Arc;

use helios_proto::v1::follow_server::Follow as Calls;
use helios_proto::v1::{FollowRequest, FollowResponse};
use helios_service::auth::{MAX_PREFIX_BYTES, MAX_PREFIXES};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::guard::{Answers, User, bounded};
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
    type FollowStream = Answers<FollowResponse>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let selection = selection(&User::of(&extensions), &request)?;
        let stream = ReceiverStream::new(self.followers.follow(request, selection).await?);
        Ok(bounded(stream, self.stop.clone(), &extensions))
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
