//! The garbage collection: removes what retention does not keep, after two passes that are an hour apart.

use std::collections::BTreeSet;

use crate::catalog::{Catalog, Clocks};
use crate::layout::{BaseId, Object};
use crate::retention::{Retention, confirm, removable};
use crate::{Archive, ArchiveError, Result};

/// Result of a pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub removed: Vec<Object>,
    /// Objects that the store refused to remove, as it does under an object lock, with the reason. Later passes try again.
    pub refused: Vec<(Object, String)>,
    /// Objects that the next pass removes, if it is an hour later.
    pub pending: usize,
}

impl Archive {
    /// Bases that a drill restored or a verification read successfully, by the reports in the store.
    pub async fn verified_bases(&self, catalog: &Catalog) -> Result<BTreeSet<BaseId>> {
        let mut verified = BTreeSet::new();
        for time in &catalog.drills {
            match self.drill(*time).await {
                Ok(drill) if drill.succeeded => {
                    verified.insert(drill.base());
                }
                Ok(_) => {}
                // A damaged report proves nothing, and nothing is removed for the lack of it.
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(verified)
    }

    /// One pass of the garbage collection. `clocks` has those of the bases that are known; others are kept.
    pub async fn collect(
        &self,
        catalog: &Catalog,
        clocks: &Clocks,
        retention: &Retention,
        now_ms: u64,
    ) -> Result<Collected> {
        let verified = self.verified_bases(catalog).await?;
        let found = removable(catalog, clocks, &verified, retention, now_ms);
        let (remove, pass) = confirm(&found, self.last_pass().await?.as_ref(), now_ms);
        let mut collected = Collected { pending: pass.objects.len(), ..Collected::default() };
        // A base whose manifest stays has to keep its parts.
        let mut staying = BTreeSet::new();
        for object in remove {
            let base = object.base();
            if base.is_some_and(|base| staying.contains(&base)) {
                continue;
            }
            match self.delete(object).await {
                Ok(()) => collected.removed.push(object),
                Err(error @ ArchiveError::Refused { .. }) => {
                    staying.extend(base);
                    collected.refused.push((object, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        // Last: after a crash the same objects are removed again.
        self.record_pass(&pass).await?;
        Ok(collected)
    }
}
