//! Objects in S3, Google Cloud Storage, Azure or this process's memory, through `object_store`.
//!
//! An object is created by one conditional write of its whole body (ADR-0003). A clear "not found"
//! is the only absence; a missing bucket, a refusal or a broken connection is an error.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::STAGING;
use super::backend::{Backend, BackendError, Directory, Listed, Put, Source};
use super::body::{Stored, StoredBody};

mod resume;

/// Bodies up to this length are read with the look-up; of longer ones, this much is.
const HEAD_BYTES: u64 = 256 << 10;

/// How many bytes of an upload lie in one piece of its payload.
const PAYLOAD_PIECE_BYTES: u64 = 256 << 10;

/// Uploads from this length on are signed and sent from a thread of their own.
const THREAD_UPLOAD_BYTES_MIN: u64 = 4 << 20;

/// The object that the readiness check writes and looks for.
const PROBE_NAME: &str = "probe";

/// What the readiness check writes into it.
const PROBE: &[u8] = b"probe";

/// How much may go on at once, and how long silence is borne.
#[derive(Debug, Clone)]
pub(super) struct RemoteLimits {
    /// Requests other than uploads and streams.
    pub(super) requests: usize,
    /// Uploads.
    pub(super) uploads: usize,
    /// Bodies being read.
    pub(super) streams: usize,
    /// The longest silence inside a body.
    pub(super) stall_timeout: Duration,
}

/// A store that `object_store` speaks to.
#[derive(Debug, Clone)]
pub(super) struct RemoteBackend {
    remote: Arc<Remote>,
}

struct Remote {
    /// For short requests: repeats those that are not answered soon.
    quick: Arc<dyn ObjectStore>,
    /// For uploads, streams and listings, which may take their time.
    bulk: Arc<dyn ObjectStore>,
    /// Every path lies below this prefix; empty for the whole bucket.
    prefix: String,
    /// The store is this process's memory: bodies are handed out whole.
    in_memory: bool,
    requests: Semaphore,
    uploads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    stall_timeout: Duration,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The clients would print their addresses and may print their credentials.
        f.debug_struct("Remote")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RemoteBackend {
    /// Wraps two clients of one store, for short and for long requests; `prefix` has no slash at
    /// either end.
    pub(super) fn new(
        quick: Arc<dyn ObjectStore>,
        bulk: Arc<dyn ObjectStore>,
        prefix: &str,
        in_memory: bool,
        limits: &RemoteLimits,
    ) -> Self {
        Self {
            remote: Arc::new(Remote {
                quick,
                bulk,
                prefix: prefix.to_owned(),
                in_memory,
                requests: Semaphore::new(limits.requests),
                uploads: Arc::new(Semaphore::new(limits.uploads)),
                streams: Arc::new(Semaphore::new(limits.streams)),
                stall_timeout: limits.stall_timeout,
            }),
        }
    }
}

/// A large body in a remote store: its first bytes, and where to get the others.
#[derive(Clone)]
pub struct RemoteBody {
    remote: Arc<Remote>,
    location: Path,
    e_tag: Option<String>,
    len: u64,
    head: Bytes,
}

impl RemoteBody {
    /// The number of bytes of the object.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether the object has no bytes, which a large body never does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Streams a part: what came with the look-up, then requests by range.
    ///
    /// A request that breaks or is silent for the store's stall timeout is resumed where it ended;
    /// after several failures without a byte in between the stream ends with the last one.
    pub(super) fn stream(&self, range: Range<u64>) -> BoxStream<'static, std::io::Result<Bytes>> {
        resume::stream(self.clone(), range)
    }
}

impl std::fmt::Debug for RemoteBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteBody")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Says whether a failed request may have had an effect, and what an operator has to mend.
fn explain(error: object_store::Error) -> BackendError {
    use object_store::Error as E;
    match error {
        error @ E::NotFound { .. } => BackendError::certain("the bucket does not exist", error),
        error @ E::PermissionDenied { .. } => {
            BackendError::certain("the storage denies access", error)
        }
        error @ E::Unauthenticated { .. } => {
            BackendError::certain("the storage refuses the credentials", error)
        }
        error @ (E::NotSupported { .. } | E::NotImplemented { .. }) => {
            BackendError::certain("the storage cannot do this", error)
        }
        error @ E::InvalidPath { .. } => {
            BackendError::certain("the storage cannot have such a name", error)
        }
        error => BackendError::unclear("the storage failed or did not answer", error),
    }
}

/// Tells whether "not found" is about the bucket rather than the object.
///
/// The library reports both alike, and the error's code inside the answer is the only difference.
/// Taking a missing bucket for missing objects would send the whole fleet upstream.
fn bucket_is_missing(error: &object_store::Error) -> bool {
    let text = error.to_string();
    [
        "NoSuchBucket",
        "ContainerNotFound",
        "The specified bucket does not exist",
    ]
    .iter()
    .any(|code| text.contains(code))
}

