//! One number over everything that happened in a run: equal runs have equal ones.

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
