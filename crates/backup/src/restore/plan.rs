//! The plan of a restore, and the check of everything that it needs.

use std::cmp::Reverse;

use helios_archive::base::{BaseReader, Manifest};
use helios_archive::catalog::Point;
use helios_archive::plan::{Impossible, Plan, Reason, Target};
use helios_archive::segments::{Stop, read_header};
use helios_archive::{Archive, ArchiveError, Keyring, Object, Store};

use super::compare::{MAX_BETWEEN, is_turn, prepare_compared};
use crate::Failure;
use crate::args::{CrossCheck, RestoreArgs};
use crate::inventory::Inventory;
use crate::select::{Found, select};
use crate::time::rfc3339;

/// A restore of which every object was read and is intact.
pub struct Prepared {
    pub archive: Archive,
    pub plan: Plan,
    pub manifest: Manifest,
    /// The last entry that is restored, and the log's clock there.
    pub last_index: u64,
    pub now_ms: u64,
    pub entries: u64,
    /// The base that the state is compared with on the way.
    pub compare: Option<Manifest>,
    /// Why it is compared with none, although that was requested.
    pub not_compared: Option<String>,
}

pub async fn prepare(store: &Store, keyring: &Keyring, args: &RestoreArgs) -> Result<Prepared, Failure> {
    let (archive, inventory, plan) = find(store, keyring, args).await?;
    let limit = match args.cross_check {
        CrossCheck::Always => u64::MAX,
        CrossCheck::Alternate if is_turn(inventory.verified.as_ref()) => MAX_BETWEEN,
        CrossCheck::Alternate | CrossCheck::Never => return Ok(check(archive, plan).await?),
    };
    match prepare_compared(&archive, &inventory, &plan, limit).await? {
        Ok(prepared) => Ok(prepared),
        Err(reason) if args.cross_check == CrossCheck::Always => {
            Err(Failure::new("NothingToCompare", reason))
        }
        Err(reason) => {
            tracing::warn!("two bases are not compared: {reason}");
            let not_compared = Some(reason);
            Ok(Prepared { not_compared, ..check(archive, plan).await? })
        }
    }
}

fn target(args: &RestoreArgs) -> Target {
    match (args.time, args.index, args.backup) {
        (Some(time), _, _) => Target::Time(time.0),
        (_, Some(index), _) => Target::Index(index),
        (_, _, Some(base)) => Target::Base(base),
        _ => Target::Latest,
    }
}

/// Returns the plan in the newest history that has the target. A cluster of one name may have several: each recovery begins one.
async fn find(
    store: &Store,
    keyring: &Keyring,
    args: &RestoreArgs,
) -> Result<(Archive, Inventory, Plan), Failure> {
    let mut histories = Vec::new();
    for Found { archive, .. } in select(store, keyring, &args.history).await? {
        let inventory = Inventory::load(&archive, &Inventory::default()).await?;
        histories.push((archive, inventory));
    }
    let end = |inventory: &Inventory| {
        let clocks = inventory.clocks.bases.values().chain(inventory.clocks.segments.values());
        clocks.max().copied()
    };
    histories.sort_by_key(|(archive, inventory)| Reverse((end(inventory), archive.history().incarnation())));
    let mut refused = None;
    for (archive, mut inventory) in histories {
        match archive.plan(&inventory.catalog, &mut inventory.clocks, target(args)).await? {
            Ok(plan) => return Ok((archive, inventory, plan)),
            Err(impossible) if refused.is_none() => {
                refused = Some(refusal(&archive, &inventory, impossible).await?);
            }
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| Failure::new("NoSuchCluster", "the store has no archive")))
}

/// The error of a target that cannot be restored, with the nearest that can.
async fn refusal(
    archive: &Archive,
    inventory: &Inventory,
    impossible: Impossible,
) -> Result<Failure, Failure> {
    let reason = match impossible.reason {
        Reason::NoBase => "the archive has no complete base; take one: backup create".to_owned(),
        Reason::NoSuchBase(base) => format!("the archive has no complete base {}-{}", base.index, base.term),
        Reason::BeforeFirstBase => "the target is before the oldest base".to_owned(),
        Reason::AfterEnd => "the target is after the last archived entry".to_owned(),
        Reason::Gap => "the log has a gap at the target".to_owned(),
    };
    let mut nearest = Vec::new();
    for point in [impossible.before, impossible.after].into_iter().flatten() {
        nearest.push(shown(archive, inventory, point).await?);
    }
    let nearest = match &*nearest {
        [] => String::new(),
        [only] => format!("; the nearest moment is {only}"),
        all => format!("; the nearest moments are {}", all.join(" and ")),
    };
    Ok(Failure::new("RecoveryImpossible", format!("{reason}{nearest}")))
}

async fn shown(archive: &Archive, inventory: &Inventory, point: Point) -> Result<String, ArchiveError> {
    let now_ms = match point.now_ms {
        Some(now_ms) => Some(now_ms),
        None => {
            let segment = inventory.catalog.segments.keys().find(|segment| segment.last == point.index);
            match segment {
                Some(segment) => Some(read_header(archive, *segment).await?.clock_after),
                None => None,
            }
        }
    };
    let time = now_ms.map(|now_ms| format!(", time {}", rfc3339(now_ms))).unwrap_or_default();
    Ok(format!("index {}{time}", point.index))
}

/// Reads everything that the plan needs.
pub async fn check(archive: Archive, plan: Plan) -> Result<Prepared, ArchiveError> {
    let mut base = BaseReader::open(&archive, plan.base).await?;
    let manifest = base.manifest().clone();
    let read_base = async {
        while base.next().await?.is_some() {}
        Ok::<_, ArchiveError>(())
    };
    let read_entries = async {
        let (mut last_index, mut now_ms, mut count) = (manifest.index, manifest.now_ms, 0);
        let mut reader = plan.entries(&archive);
        while let Some(entries) = reader.next().await? {
            for entry in &entries {
                (last_index, now_ms) = (entry.index, now_ms.max(entry.now_ms));
            }
            count += entries.len() as u64;
        }
        Ok((last_index, now_ms, count))
    };
    let ((), (last_index, now_ms, count)) = tokio::try_join!(read_base, read_entries)?;
    if matches!(plan.stop, Stop::Index(index) if index != last_index) {
        let object = archive.name(Object::Manifest(plan.base));
        let reason = format!("the log after it ends at {last_index}, before the target");
        return Err(ArchiveError::Damaged { object, reason });
    }
    Ok(Prepared {
        archive,
        plan,
        manifest,
        last_index,
        now_ms,
        entries: count,
        compare: None,
        not_compared: None,
    })
}
