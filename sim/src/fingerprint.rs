//! The fingerprint of a run: a hash over everything that happened, equal for equal runs.

use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Default)]
pub struct Fingerprint(DefaultHasher);

impl Fingerprint {
    pub fn note(&mut self, what: impl Hash) {
        what.hash(&mut self.0);
    }

    pub fn value(&self) -> u64 {
        self.0.finish()
    }
}
