//! Which histories of a store are meant by a name or an id.

use helios_archive::{Archive, ArchiveError, History, Keyring, Origin, Parent, Store};

use crate::Failure;
use crate::args::HistoryArgs;

/// Most names in the error that nothing fits.
const MAX_NAMED: usize = 8;

/// A history of the store, and its origin if it has one that can be read.
#[derive(Debug, Clone)]
pub struct Found {
    pub archive: Archive,
    pub origin: Option<Origin>,
}

impl Found {
    fn fits(&self, wanted: &HistoryArgs) -> bool {
        let history = self.archive.history();
        let origin = self.origin.as_ref();
        wanted.cluster_id.as_ref().is_none_or(|id| id == history.cluster_id())
            && wanted.incarnation.is_none_or(|incarnation| incarnation == history.incarnation())
            && wanted.cluster.as_ref().is_none_or(|name| origin.is_some_and(|origin| origin.name == *name))
            && wanted
                .cluster_namespace
                .as_ref()
                .is_none_or(|namespace| origin.is_some_and(|origin| origin.namespace == *namespace))
    }

    fn name(&self) -> String {
        let history = self.archive.history();
        let named = self.origin.as_ref().map(|origin| origin.name.as_str()).filter(|name| !name.is_empty());
        let id = format!("--cluster-id {} --incarnation {}", history.cluster_id(), history.incarnation());
        named.map_or_else(|| id.clone(), |name| format!("{name} ({id})"))
    }
}

/// Returns the histories that fit, in the order of their ids.
///
/// # Errors
/// If none fits, with those that the store has.
pub async fn select(store: &Store, keyring: &Keyring, wanted: &HistoryArgs) -> Result<Vec<Found>, Failure> {
    let mut all = Vec::new();
    for history in store.histories().await? {
        let archive = Archive::new(store.clone(), history, keyring.clone());
        let origin = match archive.origin().await {
            Ok(origin) => Some(origin),
            // It is selected by its id; `verify` reports the damage.
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error.into()),
        };
        all.push(Found { archive, origin });
    }
    let names: Vec<_> = all.iter().take(MAX_NAMED).map(Found::name).collect();
    let is_any = wanted.cluster.is_none() && wanted.cluster_id.is_none();
    let fitting: Vec<_> = all.into_iter().filter(|found| found.fits(wanted)).collect();
    if !fitting.is_empty() || is_any {
        return Ok(fitting);
    }
    let has =
        if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
    Err(Failure::new("NoSuchCluster", format!("the store has no archive of this cluster; {has}")))
}

/// Writes the origin of a history unless there is one.
pub async fn ensure_origin(
    archive: &Archive,
    name: &str,
    namespace: &str,
    parent: Option<Parent>,
) -> Result<(), ArchiveError> {
    match archive.origin().await {
        Err(ArchiveError::Missing { .. }) => {}
        found => return found.map(drop),
    }
    let origin = Origin {
        format: 1,
        cluster_id: archive.history().cluster_id().to_owned(),
        incarnation: archive.history().incarnation(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        parent,
    };
    match archive.begin(&origin).await {
        // Another program wrote it at the same time; names are for users only.
        Err(ArchiveError::Forked { .. }) => archive.origin().await.map(drop),
        begun => begun,
    }
}

/// Returns the history of the same cluster before its last recovery from a lost majority.
pub async fn incarnation_before(archive: &Archive) -> Result<Option<History>, ArchiveError> {
    let ours = archive.history();
    let histories = archive.store().histories().await?;
    let is_before = |history: &History| {
        history.cluster_id() == ours.cluster_id() && history.incarnation() < ours.incarnation()
    };
    Ok(histories.into_iter().filter(is_before).max())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(dir: &tempfile::TempDir) -> Store {
        let store = Store::open(&format!("file://{}", dir.path().display())).unwrap();
        for (id, incarnation, name) in [("a", 0, "orders"), ("a", 1, "orders"), ("b", 0, "users")] {
            let history = History::new(id, incarnation).unwrap();
            let archive = Archive::new(store.clone(), history, Keyring::unencrypted());
            ensure_origin(&archive, name, "shop", None).await.unwrap();
            // A second program with another name changes nothing.
            ensure_origin(&archive, "other", "", None).await.unwrap();
        }
        store
    }

    async fn count(store: &Store, wanted: HistoryArgs) -> Result<usize, Failure> {
        select(store, &Keyring::unencrypted(), &wanted).await.map(|found| found.len())
    }

    #[tokio::test]
    async fn histories_are_selected_by_name_and_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(count(&store, HistoryArgs::default()).await.unwrap(), 3);
        let by_name = HistoryArgs { cluster: text("orders"), ..HistoryArgs::default() };
        assert_eq!(count(&store, by_name).await.unwrap(), 2);
        let by_id = HistoryArgs { cluster_id: text("a"), incarnation: Some(1), ..HistoryArgs::default() };
        assert_eq!(count(&store, by_id).await.unwrap(), 1);
        let elsewhere =
            HistoryArgs { cluster: text("orders"), cluster_namespace: text("x"), ..HistoryArgs::default() };
        let failure = count(&store, elsewhere).await.unwrap_err();
        assert!(
            failure.reason == "NoSuchCluster" && failure.message.contains("users (--cluster-id b"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn incarnation_before_is_the_highest_below() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let before = async |incarnation| {
            let history = History::new("a", incarnation).unwrap();
            let archive = Archive::new(store.clone(), history, Keyring::unencrypted());
            incarnation_before(&archive).await.unwrap().map(|history| history.incarnation())
        };
        assert_eq!((before(0).await, before(1).await, before(5).await), (None, Some(0), Some(1)));
    }
}
