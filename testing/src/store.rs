//! An object store in memory of which one call meets a fault.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Notify;

/// Fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// HTTP 403.
    Forbidden,
    /// HTTP 503.
    Throttled,
    /// No space is left.
    Full,
    /// The store ends before the call takes effect.
    Down,
    /// The call takes effect, and its answer is lost.
    AnswerLost,
    /// A read returns the first half of the object, and its whole length.
    Half,
    /// A write stores the first half, as a server that crashes does.
    HalfWritten,
    /// The call and all later ones take no effect and are never answered.
    Silent,
    /// The call takes effect and is never answered.
    SilentAfter,
}

/// A store in memory whose call of a number, counted from 0, meets a fault.
#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<InMemory>,
    fault: Fault,
    at: usize,
    calls: AtomicUsize,
    met: Notify,
}

impl Faulty {
    pub fn new(inner: Arc<InMemory>, fault: Fault, at: usize) -> Arc<Self> {
        Arc::new(Self { inner, fault, at, calls: AtomicUsize::new(0), met: Notify::new() })
    }

    /// Whether the fault was met.
    pub fn was_met(&self) -> bool {
        self.calls.load(Ordering::SeqCst) > self.at
    }

    /// Waits until a fault that leaves the call without an answer was met.
    pub async fn silent(&self) {
        self.met.notified().await;
    }

    fn next(&self) -> Option<Fault> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let is_met = call == self.at || (call > self.at && self.fault == Fault::Silent);
        is_met.then_some(self.fault)
    }

    /// Begins a call: ends it, if its fault takes no effect.
    async fn begin(&self, path: &Path) -> Result<Option<Fault>> {
        let fault = self.next();
        match fault {
            Some(Fault::Silent) => self.never().await,
            Some(fault) => error_of(fault, path).map_or(Ok(Some(fault)), Err),
            None => Ok(None),
        }
    }

    /// Ends a call that took effect.
    async fn end<T>(&self, fault: Option<Fault>, result: T) -> Result<T> {
        match fault {
            Some(Fault::SilentAfter) => self.never().await,
            Some(Fault::AnswerLost | Fault::HalfWritten) => Err(generic("connection closed")),
            _ => Ok(result),
        }
    }

    async fn never<T>(&self) -> T {
        self.met.notify_one();
        std::future::pending().await
    }
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "S3", source: text.into() }
}

fn error_of(fault: Fault, path: &Path) -> Option<Error> {
    match fault {
        Fault::Forbidden => Some(Error::PermissionDenied {
            path: path.to_string(),
            source: "status code: 403 AccessDenied".into(),
        }),
        Fault::Throttled => Some(generic("Server returned non-2xx status code: 503: SlowDown")),
        Fault::Full => Some(Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
        }),
        Fault::Down => Some(generic("connection refused")),
        Fault::AnswerLost | Fault::Half | Fault::HalfWritten | Fault::Silent | Fault::SilentAfter => None,
    }
}

fn half(bytes: &Bytes) -> Bytes {
    bytes.slice(..bytes.len() / 2)
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at call {}", self.fault, self.at)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.begin(path).await?;
        let payload = match fault {
            Some(Fault::HalfWritten) => half(&Bytes::from(payload)).into(),
            _ => payload,
        };
        let put = self.inner.put_opts(path, payload, options).await?;
        self.end(fault, put).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.begin(path).await?;
        let found = self.inner.get_opts(path, options).await?;
        let found = self.end(fault, found).await?;
        if fault != Some(Fault::Half) {
            return Ok(found);
        }
        let GetResult { meta, range, attributes, extensions, .. } = found;
        let bytes = half(&self.inner.get_opts(path, GetOptions::default()).await?.bytes().await?);
        let payload =
            GetResultPayload::Stream(futures::stream::once(async move { Ok::<_, Error>(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.next().and_then(|fault| error_of(fault, &Path::default())) {
            Some(error) => futures::stream::once(async move { Err(error) }).boxed(),
            None => self.inner.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fault = self.next();
        match fault {
            Some(Fault::Silent | Fault::SilentAfter) => {
                self.met.notify_one();
                futures::stream::pending().boxed()
            }
            Some(Fault::AnswerLost) => {
                futures::stream::once(async { Err(generic("connection closed")) }).boxed()
            }
            fault => match fault.and_then(|fault| error_of(fault, &Path::default())) {
                Some(error) => futures::stream::once(async move { Err(error) }).boxed(),
                None => self.inner.list(prefix),
            },
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
