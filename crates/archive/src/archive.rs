//! One history in a store, with the keyring: reads and writes of its objects.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::crypto::Opened;
use crate::layout::{BaseId, Object};
use crate::store::Created;
use crate::{ArchiveError, Catalog, History, Keyring, Result, Store, crypto, document};

/// One history in a store.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Store,
    history: History,
    keyring: Keyring,
}

/// The cluster of a history, and the history that it was restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    pub format: u32,
    pub cluster_id: String,
    pub incarnation: u64,
    /// Name of the cluster when the history began, for users.
    pub name: String,
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// The moment of another history that a history continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    pub cluster_id: String,
    pub incarnation: u64,
    pub index: u64,
    pub now_ms: u64,
}

/// Report of a drill, in which a base was restored, or of a verification, in which it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drill {
    pub at_ms: u64,
    pub index: u64,
    pub term: u64,
    /// Whether a cluster was restored, or the objects only read.
    pub is_restore: bool,
    pub succeeded: bool,
    pub took_ms: u64,
    pub detail: String,
    /// Index at which the replayed log was compared with another base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_index: Option<u64>,
}

impl Drill {
    pub fn base(&self) -> BaseId {
        BaseId { index: self.index, term: self.term }
    }
}

/// The objects that a pass of the garbage collection found to be removable. A later pass removes what it finds again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pass {
    pub at_ms: u64,
    pub objects: Vec<String>,
}

impl Archive {
    pub fn new(store: Store, history: History, keyring: Keyring) -> Self {
        Self { store, history, keyring }
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Name of an object in the store, as errors and reports have it.
    pub fn name(&self, object: Object) -> String {
        self.history.name(object)
    }

    /// The objects of this history.
    pub async fn catalog(&self) -> Result<Catalog> {
        let mut catalog = Catalog::default();
        for (name, bytes) in self.store.list(&self.history.to_string()).await? {
            if let Some((history, object)) = History::parse(&name)
                && history == self.history
            {
                catalog.add(object, bytes);
            }
        }
        Ok(catalog)
    }

    /// The newest base that can be restored, by a listing of the bases alone.
    pub async fn newest_base(&self) -> Result<Option<BaseId>> {
        let mut catalog = Catalog::default();
        for (name, bytes) in self.store.list(&format!("{}/base", self.history)).await? {
            if let Some((_, object)) = History::parse(&name) {
                catalog.add(object, bytes);
            }
        }
        Ok(catalog.usable_bases().next_back())
    }

    /// Writes the origin. An equal one is left as it is.
    ///
    /// # Errors
    /// `Forked` if the history has another origin.
    pub async fn begin(&self, origin: &Origin) -> Result<()> {
        match self.create_document(Object::Origin, origin).await? {
            None => Ok(()),
            Some(found) if found == *origin => Ok(()),
            Some(_) => Err(ArchiveError::Forked { object: self.name(Object::Origin) }),
        }
    }

    pub async fn origin(&self) -> Result<Origin> {
        self.document(Object::Origin).await
    }

    /// Marks a base as deleted; it is restored no more, and the garbage collection removes it.
    pub async fn mark_deleted(&self, base: BaseId, now_ms: u64) -> Result<()> {
        self.create_document(Object::Deleted(base), &now_ms).await.map(drop)
    }

    pub async fn report_drill(&self, drill: &Drill) -> Result<()> {
        self.create_document(Object::Drill(drill.at_ms), drill).await.map(drop)
    }

    pub async fn drill(&self, at_ms: u64) -> Result<Drill> {
        self.document(Object::Drill(at_ms)).await
    }

    /// The last pass of the garbage collection, if there was one.
    pub async fn last_pass(&self) -> Result<Option<Pass>> {
        match self.document(Object::Collection).await {
            Err(ArchiveError::Missing { .. }) => Ok(None),
            pass => pass.map(Some),
        }
    }

    pub async fn record_pass(&self, pass: &Pass) -> Result<()> {
        let name = self.name(Object::Collection);
        self.store.replace(&name, document::seal(&name, pass, &self.keyring)?).await
    }

    pub async fn delete(&self, object: Object) -> Result<()> {
        self.store.delete(&self.name(object)).await
    }

    pub(crate) async fn document<T: DeserializeOwned>(&self, object: Object) -> Result<T> {
        let name = self.name(object);
        document::open(&name, &self.store.get(&name).await?, &self.keyring)
    }

    /// Writes a document unless there is one, which is returned then.
    pub(crate) async fn create_document<T: Serialize + DeserializeOwned>(
        &self,
        object: Object,
        value: &T,
    ) -> Result<Option<T>> {
        let name = self.name(object);
        match self.store.create(&name, document::seal(&name, value, &self.keyring)?).await? {
            Created::New => Ok(None),
            Created::Exists(bytes) => document::open(&name, &bytes, &self.keyring).map(Some),
        }
    }

    /// The stored bytes of an object, which are not checked.
    pub(crate) async fn stored(&self, object: Object) -> Result<Bytes> {
        self.store.get(&self.name(object)).await
    }

    /// Opens an object whose stored bytes were read.
    pub(crate) async fn open(&self, object: Object, stored: &Bytes) -> Result<Opened> {
        let (stored, name, keyring) = (stored.clone(), self.name(object), self.keyring.clone());
        blocking(move || crypto::open(&name, &stored, &keyring)).await
    }

    /// Seals and creates an object; returns the bytes that the store has. An object that is already there with the same content
    /// is left as it is.
    ///
    /// # Errors
    /// `Forked` if it has other content.
    pub(crate) async fn create(&self, object: Object, attributes: Vec<u8>, content: Bytes) -> Result<Bytes> {
        let name = self.name(object);
        let sealed = {
            let (name, keyring) = (name.clone(), self.keyring.clone());
            let (attributes, content) = (attributes.clone(), content.clone());
            blocking(move || crypto::seal(&name, &attributes, &content, &keyring)).await?
        };
        match self.store.create(&name, sealed.clone()).await? {
            Created::New => Ok(sealed),
            Created::Exists(stored) => {
                // Data keys are random, so that equal content seldom has equal bytes.
                let found = self.open(object, &stored).await?;
                if found.attributes != attributes || found.content != content {
                    return Err(ArchiveError::Forked { object: name });
                }
                Ok(stored)
            }
        }
    }
}

/// Runs work of many milliseconds where it delays no other task.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(ArchiveError::Invalid(format!("a task of the archive ended: {e}"))))
}
