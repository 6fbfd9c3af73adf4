//! The members of a switchover, reached by their addresses.

use std::time::Duration;

use super::survey::{Answer, Endpoints, survey};
use crate::error::Error;
use crate::place::Place;
use crate::switchover::Members;

pub struct Directly<'a> {
    pub endpoints: &'a Endpoints,
    /// Timeout of one answer.
    pub limit: Duration,
}

impl Members for Directly<'_> {
    async fn survey(&self) -> Vec<Answer> {
        survey(self.endpoints, self.limit).await
    }

    fn place(&self, answer: &Answer) -> Place {
        self.endpoints.place(answer.address.clone())
    }

    /// Returns at once: without Kubernetes nothing else points to the leader.
    async fn await_reconfigured(&self, _: &str, _: Duration) -> Result<(), Error> {
        Ok(())
    }
}
