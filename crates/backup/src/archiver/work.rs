//! Work of the archiver that runs beside the log: each is a task that ends with one value.

use helios_archive::base::Manifest;
use helios_archive::retention::Retention;
use helios_archive::segments::{Position, SegmentWriter, read_header};
use helios_archive::{Archive, ArchiveError, BaseId, Collected, Parent, SegmentId};
use helios_proto::v1::{BaseHeader, LogChunk};
use tokio::sync::watch;

use crate::inventory::Inventory;
use crate::members::{Answer, Chunks, Member, MemberError};
use crate::select::{ensure_origin, incarnation_before};
use crate::take::{TakeError, take};

/// The end of a task.
pub enum Done {
    Surveyed(Vec<Answer>),
    Begun(Result<Begun, ArchiveError>),
    Opened(String, Result<Chunks<LogChunk>, MemberError>),
    Based(String, Result<Manifest, TakeError>),
    Collected(Result<(Inventory, Collected), ArchiveError>),
    Checked(Result<(), ArchiveError>),
}

/// The history in the store.
pub struct Begun {
    pub inventory: Inventory,
    /// The end of the log; `None`: the store has neither base nor log, or its end is damaged.
    pub position: Option<Position>,
}

/// Names for the origin of a history.
#[derive(Debug, Clone)]
pub struct Names {
    pub name: String,
    pub namespace: String,
    /// The history that this process archived before.
    pub before: Option<Parent>,
}

pub async fn begin(archive: Archive, names: Names) -> Done {
    Done::Begun(try_begin(&archive, names).await)
}

async fn try_begin(archive: &Archive, names: Names) -> Result<Begun, ArchiveError> {
    match archive.origin().await {
        Err(ArchiveError::Missing { .. }) => {
            let parent = match parent(archive).await? {
                Some(parent) => Some(parent),
                None => names.before,
            };
            ensure_origin(archive, &names.name, &names.namespace, parent).await?;
        }
        found => drop(found?),
    }
    let inventory = Inventory::load(archive, &Inventory::default()).await?;
    let position = match SegmentWriter::resume_position(archive, &inventory.catalog).await {
        // It cannot be continued; a new base can.
        Err(error @ (ArchiveError::Damaged { .. } | ArchiveError::Missing { .. })) => {
            tracing::warn!("the end of the archive cannot be continued, a new base is taken: {error}");
            None
        }
        position => position?,
    };
    Ok(Begun { inventory, position })
}

/// The end of the archive of the incarnation before this one, which a recovery from a lost majority continued.
async fn parent(archive: &Archive) -> Result<Option<Parent>, ArchiveError> {
    let Some(history) = incarnation_before(archive).await? else { return Ok(None) };
    let before = Archive::new(archive.store().clone(), history, archive.keyring().clone());
    let catalog = before.catalog().await?;
    let end = SegmentWriter::resume_position(&before, &catalog).await?;
    Ok(end.map(|end| Parent {
        cluster_id: before.history().cluster_id().to_owned(),
        incarnation: before.history().incarnation(),
        index: end.next_index.saturating_sub(1),
        now_ms: end.now_ms,
    }))
}

pub async fn open(member: Member, archive: Archive, from_index: u64) -> Done {
    let opened = member.log(archive.history(), from_index).await;
    Done::Opened(member.address().to_owned(), opened)
}

pub async fn base(
    archive: Archive,
    member: Member,
    max_bytes_per_second: u64,
    headers: watch::Sender<Option<BaseHeader>>,
) -> Done {
    let on_header = |header: &BaseHeader| drop(headers.send_replace(Some(header.clone())));
    let taken = take(&archive, &member, max_bytes_per_second, on_header).await;
    Done::Based(member.address().to_owned(), taken)
}

pub async fn collect(archive: Archive, before: Inventory, retention: Retention, now_ms: u64) -> Done {
    let collect = async {
        let mut inventory = Inventory::load(&archive, &before).await?;
        let collected = archive.collect(&inventory.catalog, &inventory.clocks, &retention, now_ms).await?;
        collected.removed.iter().for_each(|object| inventory.remove(*object));
        Ok((inventory, collected))
    };
    Done::Collected(collect.await)
}

/// Checks that the store has the newest base and the last segment: an archive that lost them is incomplete, and nothing else
/// would show it.
pub async fn check(archive: Archive, base: Option<BaseId>, segment: Option<SegmentId>) -> Done {
    let check = async {
        if let Some(base) = base {
            archive.manifest(base).await?;
        }
        if let Some(segment) = segment {
            read_header(&archive, segment).await?;
        }
        Ok(())
    };
    Done::Checked(check.await)
}
