//! A store in memory with an archive in it, and faults.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use helios_archive::base::{BaseReader, BaseRequest, BaseWriter, Begun, Manifest, Options};
use helios_archive::plan::Target;
use helios_archive::segments::{Entry, Position, SegmentWriter};
use helios_archive::{Archive, ArchiveError, BaseId, Catalog, History, Keyring, Origin, Result, Store};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

pub const PART_BYTES: usize = 4000;
pub const SEGMENT_BYTES: usize = 1500;
pub const PREFIX: &str = "team/backups";

pub fn keyring() -> Keyring {
    Keyring::new([("k1".to_owned(), [1; 32])], "k1").unwrap()
}

pub fn archive(store: Arc<dyn ObjectStore>, keyring: Keyring) -> Archive {
    Archive::new(Store::new(store, PREFIX), History::new("cluster-a", 1).unwrap(), keyring)
}

/// Bytes that zstd does not make smaller.
pub fn content(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(next).collect()
}

pub fn request(index: u64) -> BaseRequest {
    BaseRequest {
        id: BaseId { index, term: 2 },
        now_ms: 1000 + index,
        snapshot_version: 3,
        snapshot_crc32c: Some(7),
        source: format!("member-1 snapshot {index}"),
        member: "member-1".to_owned(),
        started_ms: 1,
        keys: Some(17),
        state_digest: Some("abc".to_owned()),
    }
}

pub fn options() -> Options {
    Options { part_bytes: PART_BYTES }
}

pub async fn write_base(archive: &Archive, index: u64, bytes: &[u8]) -> Result<Manifest> {
    match BaseWriter::begin(archive, request(index), options()).await? {
        Begun::Complete(manifest) => Ok(*manifest),
        Begun::Writer(mut writer) => {
            let offset = writer.offset() as usize;
            writer.write(&mut &bytes[offset..]).await?;
            writer.finish(2).await
        }
    }
}

pub async fn read_base(archive: &Archive, base: BaseId) -> Result<Vec<u8>> {
    let mut reader = BaseReader::open(archive, base).await?;
    let mut found = Vec::new();
    while let Some(part) = reader.next().await? {
        found.extend_from_slice(&part);
    }
    Ok(found)
}

pub fn entry(index: u64) -> Entry {
    Entry { index, term: 2, now_ms: 1000 + index, payload: content(200 + index as usize).into() }
}

pub fn origin() -> Origin {
    Origin {
        format: 1,
        cluster_id: "cluster-a".to_owned(),
        incarnation: 1,
        name: "orders".to_owned(),
        namespace: "shop".to_owned(),
        parent: None,
    }
}

/// Continues the log of the archive with these entries.
pub async fn write_log(archive: &Archive, entries: RangeInclusive<u64>) -> Result<()> {
    let catalog = archive.catalog().await?;
    let position = SegmentWriter::resume_position(archive, &catalog).await?.unwrap();
    let mut writer = SegmentWriter::with_limit(archive, position, SEGMENT_BYTES);
    for index in entries {
        writer.push(&entry(index)).await?;
    }
    writer.flush().await
}

/// A history with bases at 10 and 30, and the log from 11 to 60.
pub async fn write_history(archive: &Archive) {
    archive.begin(&origin()).await.unwrap();
    write_base(archive, 10, &content(10_000)).await.unwrap();
    write_log(archive, 11..=30).await.unwrap();
    write_base(archive, 30, &content(14_000)).await.unwrap();
    write_log(archive, 31..=60).await.unwrap();
}

/// The base's content and the entries of a target.
pub async fn restore(
    archive: &Archive,
    catalog: &Catalog,
    target: Target,
) -> Result<(Vec<u8>, Vec<Entry>), String> {
    let text = |error: ArchiveError| error.to_string();
    let plan = archive.plan(catalog, &mut Default::default(), target).await.map_err(text)?;
    let plan = plan.map_err(|impossible| impossible.to_string())?;
    let base = read_base(archive, plan.base).await.map_err(text)?;
    let mut reader = plan.entries(archive);
    let mut entries = Vec::new();
    while let Some(some) = reader.next().await.map_err(text)? {
        entries.extend(some);
    }
    Ok((base, entries))
}

pub fn start() -> Position {
    Position { next_index: 11, term: 2, now_ms: 1010, previous: [0; 32] }
}

/// Fault of one call of the store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    Forbidden,
    Throttled,
    Full,
    /// The call takes effect, and its answer is lost.
    AnswerLost,
    /// A read returns the first half of the object.
    Half,
    /// A conditional write stores the first half, as a server that crashes does.
    HalfWritten,
}

/// A store in memory whose call of a number, counted from 0, meets a fault.
pub struct Faulty {
    pub inner: Arc<InMemory>,
    pub fault: Fault,
    pub at: usize,
    pub calls: AtomicUsize,
}

impl Faulty {
    pub fn new(inner: Arc<InMemory>, fault: Fault, at: usize) -> Arc<Self> {
        Arc::new(Self { inner, fault, at, calls: AtomicUsize::new(0) })
    }

    fn fault(&self) -> Option<Fault> {
        (self.calls.fetch_add(1, Ordering::SeqCst) == self.at).then_some(self.fault)
    }

    pub fn was_met(&self) -> bool {
        self.calls.load(Ordering::SeqCst) > self.at
    }
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "S3", source: text.into() }
}

fn denied(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "status code: 403 AccessDenied".into() }
}

fn error_of(fault: Fault, path: &Path) -> Option<Error> {
    match fault {
        Fault::Forbidden => Some(denied(path)),
        Fault::Throttled => Some(generic("Server returned non-2xx status code: 503: SlowDown")),
        Fault::Full => Some(Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
        }),
        Fault::AnswerLost | Fault::Half | Fault::HalfWritten => None,
    }
}

fn half(bytes: &Bytes) -> Bytes {
    bytes.slice(..bytes.len() / 2)
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.fault, self.at)
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let fault = self.fault();
        if let Some(error) = fault.and_then(|fault| error_of(fault, path)) {
            return Err(error);
        }
        let payload = match fault {
            Some(Fault::HalfWritten) => half(&Bytes::from(payload)).into(),
            _ => payload,
        };
        let put = self.inner.put_opts(path, payload, options).await?;
        match fault {
            Some(Fault::AnswerLost | Fault::HalfWritten) => Err(generic("connection closed")),
            _ => Ok(put),
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let fault = self.fault();
        if let Some(error) = fault.and_then(|fault| error_of(fault, path)) {
            return Err(error);
        }
        let found = self.inner.get_opts(path, options).await?;
        match fault {
            Some(Fault::AnswerLost) => Err(generic("connection closed")),
            Some(Fault::Half) => {
                let GetResult { meta, range, attributes, extensions, .. } = found;
                let bytes = half(&self.inner.get_opts(path, GetOptions::default()).await?.bytes().await?);
                let payload = GetResultPayload::Stream(
                    futures::stream::once(async move { Ok::<_, Error>(bytes) }).boxed(),
                );
                Ok(GetResult { payload, meta, range, attributes, extensions })
            }
            _ => Ok(found),
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.fault().and_then(|fault| error_of(fault, &Path::default())) {
            Some(error) => futures::stream::once(async move { Err(error) }).boxed(),
            None => self.inner.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.fault().and_then(|fault| error_of(fault, &Path::default())) {
            Some(error) => futures::stream::once(async move { Err(error) }).boxed(),
            None => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