impl Remote {
    fn location(&self, path: &str) -> Result<Path, BackendError> {
        let full = match (self.prefix.as_str(), path) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}/{path}"),
        };
        Path::parse(full)
            .map_err(|error| BackendError::certain("the storage cannot have such a name", error))
    }

    /// The inverse of [`Remote::location`]; `None` for what this store does not show.
    fn path(&self, location: &Path) -> Option<String> {
        let path = match self.prefix.as_str() {
            "" => location.as_ref(),
            prefix => location.as_ref().strip_prefix(prefix)?.strip_prefix('/')?,
        };
        let hidden = path.is_empty() || path.split('/').next() == Some(STAGING);
        (!hidden).then(|| path.to_owned())
    }

    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        Some(Listed {
            path: self.path(&meta.location)?,
            len: meta.size,
            modified: SystemTime::from(meta.last_modified),
        })
    }

    async fn request(&self) -> SemaphorePermit<'_> {
        self.requests
            .acquire()
            .await
            .expect("the semaphore is never closed")
    }

    /// Reads an answer's body, whose length the answer announced.
    async fn collect(&self, answer: GetResult) -> Result<Bytes, BackendError> {
        let announced = answer.range.end - answer.range.start;
        let mut pieces = answer.into_stream();
        let mut first = Bytes::new();
        let mut rest = Vec::new();
        loop {
            let piece = tokio::time::timeout(self.stall_timeout, pieces.try_next())
                .await
                .map_err(|error| BackendError::unclear("the storage stalled", error))?
                .map_err(explain)?;
            let Some(piece) = piece else { break };
            if first.is_empty() && rest.is_empty() {
                first = piece;
            } else {
                if rest.is_empty() {
                    rest = std::mem::take(&mut first).to_vec();
                }
                rest.extend_from_slice(&piece);
            }
        }
        let body = if rest.is_empty() { first } else { rest.into() };
        if body.len() as u64 != announced {
            return Err(BackendError::plain("the storage sent a short body", false));
        }
        Ok(body)
    }

    /// Tells whether there is an object without bytes.
    async fn is_empty_object(&self, location: &Path) -> Option<ObjectMeta> {
        self.quick
            .head(location)
            .await
            .ok()
            .filter(|meta| meta.size == 0)
    }
}

/// Slices a source into a payload, without copying it.
fn payload(source: &Source) -> PutPayload {
    match source {
        Source::Bytes(bytes) => bytes.clone().into(),
        Source::File { len, map, .. } => (0..*len)
            .step_by(usize::try_from(PAYLOAD_PIECE_BYTES).expect("a small constant"))
            .map(|start| map.slice(start..(start + PAYLOAD_PIECE_BYTES).min(*len)))
            .collect(),
    }
}

#[async_trait]
impl Backend for RemoteBackend {
    async fn lookup(&self, path: &str) -> Result<Option<Stored>, BackendError> {
        let remote = &self.remote;
        let location = remote.location(path)?;
        let _permit = remote.request().await;
        let options = GetOptions {
            range: (!remote.in_memory).then_some(GetRange::Bounded(0..HEAD_BYTES)),
            ..GetOptions::default()
        };
        let answer = match remote.quick.get_opts(&location, options).await {
            Ok(answer) => answer,
            Err(error @ object_store::Error::NotFound { .. }) => {
                if bucket_is_missing(&error) {
                    return Err(explain(error));
                }
                return Ok(None);
            }
            Err(error @ object_store::Error::Generic { .. }) => {
                // A range of an empty object cannot be satisfied, and the library has no variant
                // of its own for that answer (416).
                return match remote.is_empty_object(&location).await {
                    Some(meta) => Ok(Some(Stored {
                        len: 0,
                        modified: SystemTime::from(meta.last_modified),
                        body: StoredBody::Bytes(Bytes::new()),
                    })),
                    None => Err(explain(error)),
                };
            }
            Err(error) => return Err(explain(error)),
        };
        let (len, modified) = (
            answer.meta.size,
            SystemTime::from(answer.meta.last_modified),
        );
        let e_tag = answer.meta.e_tag.clone();
        let head = remote.collect(answer).await?;
        let body = if head.len() as u64 == len {
            StoredBody::Bytes(head)
        } else {
            StoredBody::Remote(RemoteBody {
                remote: Arc::clone(remote),
                location,
                e_tag,
                len,
                head,
            })
        };
        Ok(Some(Stored {
            len,
            modified,
            body,
        }))
    }

