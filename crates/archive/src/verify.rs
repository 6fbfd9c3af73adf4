//! Verification: every byte of a history is read and checked, and each damage reported with the object that has it.
//!
//! It cannot see that the newest objects were removed: a store that loses its end looks like one that was written less to. The
//! archiver knows what it wrote, and compares.

use crate::base::BaseReader;
use crate::layout::{BaseId, Object, SegmentId};
use crate::segments::{Position, check_link, read_segment};
use crate::{Archive, ArchiveError, Catalog, Result};

/// Result of a verification.
#[derive(Debug, Default)]
pub struct Report {
    /// Bases of which every part is intact.
    pub bases: Vec<BaseId>,
    /// Segments that are intact and continue the one before, if that is there.
    pub segments: usize,
    /// Stored bytes that were read.
    pub bytes: u64,
    pub damages: Vec<Damage>,
}

/// A damaged or missing object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub object: String,
    pub reason: String,
}

impl Report {
    pub fn is_intact(&self) -> bool {
        self.damages.is_empty()
    }

    /// Keeps a damage; another error ends the verification, which has seen nothing of the rest.
    fn record(&mut self, error: ArchiveError) -> Result<()> {
        match error.object() {
            Some(object) if error.is_damage() => {
                self.damages.push(Damage { object: object.to_owned(), reason: error.to_string() });
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Reads everything of the history.
pub async fn verify(archive: &Archive, catalog: &Catalog) -> Result<Report> {
    let mut report = Report::default();
    match archive.origin().await {
        Ok(origin) => {
            let history = archive.history();
            if origin.cluster_id != history.cluster_id() || origin.incarnation != history.incarnation() {
                let name = archive.name(Object::Origin);
                report.record(ArchiveError::damaged(&name, "it is that of another history"))?;
            }
        }
        Err(error) => report.record(error)?,
    }
    for (id, base) in &catalog.bases {
        if base.is_usable() {
            match verify_base(archive, catalog, *id, &mut report.bytes).await {
                Ok(()) => report.bases.push(*id),
                Err(error) => report.record(error)?,
            }
        }
    }
    verify_log(archive, catalog, &mut report).await?;
    Ok(report)
}

async fn verify_base(archive: &Archive, catalog: &Catalog, id: BaseId, bytes: &mut u64) -> Result<()> {
    let mut reader = BaseReader::open(archive, id).await?;
    let parts = reader.manifest().parts.len();
    let surplus = catalog.bases.get(&id).and_then(|base| base.parts.last().copied());
    if let Some(surplus) = surplus.filter(|part| usize::from(*part) >= parts) {
        let name = archive.name(Object::Part(id, surplus));
        return Err(ArchiveError::damaged(&name, "the manifest of its base does not list it"));
    }
    *bytes += reader.manifest().stored_bytes;
    while reader.next().await?.is_some() {}
    Ok(())
}

async fn verify_log(archive: &Archive, catalog: &Catalog, report: &mut Report) -> Result<()> {
    let begin = catalog.segments.keys().next().map(|id| id.first);
    let mut next = begin;
    while let Some(first) = next {
        let chain = catalog.chain_from(first);
        let end = verify_chain(archive, catalog, &chain, report).await?;
        let after = catalog.segments.keys().find(|id| Some(id.first) > end);
        if let (Some(after), Some(end)) = (after, end) {
            report.record(missing_before(archive, *after, end))?;
        }
        next = after.map(|id| id.first);
    }
    Ok(())
}

/// Checks the segments of a chain; returns its last index.
async fn verify_chain(
    archive: &Archive,
    catalog: &Catalog,
    chain: &[SegmentId],
    report: &mut Report,
) -> Result<Option<u64>> {
    let mut before: Option<Position> = None;
    for id in chain {
        let name = archive.name(Object::Segment(*id));
        report.bytes += catalog.segments.get(id).copied().unwrap_or_default();
        let verified = read_segment(archive, *id).await;
        let linked = verified.and_then(|verified| match &before {
            Some(before) => check_link(&name, before, &verified.header).map(|()| verified.end),
            None => Ok(verified.end),
        });
        match linked {
            Ok(end) => {
                report.segments += 1;
                before = Some(end);
            }
            Err(error) => {
                report.record(error)?;
                before = None;
            }
        }
    }
    Ok(chain.last().map(|id| id.last))
}

fn missing_before(archive: &Archive, id: SegmentId, end: u64) -> ArchiveError {
    let missing = SegmentId { first: end + 1, last: id.first - 1 };
    let object = archive.name(Object::Segment(missing));
    ArchiveError::Damaged { object, reason: format!("no segment has the entries before {id}") }
}
