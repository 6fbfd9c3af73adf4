//! The check of the engine's files in the background: damage in a block that nobody reads is found while another member
//! still has the data.

use std::ops::ControlFlow;
use std::sync::Arc;

use helios_runs::{Checked, RunId, Runs};

use super::engines::Backend;
use super::{StateError, Store};

impl Store {
    /// Returns the files of the engine `runs` in the order of their keys; none for another engine.
    pub fn run_files(&self) -> Vec<RunId> {
        self.runs().map_or_else(Vec::new, |runs| runs.view().files_by_key())
    }

    /// Reads the run `file` past the cache and checks all of it, beside checkpoints, merges and reads. `pace` is called
    /// with the bytes that were read, and may wait; if it breaks, the check ends early.
    ///
    /// # Errors
    /// [`StateError::is_damage`] if the file is part of the state and not what was written. The store continues to serve
    /// what is whole, until [`Store::note_damage`].
    pub fn check_run(
        &self,
        file: RunId,
        pace: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Checked, StateError> {
        self.check()?;
        let Some(runs) = self.runs() else { return Ok(Checked::Replaced) };
        match runs.check_run(file, pace) {
            Ok(checked) => Ok(checked),
            // A restore has replaced the engine and removed its files meanwhile.
            Err(_) if !self.runs().is_some_and(|current| Arc::ptr_eq(&current, &runs)) => {
                Ok(Checked::Replaced)
            }
            Err(error) => Err(StateError::engine("scrub")(error.into())),
        }
    }

    fn runs(&self) -> Option<Arc<Runs>> {
        match &self.inner.image().backend {
            Backend::Runs(runs) => Some(Arc::clone(runs)),
            Backend::InPlace(_) => None,
        }
    }
}