    async fn put_new(&self, path: &str, source: &Source) -> Result<Put, BackendError> {
        let remote = Arc::clone(&self.remote);
        let location = remote.location(path)?;
        let permit = Arc::clone(&remote.uploads)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let source = source.clone();
        let len = source.len();
        let runtime = tokio::runtime::Handle::current();
        let upload = {
            let source = source.clone();
            async move {
                let _permit = permit;
                let options = PutOptions::from(PutMode::Create);
                remote
                    .bulk
                    .put_opts(&location, payload(&source), options)
                    .await
            }
        };
        let outcome = if len < THREAD_UPLOAD_BYTES_MIN {
            upload.await
        } else {
            // The library hashes the whole payload before its first await, and the mapping's pages
            // may have to come from disk: half a second or more that no worker may lose.
            let (waiting, abandoned) = tokio::sync::oneshot::channel::<()>();
            let thread = tokio::task::spawn_blocking(move || {
                if let Source::File { len, map, .. } = &source {
                    // What cannot be read now fails again, visibly, in the upload.
                    let _ = map.fault_in(0..*len);
                }
                runtime.block_on(async {
                    tokio::select! {
                        outcome = upload => Some(outcome),
                        // Nobody waits any more: the upload must not outlive its deadline.
                        _ = abandoned => None,
                    }
                })
            });
            let outcome = thread
                .await
                .map_err(|error| BackendError::unclear("the upload's thread failed", error))?;
            drop(waiting);
            outcome.ok_or(BackendError::plain("the upload was abandoned", false))?
        };
        match outcome {
            Ok(_) => Ok(Put::Created),
            // 412 and 409 alike: it exists, or somebody is creating it just now.
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(error) => Err(explain(error)),
        }
    }

    async fn settle(&self, _path: &str) -> Result<(), BackendError> {
        Ok(())
    }

    async fn put_over(&self, path: &str, bytes: Bytes) -> Result<(), BackendError> {
        let location = self.remote.location(path)?;
        let _permit = self.remote.request().await;
        let client = if bytes.len() as u64 <= HEAD_BYTES {
            &self.remote.quick
        } else {
            &self.remote.bulk
        };
        client.put(&location, bytes.into()).await.map_err(explain)?;
        Ok(())
    }

    async fn delete(&self, path: &str) -> Result<(), BackendError> {
        let location = self.remote.location(path)?;
        let _permit = self.remote.request().await;
        match self.remote.quick.delete(&location).await {
            Ok(()) => Ok(()),
            Err(error @ object_store::Error::NotFound { .. }) if !bucket_is_missing(&error) => {
                Ok(())
            }
            Err(error) => Err(explain(error)),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BackendError> {
        let remote = &self.remote;
        let prefix = remote.location(prefix)?;
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        let _permit = remote.request().await;
        let objects = match after {
            Some(after) => remote
                .bulk
                .list_with_offset(prefix.as_ref(), &remote.location(after)?),
            None => remote.bulk.list(prefix.as_ref()),
        };
        objects
            .map_err(explain)
            .try_filter_map(|meta| async move { Ok(remote.listed(&meta)) })
            .take(limit)
            .try_collect()
            .await
    }

    async fn list_dir(&self, prefix: &str, limit: usize) -> Result<Directory, BackendError> {
        let remote = &self.remote;
        let prefix = remote.location(prefix)?;
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        let _permit = remote.request().await;
        let found = remote
            .bulk
            .list_with_delimiter(prefix.as_ref())
            .await
            .map_err(explain)?;
        let mut directory = Directory {
            objects: found
                .objects
                .iter()
                .filter_map(|meta| remote.listed(meta))
                .collect(),
            prefixes: found
                .common_prefixes
                .iter()
                .filter_map(|at| remote.path(at))
                .collect(),
            truncated: false,
        };
        directory
            .objects
            .sort_unstable_by(|a, b| a.path.cmp(&b.path));
        directory.prefixes.sort_unstable();
        if directory.objects.len() + directory.prefixes.len() > limit {
            directory.truncated = true;
            directory.objects.truncate(limit);
            directory.prefixes.truncate(limit - directory.objects.len());
        }
        Ok(directory)
    }

    async fn probe_read(&self) -> Result<(), BackendError> {
        let location = self.remote.location(&format!("{STAGING}/{PROBE_NAME}"))?;
        let _permit = self.remote.request().await;
        let answer = match self.remote.quick.get(&location).await {
            // The first probe of all may be ahead of what it looks for.
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            answer => answer.map_err(explain)?,
        };
        if self.remote.collect(answer).await? != PROBE[..] {
            return Err(BackendError::plain(
                "the storage returned other bytes",
                false,
            ));
        }
        Ok(())
    }

    async fn probe_write(&self) -> Result<(), BackendError> {
        let location = self.remote.location(&format!("{STAGING}/{PROBE_NAME}"))?;
        let _permit = self.remote.request().await;
        let put = self
            .remote
            .quick
            .put(&location, PutPayload::from_static(PROBE));
        put.await.map_err(explain)?;
        Ok(())
    }
}
