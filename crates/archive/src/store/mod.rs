//! An object store: a bucket or directory and a prefix. No call overwrites an object but [`Store::replace`].

mod error;
mod url;

use std::sync::Arc;

use ::url::Url;
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::{Path, PathPart};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};

use crate::{ArchiveError, Catalog, History, Result};
use error::of_store;

/// Result of a conditional write.
#[derive(Debug, PartialEq)]
pub enum Created {
    New,
    /// The object was there, with these bytes.
    Exists(Bytes),
}

#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Store {
    /// Opens `s3://bucket/prefix?endpoint=...&region=...&pathStyle=true&allowHttp=true&caFile=...&credentials=/dir`,
    /// `gs://bucket/prefix`, `az://container/prefix?account=...` or `file:///dir`.
    ///
    /// Credentials come from the environment as each provider documents it, instance metadata and workload identities included.
    /// `credentials` is a directory with the files `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and optionally
    /// `AWS_SESSION_TOKEN`, such as a mounted Secret; it is read for every request.
    pub fn open(url: &str) -> Result<Self> {
        let parsed = Url::parse(url).map_err(|e| {
            ArchiveError::Invalid(format!("{url:?} is no URL of a store such as s3://bucket/prefix: {e}"))
        })?;
        self::url::open(&parsed)
    }

    /// A store of the embedding program.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { inner, prefix: Path::from(prefix) }
    }

    pub async fn get(&self, name: &str) -> Result<Bytes> {
        let failed = |error| of_store("GET", name, error);
        let found = self.inner.get(&self.path(name)).await.map_err(failed)?;
        let size = found.meta.size;
        let bytes = found.bytes().await.map_err(failed)?;
        // A connection that ends early is an error of most clients, but not of all.
        if bytes.len() as u64 != size {
            let detail = format!("it sent {} of {size} bytes", bytes.len());
            return Err(ArchiveError::Unavailable { call: "GET", object: name.to_owned(), detail });
        }
        Ok(bytes)
    }

    /// The first bytes of an object, at most `limit`.
    pub async fn get_head(&self, name: &str, limit: u64) -> Result<Bytes> {
        let failed = |error| of_store("GET", name, error);
        let options = GetOptions { range: Some(GetRange::Bounded(0..limit)), ..GetOptions::default() };
        let found = self.inner.get_opts(&self.path(name), options).await.map_err(failed)?;
        found.bytes().await.map_err(failed)
    }

    /// Writes an object unless there is one of this name, by `If-None-Match: *`.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        let path = self.path(name);
        let written = bytes.clone();
        match self.inner.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                let found = self.get(name).await?;
                // The client repeated a request whose answer was lost.
                if found == written { Ok(Created::New) } else { Ok(Created::Exists(found)) }
            }
            Err(error) => Err(of_store("PUT", name, error)),
        }
    }

    /// Writes an object, whether or not there is one.
    pub async fn replace(&self, name: &str, bytes: Bytes) -> Result<()> {
        let put = self.inner.put(&self.path(name), PutPayload::from(bytes)).await;
        put.map(drop).map_err(|error| of_store("PUT", name, error))
    }

    /// Deletes an object. One that is not there is deleted already.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.inner.delete(&self.path(name)).await.map_err(|error| of_store("DELETE", name, error)) {
            Err(ArchiveError::Missing { .. }) => Ok(()),
            deleted => deleted,
        }
    }

    /// Names and sizes of all objects in a folder and below it, in no particular order.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let failed = |error| of_store("LIST", folder, error);
        let prefix = self.path(folder);
        let found = self.inner.list(Some(&prefix));
        let names = found.map_ok(|object| (self.name(&object.location), object.size));
        let names: Vec<_> = names.try_collect().await.map_err(failed)?;
        Ok(names.into_iter().filter_map(|(name, bytes)| Some((name?, bytes))).collect())
    }

    /// The histories that the store has.
    pub async fn histories(&self) -> Result<Vec<History>> {
        let mut found = Vec::new();
        for cluster in self.folders("").await? {
            for folder in self.folders(&cluster).await? {
                let origin = format!("{folder}/{}", crate::Object::Origin);
                found.extend(History::parse(&origin).map(|(history, _)| history));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Everything that the store has.
    pub async fn catalogs(&self) -> Result<std::collections::BTreeMap<History, Catalog>> {
        let names = self.list("").await?;
        Ok(Catalog::of_store(names.iter().map(|(name, bytes)| (name.as_str(), *bytes))))
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = self.path(folder);
        let listed = self.inner.list_with_delimiter(Some(&prefix)).await;
        let listed = listed.map_err(|error| of_store("LIST", folder, error))?;
        Ok(listed.common_prefixes.iter().filter_map(|path| self.name(path)).collect())
    }

    fn path(&self, name: &str) -> Path {
        let parts = name.split('/').filter(|part| !part.is_empty()).map(PathPart::from);
        Path::from_iter(self.prefix.parts().chain(parts))
    }

    fn name(&self, path: &Path) -> Option<String> {
        let parts = path.prefix_match(&self.prefix)?;
        Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
    }
}

#[cfg(test)]
mod tests;
