//! The scrub: every live run is read from the disk now and then, so that a damaged block is found before it is needed.

use crate::error::Error;
use crate::run::RunId;
use crate::view::View;

/// A run that is not what was written.
#[derive(Debug)]
pub struct Damage {
    pub run: RunId,
    pub error: Error,
}

impl View {
    /// Reads and checks one run, the next after `last` in the order of their ids; returns its id, or the damage. `None`
    /// after the last run: a pass is complete. `pace` is called with the bytes of each block that was read.
    ///
    /// # Errors
    /// A file cannot be read for a reason that is not damage.
    pub fn scrub_next(
        &self,
        last: Option<RunId>,
        pace: impl FnMut(u64),
    ) -> Result<Option<Result<RunId, Damage>>, Error> {
        let after = self.slices().filter(|slice| last.is_none_or(|last| slice.run.id.id > last.id));
        let Some(next) = after.min_by_key(|slice| slice.run.id.id) else { return Ok(None) };
        let run = next.run.id;
        match next.run.verify(pace) {
            Ok(()) => Ok(Some(Ok(run))),
            Err(error) if error.is_damage() => Ok(Some(Err(Damage { run, error }))),
            Err(error) => Err(error),
        }
    }

    /// Reads and checks every run; returns the first damage.
    pub fn verify(&self) -> Result<(), Error> {
        self.slices().try_for_each(|slice| slice.run.verify(|_| {}))
    }
}
